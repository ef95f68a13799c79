"""Your own pictures or volumes: a folder `images` and a folder `masks`, paired by file name.

    <root>/images/anna_01.png    any format that the library reads: .png .jpg .tif .nii .nii.gz
    <root>/masks/anna_01.png     the same stem, its own suffix; one class: 0/1 or 0/255 (JPEG: cut at 127);
                                 several: class numbers 0, 1, 2, ... (not JPEG, whose values are not exact)

Every file is a patient of its own: files of one person that lie under different names can end up on both sides of a split.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxseg.data import volumes
from jaxseg.data.datasets import pairs
from jaxseg.data.datasets.structures import count_structures
from jaxseg.data.inputs import has_suffix
from jaxseg.data.records import Case, DataSet, Volume
from jaxseg.data.refusal import refusal

LABELS = ("foreground",)


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
            raise refusal("DATA_LABEL", mask, f"a JPEG mask of {classes} classes", "JPEG does not keep class numbers",
                          "export the masks as .png")
    cases = tuple(Case(stem, stem, (image,), mask) for stem, image, mask in found)
    return DataSet("folder", root, cases, tuple(structures), functools.partial(map_mask, classes),
                   read_mask=functools.partial(read_mask, classes))


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
