"""Rules between the keys of a config tree; every error names key, value, rule and remedy."""

import json
import math
from collections.abc import Collection
from typing import Any

from jaxseg.config.keys import (
    EXTRA,
    EXTRA_BY_A_RUN,
    FROM_DATA,
    LARGEST,
    MAX_VOXELS,
    NEEDS,
    NEEDS_OF_MODES,
    OWN_DATA,
    SLICES_ONLY,
    UNUSED_IN_FILES,
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
        f"must be {shape} for data.rank={rank}, each at least {'8' if rank == 2 else '1 (1 across the slices for 2-D kernels)'}",
    )
    rule(flat, "data.size", math.prod(size) <= MAX_VOXELS, f"must be at most {MAX_VOXELS} {'pixels' if rank == 2 else 'voxels'}")
    address = flat["data.store_address"]
    known = not address or address.startswith(("gs://", "s3://", "file:///"))
    rule(flat, "data.store_address", known, "must begin with gs://, s3:// or file:///; leave it empty for the cache folder")
    if address and flat["data.store_engine"] != "zarr3":
        rule(flat, "data.store_address", False, "needs data.store_engine='zarr3'; set it, or leave the address empty")
    rule(flat, "data.window", len(flat["data.window"]) in (0, 2), "must be (level, width) in HU, or () for no window")
    if len(flat["data.window"]) == 2:
        rule(flat, "data.window", flat["data.window"][1] > 0, "the width must be above 0 HU")
        rule(
            flat,
            "data.window",
            flat["data.intensity"] in ("grey", "ct", "auto"),
            f"data.intensity={flat['data.intensity']!r} uses no window; set data.window to ()",
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
    for key in ("data.mean", "data.std"):
        rule(flat, key, channels is None or len(flat[key]) in (0, channels), f"must be () or {channels} numbers (data.channels)")
    rule(
        flat,
        "data.std",
        len(flat["data.std"]) == len(flat["data.mean"]) and all(s > 0 for s in flat["data.std"]),
        "must be as long as data.mean, each above 0",
    )
    rule(
        flat,
        "data.ignore",
        flat["data.ignore"] != "leave_out" or flat["data.target"] == "labels" and not flat["data.whole"],
        "needs data.target='labels' and data.whole=False: other targets are made of fully annotated masks; use 'background'",
    )
    rule(flat, "data.bad_share", 0 < flat["data.bad_share"] < 1, "must lie strictly between 0 and 1")
    rule(flat, "data.foreground", 0 <= flat["data.foreground"] <= 1, "must lie in 0..1")
    rule(
        flat,
        "data.folds",
        flat["data.folds"] >= 3,
        "must be at least 3: a fold for test, one for validation, others for training",
    )
    rule(flat, "data.fold", 0 <= flat["data.fold"] < flat["data.folds"], f"must lie in 0..{flat['data.folds'] - 1} (data.folds)")
    rule(
        flat,
        "data.split_file",
        bool(flat["data.split_file"]) == (flat["data.split"] == "file"),
        "must be a JSON file, such as a run's splits.json, if and only if data.split='file'; set both or neither",
    )
    rule(flat, "infer.overlap", 0 <= flat["infer.overlap"] < 1, "must lie in [0, 1)")
    rule(
        flat,
        "infer.sums",
        flat["infer.sums"] == "float32" or not flat["infer.roi"],
        "needs infer.roi='': a cascade's crops are not summed; leave infer.roi out, or set infer.sums to 'float32'",
    )
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
            "needs data.bad_cases='skip'; with 'stop' no bad case is allowed",
        )
    for key in VOLUMES_ONLY if rank == 2 else SLICES_ONLY:
        rule(flat, key, json.dumps(flat[key]) == json.dumps(default[key]), f"needs data.rank={5 - rank}; leave it at its default")
    if rank == 3:
        rule(flat, "eval.empty", flat["eval.empty"] != "zero", "needs data.rank=2; use 'one' or 'nan' for volumes")
        _check_volumes(flat)
    rule(
        flat,
        "data.fractions",
        len(fractions) == 3 and min(fractions) >= 0 and abs(sum(fractions) - 1) < 1e-6,
        "must be three fractions (train, val, test) that sum to 1",
    )
    if flat["data.split"] in ("patient", "auto"):
        rule(flat, "data.fractions", fractions[0] > 0, "the first fraction (train) must be above 0")
        without = (
            "no best checkpoint can be chosen without validation cases; raise the second fraction or set config.train.best=last"
        )
        rule(flat, "data.fractions", fractions[1] > 0 or flat["train.best"] == "last", without)


def check_open(flat: dict[str, Any]) -> None:
    """Refuse 'auto' and None, which are determined from the data, for data sets that do not support this."""
    for key, left in FROM_DATA.items():
        rule(
            flat,
            key,
            flat[key] != left or flat["data.dataset"] in OWN_DATA or is_path(flat["data.dataset"]),
            f"works only for data.dataset={', '.join(OWN_DATA)}; give a value for data.dataset={flat['data.dataset']!r}",
        )


def check_parts(flat: dict[str, Any]) -> None:
    """Check parts of the user's own: paths "module:name", and the keys that go with them."""
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
        "data.target='composite' cannot be augmented: its target image would not be transformed; set this to ()",
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
        "must be ('module:function', ...), with functions of different names",
    )


def check_regions(flat: dict[str, Any]) -> None:
    """Check that data.regions is (), ("dataset",), or names with their classes."""
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
        "must be (), dataset (the regions that the data set defines), or ((name, (class, ...)), ...) with class names or numbers",
    )


def _check_fit(flat: dict[str, Any]) -> None:
    """Check data.fit (how an image is brought to the network's input size) and the keys that depend on it."""
    rank, fit, spacing = flat["data.rank"], flat["data.fit"], bool(flat["data.spacing"])
    if rank == 3:
        if flat["data.whole"]:
            rule(flat, "data.fit", fit == "stretch", "data.whole=True resizes volumes to data.size; set data.fit to 'stretch'")
        rule(
            flat,
            "data.fit",
            flat["data.whole"] or fit == "patches",
            "volumes are cut into patches: set data.fit to 'patches' (only data.whole=True allows 'stretch')",
        )
    elif fit == "stretch":
        rule(
            flat,
            "data.spacing",
            not spacing,
            "data.fit='stretch' resizes every image to data.size and ignores its pixel spacing; set data.fit to 'centre' or "
            "'patches', or data.spacing to ()",
        )
    elif fit == "centre":
        rule(
            flat,
            "data.fit",
            spacing,
            "needs data.spacing=(row mm, column mm); use 'stretch' or 'patches' if the pixel spacing of the images is unknown",
        )


def check_needs(flat: dict[str, Any], overridden: Collection[str]) -> None:
    """Refuse keys without effect: those given on the command line, and those of a config file that are not in UNUSED_IN_FILES."""
    default = flatten(json.loads(flat["defaults"]))
    for key, (decides, what) in NEEDS.items():
        given = key in overridden or (key not in UNUSED_IN_FILES and json.dumps(flat[key]) != json.dumps(default[key]))
        rule(flat, key, not given or decides(flat), f"has no effect here: it needs {what}; set that too, or leave this key out")


def check_mode(config, mode: str, overridden: Collection[str]) -> None:
    """Refuse keys that were given on the command line for a mode that never reads them.

    Args:
      config: a resolved config.
      mode: the value of --mode.
      overridden: keys given on the command line.
    """
    flat = flatten(config.to_dict())
    for key, (decides, what) in NEEDS_OF_MODES.get(mode, {}).items():
        given = key in overridden and not decides(flat)
        rule(flat, key, not given, f"has no effect in --mode={mode}: it needs {what}; set that too, or leave this key out")


def check_extra(flat: dict[str, Any]) -> None:
    """Check crop, blur, extra channels and the training target."""
    crop, extra, target = flat["data.crop"], tuple(flat["data.extra"]), flat["data.target"]
    rule(
        flat,
        "data.crop",
        len(crop) in (0, 2) and all(isinstance(n, int) and n >= 8 for n in crop),
        "must be (rows, columns) in pixels, each at least 8, or ()",
    )
    rule(flat, "data.blur", flat["data.blur"] >= 0, "must be 0 or more pixels")
    for name in extra:
        lookup("name in config.data.extra", name, EXTRA)
    by_a_run = [name for name in extra if name in EXTRA_BY_A_RUN]
    rule(
        flat,
        "data.extra",
        len(set(extra)) == len(extra) and len(by_a_run) <= 1,
        f"must name each channel once, and at most one of {', '.join(EXTRA_BY_A_RUN)}, because data.extra_run is a single run",
    )
    added = sum(EXTRA[name] for name in extra)
    rule(
        flat,
        "data.channels",
        flat["data.channels"] is None and not added or (flat["data.channels"] or 0) > added,
        f"must include the {added} channels of data.extra; set it to the number of image channels + {added}",
    )
    if by_a_run:
        rule(
            flat,
            "data.extra_run",
            bool(flat["data.extra_run"]),
            f"data.extra has {by_a_run[0]!r}, which a trained network computes; give the folder of a run that was trained with "
            f"config.data.target={EXTRA_BY_A_RUN[by_a_run[0]]!r}",
        )
    else:
        rule(flat, "data.extra_run", not flat["data.extra_run"], "no channel in data.extra needs a run; leave this key empty")
    if flat["data.fit"] == "patches":
        for key, plain in (("data.extra", ()), ("data.target", "labels")):
            rule(
                flat,
                key,
                flat[key] == plain,
                f"needs images of one size; set data.fit to 'stretch' or 'centre', or {key} to {plain!r}",
            )
    if target != "labels":
        rule(
            flat,
            "data.regions",
            not flat["data.regions"],
            f"regions need data.target='labels', but it is {target!r}; set one of the two to its default",
        )
    if target == "composite":
        rule(
            flat,
            "train.augment",
            not flat["train.augment"],
            "data.target='composite' cannot be augmented, because its target image would not be transformed; set this to ()",
        )


def _check_volumes(flat: dict[str, Any]) -> None:
    """Check what holds for volumes alone: modalities, whole volumes, and the cascade."""
    modalities = flat["data.modalities"]
    if modalities is not None and flat["data.channels"] is not None:
        rule(
            flat,
            "data.channels",
            flat["data.channels"] == len(modalities),
            f"data.modalities has {len(modalities)} names ({', '.join(map(str, modalities))}); make the two agree",
        )
    if flat["data.intensity"] == "grey":
        rule(
            flat,
            "data.window",
            not flat["data.window"],
            "for volumes data.intensity='grey' means 8-bit voxels and uses no window; "
            "set data.intensity='ct' for CT, or 'brain' with data.window=() for MRI",
        )
    rule(flat, "data.target", flat["data.target"] == "labels", "needs data.rank=2; leave it at 'labels'")
    if flat["data.previous"]:
        for key, plain in (("data.coordinates", False), ("data.whole", False), ("infer.roi", ""), ("data.mean", ())):
            rule(flat, key, flat[key] == plain, f"data.previous, a cascade's first stage, needs {key}={plain!r}")
    if flat["data.whole"]:
        rule(flat, "data.regions", not flat["data.regions"], "data.whole=True has no regions; set data.whole to False")
        rule(flat, "infer.roi", not flat["infer.roi"], "needs data.whole=False; leave this key out")
        rule(flat, "eval.lesions", not flat["eval.lesions"], "data.whole=True has no tumour regions; set this to ''")
