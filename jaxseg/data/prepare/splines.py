"""nnU-Net's resampling by splines, MONAI's from the first sample on, and masks, of which each class is resampled like a score and
the class with the largest value wins. The exported runner holds a copy of this module.
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage


def splines(values: np.ndarray, shape: tuple[int, ...], order: int, apart: int | None) -> np.ndarray:
    """Resample values float32 [*s] to `shape` by splines of an order, on the grid of voxel centres.

    Args:
      values: of one channel, two or three axes.
      shape: of the result.
      order: 1 linear, 3 cubic.
      apart: an axis that is resampled by the nearest plane after the others (nnU-Net: axes of coarse voxels); None: no such axis.
    Source: MIC-DKFZ/nnUNet nnunetv2/preprocessing/resampling/default_resampling.py.
    """
    if apart is None:
        zoom = [m / n for n, m in zip(values.shape, shape)]
        resampled = ndimage.zoom(values.astype(np.float64), zoom, order=order, mode="nearest", grid_mode=True)
        return np.clip(resampled, values.min(), values.max()).astype(np.float32)
    n, m = values.shape[apart], shape[apart]
    flat = tuple(length for axis, length in enumerate(shape) if axis != apart)
    planes = [plane if plane.shape == flat else splines(plane, flat, order, None) for plane in np.moveaxis(values, apart, 0)]
    nearest = np.clip(np.floor(n / m * (np.arange(m) + 0.5)).astype(np.int64), 0, n - 1)
    return np.stack([planes[i] for i in nearest], apart)


def anchored(values: np.ndarray, shape: tuple[int, ...], steps) -> np.ndarray:
    """Return the samples at j * step along each axis, interpolated linearly; positions past the end get the last sample."""
    resampled = values.astype(np.float64)
    for axis, (m, step) in enumerate(zip(shape, steps)):
        last = resampled.shape[axis] - 1
        at = np.clip(np.arange(m) * step, 0, last)
        low = np.minimum(at.astype(np.int64), max(last - 1, 0))
        share = (at - low).reshape([-1 if a == axis else 1 for a in range(values.ndim)])
        first = resampled.take(low, axis)
        resampled = first + (resampled.take(np.minimum(low + 1, last), axis) - first) * share
    return resampled.astype(np.float32)


def by_shares(labels: np.ndarray, shape: tuple[int, ...], resample: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
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
    indicator = np.empty(labels.shape, np.float32)
    for k in np.flatnonzero(np.bincount(labels.reshape(-1), minlength=2)[1:]) + 1:
        share = resample(np.equal(labels, k, out=indicator))
        inside = np.flatnonzero([plane.any() for plane in share])
        there = slice(inside[0], inside[-1] + 1) if len(inside) else slice(0)  # the class is nowhere else
        share, largest, won = share[there], best[there], winner[there]
        total[there] += share
        won[share > largest] = k
        np.maximum(largest, share, out=largest)
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
