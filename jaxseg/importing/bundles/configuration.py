"""The JSON of a bundle: references and literal expressions are replaced by their values, objects are read as (class, arguments).

Source: MONAI, monai/bundle: config_item.py and reference_resolver.py.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxseg.types import MismatchError
from jaxseg.utils.guard import shown

INFERENCE = "configs/inference.json"
MOST_DEPTH = 32  # of references to references


class Expression(str):
    """A Python expression in the JSON, which is not evaluated."""


def resolved(content: Mapping[str, Any], value: Any, depth: int = 0) -> Any:
    """A value with its references ("@id", "@id::entry") replaced by their values; other expressions become `Expression`s."""
    if depth > MOST_DEPTH:
        raise MismatchError(f"references in {INFERENCE} are circular or more than {MOST_DEPTH} deep; replace them by values")
    deeper = lambda v: resolved(content, v, depth + 1)
    if isinstance(value, Mapping):
        return {key: deeper(v) for key, v in value.items()}
    if isinstance(value, list):
        return [deeper(v) for v in value]
    if not isinstance(value, str) or not value.startswith(("@", "$")):
        return value
    if re.fullmatch(r"@[\w.:#]+", value):
        found: Any = content
        for entry in re.split(r"::|#", value[1:]):
            if isinstance(found, Mapping) and entry in found:
                found = found[entry]
            elif isinstance(found, list) and entry.isdecimal() and int(entry) < len(found):
                found = found[int(entry)]
            else:
                return Expression(value)
        return deeper(found)
    alone = re.fullmatch(r"\$@([\w:#]+)(\.to\(.*\)|\.eval\(\))*", value)  # "$@network_def.to(@device)"
    if alone:
        return deeper(f"@{alone[1]}")
    try:
        return ast.literal_eval(value[1:])
    except (ValueError, SyntaxError):
        return Expression(value)


def typed_object(found: Any) -> tuple[str, dict[str, Any]] | None:
    """(class name, arguments) of {"_target_": ...}."""
    if not isinstance(found, Mapping) or "_target_" not in found:
        return None
    return str(found["_target_"]).rpartition(".")[2], {k: v for k, v in found.items() if not k.startswith("_")}


def transforms_of(composed: Any) -> list[tuple[str, dict[str, Any]]] | None:
    """(class name without the suffix "d", arguments) of a Compose's transforms; None if there is none."""
    made = typed_object(composed)
    if made is None:
        return None
    listed = made[1].get("transforms", []) if made[0] == "Compose" else [composed]
    if isinstance(listed, Expression):
        return None
    steps = []
    for entry in listed:
        one, off = typed_object(entry), entry.get("_disabled_", False) if isinstance(entry, Mapping) else False
        if one is None or isinstance(off, Expression):
            raise MismatchError(
                f"{INFERENCE}: the transform {shown(entry)} is an expression, which is not evaluated; replace it by a value"
            )
        if not off:
            steps.append((re.sub(r"(d|D|Dict)$", "", one[0]), one[1]))
    return steps


def accept(name: str, key: str, value: Any, known: Sequence, why: str = "") -> None:
    """Refuse an argument `key` of the object `name` that has none of the known values."""
    if isinstance(value, Expression) or value not in known:
        raise MismatchError(
            f"{INFERENCE}: {name} with {key} {shown(value)}{f', {why},' if why else ''} is not supported; set it to "
            f"{' or '.join(map(str, known))} if that does for your images"
        )


def unknown(part: str, name: str, known: Sequence[str]) -> MismatchError:
    """The error for a transform that jaxseg does not have."""
    return MismatchError(
        f"{INFERENCE}: {part} has {name}, which is not supported; only {', '.join(known)} are: if your images need no {name}, "
        "delete it there"
    )
