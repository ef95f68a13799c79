"""Resample pictures, slices and volumes from one grid to another grid over the same extent.

Grids have half-pixel centres: sample i of n lies at (i + 1/2) / n of the extent. The filters:

  linear   where an axis grows, bilinear or trilinear interpolation (PyTorch's align_corners=False, OpenCV's INTER_LINEAR); where
           it shrinks, the triangle is widened to cover the source samples (antialiased: differs from both).
  lanczos  Pillow's: a sinc function windowed to 3 samples on each side, also widened for shrinking. OpenCV's INTER_LANCZOS4,
           which the Kvasir project uses, has 4 samples on each side and is never widened: results differ at every size, and only
           Pillow's is free of aliasing.

  nnunet   nnU-Net's: cubic splines, end samples repeated, no antialiasing, the result clipped to the range of the input. An axis
           that is resampled separately (`apart`, see `canvas.coarse_axis`) is resampled by nearest neighbour after the others.
           Scores and class indicators are resampled linearly, also without antialiasing. Source: MIC-DKFZ/nnUNet,
           nnunetv2/preprocessing/resampling/default_resampling.py.

  monai    MONAI's Spacing: trilinear, no antialiasing, on a grid with the same first voxel: sample j lies at j * step, for any
           extent; scores too. "monai" resamples before intensities are normalised (`examples`), "monai_last" after.
           Source: MONAI, monai/transforms/spatial/functional.py: spatial_resample.

The first two use Pillow (mode F: sums in float64, float32 between the axes), last axis first. Scores and masks are resampled by
`for_scores` of the filter, which is linear.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from jaxseg.data.prepare.splines import anchored, splines
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
    """Return the filter for scores and class indicators if images are resampled with the given one of FILTERS."""
    return _SCORES.get(filter, "linear")


def resample(
    values: np.ndarray,
    shape: Sequence[int],
    filter: str = "linear",
    *,
    apart: int | None = None,
    steps: Sequence[float] | None = None,
) -> np.ndarray:
    """Resample one channel to another grid.

    Args:
      values: numbers [H, W] or [X, Y, Z].
      shape: shape of the result, one length for each axis of `values`.
      filter: one of FILTERS, or the result of `for_scores`.
      apart: for "nnunet": the axis that is resampled by nearest neighbour.
      steps: for MONAI's filters: distance between two samples of the result in samples of `values`, along each axis; None: 1.
    Returns:
      float32 [*shape]; `values` itself if it is already float32 of this shape.
    Raises:
      ConfigError: there is no such filter.
    """
    method = _ALL[filter] if filter in _ALL else lookup("value of data.filter", filter, FILTERS)
    values, shape = np.asarray(values, np.float32), tuple(int(n) for n in shape)
    if values.ndim not in (2, 3) or values.ndim != len(shape):
        raise ValueError(f"got values of shape {values.shape} for {shape}; both must have two axes, or both three")
    if filter in MONAI and steps is not None:
        return anchored(values, shape, steps)
    if values.shape == shape:
        return values
    if filter in MONAI:
        raise ValueError(f"got values of shape {values.shape} for {shape} without steps; {filter!r} needs steps")
    if not isinstance(method, Image.Resampling):
        return splines(values, shape, method, apart)
    if values.ndim == 2:
        return _plane(values, shape, method)
    planes = np.zeros((len(values), *shape[1:]), np.float32)
    for x, plane in enumerate(values):
        if plane.any():  # zeros stay zeros; of one class among a hundred most planes are
            planes[x] = _plane(plane, shape[1:], method)
    if len(planes) == shape[0]:
        return planes
    resampled = np.zeros(shape, np.float32)
    for y in range(shape[1]):  # plane by plane: a whole volume is never copied
        if (plane := planes[:, y]).any():
            resampled[:, y] = _plane(plane, (shape[0], shape[2]), method)
    return resampled


def resample_channels(values: np.ndarray, shape: Sequence[int], filter: str = "linear") -> np.ndarray:
    """Resample numbers [*S, C] to float32 [*shape, C] with `resample`, one channel at a time."""
    values = np.asarray(values, np.float32)
    if values.shape[:-1] == tuple(shape):
        return values
    resampled = np.empty((*shape, values.shape[-1]), np.float32)
    for c in range(values.shape[-1]):
        resampled[..., c] = resample(values[..., c], shape, filter)
    return resampled


def _plane(values: np.ndarray, shape: tuple[int, ...], method: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(np.ascontiguousarray(values)).resize(shape[::-1], method))
