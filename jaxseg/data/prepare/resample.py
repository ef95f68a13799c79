"""One resampler for pictures, slices and volumes: samples on a grid -> samples on another grid over the same extent.

Grids have half-pixel centres: sample i of n lies at (i + 1/2) / n of the extent. The filters:

  linear   where an axis grows, bilinear or trilinear interpolation (PyTorch's align_corners=False, OpenCV's INTER_LINEAR); where
           it shrinks, the triangle is widened to cover the source samples (antialiased: differs from both).
  lanczos  Pillow's: sinc windowed to 3 samples a side, widened likewise. OpenCV's INTER_LANCZOS4, which the Kvasir project
           names, takes 4 a side (8 taps) and never widens them: it differs at every size, and on shrinking ours does not alias.

  nnunet   nnU-Net's: cubic splines, ends repeated, never antialiased, the result kept within the range of the input; an axis that
           is resampled `apart` (`canvas.coarse_axis`) goes by nearest neighbour after the others were resampled plane by plane.
           Scores and the indicators of classes go linearly, likewise without antialiasing. Source: MIC-DKFZ/nnUNet,
           nnunetv2/preprocessing/resampling/default_resampling.py.

  monai    MONAI's Spacing: trilinear, never antialiased, on a grid with the same first voxel: sample j lies at j * step, whatever
           the extent. Scores go so too. "monai_last" is the same; with "monai" intensities are those of the resampled volume
           (`examples`). Source: MONAI, monai/transforms/spatial/functional.py: spatial_resample.

The first two are Pillow's (pictures of mode F: sums in float64, float32 between the axes), the last axis first. What scores and
masks go by is `for_scores` of the filter: linear.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy import ndimage

from jaxseg.utils.lookup import lookup

VERSION = 2  # raise it when resampled values would change

MONAI = ("monai", "monai_last")
FILTERS = {  # Pillow's; a spline's order
    "linear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "nnunet": 3,
    **dict.fromkeys(MONAI, 1),
}
_SCORES = {"nnunet": "nnunet_scores", **{name: name for name in MONAI}}
_ALL = FILTERS | {"nnunet_scores": 1}


def for_scores(filter: str) -> str:
    """The filter of scores and of the indicators of classes, where images go by one of FILTERS."""
    return _SCORES.get(filter, "linear")


def resample(
    values: np.ndarray,
    shape: Sequence[int],
    filter: str = "linear",
    *,
    apart: int | None = None,
    steps: Sequence[float] | None = None,
) -> np.ndarray:
    """One channel on another grid.

    Args:
      values: numbers [H, W] or [X, Y, Z].
      shape: of the result, one length for each axis of `values`.
      filter: one of FILTERS, or what `for_scores` gives.
      apart: for "nnunet", the axis that goes by nearest neighbour.
      steps: for MONAI's, samples of `values` between two samples of the result, along each axis; None: 1.
    Returns:
      float32 [*shape]; `values` itself where it is float32 of this shape already.
    Raises:
      ConfigError: an unknown filter.
    """
    method = _ALL[filter] if filter in _ALL else lookup("value of data.filter", filter, FILTERS)
    values, shape = np.asarray(values, np.float32), tuple(int(n) for n in shape)
    if values.ndim not in (2, 3) or values.ndim != len(shape):
        raise ValueError(f"got values of shape {values.shape} for {shape}; both have two axes, or both three")
    if filter in MONAI and steps is not None:
        return _anchored(values, shape, steps)
    if values.shape == shape:
        return values
    if filter in MONAI:
        raise ValueError(f"got values of shape {values.shape} for {shape} without steps; {filter!r} goes by steps")
    if not isinstance(method, Image.Resampling):
        return _splines(values, shape, method, apart)
    if values.ndim == 2:
        return _plane(values, shape, method)
    planes = np.empty((len(values), *shape[1:]), np.float32)
    for x, plane in enumerate(values):
        planes[x] = _plane(plane, shape[1:], method)
    if len(planes) == shape[0]:
        return planes
    resampled = np.empty(shape, np.float32)
    for y in range(shape[1]):  # plane by plane: a whole volume is never copied
        resampled[:, y] = _plane(planes[:, y], (shape[0], shape[2]), method)
    return resampled


def resample_channels(values: np.ndarray, shape: Sequence[int], filter: str = "linear") -> np.ndarray:
    """Numbers [*S, C] -> float32 [*shape, C]: `resample`, one channel at a time."""
    values = np.asarray(values, np.float32)
    if values.shape[:-1] == tuple(shape):
        return values
    resampled = np.empty((*shape, values.shape[-1]), np.float32)
    for c in range(values.shape[-1]):
        resampled[..., c] = resample(values[..., c], shape, filter)
    return resampled


def _plane(values: np.ndarray, shape: tuple[int, ...], method: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(np.ascontiguousarray(values)).resize(shape[::-1], method))


def _anchored(values: np.ndarray, shape: tuple[int, ...], steps: Sequence[float]) -> np.ndarray:
    """Sample j at j * step, linear between samples, the last one repeated."""
    resampled = values.astype(np.float64)
    for axis, (m, step) in enumerate(zip(shape, steps)):
        last = resampled.shape[axis] - 1
        at = np.clip(np.arange(m) * step, 0, last)
        low = np.minimum(at.astype(np.int64), max(last - 1, 0))
        share = (at - low).reshape([-1 if a == axis else 1 for a in range(values.ndim)])
        first = resampled.take(low, axis)
        resampled = first + (resampled.take(np.minimum(low + 1, last), axis) - first) * share
    return resampled.astype(np.float32)


def _splines(values: np.ndarray, shape: tuple[int, ...], order: int, apart: int | None) -> np.ndarray:
    if apart is None:
        zoom = [m / n for n, m in zip(values.shape, shape)]
        resampled = ndimage.zoom(values.astype(np.float64), zoom, order=order, mode="nearest", grid_mode=True)
        return np.clip(resampled, values.min(), values.max()).astype(np.float32)
    n, m = values.shape[apart], shape[apart]
    flat = tuple(length for axis, length in enumerate(shape) if axis != apart)
    planes = [plane if plane.shape == flat else _splines(plane, flat, order, None) for plane in np.moveaxis(values, apart, 0)]
    nearest = np.clip(np.floor(n / m * (np.arange(m) + 0.5)).astype(np.int64), 0, n - 1)
    return np.stack([planes[i] for i in nearest], apart)
