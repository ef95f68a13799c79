"""Long work in turns (a batch, a case of each process), which all processes take equally often: what is seen to between them."""

import contextlib
from collections.abc import Callable, Iterator

from jaxseg.utils.command import check_interrupt

_watchers: list[Callable[[], None]] = []


def turn() -> None:
    """Called before each turn. Every process calls it equally often, so that all can leave the work at the same one.

    Raises:
      KeyboardInterrupt: Ctrl-C was pressed; and whatever a function of `at_each` raises.
    """
    check_interrupt()
    for watcher in tuple(_watchers):
        watcher()


@contextlib.contextmanager
def at_each(watcher: Callable[[], None]) -> Iterator[None]:
    """Within the block `turn` calls `watcher`."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)
