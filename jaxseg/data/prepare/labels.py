"""Resample masks: each class is resampled like a score, and the class with the largest value wins."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

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
    winner = np.zeros(shape, labels.dtype)  # LEFT_OUT is resampled as a class is, here and in nnU-Net
    for k in np.flatnonzero(np.bincount(labels.reshape(-1), minlength=2)[1:]) + 1:
        share = resample((labels == k).astype(np.float32))
        total += share
        winner[share > best] = k
        np.maximum(best, share, out=best)
    winner[best <= 1.0 - total + 1e-6] = 0  # equal shares go to the background, whatever the rounding
    return winner


def by_nnunet(labels: np.ndarray, shape: tuple[int, ...], apart: int | None) -> np.ndarray:
    """Resample labels by nnU-Net's rule: the class with the largest share, background among them.

    Of equal shares the class of the nearest voxel wins if it has one of them, else the lowest class.

    Args:
      labels: unsigned integer [*S], as returned by `checked`.
      shape: shape of the result.
      apart: the axis that is resampled by nearest neighbour after the others; None: no such axis.
    Returns:
      [*shape] of the dtype of `labels`.
    Source: batchgenerators 0.25.5, augmentations/utils.py, resize_segmentation, with which nnU-Net 2.8.1 is installed; before,
    each class got the voxels in which its share was at least 1/2, higher classes last. Differs in that voxels outside of the
    non-zero ones are background, in nnU-Net's preparation a class by themselves.
    """
    if labels.shape == tuple(shape):
        return labels
    if apart is not None:
        n, m = labels.shape[apart], shape[apart]
        flat = tuple(length for axis, length in enumerate(shape) if axis != apart)
        planes = [by_nnunet(plane, flat, None) for plane in np.moveaxis(labels, apart, 0)]
        at = np.clip(np.floor(n / m * (np.arange(m) + 0.5)).astype(np.int64), 0, n - 1)
        return np.stack([planes[i] for i in at], apart)
    zoom = [m / n for n, m in zip(labels.shape, shape)]
    resized = lambda values, order: ndimage.zoom(values.astype(np.float64), zoom, order=order, mode="nearest", grid_mode=True)
    nearest = resized(labels, 0).astype(labels.dtype)
    best, winner = np.clip(resized(labels == 0, 1), 0, 1), np.zeros(shape, labels.dtype)
    held = (nearest == 0) & (best > 0)  # where the nearest voxel's class has the largest share so far
    for k in np.flatnonzero(np.bincount(labels.reshape(-1), minlength=2)[1:]) + 1:
        share, here = np.clip(resized(labels == k, 1), 0, 1), nearest == k
        better = share > best
        held = np.where(better, here, held | (share == best) & (share > 0) & here)
        winner[better] = k
        np.maximum(best, share, out=best)
    return np.where(held, nearest, winner)
