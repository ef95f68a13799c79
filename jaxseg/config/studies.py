"""Rules of the keys that say what --mode=compare and --mode=search vary."""

from typing import Any

from jaxseg.config.keys import NEUTRAL
from jaxseg.config.rules import has_length, is_number, rule
from jaxseg.types import ConfigError
from jaxseg.utils.lookup import lookup

FORMS = (
    "must be (('key', 'log', low, high), ('key', 'float', low, high), ('key', 'int', low, high), ('key', 'choice', (value, "
    "value, ...)), ...), each low below its high, above 0 for log, whole for int"
)


def check_compare(flat: dict[str, Any]) -> None:
    """Check the keys that say what --mode=compare varies."""
    whole = lambda v: isinstance(v, int) and not isinstance(v, bool)
    for key in ("compare.seeds", "compare.fold"):
        rule(flat, key, all(whole(v) for v in flat[key]), "must hold whole numbers")
    _check_published(flat)
    rule(flat, "compare.folds", flat["compare.folds"] == 0 or flat["compare.folds"] >= 3, "must be 0, or at least 3")
    for entry in flat["compare.vary"]:
        fits = has_length(entry, 2) and isinstance(entry[0], str) and isinstance(entry[1], tuple)
        rule(
            flat,
            "compare.vary",
            fits and all(has_length(change, 2) and isinstance(change[0], str) for change in entry[1]),
            "must be ((label, (('key', value), ...)), ...): for each variant a label and the config keys that it changes",
        )


def _check_published(flat: dict[str, Any]) -> None:
    """Refuse a value that is not a table of figures."""
    for entry in flat["compare.published"]:
        fits = has_length(entry, 2) and isinstance(entry[0], str) and isinstance(entry[1], tuple)
        rule(
            flat,
            "compare.published",
            fits and all(has_length(cell, 2) and isinstance(cell[0], str) and is_number(cell[1]) for cell in entry[1]),
            "must be ((row, (('measure', number), ...)), ...): for each published row a name and its figures",
        )


def check_search(flat: dict[str, Any]) -> None:
    """Check the keys that say what --mode=search varies."""
    low, high = flat["search.low"], flat["search.high"]
    rule(flat, "search.low", 0 < low < high, f"must lie between 0 and {high} (search.high)")
    for entry in flat["search.space"]:
        rule(flat, "search.space", _is_dimension(entry), FORMS)
        parts = entry[0].split(".")
        key = next((key for n in range(len(parts), 0, -1) if (key := ".".join(parts[:n])) in flat), entry[0])
        lookup("key in config.search.space", key, flat)
        if key in (*NEUTRAL, "name", "defaults", "embedded", "data.root"):
            raise ConfigError(f"config.search.space: {entry[0]} has no effect on training; leave it out")
    keys = [entry[0] for entry in flat["search.space"]]
    rule(flat, "search.space", len(set(keys)) == len(keys), "names a key twice; leave one of them out")


def _is_dimension(entry: Any) -> bool:
    if not isinstance(entry, tuple) or len(entry) < 3 or not isinstance(entry[0], str):
        return False
    kind, values = entry[1], entry[2:]
    if kind == "choice":
        return len(values) == 1 and isinstance(values[0], tuple) and len(set(map(repr, values[0]))) == len(values[0]) > 1
    fits = kind in ("log", "float", "int") and len(values) == 2 and all(map(is_number, values)) and values[0] < values[1]
    return fits and (kind != "log" or values[0] > 0) and (kind != "int" or all(isinstance(v, int) for v in values))
