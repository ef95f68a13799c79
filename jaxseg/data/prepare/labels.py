"""Resample masks: each class is resampled like a score, and the class with the largest value wins."""

from collections.abc import Callable

import numpy as np

from jaxseg.types import DataError

VERSION = 2  # raise it when prepared masks would change


def checked(mask: np.ndarray, rank: int, classes: int) -> np.ndarray:
    """Return the mask in the store's dtype, uint8 or, above 255 classes, uint16.

    Args:
      mask: integer, with `rank` axes, labels 0..classes.
      rank: 2 for slices, 3 for volumes.
      classes: number of foreground classes.
    Raises:
      DataError: the mask has another form or other labels (DATA_LABEL).
    """
    whole = mask.ndim == rank and mask.size and np.issubdtype(mask.dtype, np.integer)
    if not whole or mask.min() < 0 or mask.max() > classes:
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


def resampled(labels: np.ndarray, shape: tuple[int, ...], resample: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Resample labels to another grid: each voxel gets the class with the largest share of it.

    Of equal shares, the background wins, else the lower class. With one class the rule is "share > 1/2".

    Args:
      labels: unsigned integer [*S], as returned by `checked`.
      shape: shape of the result.
      resample: resamples the indicator of a class, float32 [*S], to the class's shares, float32 [*shape].
    Returns:
      [*shape] of the dtype of `labels`.
    """
    if labels.shape == tuple(shape):
        return labels
    best, total = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    winner = np.zeros(shape, labels.dtype)
    for k in np.flatnonzero(np.bincount(labels.reshape(-1), minlength=2)[1:]) + 1:
        share = resample((labels == k).astype(np.float32))
        total += share
        winner[share > best] = k
        np.maximum(best, share, out=best)
    winner[best <= 1.0 - total + 1e-6] = 0  # equal shares go to the background, whatever the rounding
    return winner


def by_half(labels: np.ndarray, shape: tuple[int, ...], resample: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Resample labels by nnU-Net's rule: a class gets the voxels in which its share is at least 1/2, higher classes last.

    Args and result: as `resampled`. Source: MIC-DKFZ/batchgenerators, augmentations/utils.py, resize_segmentation.
    """
    if labels.shape == tuple(shape):
        return labels
    found = np.zeros(shape, labels.dtype)
    for k in np.flatnonzero(np.bincount(labels.reshape(-1), minlength=2)[1:]) + 1:
        found[resample((labels == k).astype(np.float32)) >= 0.5] = k
    return found
