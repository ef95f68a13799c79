"""Check the tree that a config file returns, and lock it."""

import json
from collections.abc import Collection
from typing import Any

from ml_collections import ConfigDict

from jaxseg.config.intensities import check_intensity
from jaxseg.config.keys import (
    AT_MOST,
    BY_PATH,
    CHOICES,
    FROM_DATA,
    LARGEST,
    NOT_NEGATIVE,
    NUMBERS,
    OF_THE_TREE,
    OPTIONS,
    OWN_DATA,
    PAIRS,
    POSITIVE,
)
from jaxseg.config.names import DATASETS, LOSSES, NETWORKS, TRANSFORMS
from jaxseg.config.rules import (
    check_data,
    check_extra,
    check_needs,
    check_open,
    check_parts,
    check_regions,
    has_length,
    is_number,
    rule,
)
from jaxseg.config.space import check_space
from jaxseg.config.studies import check_compare, check_search
from jaxseg.config.tree import flatten
from jaxseg.types import ConfigError
from jaxseg.utils.lookup import is_path, lookup


def resolve(config: ConfigDict, *, name: str = "", overridden: Collection[str] = ()) -> ConfigDict:
    """Check a config tree, apply `config.embedded` where data.root is empty, and return a locked copy.

    Args:
      config: a tree made by `configs._base.base()`.
      name: the experiment's name if the tree has none (usually the config file's stem).
      overridden: keys given on the command line ("train.epochs"); config.embedded does not replace these.
    Returns:
      A checked, locked copy.
    Raises:
      ConfigError: a value breaks a rule; the message names key, value, rule and remedy.
    """
    if not isinstance(config, ConfigDict) or "data" not in config:
        raise ConfigError("the config file's get_config() must return a tree made by configs._base.base()")
    for key in ("embedded", "defaults"):
        if any(o.split(".")[0] == key for o in overridden):
            raise ConfigError(f"config.{key} can only be set in a config file; set the keys that it contains instead")
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
    for key, value in flatten(json.loads(config.defaults)).items():  # --config.data.protocol=None arrives as a string
        group, _, leaf = key.rpartition(".")
        place = config[group] if group else config
        if value is None and place[leaf] == "None":
            place[leaf] = None
        elif value is not None and place[leaf] is None and key not in FROM_DATA:
            raise ConfigError(f"config.{key}=None: this key cannot be None; leave it out to use its default, {value!r}")
    flat = flatten(config.to_dict())
    for key, value in flat.items():
        if isinstance(value, float) and not abs(value) <= LARGEST:
            raise ConfigError(f"config.{key}={value}: must be a finite number (float32)")
    for key, names in CHOICES.items():
        if flat[key] is None or key in BY_PATH and ":" in flat[key]:
            continue
        lookup(f"value of config.{key}", flat[key], dict.fromkeys(names))
    _check_names(flat)
    check_open(flat)
    for key in POSITIVE:
        rule(flat, key, flat[key] is None or flat[key] >= 1, "must be at least 1")
    for key in NUMBERS:
        rule(flat, key, all(is_number(v) for v in flat[key]), "must hold finite numbers")
    for key in PAIRS:
        rule(
            flat,
            key,
            all(has_length(t, 2) and isinstance(t[0], str) and is_number(t[1]) for t in flat[key]),
            "must be ((name, number), ...)",
        )
    for key in OPTIONS:
        rule(flat, key, all(isinstance(name, str) for name in flat[key]), "must be {'option': value, ...}")
    for name in sorted(flat["model.options"].keys() & {*OF_THE_TREE, "abstract"}):
        instead = f"set config.{OF_THE_TREE[name]} instead" if name in OF_THE_TREE else "a network is trained with values"
        raise ConfigError(f"config.model.options={flat['model.options']!r}: {name!r} cannot be set here; remove it: {instead}")
    for key, most in AT_MOST.items():
        rule(flat, key, flat[key] <= most, f"must be at most {most}")
    for key in NOT_NEGATIVE:
        rule(flat, key, flat[key] is None or flat[key] >= 0, "must not be negative")
    rule(flat, "optim.lr", flat["optim.lr"] > 0, "must be above 0")
    for key in ("plan.memory_gb", "report.megabytes"):
        rule(flat, key, flat[key] is None or flat[key] > 0, "must be above 0")
    rule(flat, "optim.ema", 0 <= flat["optim.ema"] < 1, "must lie in [0, 1); typical 0.999")
    rule(flat, "eval.threshold", 0 < flat["eval.threshold"] < 1, "must lie strictly between 0 and 1")
    rule(
        flat,
        "eval.thresholds",
        all(0 < t < 1 for t in flat["eval.thresholds"]) and len(flat["eval.thresholds"]) > 0,
        "must be numbers strictly between 0 and 1",
    )
    rule(flat, "loss.terms", len(flat["loss.terms"]) > 0, "must be ((name, weight), ...) with at least one term")
    rule(
        flat,
        "loss.aux_terms",
        len(flat["loss.aux_weights"]) > 0 or not flat["loss.aux_terms"],
        "needs the weights of the auxiliary outputs in loss.aux_weights; give both or neither",
    )
    rule(
        flat, "train.augment", all(has_length(t, 3) for t in flat["train.augment"]), "must be ((name, probability, options), ...)"
    )
    check_compare(flat)
    check_search(flat)
    check_parts(flat)
    check_data(flat)
    check_intensity(flat)
    check_regions(flat)
    check_extra(flat)
    check_needs(flat, overridden)
    check_space(flat)
    if flat["schedule.name"] == "plateau" and flat["train.best"] == "last":
        raise ConfigError(
            "config.schedule.name='plateau' with config.train.best='last': the plateau needs a criterion; "
            "set config.train.best to val_loss, val_dice or val_recall"
        )
    return config.lock()


def _check_names(flat: dict[str, Any]) -> None:
    """Refuse names that are in no registry; their options are checked later, when the registries are imported."""
    known = [name for family in NETWORKS.values() for name in family]
    if not set(":+") & set(flat["model.name"]):
        lookup("model", flat["model.name"], dict.fromkeys(known))
    for name in flat["compare.models"]:
        if not set(":+") & set(str(name)):
            lookup("model in config.compare.models", name, dict.fromkeys(known))
    if not is_path(flat["data.dataset"]):
        lookup("data set", flat["data.dataset"], dict.fromkeys((*DATASETS, *OWN_DATA)))
    for key, what, table in (
        ("loss.terms", "loss term", LOSSES),
        ("loss.aux_terms", "loss term", LOSSES),
        ("train.augment", "transform", TRANSFORMS),
    ):
        for entry in flat[key]:
            if isinstance(entry, tuple) and entry and isinstance(entry[0], str) and not is_path(entry[0]):
                lookup(what, entry[0], dict.fromkeys(table))
