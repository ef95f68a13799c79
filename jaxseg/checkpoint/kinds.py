"""Check whether a value from a JSON file, which may be damaged or hostile, has the type of an annotation."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, get_args, get_origin

from jaxseg.utils.guard import shown

_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    tuple: "a list",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def fits(value: Any, kind: Any) -> bool:
    """Return whether a JSON value is of a type: bool, int, float (also whole), str, list, tuple, dict, and unions of these."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, one) for one in inner)
    plain = origin or kind
    if plain in (tuple, list):
        if not isinstance(value, list | tuple):
            return False
        if not inner:
            return True
        if plain is list or inner[-1] is ...:
            return all(fits(v, inner[0]) for v in value)
        return len(value) == len(inner) and all(map(fits, value, inner))
    if plain is dict:
        return isinstance(value, dict) and (not inner or all(fits(k, inner[0]) and fits(v, inner[1]) for k, v in value.items()))
    if plain is float:
        return type(value) is int or type(value) is float and math.isfinite(value)
    return type(value) is plain


def words(kind: Any) -> str:
    """Describe a type in words, for a message."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(words(one) for one in inner)
    plain = origin or kind
    if plain in (tuple, list) and inner:
        of = inner[0] if plain is list or inner[-1] is ... else None
        return f"a list, each entry {words(of)}" if of is not None else f"a list of {len(inner)} entries"
    return _WORDS.get(plain, getattr(plain, "__name__", str(plain)))


def faults(values: Mapping[str, Any], expected: Mapping[str, Any], *, within: str = "", optional: bool = False) -> list[str]:
    """Return what is wrong with the entries, one text each.

    Args:
      values: name -> value.
      expected: name -> type.
      within: prefix of the names in the texts.
      optional: entries may be missing.
    """
    found = []
    for name, kind in expected.items():
        if name not in values:
            found += [] if optional else [f"{within}{name} is missing"]
        elif not fits(values[name], kind):
            found.append(f"{within}{name} must be {words(kind)}, not {shown(values[name])}")
    return found


def of_dataclass(cls: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return ({field: type} of a dataclass's fields without a default, the same for those with one)."""
    hints = typing.get_type_hints(cls)
    without: dict[str, Any] = {}
    given: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        bare = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        (without if bare else given)[field.name] = hints[field.name]
    return without, given
