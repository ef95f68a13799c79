"""Look up objects by name; errors for unknown names list similar ones."""

import difflib
import importlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from jaxseg.types import ConfigError
from jaxseg.utils import code


def neighbours(name: str, known: Iterable[str], count: int = 4) -> list[str]:
    """The known names that are most similar to `name`, the most similar first."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=count, cutoff=0.5)
    return close or [k for k in known if k[:3] == name[:3]][:count]


def unknown_name(what: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error for an unknown name: value, rule and remedy in one line."""
    known = sorted(known)
    near = neighbours(name, known)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known[:20])}"
    more = f" ({len(known)} known)" if near else (", ..." if len(known) > 20 else "")
    return ConfigError(f"unknown {what} {name!r}: {hint}{more}")


def lookup(what: str, name: Any, table: Mapping[str, object]):
    """`table[name]`, or a ConfigError that lists the nearest names.

    Args:
      what: the kind of thing that the name stands for, for the message ("model", "loss term").
      name: the name to find.
      table: {name: object}.
    Raises:
      ConfigError: the table has no such name.
    """
    if not isinstance(name, str) and table and all(isinstance(known, str) for known in table):
        raise ConfigError(f"got {name!r} as {what}; give a name: {', '.join(sorted(table)[:20])}")
    if name not in table:
        raise unknown_name(what, name, table)
    return table[name]


def check_kind(what: str, value, default) -> None:
    """Refuse an option whose value is not of the kind of its default (string, boolean, tuple or finite numbers).

    Options with the default None are not checked here.

    Raises:
      ConfigError: the value is of another kind; the message starts with `what`.
    """
    number = lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)
    several = isinstance(value, (tuple, list))
    if isinstance(default, bool):
        fits, rule = isinstance(value, bool), "True or False"
    elif isinstance(default, str):
        fits, rule = isinstance(value, str), "a word"
    elif default == ():
        fits, rule = several, "a tuple"
    else:
        fits, rule = number(value) or several and all(map(number, value)), "a number or several, finite"
    if default is not None and not fits:
        raise ConfigError(f"{what}={value!r}: must be {rule}, as its default {default!r}")


def is_path(name: Any) -> bool:
    """Whether a name is a path "module:Name" to a user's own code."""
    return isinstance(name, str) and ":" in name


def import_object(path: str, what: str = "object"):
    """The object named by "package.module:attribute".

    Raises:
      ConfigError: the path has no colon, the module cannot be found, or it has no such attribute.
      MismatchError: a run's record does not hold this module (`code.recorded_alone`).
    """
    module_name, colon, attribute = path.partition(":")
    if not colon or not module_name or not attribute:
        raise ConfigError(f"{what} {path!r} is not a path to an object; write it as 'package.module:Name'")
    code.about_to_import(module_name)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not module_name.startswith(error.name):
            raise  # the user's module exists, but one of its own imports fails: show that error
        raise ConfigError(
            f"{what} {path!r}: no module named {module_name!r}, here or on the Python path; run from its folder or install it"
        ) from error
    if not hasattr(module, attribute):
        near = neighbours(attribute, (name for name in dir(module) if not name.startswith("_")))
        hint = f"did you mean {' or '.join(near)}?" if near else "give the name of a function or class in it"
        raise ConfigError(f"{what} {path!r}: module {module_name!r} has no attribute {attribute!r}; {hint}")
    return getattr(module, attribute)
