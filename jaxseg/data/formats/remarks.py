"""What readers accept but must not pass over: a warning for a single file, one line for each kind over a whole data set."""

import contextlib
import contextvars
import dataclasses
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxseg.utils.guard import one_line

_log = logging.getLogger(__name__)


@dataclasses.dataclass
class _Kind:
    """Files of one kind: how many, the largest amount, and where that was."""

    count: int
    amount: float
    path: str


_open: contextvars.ContextVar[dict[str, _Kind] | None] = contextvars.ContextVar("remarks", default=None)


def remark(text: str, path: str | Path, amount: float = 0.0) -> None:
    """Tell about a file: at once as a warning, or inside of `collected` at its end.

    Args:
      text: what was found and what is done about it; "{amount}" in it stands for the number.
      path: the file.
      amount: how much of it; of many files the largest is told.
    """
    found = _open.get()
    if found is None:
        _log.warning("%s", _line(text, _Kind(1, amount, str(path))))
        return
    kind = found.setdefault(text, _Kind(0, amount, str(path)))
    kind.count += 1
    if amount > kind.amount:
        kind.amount, kind.path = amount, str(path)


@contextlib.contextmanager
def collected(say: Callable[[str], None]) -> Iterator[None]:
    """Holds back the remarks on all files that are read inside, and says one line for each kind at the end."""
    found: dict[str, _Kind] = {}
    token = _open.set(found)
    try:
        yield
    finally:
        _open.reset(token)
        for text, kind in found.items():
            say(_line(text, kind))


def _line(text: str, kind: _Kind) -> str:
    text = text.replace("{amount}", f"{kind.amount:.3g}")
    if kind.count == 1:
        return one_line(f"{kind.path}: {text}")
    return one_line(f"{kind.count} files: {text} ({'the most' if kind.amount else 'the first'}: {kind.path})")
