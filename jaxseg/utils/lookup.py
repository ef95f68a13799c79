"""From a name to the object, with neighbours listed when the name is unknown."""

import difflib
import importlib
from collections.abc import Iterable, Mapping

from jaxseg.types import ConfigError


def neighbours(name: str, known: Iterable[str], count: int = 4) -> list[str]:
    """The known names most like `name`, best first."""
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


def lookup(what: str, name: str, table: Mapping[str, object]):
    """`table[name]`, or a ConfigError that lists the nearest names.

    Args:
      what: what the name is supposed to be, for the message ("model", "loss term").
      name: the name to find.
      table: name -> object.
    Raises:
      ConfigError: the table has no such name.
    """
    if name not in table:
        raise unknown_name(what, name, table)
    return table[name]


def import_object(path: str, what: str = "object"):
    """The object named by "package.module:attribute".

    Raises:
      ConfigError: the path has no colon, the module cannot be found, or it has no such attribute.
    """
    module_name, colon, attribute = path.partition(":")
    if not colon or not module_name or not attribute:
        raise ConfigError(f"{what} {path!r} is no path to an object: write it as 'package.module:Name'")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not module_name.startswith(error.name):
            raise  # the user's module exists and one of its own imports does not: show that
        raise ConfigError(
            f"{what} {path!r}: no module named {module_name!r} on the Python path; run from its folder or install it"
        ) from error
    if not hasattr(module, attribute):
        raise ConfigError(f"{what} {path!r}: module {module_name!r} has no attribute {attribute!r}")
    return getattr(module, attribute)
