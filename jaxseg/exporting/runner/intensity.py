"""Scale the intensities of a case, by the rules of jaxseg's data/prepare/intensity.py; `recipe` is its Recipe as a dict."""

import numpy as np

from jaxseg.exporting.runner.images import Refused

_RANGES = ("percentiles", "percentiles_unclipped")
WHOLE_SCAN = ("brain", "zscore", "zscore_nonzero", "zscore_own_nonzero", "rescale_to_01", *_RANGES)  # look at a whole scan


def _rule(recipe: dict, channel: int) -> str:
    rules = recipe["intensity"].split("+")
    return rules[0] if len(rules) == 1 else rules[channel]


def of_scan(array: np.ndarray, recipe: dict, inside, channel: int) -> np.ndarray:
    """Apply the part of an intensity rule that needs a whole scan [X, Y, Z(, C)]; other rules return the array unchanged."""
    for rule in _rule(recipe, channel).split(">"):
        array = _of_whole_scan(array, rule, recipe, inside, channel)
    return array


def _of_whole_scan(array: np.ndarray, rule: str, recipe: dict, inside, channel: int) -> np.ndarray:
    """Apply one of the rules that follow one another."""
    if rule not in WHOLE_SCAN:
        return array
    scores = np.zeros(array.shape, np.float32) if rule == "brain" else np.ascontiguousarray(array.astype(np.float32))
    wide = scores.reshape(*array.shape[:3], -1)
    for c in range(wide.shape[3]):
        source, target = array.reshape(wide.shape)[..., c], wide[..., c]
        if rule in _RANGES:
            low, high, first, last = recipe["statistics"][channel + c]
            a, b = (np.float32(p) for p in np.percentile(target, (low, high)))
            scaled = (target - a) / (b - a) * np.float32(last - first) if b > a else target - a
            scaled += np.float32(first)
            target[:] = np.clip(scaled, first, last) if rule == "percentiles" and b > a else scaled
            continue
        if rule == "rescale_to_01":
            target -= target.min()
            target /= max(target.max(), np.float32(1e-8))
            continue
        if rule == "brain":
            chosen = source > 0
        elif rule == "zscore_own_nonzero":
            chosen = source != 0
        else:
            chosen = inside if rule == "zscore_nonzero" else np.ones(source.shape, bool)
        values = (source if rule == "brain" else target)[chosen].astype(np.float64)
        if not values.size and rule != "brain":
            continue
        if not values.size:
            raise Refused(f"channel {c} holds no voxel above 0; check the file")
        if rule == "brain":
            np.clip(values, *np.percentile(values, (0.5, 99.5)), out=values)
            values -= values.mean()
            values /= max(float(np.sqrt(np.mean(np.square(values)))), 1e-8)
        else:
            values = (values - values.mean()) / max(values.std(), 1e-8)
        target[chosen] = values
    return scores


def of_values(values: np.ndarray, recipe: dict, channel: int) -> np.ndarray:
    """Apply the part of an intensity rule that converts each voxel by itself; returns float32."""
    rule, window = _rule(recipe, channel), recipe["window"]
    wide = values.astype(np.float32)
    if rule.split(">")[0] in WHOLE_SCAN or rule == "none":
        return wide
    if rule == "rgb_to_01":
        if values.min() < 0 or values.max() > 255:
            raise Refused(f"values {values.min():g}..{values.max():g}; this model takes 8-bit values")
        return wide / np.float32(255)
    if rule == "ct_zscore":
        low, high, mean, std = recipe["statistics"][channel]
        return ((np.clip(wide, low, high) - np.float32(mean)) / np.float32(max(std, 1e-8))).astype(np.float32)
    if window is None:
        if values.dtype != np.uint8:
            raise Refused(f"{values.dtype} values; this model takes 8-bit images")
        return wide
    level, width = window
    if rule == "grey":
        return np.clip((wide - (level - width / 2)) * (255.0 / width), 0.0, 255.0)
    return np.clip((wide - np.float32(level)) * np.float32(2 / width), -1.0, 1.0)
