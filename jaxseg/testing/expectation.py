"""The failures of contract tests: one AssertionError with the rule, what was found instead, and the place to look at."""

import inspect
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from jaxseg.utils.lookup import import_object, lookup

T = TypeVar("T")


class Tested(NamedTuple):
    """A part under test.

    Attributes:
      name: its name in messages: "loss my_losses:soft_dice".
      object: the function or class.
    """

    name: str
    object: Any

    def expect(self, holds: bool, rule: str, found: str, look: str = "") -> None:
        """Raise an AssertionError unless the rule holds.

        Args:
          rule: what is expected, in words.
          found: what was found instead.
          look: the place to look at; "" for the part's own file and line.
        """
        if not holds:
            raise AssertionError(f"{self.name}: expected {rule}, got {found}; look at {look or self.place()}")

    def attempt(self, doing: str, function: Callable[..., T], *args, **kwargs) -> T:
        """Call the function; an exception becomes an AssertionError that names the line of the part's file."""
        try:
            return function(*args, **kwargs)
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            raise AssertionError(
                f"{self.name}: expected {doing} to work, got {type(error).__name__}: {text}; look at {self.place(error)}"
            ) from error

    def close(self, found, expected, share: float, rule: str, look: str = "") -> None:
        """Expect arrays to differ by at most `share` of the expected one's standard deviation (or mean magnitude, if larger)."""
        found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
        scale = max(float(expected.std()), float(np.abs(expected).mean()), 1e-12)
        error = float(np.abs(found - expected).max()) / scale if found.size else 0.0
        self.expect(error <= share, rule, f"a difference of {error:.1e} standard deviations (limit {share:.0e})", look)

    def place(self, error: BaseException | None = None) -> str:
        """Return file:line of the innermost line of the part's own file in a traceback, else of its definition."""
        if isinstance(self.object, type) or inspect.isroutine(self.object):
            made = self.object
        else:
            made = type(self.object)
        try:
            file = inspect.getsourcefile(made)
        except TypeError:  # built in
            file = None
        frames = traceback.extract_tb(error.__traceback__) if error is not None else []
        own = [frame for frame in frames if frame.filename == file]
        if own or frames:
            return f"{(own or frames)[-1].filename}:{(own or frames)[-1].lineno}"
        try:
            return f"{file}:{inspect.getsourcelines(made)[1]}"
        except (OSError, TypeError):  # typed at a prompt
            return file or self.name


def part_of(given, what: str, table: Mapping[str, Any] | None = None) -> Tested:
    """Return the part for an object, its path "module:Name", or a name in jaxseg's own table.

    Raises:
      ConfigError: there is nothing under this path or name.
    """
    if not isinstance(given, str):
        name = getattr(given, "__qualname__", "") or type(given).__qualname__
        return Tested(f"{what} {name}", given)
    return Tested(f"{what} {given}", import_object(given, what) if ":" in given else lookup(what, given, table or {}))
