"""Voxels' values on a scale that networks learn from, by the rule that `Recipe.intensity` names.

  grey   0..255: `Recipe.window` mapped linearly and clipped, or 8-bit values as they are
  ct     -1..1: `Recipe.window` mapped linearly and clipped
  brain  z-scores of each modality over the voxels above 0, `brain`

and nnU-Net's (MIC-DKFZ/nnUNet, nnunetv2/preprocessing/normalization/default_normalization_schemes.py):

  zscore          (v - mean) / max(std, 1e-8) of each channel over all its voxels ("ZScoreNormalization")
  zscore_nonzero  the same over the voxels that are not 0 in some channel, holes filled; the others stay 0 (use_mask_for_norm)
  ct_zscore       (clip(v, low, high) - mean) / max(std, 1e-8), the four from `Recipe.statistics` ("CTNormalization")

SCANS look at a whole scan (`of_scan`), before it is cut into slices; the others look at one voxel (`of_values`).
"""

import numpy as np

from jaxseg.data.records import Recipe
from jaxseg.types import ConfigError, DataError
from jaxseg.utils.lookup import lookup

VERSION = 2  # raise it when prepared values would change

SCANS = ("brain", "zscore", "zscore_nonzero")
RULES = ("grey", "ct", "ct_zscore", *SCANS)
PERCENTILES = (0.5, 99.5)
FLOOR = 1e-8  # of the standard deviation: a modality of one value becomes 0


def of_scan(array: np.ndarray, recipe: Recipe, inside: np.ndarray | None = None) -> np.ndarray:
    """The part of the rule that looks at a whole scan: z-scores for SCANS, else the array itself.

    Args:
      array: one or several channels of a scan, [X, Y, Z] or [X, Y, Z, C].
      inside: for "zscore_nonzero", `canvas.nonzero` of all channels of the scan.
    Raises:
      DataError: as `brain`. ConfigError: an unknown rule.
    """
    lookup("value of data.intensity", recipe.intensity, dict.fromkeys(RULES))
    if recipe.intensity == "brain":
        return brain(array)
    if recipe.intensity == "zscore":
        return zscore(array)
    if recipe.intensity == "zscore_nonzero":
        if inside is None:
            raise ConfigError("data.intensity='zscore_nonzero' is for volumes; slices take 'zscore' or 'brain'")
        return zscore(array, inside)
    return array


def zscore(array: np.ndarray, inside: np.ndarray | None = None) -> np.ndarray:
    """z = (v - mean) / max(std, 1e-8) of each channel.

    Args:
      array: [X, Y, Z] or [X, Y, Z, C].
      inside: bool [X, Y, Z]: whose mean and standard deviation (of the population) they are; all other voxels stay as they are,
        which is 0 for `canvas.nonzero`. None: all voxels.
    Returns:
      float32 of the same shape.
    Raises:
      DataError: DATA_NONFINITE.
    """
    scores = np.ascontiguousarray(_finite(array))
    inside = np.ones(array.shape[:3], bool) if inside is None else inside
    for channel in np.moveaxis(scores.reshape(*array.shape[:3], -1), 3, 0):  # views
        values = channel[inside].astype(np.float64)
        channel[inside] = (values - values.mean()) / max(values.std(), FLOOR) if values.size else 0
    return scores


def of_values(values: np.ndarray, recipe: Recipe, channel: int = 0) -> np.ndarray:
    """The part of the rule that looks at one voxel at a time.

    Args:
      values: numbers of any shape: HU or another scale where the recipe has a window or statistics, what `of_scan` gave for
        SCANS, else uint8.
      channel: of the image, whose statistics are taken.
    Returns:
      float32 of the same shape.
    Raises:
      DataError: values that are not finite, or no 8-bit values and no window.
      ConfigError: a window without width, "ct" without a window, an unknown rule.
    """
    lookup("value of data.intensity", recipe.intensity, dict.fromkeys(RULES))
    if recipe.intensity in SCANS:
        return _finite(values)
    if recipe.intensity == "ct_zscore":
        if channel >= len(recipe.statistics) or len(recipe.statistics[channel]) != 4:
            raise ConfigError(
                f"got statistics={recipe.statistics} for channel {channel} and data.intensity='ct_zscore'; it "
                "takes (lowest, highest, mean, standard deviation) of each channel"
            )
        low, high, mean, std = recipe.statistics[channel]
        return ((np.clip(_finite(values), low, high) - np.float32(mean)) / np.float32(max(std, FLOOR))).astype(np.float32)
    if recipe.intensity == "grey":
        return windowed(values, recipe.window)
    if recipe.window is None:
        raise ConfigError(
            "got no data.window for data.intensity='ct'; it is (level, width) in HU, for instance (40, 400) for the abdomen"
        )
    level, width = _checked(recipe.window)
    scaled = _finite(values)
    scaled = scaled - np.float32(level)
    scaled *= np.float32(2 / width)
    return np.clip(scaled, -1.0, 1.0, out=scaled)


def windowed(values: np.ndarray, window: tuple[float, float] | None) -> np.ndarray:
    """clip((v - (L - W/2)) / W * 255, 0, 255) for a window (L, W); without one, 8-bit values as they are: float32.

    Raises: as `of_values`.
    """
    if window is None:
        if values.dtype != np.uint8:
            raise DataError(
                f"got {values.dtype} values and no window; only 8-bit images go without: set data.window to "
                "(level, width), for instance (40, 120) for a CT of the head, or data.intensity='brain' for MRI",
                "DATA_IMAGE",
            )
        return values.astype(np.float32)
    level, width = _checked(window)
    return np.clip((_finite(values) - (level - width / 2)) * (255.0 / width), 0.0, 255.0)


def brain(array: np.ndarray) -> np.ndarray:
    """z = (clip(v, p0.5, p99.5) - mean) / max(std, 1e-8) of the voxels v > 0 of each channel; all others exactly 0.

    The rule is that of the 3-D project (jwon112/3d-segmentation): MR scanners scale every image as they like, so that only an
    image's own brain shows what is bright in it.

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
            raise DataError(
                f"channel {c} holds {np.count_nonzero(~np.isfinite(channel))} voxels that are NaN or infinite; "
                "must be finite; export it again or leave the case out",
                "DATA_NONFINITE",
            )
        inside = channel > 0
        values = channel[inside].astype(np.float64)
        if not values.size:
            raise DataError(
                f"channel {c} holds no voxel above 0; the brain is what is above 0; check the file, or leave the modality out",
                "DATA_EMPTY",
            )
        np.clip(values, *np.percentile(values, PERCENTILES), out=values)
        values -= values.mean()
        values /= max(float(np.sqrt(np.mean(np.square(values)))), FLOOR)
        scores[..., c][inside] = values
    return scores.reshape(array.shape)


def _checked(window: tuple[float, float]) -> tuple[float, float]:
    level, width = window
    if not (np.isfinite(level) and np.isfinite(width) and width > 0):
        raise ConfigError(f"got data.window={tuple(window)}; it is (level, width) with a width above 0")
    return level, width


def _finite(values: np.ndarray) -> np.ndarray:
    """The values as float32.

    Raises:
      DataError: DATA_NONFINITE where some are not finite.
    """
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise DataError(
            f"{int((~np.isfinite(values)).sum())} of {values.size} voxels are NaN or infinite; repair the file or "
            "leave the case out",
            "DATA_NONFINITE",
        )
    return values
