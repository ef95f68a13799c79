"""Checks between the turns of long work (a batch, a case), which all processes make equally often."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from jaxseg.types import JaxsegError
from jaxseg.utils.command import check_interrupt

_watchers: list[Callable[[], None]] = []


def turn() -> None:
    """Make the checks before a turn. Every process must call this equally often, so that all can stop at the same turn.

    Raises:
      KeyboardInterrupt: Ctrl-C was pressed. Functions that `at_each` added may raise other errors.
    """
    check_interrupt()
    for watcher in tuple(_watchers):
        watcher()


@contextlib.contextmanager
def at_each(watcher: Callable[[], None]) -> Iterator[None]:
    """Let `turn` call `watcher` within the block."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


class CaseShare(NamedTuple):
    """The part of the cases that this process works on, if several processes share them.

    Attributes:
      index: number of this process; it works on every count-th case, starting with case `index`.
      count: number of processes.
      gather: function that returns the JSON-able rows of all processes, in their order; all must call it equally often.
    """

    index: int = 0
    count: int = 1
    gather: Callable[[list], list] = list

    def of(self, cases: Sequence) -> Sequence:
        """The cases of this process."""
        return cases[self.index :: self.count]

    def in_order(self, rows: list) -> list:
        """The rows of all cases, in the order of the cases, from the JSON-able rows of this process's cases."""
        numbered = self.gather([[self.index + i * self.count, row] for i, row in enumerate(rows)])
        return [row for _, row in sorted(numbered, key=lambda entry: entry[0])]

    def together(self, work: Callable[[], Any]) -> Any:
        """Call `work()` on every process; if it raises a JaxsegError on one of them, all end with its exit code."""
        found, error = None, None
        try:
            found = work()
        except JaxsegError as raised:
            error = raised
        code = max(self.gather([error.exit_code if error else 0]))
        if code and error is None:
            error = JaxsegError("another process stopped; see its message")
            error.exit_code = code
        if error is not None:
            raise error
        return found


ALONE = CaseShare()
