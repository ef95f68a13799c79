"""Intensity normalisation by the rules that `Recipe.intensity` can name:

  grey   0..255: `Recipe.window` mapped linearly and clipped, or 8-bit values as they are
  ct     -1..1: `Recipe.window` mapped linearly and clipped
  brain  z-scores of each modality over the voxels above 0, `brain`

and nnU-Net's (MIC-DKFZ/nnUNet, nnunetv2/preprocessing/normalization/default_normalization_schemes.py):

  zscore          (v - mean) / max(std, 1e-8) of each channel over all its voxels ("ZScoreNormalization")
  zscore_nonzero  the same over the voxels that are not 0 in some channel, holes filled; the others stay 0 (use_mask_for_norm)
  zscore_own_nonzero  (v - mean) / max(std, 1e-8) over the channel's own voxels that are not 0; the others stay 0 (MONAI's
                  NormalizeIntensity with nonzero and channel_wise)
  ct_zscore       (clip(v, low, high) - mean) / max(std, 1e-8), the four from `Recipe.statistics` ("CTNormalization")
  rescale_to_01   (v - min) / max(max - min, 1e-8) of each channel ("RescaleTo01Normalization")
  rgb_to_01       v / 255 of 8-bit values ("RGBTo01Normalization")
  none            the values as they are ("NoNormalization")

and MONAI's (monai/transforms/intensity/array.py: ScaleIntensityRangePercentiles):

  percentiles     each channel's percentiles p_low and p_high are mapped linearly to two values, and values beyond are clipped to
                  them; the four (p_low, p_high, first value, last value) are from `Recipe.statistics`
  percentiles_unclipped  the same without clipping

The rules in SCANS need a whole scan (`of_scan`), before it is cut into slices; the others convert each voxel by itself
(`of_values`). If channels have different rules, there is one for each, as in "ct_zscore+zscore" (`rules_of`). Rules in SCANS may
follow one another, as in "zscore_own_nonzero>percentiles" (`steps_of`).
"""

import numpy as np

from jaxseg.data.prepare.statistics import percentiles
from jaxseg.data.records import Recipe
from jaxseg.types import ConfigError, DataError
from jaxseg.utils.lookup import lookup

VERSION = 2  # raise it when prepared values would change

RANGES = ("percentiles", "percentiles_unclipped")
SCANS = ("brain", "zscore", "zscore_nonzero", "zscore_own_nonzero", "rescale_to_01", *RANGES)
RULES = ("grey", "ct", "ct_zscore", "rgb_to_01", "none", *SCANS)
BY_NAME = {  # of a channel, in nnU-Net's data sets (map_channel_name_to_normalization.py): z-scores for all other names
    "ct": "ct_zscore",
    "nonorm": "none",
    "zscore": "zscore",
    "rescale_to_0_1": "rescale_to_01",
    "rgb_to_0_1": "rgb_to_01",
}
PERCENTILES = (0.5, 99.5)
FLOOR = 1e-8  # of the standard deviation: a modality of one value becomes 0


def rules_of(recipe: Recipe) -> tuple[str, ...]:
    """Return the rules of a recipe's channels: one for all of them, or one for each."""
    return tuple(recipe.intensity.split("+"))


def steps_of(rule: str) -> tuple[str, ...]:
    """Return the rules that a channel's rule consists of, in the order in which they are applied."""
    return tuple(rule.split(">"))


def rule_by_name(channel: str) -> str:
    """Return nnU-Net's rule for a channel of this name. A trailing number that tells equal names apart is ignored ("CT 1")."""
    name, _, number = channel.casefold().rpartition(" ")
    return BY_NAME.get(name if name and number.isdecimal() else channel.casefold(), "zscore")


def _rule(recipe: Recipe, channel: int) -> str:
    rules = rules_of(recipe)
    for rule in rules:
        for step in steps_of(rule):
            lookup("value of data.intensity", step, dict.fromkeys(RULES))
    if len(rules) == 1:
        return rules[0]
    if channel >= len(rules) or {"grey", "ct", "brain"} & set(rules):
        raise ConfigError(
            f"got data.intensity={recipe.intensity!r} for channel {channel}; rules joined by + must be one for each channel of a "
            "volume, and none of them grey, ct or brain"
        )
    return rules[channel]


def of_scan(array: np.ndarray, recipe: Recipe, inside: np.ndarray | None = None, channel: int = 0) -> np.ndarray:
    """Apply the part of a rule that needs a whole scan: z-scores or a range for SCANS; other rules return the array unchanged.

    Args:
      array: one or several channels of a scan, [X, Y, Z] or [X, Y, Z, C].
      inside: for "zscore_nonzero", `canvas.nonzero` of all channels of the scan.
      channel: index of the channel, for recipes with a rule for each channel.
    Raises:
      DataError: as `brain`.
      ConfigError: there is no such rule.
    """
    for rule in steps_of(_rule(recipe, channel)):
        array = _of_scan(array, rule, recipe, inside, channel)
    return array


def _of_scan(array: np.ndarray, rule: str, recipe: Recipe, inside: np.ndarray | None, channel: int) -> np.ndarray:
    """Apply one step of `of_scan`."""
    if rule == "brain":
        return brain(array)
    if rule in RANGES:
        channels = array.reshape(*array.shape[:3], -1)
        every = [
            between_percentiles(channels[..., c], *_statistics(recipe, channel + c, rule), clip=rule == RANGES[0])
            for c in range(channels.shape[3])
        ]
        return np.stack(every, -1).reshape(array.shape)
    if rule == "zscore":
        return zscore(array)
    if rule == "rescale_to_01":
        return rescaled(array)
    if rule == "zscore_own_nonzero":
        channels = array.reshape(*array.shape[:3], -1)
        return np.stack([zscore(c, c != 0) for c in np.moveaxis(channels, 3, 0)], -1).reshape(array.shape)
    if rule == "zscore_nonzero":
        if inside is None:
            raise ConfigError("data.intensity='zscore_nonzero' is for volumes only; for slices set 'zscore' or 'brain'")
        return zscore(array, inside)
    return array


def zscore(array: np.ndarray, inside: np.ndarray | None = None) -> np.ndarray:
    """Return z-scores (v - mean) / max(std, 1e-8) of each channel.

    Args:
      array: [X, Y, Z] or [X, Y, Z, C].
      inside: bool [X, Y, Z]: the voxels over which mean and standard deviation (of the population) are taken; all others keep
        their value, which is 0 for `canvas.nonzero`. None: all voxels.
    Returns:
      float32 of the same shape.
    Raises:
      DataError: a value is NaN or Inf (DATA_NONFINITE).
    """
    scores = np.ascontiguousarray(_finite(array))
    inside = np.ones(array.shape[:3], bool) if inside is None else inside
    for channel in np.moveaxis(scores.reshape(*array.shape[:3], -1), 3, 0):  # views
        values = channel[inside].astype(np.float64)
        channel[inside] = (values - values.mean()) / max(values.std(), FLOOR) if values.size else 0
    return scores


def rescaled(array: np.ndarray) -> np.ndarray:
    """Return (v - min) / max(max - min, 1e-8) of each channel of [X, Y, Z] or [X, Y, Z, C], as float32 of the same shape.

    Raises:
      DataError: a value is NaN or Inf (DATA_NONFINITE).
    """
    scaled = np.ascontiguousarray(_finite(array))
    for channel in np.moveaxis(scaled.reshape(*array.shape[:3], -1), 3, 0):  # views
        channel -= channel.min()
        channel /= max(channel.max(), np.float32(FLOOR))
    return scaled


def between_percentiles(array: np.ndarray, low: float, high: float, first: float, last: float, *, clip: bool) -> np.ndarray:
    """Map the percentiles `low` and `high` (0 to 100, linear interpolation) of all values linearly to `first` and `last`.

    Args:
      array: numbers of any shape.
      low, high: the percentiles.
      first, last: what they become.
      clip: whether the result is clipped to first..last.
    Returns:
      float32 of the same shape; v - percentile + first if both percentiles are equal.
    Raises:
      DataError: a value is NaN or Inf (DATA_NONFINITE).
    """
    values = _finite(array)
    a, b = (np.float32(p) for p in np.percentile(values, (low, high)))
    scaled = (values - a) / (b - a) * np.float32(last - first) + np.float32(first) if b > a else values - a + np.float32(first)
    return np.clip(scaled, first, last) if clip and b > a else scaled


def _statistics(recipe: Recipe, channel: int, rule: str) -> tuple[float, ...]:
    if channel >= len(recipe.statistics) or len(recipe.statistics[channel]) != 4:
        meant = "(lower percentile, upper percentile, what they become)" if rule in RANGES else ""
        raise ConfigError(
            f"got statistics={recipe.statistics} for channel {channel} and data.intensity={rule!r}; must be "
            f"{meant or '(lowest, highest, mean, standard deviation)'} of each channel: set data.statistics"
        )
    return recipe.statistics[channel]


def of_values(values: np.ndarray, recipe: Recipe, channel: int = 0) -> np.ndarray:
    """Apply the part of a rule that converts each voxel by itself.

    Args:
      values: numbers of any shape: HU or other values if the recipe has a window or statistics, the result of `of_scan` for
        SCANS, else uint8.
      recipe: the recipe with the rule.
      channel: index of the image channel, for rules with statistics of each channel.
    Returns:
      float32 of the same shape.
    Raises:
      DataError: values are NaN or Inf, or not 8-bit although there is no window.
      ConfigError: a window without width, "ct" without a window, or an unknown rule.
    """
    rule = _rule(recipe, channel)
    if steps_of(rule)[0] in SCANS or rule == "none":
        return _finite(values)
    if rule == "rgb_to_01":
        if not values.size or values.min() < 0 or values.max() > 255:
            raise DataError(
                f"got values {values.min():g}..{values.max():g} for data.intensity='rgb_to_01'; must be 8-bit values, 0..255: "
                "give pictures like those that the network was trained on",
                "DATA_IMAGE",
            )
        return _finite(values) / np.float32(255)
    if rule == "ct_zscore":
        low, high, mean, std = _statistics(recipe, channel, rule)
        return ((np.clip(_finite(values), low, high) - np.float32(mean)) / np.float32(max(std, FLOOR))).astype(np.float32)
    if rule == "grey":
        return windowed(values, recipe.window)
    if recipe.window is None:
        raise ConfigError(
            "got no data.window for data.intensity='ct'; set it to (level, width) in HU, for instance (40, 400) for the abdomen"
        )
    level, width = _checked(recipe.window)
    scaled = _finite(values)
    scaled = scaled - np.float32(level)
    scaled *= np.float32(2 / width)
    return np.clip(scaled, -1.0, 1.0, out=scaled)


def windowed(values: np.ndarray, window: tuple[float, float] | None) -> np.ndarray:
    """Return clip((v - (L - W/2)) / W * 255, 0, 255) for a window (L, W), as float32; without a window, 8-bit values unchanged.

    Raises:
      DataError, ConfigError: as `of_values`.
    """
    if window is None:
        if values.dtype != np.uint8:
            raise DataError(
                f"got {values.dtype} values and no window; only 8-bit images need none: set data.window to "
                "(level, width), for instance (40, 120) for a CT of the head, or data.intensity='brain' for MRI",
                "DATA_IMAGE",
            )
        return values.astype(np.float32)
    level, width = _checked(window)
    return np.clip((_finite(values) - (level - width / 2)) * (255.0 / width), 0.0, 255.0)


def brain(array: np.ndarray) -> np.ndarray:
    """Return z-scores (clip(v, p0.5, p99.5) - mean) / max(std, 1e-8) of the voxels v > 0 of each channel; all others are 0.

    This is the rule of the BraTS 3-D project (jwon112/3d-segmentation): MR images have no common scale, so each one is
    normalised by the intensities of its own brain.

    Percentiles (linear interpolation), mean and standard deviation (of the population) are those of the channel's own
    voxels above 0, the latter two after clipping. One channel at a time is copied.

    Args:
      array: [X, Y, Z] or [X, Y, Z, C], integers or floats, skull-stripped: background 0.
    Returns:
      float32 of the same shape.
    Raises:
      DataError: a value is NaN or Inf (DATA_NONFINITE), or a channel has no voxel above 0 (DATA_EMPTY).
    """
    if array.ndim not in (3, 4):
        raise ValueError(f"got an array of shape {array.shape}; must be [X, Y, Z] or [X, Y, Z, C]")
    channels = array.reshape(*array.shape[:3], -1)
    scores = np.zeros(channels.shape, np.float32)
    for c in range(channels.shape[3]):
        channel = channels[..., c]
        if channel.dtype.kind == "f" and not np.isfinite(channel).all():
            raise DataError(
                f"channel {c} holds {np.count_nonzero(~np.isfinite(channel))} voxels that are NaN or infinite, "
                "but all must be finite; export it again or leave the case out",
                "DATA_NONFINITE",
            )
        inside = channel > 0
        values = channel[inside].astype(np.float64)
        if not values.size:
            raise DataError(
                f"channel {c} holds no voxel above 0, so it shows no brain; check the file, or leave the modality out",
                "DATA_EMPTY",
            )
        np.clip(values, *percentiles(values, PERCENTILES), out=values)
        values -= values.mean()
        values /= max(float(np.sqrt(np.mean(np.square(values)))), FLOOR)
        scores[..., c][inside] = values
    return scores.reshape(array.shape)


def _checked(window: tuple[float, float]) -> tuple[float, float]:
    level, width = window
    if not (np.isfinite(level) and np.isfinite(width) and width > 0):
        raise ConfigError(f"got data.window={tuple(window)}; must be (level, width) with a width above 0")
    return level, width


def _finite(values: np.ndarray) -> np.ndarray:
    """Return the values as float32.

    Raises:
      DataError: a value is NaN or Inf (DATA_NONFINITE).
    """
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise DataError(
            f"{int((~np.isfinite(values)).sum())} of {values.size} voxels are NaN or infinite; repair the file or "
            "leave the case out",
            "DATA_NONFINITE",
        )
    return values
