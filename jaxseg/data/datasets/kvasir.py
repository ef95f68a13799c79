"""Kvasir-SEG: 1000 colonoscopy pictures with polyps (Jha et al. 2020, MMM), in its original and in EffiSegNet's layout.

    <root>/images/cju0qkwl35piu0993l0dewei2.jpg     original: 332 x 487 to 1920 x 1072, no split
    <root>/masks/<same name>
    <root>/{train,validation,test}/{images,masks}/0.jpg ...     ivezakis/effisegnet: 800/100/100, all 352 x 352

Masks are JPEG: values near 0 and 255, cut at 127 (checked with more slack than other JPEG masks, `STRAY`). Pairs are formed by
name (EffiSegNet zips two unsorted listings). The data set does not state which pictures are of the same patient, so every picture
counts as a separate patient.
"""

import functools
from pathlib import Path

import numpy as np
from PIL import Image

from jaxseg.data.datasets import pairs
from jaxseg.data.formats.photos import SUFFIXES
from jaxseg.data.prepare import masks
from jaxseg.data.records import Case, DataSet, Volume
from jaxseg.utils.files import build_folder, cache_root
from jaxseg.utils.lookup import lookup

VERSION = 2  # of the rules below: raise it when they would read a file otherwise, so that stores are built anew

LABELS = ("polyp",)
STRAY = 0.01  # share of a mask's pixels that may be neither near 0, near 255 nor at a border
SPLITS = {"train": "train", "validation": "val", "test": "test"}  # folder: split
KINDS = {"default": {"train": 80, "validation": 20, "test": 20}, "quick": {"train": 10, "validation": 4, "test": 4}}  # pictures
PHANTOM_VERSION = 1


def load(root: str | Path) -> DataSet:
    """List the pictures of either layout.

    Args:
      root: the folder with images and masks, or with train, validation and test, or the one that holds it.
    Returns:
      DataSet; `fixed_split` is set for EffiSegNet's layout.
    Raises:
      DataError: DATA_MISSING for a missing folder, image or mask, DATA_PATH for two files with the same stem.
    """
    root, fixed = Path(root), None
    if (root / "images").is_dir() or any(
        (d / "images").is_dir() and (d / "masks").is_dir() and d.name not in SPLITS
        for d in (root.iterdir() if root.is_dir() else ())
    ):
        root = pairs.holder(root, ("images", "masks"), "Kvasir-SEG")
        cases = _cases(root, "")
    else:
        root = pairs.holder(root, tuple(SPLITS), "Kvasir-SEG")
        parts = {split: _cases(root / folder, f"{folder}/") for folder, split in SPLITS.items()}
        cases = sorted((c for part in parts.values() for c in part), key=lambda c: c.id)
        fixed = {case.patient: split for split, part in parts.items() for case in part}
    return DataSet(
        "kvasir",
        root,
        tuple(cases),
        LABELS,
        functools.partial(masks.map_mask, len(LABELS)),
        synthetic=(root / "SYNTHETIC.txt").is_file(),
        fixed_split=fixed,
        read_mask=read_mask,
    )


def label_count() -> int:
    """Return the number of foreground classes."""
    return len(LABELS)


def read_mask(case: Case, image: Volume) -> Volume:
    """Read the mask of a case: JPEG, grey or colour, 1 above 127.

    Raises:
      DataError: as `masks.read`.
    """
    return masks.read(case.mask, len(LABELS), stray=STRAY)


def phantom(kind: str = "default") -> Path:
    """Return the folder of generated pictures in EffiSegNet's layout."""
    counts = lookup("phantom", kind, KINDS)
    return build_folder(cache_root() / f"phantom-kvasir-{PHANTOM_VERSION}-{kind}", lambda folder: _write(folder, counts))


def _cases(folder: Path, prefix: str) -> list[Case]:
    found = pairs.pair(pairs.by_stem(folder / "images", SUFFIXES), pairs.by_stem(folder / "masks", SUFFIXES))
    return [Case(prefix + stem, prefix + stem, (image,), mask) for stem, image, mask in found]


def _write(root: Path, counts: dict[str, int], side: int = 96) -> None:
    """Draw pink walls with folds, a dark lumen and one bright bump; always the same bytes."""
    (root / "SYNTHETIC.txt").write_text("Generated from formulas by jaxseg.data.datasets.kvasir; shows no patient.\n")
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:side, :side] / side
    for folder, count in counts.items():
        for part in ("images", "masks"):
            (root / folder / part).mkdir(parents=True)
        for i in range(count):
            cy, cx, ly, lx = rng.uniform(0.25, 0.75, 4)
            a, b, turn = *rng.uniform(0.1, 0.25, 2), rng.uniform(0, np.pi)
            u, v = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn), (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
            distance = (u / a) ** 2 + (v / b) ** 2
            light = (
                0.55
                + 0.08 * np.sin(12 * np.hypot(x - lx, y - ly) + rng.uniform(0, 6))
                - 0.3 * np.exp(-((x - lx) ** 2 + (y - ly) ** 2) / 0.01)
            )
            light = light + np.where(distance < 1, 0.25 * np.sqrt(np.clip(1 - distance, 0, 1)) + 0.08, 0)
            rgb = light[..., None] * (1.0, 0.55, 0.45) + rng.normal(0, 0.02, (side, side, 3))
            Image.fromarray((255 * np.clip(rgb, 0, 1)).astype(np.uint8)).save(root / folder / "images" / f"{i}.jpg", quality=90)
            mask = np.where(distance < 1, 255, 0).astype(np.uint8)
            Image.fromarray(mask).save(root / folder / "masks" / f"{i}.jpg", quality=75)
