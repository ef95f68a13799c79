"""One resampler for pictures, slices and volumes: samples on a grid -> samples on another grid over the same extent.

Grids have half-pixel centres: sample i of n lies at (i + 1/2) / n of the extent. The filters:

  linear   where an axis grows, bilinear or trilinear interpolation (PyTorch's align_corners=False, OpenCV's INTER_LINEAR); where
           it shrinks, the triangle is widened to cover the source samples (antialiased: differs from both).
  lanczos  Pillow's: sinc windowed to 3 samples a side, widened likewise. OpenCV's INTER_LANCZOS4, which the Kvasir project
           names, takes 4 a side (8 taps) and never widens them: it differs at every size, and on shrinking ours does not alias.

Both are Pillow's (pictures of mode F: sums in float64, float32 between the axes), the last axis first.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from jaxseg.utils.lookup import lookup

VERSION = 2  # raise it when resampled values would change

FILTERS = {"linear": Image.Resampling.BILINEAR, "lanczos": Image.Resampling.LANCZOS}


def resample(values: np.ndarray, shape: Sequence[int], filter: str = "linear") -> np.ndarray:
    """One channel on another grid.

    Args:
      values: numbers [H, W] or [X, Y, Z].
      shape: of the result, one length for each axis of `values`.
      filter: one of FILTERS.
    Returns:
      float32 [*shape]; `values` itself where it is float32 of this shape already.
    Raises:
      ConfigError: an unknown filter.
    """
    method = lookup("value of data.filter", filter, FILTERS)
    values, shape = np.asarray(values, np.float32), tuple(int(n) for n in shape)
    if values.ndim not in (2, 3) or values.ndim != len(shape):
        raise ValueError(f"got values of shape {values.shape} for {shape}; both have two axes, or both three")
    if values.shape == shape:
        return values
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
