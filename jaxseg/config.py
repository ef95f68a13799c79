"""From a config file's tree to a checked one: cross-field rules with remedies, derived values, the difference.

The tree itself is `configs/_base.py`. Everything that can be refused without reading data or compiling is refused here.
"""

import json
import math
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxseg.types import ConfigError
from jaxseg.utils.lookup import lookup

CHOICES = {
    "data.split": ("patient", "fold", "file", "fixed", "slice_level"),
    "data.intensity": ("grey", "brain", "ct"),
    "data.filter": ("linear", "lanczos"),
    "data.bad_cases": ("stop", "skip"),
    "data.positions": ("uniform", "centre_clipped"),
    "data.target": ("labels", "edges", "composite"),
    "optim.name": ("adam", "adamw", "adagrad", "sgd"),
    "schedule.name": ("constant", "poly", "cosine", "step", "plateau"),
    "train.dtype": ("auto", "float32", "bfloat16"),
    "train.best": ("val_loss", "val_dice", "val_recall", "last"),
    "eval.empty": ("one", "zero", "nan"),
    "eval.split": ("train", "val", "test"),
    "search.objective": ("val_dice", "val_recall"),
    "infer.blend": ("constant", "gaussian", "gaussian_nnunet", "cosine", "half_cosine"),
    "infer.positions": ("monai", "nnunet"),
    "infer.accumulator": ("auto", "device", "host", "memmap"),
}
VOLUMES_ONLY = ("data.coordinates", "data.whole", "data.per_volume", "data.foreground", "data.positions", "eval.surface",
                "eval.lesions", "infer.roi", "infer.overlap", "infer.blend", "infer.positions", "infer.windows",
                "infer.accumulator")
SLICES_ONLY = ("data.crop", "data.blur", "data.extra", "data.extra_run", "data.target", "data.min_area", "data.sample",
               "data.sample_seed", "eval.tables")
EXTRA = {"kmeans": 1, "edge": 1, "painted_edge": 0, "autoencoder": 1}  # extra channels by name: how many each adds
EXTRA_BY_A_RUN = {"edge": "edges", "painted_edge": "edges", "autoencoder": "composite"}  # what the run must have learnt
# Keys that may change between two starts of one run: they decide no number of its training.
NEUTRAL = ("variant", "data.workers", "eval.batch_size", "eval.thresholds", "eval.threshold", "eval.empty", "eval.split",
           "eval.tables", "eval.surface", "eval.lesions", "eval.postprocess", "infer.batch_size", "infer.probabilities",
           "infer.overlay", "infer.roi", "infer.ensemble", "infer.postprocess", "infer.windows", "infer.accumulator",
           "train.log_every", "train.watchdog", "train.keep", "search.trials", "search.objective", "search.low", "search.high")
POSITIVE = ("data.channels", "data.per_volume", "train.epochs", "train.batch_size", "train.eval_every", "train.save_every",
            "train.keep", "train.log_every", "eval.batch_size", "infer.batch_size", "infer.windows", "optim.accumulate",
            "search.trials")
AT_MOST = {"data.workers": 256, "data.blur": 1000, "data.per_volume": 10**5, "train.epochs": 10**7}  # more is a slip
NUMBERS = ("data.size", "data.window", "data.spacing", "data.mean", "data.std", "data.crop", "data.fractions", "loss.aux_weights",
           "eval.thresholds", "infer.mirror")
PAIRS = ("loss.terms", "loss.aux_terms", "loss.learnable")  # ((name, number), ...)
OPTIONS = ("model.options", "loss.options", "optim.options", "schedule.options")
BY_PATH = ("optim.name", "schedule.name")  # also take "module:factory", which building them looks up
# key: (whether it decides anything in this tree, what it needs for that)
NEEDS: dict[str, tuple[Callable[[dict[str, Any]], bool], str]] = {
    "data.fold": (lambda c: c["data.split"] == "fold", "data.split='fold'"),
    "data.folds": (lambda c: c["data.split"] == "fold", "data.split='fold'"),
    "data.fractions": (lambda c: c["data.split"] == "patient", "data.split='patient'"),
    "data.split_seed": (lambda c: c["data.split"] in ("patient", "fold"), "data.split='patient' or 'fold'"),
    "data.sample_seed": (lambda c: c["data.sample"] is not None, "data.sample"),
    "data.per_volume": (lambda c: not c["data.whole"], "data.whole=False"),
    "data.foreground": (lambda c: not c["data.whole"], "data.whole=False"),
    "data.positions": (lambda c: not c["data.whole"], "data.whole=False"),
    "data.filter": (lambda c: c["data.rank"] == 2, "data.rank=2"),
    "eval.batch_size": (lambda c: c["data.rank"] == 2, "data.rank=2; volumes take infer.windows"),
    "infer.batch_size": (lambda c: c["data.rank"] == 2, "data.rank=2; volumes take infer.windows"),
    "infer.mirror": (lambda c: not c["infer.roi"], "infer.roi=''; the cascade averages no mirrored passes"),
    "schedule.warmup_ratio": (lambda c: c["schedule.warmup"] > 0, "schedule.warmup above 0"),
}
IDLE_IN_FILES = ("data.fractions", "data.split_seed", "data.per_volume", "data.foreground", "schedule.warmup_ratio")
LARGEST = float(np.finfo(np.float32).max)
MAX_VOXELS = 2**28  # of the network's input: a slice or a patch
NOT_NEGATIVE = ("data.max_samples", "data.workers", "optim.weight_decay", "optim.clip_norm", "schedule.warmup",
                "train.bn_warmup", "train.alarm_after", "train.stop_nonfinite", "train.watchdog", "mesh.data")


def resolve(config: ConfigDict, *, name: str = "", overridden: Collection[str] = ()) -> ConfigDict:
    """Check a tree, apply what it prescribes for embedded data, and lock the copy.

    Args:
      config: a tree made from `configs._base.base()`.
      name: the experiment's name when the tree has none (the config file's stem).
      overridden: keys given on the command line ("train.epochs"); config.embedded does not replace these.
    Returns:
      A checked, locked copy.
    Raises:
      ConfigError: a value that breaks a rule; the message names key, value, rule and remedy.
    """
    if not isinstance(config, ConfigDict) or "data" not in config:
        raise ConfigError("the config file's get_config() must return a tree made by configs._base.base()")
    for key in ("embedded", "defaults"):
        if any(o.split(".")[0] == key for o in overridden):
            raise ConfigError(f"config.{key} is written by the config file; set the keys themselves")
    config = config.copy_and_resolve_references()
    config.unlock()
    config.name = config.name or name
    if not config.data.root:
        known = flatten(config.to_dict())
        for key, value in config.embedded:
            lookup("key in config.embedded", key, known)
            if not any(key == o or o.startswith(key + ".") for o in overridden):
                group, _, leaf = key.rpartition(".")
                target = config
                for part in group.split(".") if group else ():
                    target = target[part]
                with target.ignore_type():
                    target[leaf] = value
    config.embedded = ()
    for key, value in flatten(json.loads(config.defaults)).items():  # --config.data.protocol=None arrives as a word
        group, _, leaf = key.rpartition(".")
        place = config[group] if group else config
        if value is None and place[leaf] == "None":
            place[leaf] = None
        elif value is not None and place[leaf] is None:
            raise ConfigError(f"config.{key}=None: it cannot be None; leave it out for its default, {value!r}")
    flat = flatten(config.to_dict())
    for key, value in flat.items():
        if isinstance(value, float) and not abs(value) <= LARGEST:
            raise ConfigError(f"config.{key}={value}: must be a finite number (float32)")
    for key, known in CHOICES.items():
        if key in BY_PATH and ":" in flat[key]:
            continue
        lookup(f"value of config.{key}", flat[key], dict.fromkeys(known))
    for key in POSITIVE:
        _rule(flat, key, flat[key] >= 1, "must be at least 1")
    for key in NUMBERS:
        _rule(flat, key, all(_is_number(v) for v in flat[key]), "must hold finite numbers")
    for key in PAIRS:
        _rule(flat, key, all(_has_length(t, 2) and isinstance(t[0], str) and _is_number(t[1]) for t in flat[key]),
              "must be ((name, number), ...)")
    for key in OPTIONS:
        _rule(flat, key, all(isinstance(name, str) for name in flat[key]), "must be {'option': value, ...}")
    for key, most in AT_MOST.items():
        _rule(flat, key, flat[key] <= most, f"must be at most {most}")
    for key in NOT_NEGATIVE:
        _rule(flat, key, flat[key] is None or flat[key] >= 0, "must not be negative")
    _rule(flat, "optim.lr", flat["optim.lr"] > 0, "must be above 0")
    _rule(flat, "optim.ema", 0 <= flat["optim.ema"] < 1, "must lie in [0, 1); typical 0.999")
    _rule(flat, "eval.threshold", 0 < flat["eval.threshold"] < 1, "must lie strictly between 0 and 1")
    _rule(flat, "eval.thresholds", all(0 < t < 1 for t in flat["eval.thresholds"]) and len(flat["eval.thresholds"]) > 0,
          "must be numbers strictly between 0 and 1")
    _rule(flat, "loss.terms", len(flat["loss.terms"]) > 0, "must be ((name, weight), ...) with at least one term")
    _rule(flat, "loss.aux_terms", len(flat["loss.aux_weights"]) > 0 or not flat["loss.aux_terms"],
          "are of the auxiliary outputs, which count by loss.aux_weights; give both or neither")
    _rule(flat, "train.augment", all(_has_length(t, 3) for t in flat["train.augment"]),
          "must be ((name, probability, options), ...)")
    _check_data(flat)
    _check_extra(flat)
    _check_needs(flat, overridden)
    _rule(flat, "search.low", 0 < flat["search.low"] < flat["search.high"], f"must lie between 0 and {flat['search.high']} "
          "(search.high)")
    if flat["schedule.name"] == "plateau" and flat["train.best"] == "last":
        raise ConfigError("config.schedule.name='plateau' with config.train.best='last': the plateau needs a criterion; "
                          "set config.train.best to val_loss, val_dice or val_recall")
    return config.lock()


def _check_data(flat: dict[str, Any]) -> None:
    size, fractions = flat["data.size"], flat["data.fractions"]
    rank = flat["data.rank"]
    _rule(flat, "data.rank", rank in (2, 3), "must be 2 (slices, photographs) or 3 (volumes)")
    shape, steps = (("(height, width) in pixels", "(row mm, column mm)") if rank == 2
                    else ("(x, y, z) in voxels", "(x, y, z) in mm"))
    _rule(flat, "data.size", len(size) == rank and all(isinstance(n, int) and n >= 8 for n in size),
          f"must be {shape} for data.rank={rank}, each at least 8")
    _rule(flat, "data.size", math.prod(size) <= MAX_VOXELS, f"must be at most {MAX_VOXELS} {'pixels' if rank == 2 else 'voxels'}")
    _rule(flat, "data.window", len(flat["data.window"]) in (0, 2), "must be (level, width) in HU, or () for 8-bit images")
    if len(flat["data.window"]) == 2:
        _rule(flat, "data.window", flat["data.window"][1] > 0, "the width must be above 0 HU")
        _rule(flat, "data.window", flat["data.intensity"] != "brain", "data.intensity='brain' takes no window; set it to ()")
    else:
        _rule(flat, "data.window", flat["data.intensity"] != "ct", "data.intensity='ct' needs (level, width) in HU")
    _rule(flat, "data.spacing", len(flat["data.spacing"]) in (0, rank) and all(s > 0 for s in flat["data.spacing"]),
          f"must be {steps}, each above 0, or ()")
    channels = flat["data.channels"]
    for key in ("data.mean", "data.std"):
        _rule(flat, key, len(flat[key]) in (0, channels), f"must be () or {channels} numbers (data.channels)")
    _rule(flat, "data.std", len(flat["data.std"]) == len(flat["data.mean"]) and all(s > 0 for s in flat["data.std"]),
          "must be as long as data.mean, each above 0")
    _rule(flat, "data.bad_share", 0 < flat["data.bad_share"] < 1, "must lie strictly between 0 and 1")
    _rule(flat, "data.foreground", 0 <= flat["data.foreground"] <= 1, "must lie in 0..1")
    _rule(flat, "data.folds", flat["data.folds"] >= 3, "must be at least 3: a part tests, the next validates, the others train")
    _rule(flat, "data.fold", 0 <= flat["data.fold"] < flat["data.folds"], f"must lie in 0..{flat['data.folds'] - 1} (data.folds)")
    _rule(flat, "data.split_file", bool(flat["data.split_file"]) == (flat["data.split"] == "file"),
          "is the JSON file of data.split='file', such as a run's splits.json; give both or neither")
    _rule(flat, "infer.overlap", 0 <= flat["infer.overlap"] < 1, "must lie in [0, 1)")
    _rule(flat, "infer.mirror", set(flat["infer.mirror"]) <= set(range(rank)) and len(set(flat["infer.mirror"])) ==
          len(flat["infer.mirror"]), f"must hold axes of 0..{rank - 1}, each once")
    _rule(flat, "eval.lesions", flat["eval.lesions"] in ("", "GLI", "SSA", "MEN", "PED", "MET"),
          "must be '' or one of GLI, SSA, MEN, PED, MET")
    default = flatten(json.loads(flat["defaults"]))
    if flat["data.bad_cases"] == "stop":
        _rule(flat, "data.bad_share", flat["data.bad_share"] == default["data.bad_share"], "is for data.bad_cases='skip'; 'stop' "
              "allows no bad case")
    for key in VOLUMES_ONLY if rank == 2 else SLICES_ONLY:
        _rule(flat, key, json.dumps(flat[key]) == json.dumps(default[key]),
              f"is for data.rank={5 - rank}; leave it at its default")
    if rank == 3:
        _rule(flat, "eval.empty", flat["eval.empty"] != "zero", "is for data.rank=2; volumes take 'one' or 'nan'")
        _check_volumes(flat)
    _rule(flat, "data.fractions", len(fractions) == 3 and min(fractions) >= 0 and abs(sum(fractions) - 1) < 1e-6,
          "must be three shares (train, val, test) that sum to 1")


def _check_needs(flat: dict[str, Any], overridden: Collection[str]) -> None:
    """Refuse keys that decide nothing beside the others: typed ones always, a config file's where nobody meant them to wait."""
    default = flatten(json.loads(flat["defaults"]))
    for key, (decides, what) in NEEDS.items():
        given = key in overridden or (key not in IDLE_IN_FILES and json.dumps(flat[key]) != json.dumps(default[key]))
        _rule(flat, key, not given or decides(flat), f"decides nothing here: it needs {what}; give that, or leave it out")


def _check_extra(flat: dict[str, Any]) -> None:
    """Crop, blur, extra channels and what is learnt."""
    crop, extra, target = flat["data.crop"], tuple(flat["data.extra"]), flat["data.target"]
    _rule(flat, "data.crop", len(crop) in (0, 2) and all(isinstance(n, int) and n >= 8 for n in crop),
          "must be (rows, columns) in pixels of a slice, each at least 8, or ()")
    _rule(flat, "data.blur", flat["data.blur"] >= 0, "must be 0 or more pixels")
    for name in extra:
        lookup("name in config.data.extra", name, EXTRA)
    by_a_run = [name for name in extra if name in EXTRA_BY_A_RUN]
    _rule(flat, "data.extra", len(set(extra)) == len(extra) and len(by_a_run) <= 1,
          f"names each channel once, and at most one of {', '.join(EXTRA_BY_A_RUN)}, because data.extra_run is one run")
    added = sum(EXTRA[name] for name in extra)
    _rule(flat, "data.channels", flat["data.channels"] > added,
          f"counts the {added} channels of data.extra and at least one of the image; set it to the image's + {added}")
    if by_a_run:
        _rule(flat, "data.extra_run", bool(flat["data.extra_run"]),
              f"data.extra names {by_a_run[0]!r}: give the run folder of a network trained with "
              f"config.data.target={EXTRA_BY_A_RUN[by_a_run[0]]!r}")
    else:
        _rule(flat, "data.extra_run", not flat["data.extra_run"], "no name in data.extra needs a run; leave it empty")
    if target != "labels":
        _rule(flat, "data.regions", not flat["data.regions"], f"regions are of labels; data.target is {target!r}")
    if target == "composite":
        _rule(flat, "train.augment", not flat["train.augment"],
              "the picture that data.target='composite' is compared with would not move along; set it to ()")


def _check_volumes(flat: dict[str, Any]) -> None:
    """Rank 3: channels by name, whole volumes, and the cascade."""
    modalities = flat["data.modalities"]
    if modalities is not None:
        _rule(flat, "data.channels", flat["data.channels"] == len(modalities),
              f"data.modalities names {len(modalities)} ({', '.join(map(str, modalities))}); set both alike")
    if flat["data.intensity"] == "grey":
        _rule(flat, "data.window", not flat["data.window"], "volumes take 'grey' without a window, for 8-bit voxels; "
              "set data.intensity='ct' for CT, or 'brain' with data.window=() for MRI")
    _rule(flat, "data.target", flat["data.target"] == "labels", "is for data.rank=2; leave it at 'labels'")
    if flat["data.whole"]:
        _rule(flat, "data.regions", not flat["data.regions"], "data.whole=True learns one class, any foreground; set it to False")
        _rule(flat, "infer.roi", not flat["infer.roi"], "this is the config of a region-of-interest network itself; leave it out")
        _rule(flat, "eval.lesions", not flat["eval.lesions"], "data.whole=True has no regions to find lesions in; set it to ''")


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST


def _has_length(value, n: int) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == n


def _rule(flat: dict[str, Any], key: str, holds: bool, rule: str) -> None:
    if not holds:
        raise ConfigError(f"config.{key}={flat[key]!r}: {rule}")


def flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    """{"train.epochs": 3, ...} of a nested dict; dicts named "options" stay whole."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and key != "options":
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def as_dict(config: ConfigDict) -> dict[str, Any]:
    """The tree as plain nested dicts, for records and logs."""
    tree = config.to_dict()
    return {k: v for k, v in tree.items() if k not in ("defaults", "embedded")}


def defaults(config: ConfigDict) -> dict[str, Any]:
    """The tree of `configs/_base.py` itself, as plain nested dicts."""
    return json.loads(config.defaults)


def difference(config: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """{key: (default, value)} of the keys that an experiment changed: its description."""
    plain = lambda tree: flatten(json.loads(json.dumps(tree)))
    a, b = plain(defaults(config)), plain(as_dict(config))
    return {k: (a.get(k), b[k]) for k in sorted(b) if a.get(k) != b[k] and k not in ("name", "variant")}
