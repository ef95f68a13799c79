"""Intensities without a unit made comparable: z-scores of magnetic resonance over the brain, modality by modality.

The rule is that of the 3-D project (jwon112/3d-segmentation) and, clipping aside, of nnU-Net for MRI: MR scanners scale
every image as they like, so that only an image's own brain can tell what is bright in it.
"""

import numpy as np

from jaxseg.types import DataError

PERCENTILES = (0.5, 99.5)
FLOOR = 1e-8  # of the standard deviation: a modality of one value becomes 0


def brain(array: np.ndarray) -> np.ndarray:
    """z = (clip(v, p0.5, p99.5) - mean) / max(std, 1e-8) of the voxels v > 0 of each channel; all others exactly 0.

    Percentiles (linear interpolation), mean and standard deviation (of the population) are those of the channel's own
    voxels above 0, the latter two after clipping. One channel at a time is copied.

    Args:
      array: [X, Y, Z] or [X, Y, Z, C], integers or floats, skull-stripped: background 0.
    Returns:
      float32 of the same shape.
    Raises:
      DataError: DATA_NONFINITE, or DATA_EMPTY for a channel without a voxel above 0.
    """
    if array.ndim not in (3, 4):
        raise ValueError(f"got an array of shape {array.shape}; must be [X, Y, Z] or [X, Y, Z, C]")
    channels = array.reshape(*array.shape[:3], -1)
    scores = np.zeros(channels.shape, np.float32)
    for c in range(channels.shape[3]):
        channel = channels[..., c]
        if channel.dtype.kind == "f" and not np.isfinite(channel).all():
            raise DataError(f"channel {c} holds {np.count_nonzero(~np.isfinite(channel))} voxels that are NaN or infinite; "
                            "must be finite; export it again or leave the case out", "DATA_NONFINITE")
        inside = channel > 0
        values = channel[inside].astype(np.float64)
        if not values.size:
            raise DataError(f"channel {c} holds no voxel above 0; the brain is what is above 0; check the file, or leave the "
                            "modality out", "DATA_EMPTY")
        np.clip(values, *np.percentile(values, PERCENTILES), out=values)
        values -= values.mean()
        values /= max(float(np.sqrt(np.mean(np.square(values)))), FLOOR)
        scores[..., c][inside] = values
    return scores.reshape(array.shape)
