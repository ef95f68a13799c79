"""Spines in X-ray images, from a Roboflow export of polygons (YOLO segmentation format).

    <root>/{train,valid,test}/images/1_bmp.rf.<hash>.jpg      `val` is read like `valid`
    <root>/{train,valid,test}/labels/1_bmp.rf.<hash>.txt      one object per line: class x1 y1 x2 y2 ..., fractions of the size

Several objects of a file are several lines (the project reads a whole file as one polygon, which a second line would corrupt);
where objects overlap, the later line wins. The name before ".rf." is that of the picture before Roboflow's augmentation:
its versions count as one patient. An empty label file says that nothing is there.
"""

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from jaxseg.data.datasets import pairs
from jaxseg.data.datasets.own import unmasked
from jaxseg.data.datasets.structures import count_structures
from jaxseg.data.formats.photos import SUFFIXES
from jaxseg.data.formats.refusal import refusal
from jaxseg.data.prepare import masks
from jaxseg.data.records import Case, DataSet, Volume
from jaxseg.types import DataError
from jaxseg.utils import guard
from jaxseg.utils.files import build_folder, cache_root
from jaxseg.utils.lookup import lookup

VERSION = 2  # of the rules below: raise it when they would read a file otherwise, so that stores are built anew

LABELS = ("spine",)
FOLDERS = {"train": "train", "valid": "val", "val": "val", "test": "test"}  # folder: split
SLACK = 1e-3  # fractions this far outside 0..1 are rounding
KINDS = {"default": {"train": 80, "valid": 20, "test": 20}, "quick": {"train": 10, "valid": 4, "test": 4}}
PHANTOM_VERSION = 1


def load(root: str | Path, *, structures: Sequence[str] = LABELS, missing_masks: str | None = None) -> DataSet:
    """List the pictures of an export.

    Args:
      root: the folder with train, valid and test (any of them), or the one that holds it.
      structures: names of the export's classes 0, 1, ... (`names` in its data.yaml); they become 1, 2, ...
      missing_masks: what a picture without a label file is, see `unmasked.apply`; None: it is refused.
    Returns:
      DataSet with `fixed_split`.
    Raises:
      ConfigError: structures that are not a sequence of distinct names.
      DataError: DATA_MISSING for missing folders, pictures or label files, DATA_LEAK for a patient in two splits.
    """
    label_count(structures)
    root = _find_root(Path(root))
    cases, split_of = [], {}
    for folder, split in FOLDERS.items():
        if not (root / folder).is_dir():
            continue
        images = pairs.by_stem(root / folder / "images", SUFFIXES)
        labels = pairs.by_stem(root / folder / "labels", (".txt",))
        alone = images.keys() - labels.keys() if missing_masks else ()
        rest = {stem: path for stem, path in images.items() if stem not in alone}
        both = pairs.pair(rest, labels, remedy=unmasked.REMEDY) if rest or labels else []
        for stem, image, polygons in both + [(stem, images[stem], None) for stem in alone]:
            patient = stem.split(".rf.")[0]
            if split_of.setdefault(patient, split) != split:
                raise refusal(
                    "DATA_LEAK",
                    image,
                    f"picture {patient!r} is also in the {split_of[patient]} split",
                    "versions of one picture belong to one split",
                    "export again, splitting before the augmentation",
                )
            cases.append(Case(f"{folder}/{stem}", patient, (image,), polygons))
    dataset = DataSet(
        "scoliosis",
        root,
        tuple(sorted(cases, key=lambda c: c.id)),
        tuple(structures),
        functools.partial(masks.map_mask, len(structures)),
        synthetic=(root / "SYNTHETIC.txt").is_file(),
        fixed_split=split_of,
        read_mask=functools.partial(read_mask, len(structures)),
    )
    return unmasked.apply(dataset, missing_masks)


def label_count(structures: Sequence[str] = LABELS) -> int:
    """Return the number of foreground classes; raises a ConfigError unless `structures` is a sequence of distinct names."""
    return count_structures(structures, LABELS)


def read_mask(classes: int, case: Case, image: Volume) -> Volume:
    """Draw the polygons of a case on its picture's grid.

    Raises:
      DataError: as `read_polygons`.
    """
    height, width = image.array.shape[:2]
    return Volume(draw(read_polygons(case.mask, classes), (height, width)), image.affine, image.header, case.mask)


def read_polygons(path: Path, classes: int) -> list[tuple[int, list[tuple[float, float]]]]:
    """[(class from 0, [(x, y), ...] as fractions of width and height), ...], one for each line that is not blank.

    Raises:
      DataError: DATA_LABEL, with file and line, for a line that is not a polygon of a known class; DATA_PATH for unreadable
        files.
    """
    try:
        lines = guard.read_text(path).splitlines()
    except DataError as error:
        raise DataError(str(error), "DATA_PATH") from error
    found = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        bad = lambda what, rule, n=number: refusal(
            "DATA_LABEL", f"{path}, line {n}", what, rule, "export as YOLO segmentation, or correct the line"
        )
        try:
            values = [float(w) for w in words]
        except ValueError:
            raise bad(f"words that are not numbers ({line[:40]!r})", "a line is class x1 y1 x2 y2 ...") from None
        if len(values) == 5:
            raise bad("5 numbers: a box", "polygons have three points or more")
        if len(values) < 7 or len(values) % 2 == 0:
            raise bad(f"{len(values)} numbers", "one class and at least three pairs x y")
        if values[0] not in range(classes):
            raise bad(f"class {words[0]}", f"classes are 0 to {classes - 1}; name more of them in data.structures")
        if not all(math.isfinite(v) and -SLACK <= v <= 1 + SLACK for v in values[1:]):
            raise bad(
                f"a coordinate outside 0..1 ({next(v for v in values[1:] if not -SLACK <= v <= 1 + SLACK):g})",
                "coordinates are fractions of width and height",
            )
        found.append((int(values[0]), list(zip(values[1::2], values[2::2]))))
    return found


def draw(objects: Sequence, size: tuple[int, int]) -> np.ndarray:
    """Filled polygons as int32 [H, W], class k as k + 1; points are cut to whole pixels (as the project does)."""
    canvas = Image.new("I", (size[1], size[0]))
    pen = ImageDraw.Draw(canvas)
    for number, points in objects:
        pen.polygon([(int(x * size[1]), int(y * size[0])) for x, y in points], fill=number + 1, outline=number + 1)
    return np.array(canvas)


def phantom(kind: str = "default") -> Path:
    """Folder of generated pictures in the export's layout."""
    counts = lookup("phantom", kind, KINDS)
    return build_folder(cache_root() / f"phantom-scoliosis-{PHANTOM_VERSION}-{kind}", lambda folder: _write(folder, counts))


def _find_root(root: Path) -> Path:
    holds = lambda d: any((d / f / "images").is_dir() for f in FOLDERS)
    found = [root] if holds(root) else [d for d in (sorted(root.iterdir()) if root.is_dir() else ()) if d.is_dir() and holds(d)]
    if len(found) != 1:
        raise refusal(
            "DATA_MISSING",
            root,
            f"{len(found)} exports",
            "train, valid or test holds images and labels",
            "give the folder that was unpacked from Roboflow",
        )
    return found[0]


def _middle(y, bend: float, phase: float):
    """Return the position x of the phantom's spine at height y; both are fractions of the picture."""
    return 0.5 + bend * np.sin(2 * np.pi * y + phase)


def _write(root: Path, counts: dict[str, int], side: int = 96) -> None:
    """A bright curved column of vertebrae between dark lungs; two objects per file; the same bytes each time."""
    (root / "SYNTHETIC.txt").write_text("Generated from formulas by jaxseg.data.datasets.scoliosis; shows no patient.\n")
    rng, number = np.random.default_rng(11), 0
    y, x = np.mgrid[:side, :side] / side
    for folder, count in counts.items():
        for part in ("images", "labels"):
            (root / folder / part).mkdir(parents=True)
        for _ in range(count):
            number += 1
            bend, phase, half = rng.uniform(0.02, 0.1), rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.08)
            light = 0.45 - 0.2 * np.exp(-(((np.abs(x - 0.5) - 0.25) / 0.1) ** 2)) + 0.05 * np.sin(40 * y)
            spine = (np.abs(x - _middle(y, bend, phase)) < half) & (y > 0.08) & (y < 0.92)
            light = light + spine * (0.3 + 0.08 * np.sin(90 * y)) + rng.normal(0, 0.03, (side, side))
            stem = f"{number}_bmp.rf.{number * 2654435761 % 2**32:08x}"
            Image.fromarray((255 * np.clip(light, 0, 1)).astype(np.uint8)).save(
                root / folder / "images" / f"{stem}.jpg", quality=90
            )
            lines = []
            for top, bottom in ((0.08, 0.5), (0.5, 0.92)):  # upper and lower half as two objects
                rows = np.linspace(top, bottom, 12)
                outline = [(_middle(t, bend, phase) + s * half, t) for s in (-1, 1) for t in rows[::-s]]
                lines.append("0 " + " ".join(f"{px:.6f} {py:.6f}" for px, py in outline))
            (root / folder / "labels" / f"{stem}.txt").write_text("\n".join(lines) + "\n")
