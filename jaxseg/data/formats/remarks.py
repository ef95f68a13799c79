"""Remarks about files that are accepted but unusual: a warning for a single file, one line for each kind over a data set."""

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
    """Files with the same remark: how many, the largest amount, and the file and detail where it occurred."""

    count: int
    amount: float
    path: str
    detail: str


_open: contextvars.ContextVar[dict[str, _Kind] | list | None] = contextvars.ContextVar("remarks", default=None)


def remark(text: str, path: str | Path, amount: float = 0.0, detail: str = "") -> None:
    """Report a remark about a file: at once as a warning, or within `collected` at its end.

    Args:
      text: what was found and how it is handled, the same text for all files of a kind; "{amount}" in it is replaced.
      path: the file.
      amount: a number for the text; for many files the largest one is reported.
      detail: details about this file.
    """
    found = _open.get()
    if found is None:
        _log.warning("%s", _line(text, _Kind(1, amount, str(path), detail)))
        return
    if isinstance(found, list):
        found.append([text, str(path), float(amount), detail])
        return
    kind = found.setdefault(text, _Kind(0, amount, str(path), detail))
    kind.count += 1
    if amount > kind.amount:
        kind.amount, kind.path, kind.detail = amount, str(path), detail


@contextlib.contextmanager
def collected(say: Callable[[str], None]) -> Iterator[None]:
    """Collect the remarks about all files that are read within this context, and report one line for each kind at its end."""
    found: dict[str, _Kind] = {}
    token = _open.set(found)
    try:
        yield
    finally:
        _open.reset(token)
        for text, kind in found.items():
            say(_line(text, kind))


@contextlib.contextmanager
def recorded() -> Iterator[list]:
    """Collect the remarks within this context in a list, each as the arguments of `remark`, JSON-able, to report them later."""
    found: list = []
    token = _open.set(found)
    try:
        yield found
    finally:
        _open.reset(token)


def _line(text: str, kind: _Kind) -> str:
    text = text.replace("{amount}", f"{kind.amount:.3g}")
    detail = f", {kind.detail}" if kind.detail else ""
    if kind.count == 1:
        return one_line(f"{kind.path}: {text}{f' ({kind.detail})' if kind.detail else ''}")
    return one_line(f"{kind.count} files: {text} ({'the most' if kind.amount else 'the first'}: {kind.path}{detail})")
