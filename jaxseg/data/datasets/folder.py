"""Your own pictures or volumes: a folder `images` and a folder `masks`, paired by file name.

    <root>/images/anna_01.png    any format that the library reads: .png .jpg .tif .nii .nii.gz
    <root>/masks/anna_01.png     the same stem, its own suffix; one class: 0/1, 0/255, black and white; several: class
                                 numbers 0, 1, 2, ...; `mask_values` names other values or colours (prepare/masks.py)

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
from jaxseg.data.formats.discover import has_suffix
from jaxseg.data.prepare import jpeg_masks, masks
from jaxseg.data.prepare import mask_values as values_and_classes
from jaxseg.data.records import Case, DataSet
from jaxseg.utils.files import build_folder, cache_root
from jaxseg.utils.lookup import lookup

LABELS = ("foreground",)
JPEG = (".jpg", ".jpeg")
KINDS = {"default": 60, "quick": 16}  # pictures
PHANTOM_VERSION = 1


def load(root: str | Path, *, structures: Sequence[str] = LABELS, mask_values: Sequence = ()) -> DataSet:
    """The pairs of a folder.

    Args:
      root: the folder with images and masks, or the one that holds it.
      structures: names of the classes 1, 2, ...
      mask_values: ((value or "#rrggbb", class), ...) of the masks; () where they need no table.
    Raises:
      ConfigError: names that are not a sequence of distinct names, or a table that cannot be read.
      DataError: DATA_MISSING for a folder or partner that is not there, DATA_PATH for a stem twice, DATA_LABEL for JPEG masks
        of several classes.
    """
    classes = label_count(structures)
    table = values_and_classes.table_of(mask_values, classes)
    root = pairs.holder(Path(root), ("images", "masks"), "a folder data set")
    found = pairs.pair(pairs.by_stem(root / "images"), pairs.by_stem(root / "masks"))
    for _, _, mask in found:
        if has_suffix(mask, JPEG):
            jpeg_masks.check_classes(mask, classes, table)
    cases = tuple(Case(stem, stem, (image,), mask) for stem, image, mask in found)
    return DataSet(
        "folder",
        root,
        cases,
        tuple(structures),
        functools.partial(masks.map_mask, classes),
        synthetic=(root / "SYNTHETIC.txt").is_file(),
        read_mask=functools.partial(masks.read_mask, classes, table),
        values=values_and_classes.values_of(table, classes),
    )


def label_count(structures: Sequence[str] = LABELS) -> int:
    """Number of foreground classes; a ConfigError for what is not a sequence of distinct names."""
    return count_structures(structures, LABELS)


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
