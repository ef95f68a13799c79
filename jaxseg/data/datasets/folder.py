"""Your own pictures or volumes: a folder `images` and a folder `masks`, paired by file name.

    <root>/images/anna_01.png    any format that the library reads: .png .jpg .tif .nii .nii.gz
    <root>/masks/anna_01.png     the same stem, its own suffix; one class: 0/1 or 0/255 (JPEG: cut at 127);
                                 several: class numbers 0, 1, 2, ... (not JPEG, whose values are not exact)

Every file is a patient of its own: files of one person that lie under different names can end up on both sides of a split.
The phantom's pictures are bright discs in uneven light.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from jaxseg.data.datasets import pairs
from jaxseg.data.datasets.structures import count_structures
from jaxseg.data.formats import volumes
from jaxseg.data.formats.discover import has_suffix
from jaxseg.data.formats.refusal import refusal
from jaxseg.data.records import Case, DataSet, Volume
from jaxseg.utils.files import build_folder, cache_root
from jaxseg.utils.lookup import lookup

VERSION = 1  # of the rules below: raise it when they would read a file otherwise, so that stores are built anew

LABELS = ("foreground",)
KINDS = {"default": 60, "quick": 16}  # pictures
PHANTOM_VERSION = 1


def load(root: str | Path, *, structures: Sequence[str] = LABELS) -> DataSet:
    """The pairs of a folder.

    Args:
      root: the folder with images and masks, or the one that holds it.
      structures: names of the classes 1, 2, ...
    Raises:
      ConfigError: names that are no list of different names.
      DataError: DATA_MISSING for a folder or partner that is not there, DATA_PATH for a stem twice, DATA_LABEL for JPEG masks
        of several classes.
    """
    classes = label_count(structures)
    root = pairs.holder(Path(root), ("images", "masks"), "a folder data set")
    found = pairs.pair(pairs.by_stem(root / "images"), pairs.by_stem(root / "masks"))
    for _, _, mask in found:
        if classes > 1 and has_suffix(mask, pairs.JPEG):
            raise refusal(
                "DATA_LABEL",
                mask,
                f"a JPEG mask of {classes} classes",
                "JPEG does not keep class numbers",
                "export the masks as .png",
            )
    cases = tuple(Case(stem, stem, (image,), mask) for stem, image, mask in found)
    return DataSet(
        "folder",
        root,
        cases,
        tuple(structures),
        functools.partial(map_mask, classes),
        synthetic=(root / "SYNTHETIC.txt").is_file(),
        read_mask=functools.partial(read_mask, classes),
    )


def label_count(structures: Sequence[str] = LABELS) -> int:
    """Number of foreground classes; a ConfigError for what is no list of different names."""
    return count_structures(structures, LABELS)


def read_mask(classes: int, case: Case, image: Volume) -> Volume:
    """The mask of a case: class numbers, or 0 and 1 for one class; palette pictures give their indices.

    Raises:
      DataError: as `volumes.read_volume`; DATA_LABEL.
    """
    volume = volumes.read_volume(case.mask, palette_indices=True)
    array = pairs.one_class(volume.array, case.mask) if classes == 1 else volume.array
    return Volume(array, volume.affine, volume.header, volume.path)


def map_mask(classes: int, raw: np.ndarray) -> np.ndarray:
    """Class numbers, checked.

    Raises:
      DataError: DATA_LABEL for values outside 0..classes.
    """
    volumes.check_labels(raw, range(classes + 1), "mask")
    return raw.astype(np.uint8)


def phantom(kind: str = "default") -> Path:
    """Folder of generated pictures, masks of one class."""
    count = lookup("phantom", kind, KINDS)
    return build_folder(cache_root() / f"phantom-folder-{PHANTOM_VERSION}-{kind}", lambda folder: _write(folder, count))


def _write(root: Path, count: int, side: int = 96) -> None:
    """One or two discs a picture, shaded like balls, in noise and uneven light; the same bytes each time."""
    (root / "SYNTHETIC.txt").write_text("Generated from formulas by jaxseg.data.datasets.folder; shows no patient.\n")
    for part in ("images", "masks"):
        (root / part).mkdir()
    rng = np.random.default_rng(13)
    y, x = np.mgrid[:side, :side] / side
    for i in range(count):
        places = rng.uniform((0.2, 0.2, 0.1), (0.8, 0.8, 0.2), (1 + i % 2, 3))  # row, column, radius
        height = np.max([1 - ((y - row) ** 2 + (x - column) ** 2) / radius**2 for row, column, radius in places], 0)
        ball = np.where(height > 0, 0.15 + 0.2 * np.sqrt(np.clip(height, 0, 1)), 0)
        light = 0.35 + 0.6 * (x - 0.5) * rng.choice((-1, 1)) + ball + rng.normal(0, 0.05, (side, side))
        Image.fromarray((255 * np.clip(light, 0, 1)).astype(np.uint8)).save(root / "images" / f"{i + 1:02d}.png")
        Image.fromarray((height > 0).astype(np.uint8)).save(root / "masks" / f"{i + 1:02d}.png")
