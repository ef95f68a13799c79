"""Config trees as flat and nested dicts, and the differences of an experiment from the defaults."""

import json
from typing import Any

from ml_collections import ConfigDict


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
