"""Flat dicts of arrays by name: regular-expression rules, differences, sizes. Pure Python; arrays need only shape and dtype."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from jaxseg.types import ConfigError


def label_by_rules(names: Iterable[str], rules: Sequence[tuple[str, str]], what: str = "parameter") -> dict[str, str]:
    """Label each name by the first rule whose regular expression is found in it.

    Args:
      names: dotted parameter names.
      rules: (regular expression, label) in order. Every name must match a rule: let the last one be (".*", label).
      what: the kind of names, for the error.
    Returns:
      {name: label}.
    Raises:
      ConfigError: a name matches no rule, a rule matches no name, or an expression is invalid.
    """
    names = list(names)
    try:
        compiled = [(re.compile(pattern), label) for pattern, label in rules]
    except re.error as error:
        raise ConfigError(f"rule {error.pattern!r} is not a valid regular expression: {error}") from error
    labels: dict[str, str] = {}
    used = [False] * len(compiled)
    for name in names:
        for i, (pattern, label) in enumerate(compiled):
            if pattern.search(name):
                labels[name], used[i] = label, True
                break
    unclaimed = [n for n in names if n not in labels]
    if unclaimed:
        raise ConfigError(f"{len(unclaimed)} {what}s match no rule: {_some(unclaimed)}; end the rules with ('.*', label)")
    unused = [rules[i][0] for i, hit in enumerate(used) if not hit and rules[i][0] != ".*"]
    if unused:
        raise ConfigError(f"rules that match no {what}: {_some(unused)}; names look like {_some(sorted(names)[:3])}")
    return labels


def differences(expected: Mapping[str, object], found: Mapping[str, object], *, dtype: bool = True) -> list[str]:
    """One line for every difference of name, shape and dtype between two flat dicts of arrays ([] if they agree)."""
    lines = [f"missing {n} {_spec(expected[n])}" for n in sorted(expected.keys() - found.keys())]
    lines += [f"unexpected {n} {_spec(found[n])}" for n in sorted(found.keys() - expected.keys())]
    for name in sorted(expected.keys() & found.keys()):
        e, f = expected[name], found[name]
        if tuple(e.shape) != tuple(f.shape):
            lines.append(f"shape of {name}: expected {tuple(e.shape)}, found {tuple(f.shape)}")
        elif dtype and str(e.dtype) != str(f.dtype):
            lines.append(f"dtype of {name}: expected {e.dtype}, found {f.dtype}")
    return lines


def count(tree: Mapping[str, object]) -> int:
    """Total number of elements in a flat dict of arrays."""
    return sum(math.prod(v.shape) for v in tree.values())


def _spec(leaf) -> str:
    return f"{getattr(leaf, 'dtype', type(leaf).__name__)}{list(getattr(leaf, 'shape', ()))}"


def _some(items: Sequence[str], limit: int = 8) -> str:
    return ", ".join(items[:limit]) + (f", ... ({len(items)} in all)" if len(items) > limit else "")
