"""Config trees as flat and nested dicts, and the differences of an experiment from the defaults."""

import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from jaxseg.types import ConfigError
from jaxseg.utils.lookup import lookup


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
    """{key: (default, value)} of the keys that an experiment has changed."""
    plain = lambda tree: flatten(json.loads(json.dumps(tree)))
    a, b = plain(defaults(config)), plain(as_dict(config))
    return {k: (a.get(k), b[k]) for k in sorted(b) if a.get(k) != b[k] and k not in ("name", "variant")}


def value_of(config: ConfigDict, path: str) -> Any:
    """The value under a key, or inside one: an option ("loss.options.focal.gamma") or an entry of a tuple ("loss.terms.0.1").

    Returns:
      The value; None where an option is not set.
    Raises:
      ConfigError: no such key or entry.
    """
    key, inside = _split(config, path)
    value = flatten(config.to_dict())[key]
    for part in inside:
        value = value.get(part) if isinstance(value, dict) else _entries(value, part, path)[int(part)]
    return value


def replaced(config: ConfigDict, values: Mapping[str, Any], *, emptied: tuple[str, ...] = ()) -> ConfigDict:
    """A locked copy of a tree with other values under these keys, which may lead inside a value as in `value_of`.

    Args:
      config: a tree.
      values: key -> value.
      emptied: groups that are reset to their defaults.
    Raises:
      ConfigError: no such key or entry, or a value of another type.
    """
    tree = config.copy_and_resolve_references()
    with tree.unlocked():
        for path, value in values.items():
            key, inside = _split(tree, path)
            group, _, leaf = key.rpartition(".")
            place = tree[group] if group else tree
            try:
                place[leaf] = _inserted(flatten(tree.to_dict())[key], inside, value, path)
            except TypeError as error:
                raise ConfigError(f"config.{path}={value!r}: is of another type than the key; it was {place[leaf]!r}") from error
        for group in emptied:
            tree[group] = type(tree)({key: _tuples(value) for key, value in defaults(config)[group].items()})
    return tree.lock()


def _split(config: ConfigDict, path: str) -> tuple[str, list[str]]:
    """Split a path into its longest prefix that is a key, and the remaining parts."""
    known, parts = flatten(config.to_dict()), path.split(".")
    for end in range(len(parts), 0, -1):
        if (key := ".".join(parts[:end])) in known:
            return key, parts[end:]
    lookup("key of the config", path, known)
    return path, []


def _entries(value: Any, part: str, path: str) -> Any:
    """Return `value` as a list, after checking that it has an entry of this number."""
    if not isinstance(value, tuple | list) or not part.isdigit() or int(part) >= len(value):
        raise ConfigError(f"config.{path}: there is no entry {part!r} in {value!r}; count entries from 0")
    return value


def _inserted(old: Any, inside: list[str], value: Any, path: str) -> Any:
    if not inside:
        return value
    part, *rest = inside
    if isinstance(old, dict) or old is None:
        return {**(old or {}), part: _inserted((old or {}).get(part), rest, value, path)}
    entries = list(_entries(old, part, path))
    entries[int(part)] = _inserted(entries[int(part)], rest, value, path)
    return tuple(entries)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
