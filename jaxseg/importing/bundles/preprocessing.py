"""A bundle's preprocessing as the recipe of a run: orientation, spacing, intensities, the box around the foreground.

Source: MONAI, monai/transforms/spatial, /intensity and /croppad.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from jaxseg.importing.bundles.configuration import INFERENCE, Expression, accept, unknown
from jaxseg.types import MismatchError
from jaxseg.utils.guard import shown

NEUTRAL = {  # transforms that change no values, or only read and write files
    *("LoadImage", "EnsureChannelFirst", "AddChannel", "AsChannelFirst", "EnsureType", "ToTensor", "ToDevice", "CastToType"),
    *("SaveImage", "Identity", "DeleteItems", "SelectItems", "ConcatItems"),
}
FREE = 3e38  # larger than any intensity: no clipping
_FULL = ("rescale_to_01", "percentiles", "percentiles_unclipped")  # follow an increasing linear change of the values
_ABOVE = re.compile(r"\$\s*lambda (\w+)\s*:\s*\1\s*>\s*(-?\d+\.?\d*)")


def preparation(steps: list[tuple[str, dict]] | None) -> dict[str, Any]:
    """Return the fields of `settings.Settings` for the transforms (name, arguments) of a preprocessing; {} if there is none.

    Raises:
      MismatchError: a transform, an argument or an order that jaxseg does not support.
    """
    if steps is None:
        return {}
    found: dict[str, Any] = {"spacing": (), "orientation": "file", "intensity": "none"}
    order: list[str] = []
    crop: tuple[float, int] | None = None
    for name, given in steps:
        if name in NEUTRAL:
            continue
        if name not in _PREPARATIONS:
            raise unknown("preprocessing", name, (*_PREPARATIONS, *sorted(NEUTRAL)))
        kind, make = _PREPARATIONS[name]
        if kind in order and not (kind == order[-1] == "intensity"):
            raise MismatchError(f"{INFERENCE}: preprocessing has a second transform for {kind}, {name}; only one is supported")
        if kind == "orientation" and "spacing" in order:
            raise MismatchError(f"{INFERENCE}: Orientation comes after Spacing, which is not supported; put Orientation first")
        made = make(given)
        if kind == "crop":
            crop = _threshold(made["crop"], found, order)
            found["above"] = ("grid" if "spacing" in order else "scan", *crop) if crop else ()
        else:
            found |= _joined(found, made, name) if kind == "intensity" and kind in order else made
        order.append(kind)
    if found["intensity"] != "none" and "spacing" in order and order.index("intensity") < order.index("spacing"):
        found["filter"] = "monai_last"
        if crop and found["above"][0] == "grid":
            raise MismatchError(
                f"{INFERENCE}: CropForeground after Spacing, with intensities scaled before, is not supported; put Spacing first"
            )
    return found


def _joined(found: Mapping[str, Any], made: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the settings of two transforms of intensities in a row.

    Z-scores and ranges do not change with a linear change of the values before them; other pairs that look at whole scans follow
    one another.
    """
    first, then = found["intensity"], made["intensity"]
    if first is None or then is None:
        return {"intensity": None, "statistics": ()}
    together = found.get("together", False) or made.get("together", False)
    low, high, *_ = [*found.get("statistics", ()), 0.0, 0.0]
    linear = first in ("zscore", "rescale_to_01", "percentiles_unclipped", "none") or first == "ct_zscore" and high - low > FREE
    statistics = [s for s in (found.get("statistics", ()), made.get("statistics", ())) if s]
    if linear and then in ("zscore", *_FULL):
        return {"intensity": then, "statistics": made.get("statistics", ()), "together": together}
    if linear or first == "ct_zscore" or then == "ct_zscore" or len(statistics) > 1:
        raise MismatchError(
            f"{INFERENCE}: {name} after the transform for intensities before it ({first}) is not supported; keep one of them"
        )
    return {"intensity": f"{first}>{then}", "statistics": statistics[0] if statistics else (), "together": together}


def _threshold(crop: tuple[float, int], found: Mapping[str, Any], order: list[str]) -> tuple[float, int] | None:
    """Return (value of the unscaled image above which a voxel is foreground, margin); None if every voxel is."""
    value, margin = crop
    if "intensity" not in order:
        return value, margin
    if found["intensity"] != "ct_zscore":
        raise MismatchError(
            f"{INFERENCE}: CropForeground after {found['intensity']} is not supported: what it crops then differs from "
            "scan to scan; put CropForeground before it"
        )
    low, high, mean, std = found["statistics"]
    if (low - mean) / std > value:
        return None
    if (high - mean) / std <= value:
        raise MismatchError(f"{INFERENCE}: CropForeground: no scaled value can be above {value:g}; correct select_fn")
    return mean + value * std, margin


def _orientation(given: Mapping[str, Any]) -> dict[str, Any]:
    codes = given.get("axcodes")
    if isinstance(codes, Expression) or str(codes).lower() not in ("ras", "lps"):
        raise MismatchError(f"{INFERENCE}: Orientation with axcodes {shown(codes)} is not supported; must be RAS or LPS")
    return {"orientation": str(codes).lower()}


def _spacing(given: Mapping[str, Any]) -> dict[str, Any]:
    mode = given.get("mode", "bilinear")
    accept("Spacing", "mode", mode[0] if isinstance(mode, list | tuple) else mode, ("bilinear", "linear", "trilinear"))
    for key in ("diagonal", "align_corners", "scale_extent", "recompute_affine"):
        value = given.get(key, False)
        accept("Spacing", key, any(value) if isinstance(value, list | tuple) else bool(value), (False,))
    accept("Spacing", "padding_mode", given.get("padding_mode", "border"), ("border",))
    for key in ("min_pixdim", "max_pixdim"):
        accept("Spacing", key, given.get(key), (None,))
    pixdim = given["pixdim"]
    if isinstance(pixdim, Expression):
        return {"spacing": None}
    values = list(pixdim) if isinstance(pixdim, list | tuple) else [pixdim] * 3
    values += [0.0] * (3 - len(values))  # of two axes
    return {"spacing": tuple(float(v) if v > 0 and math.isfinite(v) else 0.0 for v in values[:3])}


def _range(given: Mapping[str, Any]) -> dict[str, Any]:
    values = [given.get(key) for key in ("a_min", "a_max", "b_min", "b_max")]
    if any(isinstance(v, Expression) for v in values):
        return {"intensity": None}
    return range_rule(*values, clip=bool(given.get("clip", False)))


def range_rule(a_min: float, a_max: float, b_min: float | None, b_max: float | None, *, clip: bool) -> dict[str, Any]:
    """MONAI's ScaleIntensityRange (a_min..a_max to b_min..b_max, default 0..1) as data.intensity and its statistics."""
    b_min, b_max = 0.0 if b_min is None else b_min, 1.0 if b_max is None else b_max
    if a_max <= a_min or b_max <= b_min:
        raise MismatchError(f"ScaleIntensityRange from {a_min}..{a_max} to {b_min}..{b_max}; both ranges must be increasing")
    scale = (a_max - a_min) / (b_max - b_min)
    low, high = (a_min, a_max) if clip else (-FREE, FREE)
    return {"intensity": "ct_zscore", "statistics": (float(low), float(high), float(a_min - b_min * scale), float(scale))}


def _percentiles(given: Mapping[str, Any]) -> dict[str, Any]:
    values = [given.get(key) for key in ("lower", "upper", "b_min", "b_max")]
    if any(isinstance(v, Expression) for v in values):
        return {"intensity": None}
    clip, relative = bool(given.get("clip", False)), bool(given.get("relative", False))
    lower, upper, first, last = values
    if (first is None or last is None) and not clip and not relative:
        first, last = 0.0, 1.0
    if not all(isinstance(v, int | float) for v in (lower, upper, first, last)) or not (
        0 <= lower < upper <= 100 and first < last
    ):
        raise MismatchError(
            f"{INFERENCE}: ScaleIntensityRangePercentiles with lower {shown(lower)}, upper {shown(upper)}, b_min {shown(first)}, "
            f"b_max {shown(last)} is not supported; both pairs must be increasing numbers"
        )
    if relative:  # b_min and b_max are then what the percentiles 0 and 100 would become
        first, last = (first + (last - first) * p / 100 for p in (lower, upper))
    rule = "percentiles" if clip else "percentiles_unclipped"
    whole = not given.get("channel_wise", False)
    return {"intensity": rule, "statistics": tuple(map(float, (lower, upper, first, last))), "together": whole}


def _normalise(given: Mapping[str, Any]) -> dict[str, Any]:
    shift, factor = given.get("subtrahend"), given.get("divisor")
    if shift is not None or factor is not None:
        numbers = all(isinstance(v, int | float) for v in (shift, factor))
        if not numbers or given.get("nonzero", False):
            raise MismatchError(
                f"{INFERENCE}: NormalizeIntensity with subtrahend {shown(shift)}, divisor {shown(factor)}, nonzero "
                f"{given.get('nonzero', False)} is not supported; must be two numbers, without nonzero"
            )
        return {"intensity": "ct_zscore", "statistics": (-FREE, FREE, float(shift), float(factor))}
    rule = "zscore_own_nonzero" if given.get("nonzero", False) else "zscore"
    return {"intensity": rule, "together": not given.get("channel_wise", False)}


def _rescale(given: Mapping[str, Any]) -> dict[str, Any]:
    accept("ScaleIntensity", "factor", given.get("factor"), (None,))
    low, high, together = given.get("minv", 0.0), given.get("maxv", 1.0), not given.get("channel_wise", False)
    if not all(isinstance(v, int | float) for v in (low, high)) or not low < high:
        raise MismatchError(
            f"{INFERENCE}: ScaleIntensity with minv {shown(low)}, maxv {shown(high)} is not supported; must be increasing numbers"
        )
    if (low, high) == (0, 1):
        return {"intensity": "rescale_to_01", "together": together}
    return {"intensity": "percentiles_unclipped", "statistics": (0.0, 100.0, float(low), float(high)), "together": together}


def _crop(given: Mapping[str, Any]) -> dict[str, Any]:
    accept("CropForeground", "channel_indices", given.get("channel_indices"), (None,))
    accept("CropForeground", "k_divisible", given.get("k_divisible", 1), (1,))
    margin, above = given.get("margin", 0), given.get("select_fn")
    margins = set(margin) if isinstance(margin, list | tuple) else {margin}
    if len(margins) > 1 or not all(type(m) is int and m >= 0 for m in margins):
        raise MismatchError(f"{INFERENCE}: CropForeground with margin {shown(margin)} is not supported; must be one whole number")
    (margin,) = margins
    if margin:  # the default has changed, and without it the box is padded
        accept("CropForeground", "allow_smaller", given.get("allow_smaller"), (True,))
    value = _ABOVE.fullmatch(above) if isinstance(above, str) else None
    if above is not None and not value:
        raise MismatchError(
            f"{INFERENCE}: CropForeground with select_fn {shown(above)} is not supported; leave it out (x > 0), or write it as "
            "$lambda x: x > NUMBER"
        )
    return {"crop": (float(value[2]) if value else 0.0, margin)}


_PREPARATIONS: dict[str, tuple[str, Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    "Orientation": ("orientation", _orientation),
    "Spacing": ("spacing", _spacing),
    "ScaleIntensityRange": ("intensity", _range),
    "ScaleIntensityRangePercentiles": ("intensity", _percentiles),
    "NormalizeIntensity": ("intensity", _normalise),
    "ScaleIntensity": ("intensity", _rescale),
    "CropForeground": ("crop", _crop),
}
