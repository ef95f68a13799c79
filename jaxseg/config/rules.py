"""Rules between the keys of a config tree: each refusal names key, value, rule and remedy."""

import json
import math
from collections.abc import Collection
from typing import Any

from jaxseg.config.keys import (
    EXTRA,
    EXTRA_BY_A_RUN,
    FROM_DATA,
    IDLE_IN_FILES,
    INTENSITIES,
    LARGEST,
    MAX_VOXELS,
    NEEDS,
    NEEDS_OF_MODES,
    OWN_DATA,
    SLICES_ONLY,
    VOLUMES_ONLY,
)
from jaxseg.config.tree import flatten
from jaxseg.types import ConfigError
from jaxseg.utils.lookup import is_path, lookup


def is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST


def has_length(value, n: int) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == n


def rule(flat: dict[str, Any], key: str, holds: bool, rule: str) -> None:
    if not holds:
        raise ConfigError(f"config.{key}={flat[key]!r}: {rule}")


def check_data(flat: dict[str, Any]) -> None:
    size, fractions = flat["data.size"], flat["data.fractions"]
    rank = flat["data.rank"]
    rule(flat, "data.rank", rank in (2, 3), "must be 2 (slices, photographs) or 3 (volumes)")
    shape, steps = (
        ("(height, width) in pixels", "(row mm, column mm)") if rank == 2 else ("(x, y, z) in voxels", "(x, y, z) in mm")
    )
    rule(
        flat,
        "data.size",
        len(size) == rank and all(isinstance(n, int) and n >= (8 if rank == 2 else 1) for n in size),
        f"must be {shape} for data.rank={rank}, each at least {'8' if rank == 2 else '1: networks of planes take 1 across them'}",
    )
    rule(flat, "data.size", math.prod(size) <= MAX_VOXELS, f"must be at most {MAX_VOXELS} {'pixels' if rank == 2 else 'voxels'}")
    rule(flat, "data.window", len(flat["data.window"]) in (0, 2), "must be (level, width) in HU, or () for 8-bit images")
    if len(flat["data.window"]) == 2:
        rule(flat, "data.window", flat["data.window"][1] > 0, "the width must be above 0 HU")
        rule(
            flat,
            "data.window",
            flat["data.intensity"] in ("grey", "ct", "auto"),
            f"data.intensity={flat['data.intensity']!r} takes no window; set it to ()",
        )
    else:
        rule(flat, "data.window", flat["data.intensity"] != "ct", "data.intensity='ct' needs (level, width) in HU")
    rule(
        flat,
        "data.spacing",
        len(flat["data.spacing"]) in (0, rank) and all(s > 0 or s == 0 and rank == 3 for s in flat["data.spacing"]),
        f"must be {steps}, each above 0{' (0 keeps an axis as it is)' if rank == 3 else ''}, or ()",
    )
    _check_fit(flat)
    channels = flat["data.channels"]
    check_intensity(flat)
    for key in ("data.mean", "data.std"):
        rule(flat, key, channels is None or len(flat[key]) in (0, channels), f"must be () or {channels} numbers (data.channels)")
    rule(
        flat,
        "data.std",
        len(flat["data.std"]) == len(flat["data.mean"]) and all(s > 0 for s in flat["data.std"]),
        "must be as long as data.mean, each above 0",
    )
    rule(flat, "data.bad_share", 0 < flat["data.bad_share"] < 1, "must lie strictly between 0 and 1")
    rule(flat, "data.foreground", 0 <= flat["data.foreground"] <= 1, "must lie in 0..1")
    rule(flat, "data.folds", flat["data.folds"] >= 3, "must be at least 3: a part tests, the next validates, the others train")
    rule(flat, "data.fold", 0 <= flat["data.fold"] < flat["data.folds"], f"must lie in 0..{flat['data.folds'] - 1} (data.folds)")
    rule(
        flat,
        "data.split_file",
        bool(flat["data.split_file"]) == (flat["data.split"] == "file"),
        "is the JSON file of data.split='file', such as a run's splits.json; give both or neither",
    )
    rule(flat, "infer.overlap", 0 <= flat["infer.overlap"] < 1, "must lie in [0, 1)")
    rule(
        flat,
        "infer.mirror",
        set(flat["infer.mirror"]) <= set(range(rank)) and len(set(flat["infer.mirror"])) == len(flat["infer.mirror"]),
        f"must hold axes of 0..{rank - 1}, each once",
    )
    rule(
        flat,
        "eval.lesions",
        flat["eval.lesions"] in ("", "GLI", "SSA", "MEN", "PED", "MET"),
        "must be '' or one of GLI, SSA, MEN, PED, MET",
    )
    default = flatten(json.loads(flat["defaults"]))
    if flat["data.bad_cases"] == "stop":
        rule(
            flat,
            "data.bad_share",
            flat["data.bad_share"] == default["data.bad_share"],
            "is for data.bad_cases='skip'; 'stop' allows no bad case",
        )
    for key in VOLUMES_ONLY if rank == 2 else SLICES_ONLY:
        rule(
            flat, key, json.dumps(flat[key]) == json.dumps(default[key]), f"is for data.rank={5 - rank}; leave it at its default"
        )
    if rank == 3:
        rule(flat, "eval.empty", flat["eval.empty"] != "zero", "is for data.rank=2; volumes take 'one' or 'nan'")
        _check_volumes(flat)
    rule(
        flat,
        "data.fractions",
        len(fractions) == 3 and min(fractions) >= 0 and abs(sum(fractions) - 1) < 1e-6,
        "must be three shares (train, val, test) that sum to 1",
    )
    if flat["data.split"] in ("patient", "auto"):
        rule(flat, "data.fractions", fractions[0] > 0, "the first share, train, must be above 0")
        without = "without validation no best checkpoint can be chosen; give val a share, or set config.train.best=last"
        rule(flat, "data.fractions", fractions[1] > 0 or flat["train.best"] == "last", without)


def check_open(flat: dict[str, Any]) -> None:
    """Refuse keys that are left to the data where the data set does not say what it holds."""
    for key, left in FROM_DATA.items():
        rule(
            flat,
            key,
            flat[key] != left or flat["data.dataset"] in OWN_DATA or is_path(flat["data.dataset"]),
            f"is found in data of your own alone (data.dataset={', '.join(OWN_DATA)}); give a value for {flat['data.dataset']!r}",
        )


def check_parts(flat: dict[str, Any]) -> None:
    """Parts of one's own: paths "module:name", and what goes with them."""
    rule(
        flat,
        "data.dataset",
        not is_path(flat["data.dataset"]) or bool(flat["data.root"]),
        "a data set of your own has no embedded phantom; give data.root",
    )
    transforms, readers, metrics = flat["data.transforms"], flat["data.readers"], flat["eval.metrics"]
    rule(
        flat,
        "data.transforms",
        all(has_length(t, 2) and is_path(t[0]) and hasattr(t[1], "keys") for t in transforms),
        "must be (('module:function', {'option': value}), ...)",
    )
    rule(
        flat,
        "data.transforms",
        not transforms or flat["data.target"] != "composite",
        "the picture that data.target='composite' is compared with would not move along; set it to ()",
    )
    rule(
        flat,
        "data.readers",
        all(
            has_length(r, 2) and isinstance(r[0], str) and r[0][:1] == "." and r[0] == r[0].lower() and is_path(r[1])
            for r in readers
        ),
        "must be (('.suffix', 'module:function'), ...), suffixes in small letters",
    )
    names = [str(path).partition(":")[2] for path in metrics]
    rule(
        flat,
        "eval.metrics",
        all(map(is_path, metrics)) and len(set(names)) == len(names),
        "must be ('module:function', ...), whose functions' names differ",
    )


def check_regions(flat: dict[str, Any]) -> None:
    """data.regions is (), ("dataset",), or names with their classes."""
    regions = flat["data.regions"]
    rule(
        flat,
        "data.regions",
        isinstance(regions, (tuple, list)),
        "must be a tuple: (), ('dataset',) or ((name, (class, ...)), ...)",
    )
    named = all(
        has_length(r, 2)
        and isinstance(r[0], str)
        and isinstance(r[1], (tuple, list))
        and r[1]
        and set(map(type, r[1])) <= {int, str}
        for r in regions
    )
    rule(
        flat,
        "data.regions",
        tuple(regions) == ("dataset",) or named and len({r[0] for r in regions}) == len(regions),
        "must be (), dataset (those that the data set names), or ((name, (class, ...)), ...) with names or numbers of classes",
    )


def _check_fit(flat: dict[str, Any]) -> None:
    """How images come to the size of the network's input, and the keys that go with it."""
    rank, fit, spacing = flat["data.rank"], flat["data.fit"], bool(flat["data.spacing"])
    if rank == 3:
        if flat["data.whole"]:
            rule(flat, "data.fit", fit == "stretch", "data.whole=True resizes every volume to data.size; set it to 'stretch'")
        rule(
            flat,
            "data.fit",
            flat["data.whole"] or fit == "patches",
            "volumes are cut into patches: set it to 'patches'; data.whole=True alone stretches them",
        )
    elif fit == "stretch":
        rule(
            flat,
            "data.spacing",
            not spacing,
            "data.fit='stretch' resizes every image to data.size, whatever its pixels measure; set data.fit to 'centre' or "
            "'patches', or data.spacing to ()",
        )
    elif fit == "centre":
        rule(
            flat,
            "data.fit",
            spacing,
            "needs data.spacing=(row mm, column mm); where the images have no known spacing take 'stretch' or 'patches'",
        )


def check_compare(flat: dict[str, Any]) -> None:
    """What --mode=compare varies."""
    whole = lambda v: isinstance(v, int) and not isinstance(v, bool)
    for key in ("compare.seeds", "compare.fold"):
        rule(flat, key, all(whole(v) for v in flat[key]), "must hold whole numbers")
    rule(flat, "compare.folds", flat["compare.folds"] == 0 or flat["compare.folds"] >= 3, "must be 0, or at least 3 parts")
    for entry in flat["compare.vary"]:
        fits = has_length(entry, 2) and isinstance(entry[0], str) and isinstance(entry[1], tuple)
        rule(
            flat,
            "compare.vary",
            fits and all(has_length(change, 2) and isinstance(change[0], str) for change in entry[1]),
            "must be ((label, (('key', value), ...)), ...): a label, and the keys of the config that it changes",
        )


def check_intensity(flat: dict[str, Any]) -> None:
    """A rule, or nnU-Net's rules for the channels of a volume, with the statistics that they need."""
    rules, channels = tuple(flat["data.intensity"].split("+")), flat["data.channels"]
    for name in rules:
        lookup("value of config.data.intensity", name, dict.fromkeys(INTENSITIES))
    several = len(rules) == channels and flat["data.rank"] == 3 and not {"grey", "brain", "ct", "auto"} & set(rules)
    rule(
        flat,
        "data.intensity",
        len(rules) == 1 or several,
        f"must be one rule, or for data.rank=3 one of nnU-Net's for each of {channels} channels (data.channels)",
    )
    rule(flat, "data.intensity", "zscore_nonzero" not in rules or flat["data.rank"] == 3, "'zscore_nonzero' is for data.rank=3")
    if "ct_zscore" in rules:
        given = flat["data.statistics"]
        rule(
            flat,
            "data.statistics",
            len(given) == channels and all(has_length(s, 4) and all(map(is_number, s)) for s in given),
            f"data.intensity='ct_zscore' needs (lowest, highest, mean, standard deviation) of each of {channels} channels",
        )
    rule(
        flat,
        "data.filter",
        not flat["data.filter"].startswith("monai") or flat["data.rank"] == 3 and not flat["data.nonzero"],
        "MONAI's resampling is for data.rank=3 without data.nonzero",
    )
    rule(flat, "data.axes", sorted(flat["data.axes"]) in ([], [0, 1, 2]), "must be an order of (0, 1, 2), or ()")
    rule(flat, "data.nonzero", not (flat["data.nonzero"] and flat["data.crop"]), "goes with no data.crop; set that to ()")


def check_needs(flat: dict[str, Any], overridden: Collection[str]) -> None:
    """Refuse keys without effect: those typed on the command line, and those of a config file that are not in IDLE_IN_FILES."""
    default = flatten(json.loads(flat["defaults"]))
    for key, (decides, what) in NEEDS.items():
        given = key in overridden or (key not in IDLE_IN_FILES and json.dumps(flat[key]) != json.dumps(default[key]))
        rule(flat, key, not given or decides(flat), f"decides nothing here: it needs {what}; give that, or leave it out")


def check_mode(config, mode: str, overridden: Collection[str]) -> None:
    """Refuse keys that were typed for a mode that never reads them.

    Args:
      config: resolved.
      mode: of --mode.
      overridden: keys given on the command line.
    """
    flat = flatten(config.to_dict())
    for key, (decides, what) in NEEDS_OF_MODES.get(mode, {}).items():
        given = key in overridden and not decides(flat)
        rule(flat, key, not given, f"decides nothing in --mode={mode}: it needs {what}; give that, or leave it out")


def check_extra(flat: dict[str, Any]) -> None:
    """Crop, blur, extra channels and what is learnt."""
    crop, extra, target = flat["data.crop"], tuple(flat["data.extra"]), flat["data.target"]
    rule(
        flat,
        "data.crop",
        len(crop) in (0, 2) and all(isinstance(n, int) and n >= 8 for n in crop),
        "must be (rows, columns) in pixels of a slice, each at least 8, or ()",
    )
    rule(flat, "data.blur", flat["data.blur"] >= 0, "must be 0 or more pixels")
    for name in extra:
        lookup("name in config.data.extra", name, EXTRA)
    by_a_run = [name for name in extra if name in EXTRA_BY_A_RUN]
    rule(
        flat,
        "data.extra",
        len(set(extra)) == len(extra) and len(by_a_run) <= 1,
        f"names each channel once, and at most one of {', '.join(EXTRA_BY_A_RUN)}, because data.extra_run is one run",
    )
    added = sum(EXTRA[name] for name in extra)
    rule(
        flat,
        "data.channels",
        flat["data.channels"] is None and not added or (flat["data.channels"] or 0) > added,
        f"counts the {added} channels of data.extra and at least one of the image; set it to the image's + {added}",
    )
    if by_a_run:
        rule(
            flat,
            "data.extra_run",
            bool(flat["data.extra_run"]),
            f"data.extra names {by_a_run[0]!r}: give the run folder of a network trained with "
            f"config.data.target={EXTRA_BY_A_RUN[by_a_run[0]]!r}",
        )
    else:
        rule(flat, "data.extra_run", not flat["data.extra_run"], "no name in data.extra needs a run; leave it empty")
    if flat["data.fit"] == "patches":
        for key, plain in (("data.extra", ()), ("data.target", "labels")):
            rule(
                flat,
                key,
                flat[key] == plain,
                f"is for images of one size: set data.fit to 'stretch' or 'centre', or {key} to {plain!r}",
            )
    if target != "labels":
        rule(flat, "data.regions", not flat["data.regions"], f"regions are of labels; data.target is {target!r}")
    if target == "composite":
        rule(
            flat,
            "train.augment",
            not flat["train.augment"],
            "the picture that data.target='composite' is compared with would not move along; set it to ()",
        )


def _check_volumes(flat: dict[str, Any]) -> None:
    """Rank 3: channels by name, whole volumes, and the cascade."""
    modalities = flat["data.modalities"]
    if modalities is not None and flat["data.channels"] is not None:
        rule(
            flat,
            "data.channels",
            flat["data.channels"] == len(modalities),
            f"data.modalities names {len(modalities)} ({', '.join(map(str, modalities))}); set both alike",
        )
    if flat["data.intensity"] == "grey":
        rule(
            flat,
            "data.window",
            not flat["data.window"],
            "volumes take 'grey' without a window, for 8-bit voxels; "
            "set data.intensity='ct' for CT, or 'brain' with data.window=() for MRI",
        )
    rule(flat, "data.target", flat["data.target"] == "labels", "is for data.rank=2; leave it at 'labels'")
    if flat["data.whole"]:
        rule(flat, "data.regions", not flat["data.regions"], "data.whole=True learns one class, any foreground; set it to False")
        rule(flat, "infer.roi", not flat["infer.roi"], "this is the config of a region-of-interest network itself; leave it out")
        rule(flat, "eval.lesions", not flat["eval.lesions"], "data.whole=True has no regions to find lesions in; set it to ''")
