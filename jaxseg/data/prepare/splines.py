"""nnU-Net's resampling by splines, and MONAI's from the first sample on; the exported runner holds a copy of this module."""

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
