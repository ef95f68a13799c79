"""Output of a command: lines, progress bars on a terminal, or JSON for other programs; set once for the whole process.

| style | standard output | error stream |
|---|---|---|
| lines | every line | |
| on a terminal | every line, and below them a table, if there is one, and a progress bar (rich) for each running task | |
| quiet | warnings and results | |
| json | one JSON object per line: {"event": name, ...} | the lines |

Progress bars are drawn only on a terminal, so that a log has plain lines.
"""

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any, TypeVar

T = TypeVar("T")
LOUD = ("WARNING", "ALARM", "FAILED", "warning", "error", "note:", "left out")  # starts of the lines that --quiet keeps
_quiet, _json = False, False
_alone = True  # only the first of several processes draws bars
_bars: Any = None  # rich's display while any bar is shown


def choose(*, quiet: bool = False, as_json: bool = False) -> None:
    """Set the style of this process."""
    global _quiet, _json
    _quiet, _json = quiet, as_json


def one_of_several() -> None:
    """Draw no bars, because this process is not the first of several."""
    global _alone
    _alone = False


def say(text: str, *, result: bool = False, head: str = "") -> None:
    """Print one or more lines.

    Args:
      text: the lines; a text that starts like a warning (LOUD) is a warning.
      result: whether this is a result of the command, which --quiet keeps.
      head: printed before the text, such as the time.
    """
    loud = text.lstrip().startswith(LOUD)
    if loud:
        event("warning", text=text)
    if not _quiet or result or loud:
        if _bars is not None:  # above the bars, each line whole
            _bars.console.print(f"{head}{text}", markup=False, highlight=False, soft_wrap=True)
        else:
            print(f"{head}{text}", file=sys.stderr if _json else sys.stdout, flush=True)


def event(name: str, **values: Any) -> None:
    """With --json print one object on the standard output, else nothing. NaN and infinities, which JSON lacks, become null."""
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


def working_through(items: Iterable[T], what: str) -> Iterator[T]:
    """Iterate over the items, with a progress bar on a terminal."""
    with working(what, len(items) if isinstance(items, Sized) else None) as advance:
        for item in items:
            yield item
            advance()


def on_terminal() -> bool:
    """Whether progress bars are drawn."""
    return _alone and not (_quiet or _json) and sys.stdout.isatty()


@contextlib.contextmanager
def working(what: str, total: int | None = None, *, done: int = 0) -> Iterator[Callable[..., None]]:
    """Show a progress bar while the block runs, if the output is a terminal.

    Args:
      what: description of the task: "epoch 3/100", "preparing cases".
      total: number of units of work; None: unknown.
      done: number of units that are already done.
    Yields:
      advance(n=1, what=None), which adds n finished units; `what` replaces the description.
    """
    global _bars
    if not on_terminal():
        yield lambda n=1, what=None: None
        return
    first = _bars is None
    if first:
        _bars = _display()
        _bars.start()
    bars, task = _bars, _bars.add_task(what, total=total, completed=done)
    try:
        yield lambda n=1, what=None: bars.update(task, advance=n, **({} if what is None else {"description": what}))
    finally:
        bars.remove_task(task)
        if first:
            bars.stop()
            _bars = None


@contextlib.contextmanager
def table(heads: Sequence[str], rows: Callable[[], Sequence[Sequence[str]]]) -> Iterator[None]:
    """Show a table above the progress bars while the block runs, if the output is a terminal.

    Args:
      heads: names of the columns.
      rows: returns the rows as they are now; called a few times a second.
    """
    global _bars
    if not on_terminal() or _bars is not None:
        yield
        return
    _bars = _display(heads, rows)
    _bars.start()
    try:
        yield
    finally:
        _bars.stop()
        _bars = None


def _display(heads: Sequence[str] = (), rows: Callable[[], Sequence[Sequence[str]]] | None = None):
    """Return rich's display of progress bars, below a table."""
    from rich import progress  # comes with flax; imported only where a bar is drawn, because it is slow
    from rich.table import Table
    from rich.text import Text

    class Bars(progress.Progress):
        def get_renderables(self):
            if rows is not None:
                drawn = Table(*heads, box=None, pad_edge=False)
                for row in rows():
                    drawn.add_row(*map(Text, row))
                yield drawn
            yield from super().get_renderables()

    return Bars(
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        transient=True,
        refresh_per_second=4,
    )
