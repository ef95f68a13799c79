"""Check masks; `splines` resamples them: each class like a score, and the class with the largest value wins."""

import numpy as np

from jaxseg.types import LEFT_OUT, DataError

VERSION = 3  # raise it when prepared masks would change


def annotated(mask: np.ndarray, classes: int) -> np.ndarray:
    """Return where voxels count, boolean [*S]: everywhere but at LEFT_OUT, which is a class where there are so many."""
    return mask != LEFT_OUT if classes < LEFT_OUT else np.ones(mask.shape, bool)


def as_background(mask: np.ndarray, classes: int) -> np.ndarray:
    """Return the mask with voxels that are not annotated as background, in its dtype."""
    return np.where(mask == LEFT_OUT, mask.dtype.type(0), mask) if classes < LEFT_OUT else mask


def checked(mask: np.ndarray, rank: int, classes: int, left_out: bool = False) -> np.ndarray:
    """Return the mask in the store's dtype, uint8 or, above 255 classes, uint16.

    Args:
      mask: integer, with `rank` axes, labels 0..classes.
      rank: 2 for slices, 3 for volumes.
      classes: number of foreground classes.
      left_out: the mask may also hold LEFT_OUT (`DataSet.left_out`), with fewer classes than that.
    Raises:
      DataError: the mask has another form or other labels (DATA_LABEL).
    """
    whole = mask.ndim == rank and mask.size and np.issubdtype(mask.dtype, np.integer)
    known = as_background(mask, classes) if left_out and whole else mask
    if not whole or known.min() < 0 or known.max() > classes:
        found = f" with labels {mask.min()}..{mask.max()}" if mask.size else ""
        raise DataError(
            f"got a mask {mask.dtype} {mask.shape}{found}; must be integer "
            f"{'[H, W]' if rank == 2 else '[X, Y, Z]'} with labels 0..{classes}",
            "DATA_LABEL",
        )
    return mask.astype(dtype_for(classes), order="C")


def dtype_for(classes: int) -> np.dtype:
    """Return the dtype for the classes 0..classes: uint8, above 255 classes uint16."""
    return np.dtype(np.uint8 if classes < 256 else np.uint16)
