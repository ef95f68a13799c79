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

The first two are Pillow's (pictures of mode F: sums in float64, float32 between the axes), the last axis first. What scores and
masks go by is `for_scores` of the filter: linear.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy import ndimage

from jaxseg.utils.lookup import lookup

VERSION = 2  # raise it when resampled values would change

FILTERS = {"linear": Image.Resampling.BILINEAR, "lanczos": Image.Resampling.LANCZOS, "nnunet": 3}  # Pillow's; a spline's order
_SCORES = {"nnunet": "nnunet_scores"}
_ALL = FILTERS | {"nnunet_scores": 1}


def for_scores(filter: str) -> str:
    """The filter of scores and of the indicators of classes, where images go by one of FILTERS."""
    return _SCORES.get(filter, "linear")


def resample(values: np.ndarray, shape: Sequence[int], filter: str = "linear", *, apart: int | None = None) -> np.ndarray:
    """One channel on another grid.

    Args:
      values: numbers [H, W] or [X, Y, Z].
      shape: of the result, one length for each axis of `values`.
      filter: one of FILTERS, or what `for_scores` gives.
      apart: for "nnunet", the axis that goes by nearest neighbour.
    Returns:
      float32 [*shape]; `values` itself where it is float32 of this shape already.
    Raises:
      ConfigError: an unknown filter.
    """
    method = _ALL[filter] if filter in _ALL else lookup("value of data.filter", filter, FILTERS)
    values, shape = np.asarray(values, np.float32), tuple(int(n) for n in shape)
    if values.ndim not in (2, 3) or values.ndim != len(shape):
        raise ValueError(f"got values of shape {values.shape} for {shape}; both have two axes, or both three")
    if values.shape == shape:
        return values
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
