"""What a command prints: lines for a log, a bar on a terminal, or JSON for a machine; chosen once, for the whole process.

| style | standard output | error stream |
|---|---|---|
| lines | every line | |
| on a terminal | every line, and below them a bar for each piece of work that runs (rich) | |
| quiet | warnings and results | |
| json | one JSON object a line: {"event": name, ...} | the lines |

Bars are drawn on a terminal alone: a log gets plain lines.
"""

import contextlib
import json
import math
import sys
from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
LOUD = ("WARNING", "ALARM", "FAILED", "warning", "error", "note:", "left out")  # how lines begin that --quiet keeps
_quiet, _json = False, False
_alone = True  # of several processes the first draws bars
_bars: Any = None  # rich's display while any work is shown


def choose(*, quiet: bool = False, as_json: bool = False) -> None:
    """Set the style of this process."""
    global _quiet, _json
    _quiet, _json = quiet, as_json


def one_of_several() -> None:
    """This process is not the first of several: it draws no bars."""
    global _alone
    _alone = False


def say(text: str, *, result: bool = False, head: str = "") -> None:
    """Print a line, or several.

    Args:
      result: what the command was called for: kept by --quiet.
      head: before the text, such as the time; does not count for what is a warning.
    """
    loud = text.lstrip().startswith(LOUD)
    if loud:
        event("warning", text=text)
    if not _quiet or result or loud:
        print(f"{head}{text}", file=sys.stderr if _json else sys.stdout, flush=True)


def event(name: str, **values: Any) -> None:
    """With --json one object on the standard output; else nothing. NaN and infinities, which JSON has not, become null."""
    if _json:
        print(json.dumps({"event": name, **_plain(values)}, default=str, allow_nan=False), file=sys.stdout, flush=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):  # numpy's numbers and arrays
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def working_through(items: Collection[T], what: str) -> Iterator[T]:
    """The items one by one, with a bar on a terminal."""
    with working(what, len(items)) as advance:
        for item in items:
            yield item
            advance()


def on_terminal() -> bool:
    """Whether bars are drawn."""
    return _alone and not (_quiet or _json) and sys.stdout.isatty()


@contextlib.contextmanager
def working(what: str, total: int | None = None, *, done: int = 0) -> Iterator[Callable[..., None]]:
    """A bar on a terminal while the block runs; nothing elsewhere.

    Args:
      what: is done: "epoch 3/100", "preparing cases".
      total: pieces of it; None: it is not known how long it takes.
      done: pieces that are done already.
    Yields:
      advance(n=1, what=None): n pieces more are done; `what` replaces the words.
    """
    global _bars
    if not on_terminal():
        yield lambda n=1, what=None: None
        return
    first = _bars is None
    if first:
        from rich import progress  # comes with flax; no log and no help waits for it

        _bars = progress.Progress(
            progress.SpinnerColumn(),
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            transient=True,
        )
        _bars.start()
    bars, task = _bars, _bars.add_task(what, total=total, completed=done)
    try:
        yield lambda n=1, what=None: bars.update(task, advance=n, **({} if what is None else {"description": what}))
    finally:
        bars.remove_task(task)
        if first:
            bars.stop()
            _bars = None
