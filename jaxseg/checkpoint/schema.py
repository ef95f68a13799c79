"""The required entries of a run's record with their types, and the entries that must agree with each other."""

from collections.abc import Mapping
from typing import Any

from jaxseg.checkpoint import kinds
from jaxseg.config.kinds import KINDS
from jaxseg.data.records import Recipe

ENTRIES: dict[str, Any] = {
    "format": int,
    "jaxseg": str,  # the version that wrote it
    "digest": str,
    "config": dict,  # resolved, nested
    "recipe": dict,  # the fields of data.records.Recipe
    "labels": list[str],  # names of classes 1, 2, ...
    "values": list[int],  # what predictions write for them
    "regions": list[tuple[str, list[int]]],  # (name, classes) of each sigmoid; [] where classes are learnt
    "model": dict,
    "dataset": str,
    "synthetic": bool,  # whether its data are generated
    "made_by": str,  # digest of the network that makes an extra channel, or ""
    "data": dict,
    "splits": dict,  # patients by split
    "code": dict[str, str],  # module that was imported by path -> digest of its files (utils/code.py)
    "surroundings": dict[str, str | int],
    "history": list[dict[str, Any]],  # how the run was changed since it began
}
_MODEL = {"name": str, "in_channels": int, "num_classes": int, "rank": int, "options": dict[str, Any], "parameters": int}
_DATA = {"digest": str, "examples": int, "left_out": list[str]}
_SPLITS = dict.fromkeys(("train", "val", "test"), list[str])
_GROUPS = ("data", "model", "loss", "train", "eval", "infer")
_NEEDED = ("data.channels", "data.coordinates", "data.release", "data.split", "data.whole", "eval.threshold", "train.dtype")


def faults(record: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a record, one text each; [] if nothing is."""
    found = kinds.faults(record, ENTRIES)
    if found:
        return found
    found += kinds.faults(record["model"], _MODEL, within="model.")
    found += kinds.faults(record["data"], _DATA, within="data.")
    found += kinds.faults(record["splits"], _SPLITS, within="splits.")
    found += _config_faults(record["config"])
    found += _recipe_faults(record["recipe"])
    return found or _disagreements(record)


def _config_faults(config: Mapping[str, Any]) -> list[str]:
    found = kinds.faults(config, dict.fromkeys(_GROUPS, dict), within="config.")
    if found:
        return found
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= {f"{key}.{leaf}": v for leaf, v in value.items()} if isinstance(value, dict) else {key: value}
    needed = {key: KINDS[key] for key in _NEEDED}
    return kinds.faults(flat, needed, within="config.") or kinds.faults(flat, KINDS, within="config.", optional=True)


def _recipe_faults(recipe: Mapping[str, Any]) -> list[str]:
    needed, others = kinds.of_dataclass(Recipe)
    unknown = [f"recipe.{name[:40]} is not an entry of a recipe" for name in recipe if name not in needed and name not in others]
    return (
        kinds.faults(recipe, needed, within="recipe.") + kinds.faults(recipe, others, within="recipe.", optional=True) + unknown
    )


def _disagreements(record: Mapping[str, Any]) -> list[str]:
    """Return the contradictions between entries, one text each."""
    model, recipe, labels, regions = (record[key] for key in ("model", "recipe", "labels", "regions"))
    count = len(labels)
    classes = (len(regions),) if regions else (1, 2) if count == 1 else (count + 1,)
    found = []
    if not labels or recipe["labels"] != labels or len(record["values"]) != count:
        found.append(f"labels, values and recipe.labels must name the same classes, at least one ({count} labels)")
    if any(not members or not all(1 <= k <= count for k in members) for _, members in regions):
        found.append(f"regions must be unions of the classes 1..{count}")
    if model["num_classes"] not in classes:
        found.append(f"model.num_classes must be {' or '.join(map(str, classes))}, not {model['num_classes']}")
    if model["rank"] not in (2, 3) or len(recipe["size"]) != model["rank"] or min(recipe["size"]) < 1:
        found.append("recipe.size must hold model.rank (2 or 3) numbers above 0")
    if not 1 <= recipe["channels"] <= model["in_channels"]:
        found.append(f"recipe.channels must lie in 1..{model['in_channels']} (model.in_channels)")
    return found
