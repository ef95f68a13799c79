"""Rules between the keys that say how intensities are scaled, images resampled and volumes cropped."""

from typing import Any

from jaxseg.config.keys import INTENSITIES
from jaxseg.config.rules import has_length, is_number, rule
from jaxseg.utils.lookup import lookup


def _is_above(value: Any) -> bool:
    """Whether a value is one of data.above."""
    return (
        has_length(value, 3) and value[0] in ("scan", "grid") and is_number(value[1]) and type(value[2]) is int and value[2] >= 0
    )


def check_intensity(flat: dict[str, Any]) -> None:
    """Check data.intensity (one rule, or one of nnU-Net's rules for each channel) and the statistics that it needs."""
    rules, channels = tuple(flat["data.intensity"].split("+")), flat["data.channels"]
    for name in rules:
        steps = name.split(">")
        for step in steps:
            lookup("value of config.data.intensity", step, dict.fromkeys(INTENSITIES))
        rule(
            flat,
            "data.intensity",
            len(steps) == 1 or not {"grey", "ct", "ct_zscore", "rgb_to_01", "none", "auto"} & set(steps),
            "only rules that look at a whole scan may follow one another",
        )
    several = len(rules) == channels and flat["data.rank"] == 3 and not {"grey", "brain", "ct", "auto"} & set(rules)
    rule(
        flat,
        "data.intensity",
        len(rules) == 1 or several,
        f"must be one rule or, for data.rank=3, one of nnU-Net's rules for each channel (data.channels={channels})",
    )
    rule(flat, "data.intensity", "zscore_nonzero" not in rules or flat["data.rank"] == 3, "'zscore_nonzero' needs data.rank=3")
    ranges = any("percentiles" in name for name in rules)
    if "ct_zscore" in rules or ranges:
        given = flat["data.statistics"]
        four = len(given) == channels and all(has_length(s, 4) and all(map(is_number, s)) for s in given)
        ordered = not ranges or four and all(0 <= s[0] < s[1] <= 100 and s[2] < s[3] for s in given if "ct_zscore" not in rules)
        needed = (
            "'percentiles' needs (lower, upper percentile, the two values that they become), increasing"
            if ranges
            else "'ct_zscore' needs (lowest, highest, mean, standard deviation)"
        )
        rule(flat, "data.statistics", four and ordered, f"{needed} for each channel (data.channels={channels})")
    above = flat["data.above"]
    rule(
        flat,
        "data.above",
        not above or _is_above(above) and not flat["data.nonzero"] and not flat["data.crop"],
        "must be () or ('scan' or 'grid', a value, a margin in voxels), without data.nonzero and data.crop",
    )
    monai = flat["data.filter"] == "monai"
    rule(flat, "data.above", above[:1] != ("grid",) or monai, "'grid' needs data.filter='monai' and data.spacing")
    rule(
        flat,
        "data.filter",
        not flat["data.filter"].startswith("monai") or flat["data.rank"] == 3 and not flat["data.nonzero"],
        "MONAI's resampling needs data.rank=3 and data.nonzero=False",
    )
    rule(flat, "data.axes", sorted(flat["data.axes"]) in ([], [0, 1, 2]), "must be a permutation of (0, 1, 2), or ()")
    rule(flat, "data.nonzero", not (flat["data.nonzero"] and flat["data.crop"]), "excludes data.crop; set data.crop to ()")
