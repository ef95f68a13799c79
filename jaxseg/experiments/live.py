"""The state of every run of a comparison while it is made, as rows of a table that a terminal shows below the lines.

States are read from the run folders, so that runs which other processes train are shown too.
"""

import csv
import time
from collections.abc import Sequence
from typing import Any

from jaxseg.checkpoint.claims import EPOCHS, EVALUATION
from jaxseg.experiments.plan import FAILED, Planned
from jaxseg.types import JaxsegError
from jaxseg.utils import guard

HEADS = ("run", "state", "epoch", "score", "time left")
EVERY = 2.0  # seconds between two looks at the folders
MOST = 15  # rows; of more runs those around the current one are shown


class States:
    """Tells the state of each run.

    Args:
      planned: all runs.
    """

    def __init__(self, planned: Sequence[Planned]):
        self._planned, self._rows, self._looked = planned, [("",) * len(HEADS)], -EVERY
        self._current: tuple[Planned, float, int] | None = None  # run, when it began here, its epochs by then

    def begin(self, run: Planned) -> None:
        """Note that this process starts, or resumes, a run."""
        self._current, self._looked = (run, time.monotonic(), len(_epochs(run))), -EVERY

    def rows(self) -> Sequence[tuple[str, ...]]:
        """Return a row for each run, in the columns of HEADS."""
        now = time.monotonic()
        if now - self._looked >= EVERY:
            self._looked = now
            self._rows = [self._row(run, now) for run in self._planned]
        number = self._planned.index(self._current[0]) if self._current else 0
        first = min(max(number - MOST // 2, 0), max(len(self._rows) - MOST, 0))
        return self._rows[first : first + MOST]

    def _row(self, run: Planned, now: float) -> tuple[str, ...]:
        epochs, most = _epochs(run), run.config.train.epochs
        best = max((float(row["val_dice"]) for row in epochs if row.get("val_dice")), default=None)
        score = "" if best is None else f"validation {best:.4f}"
        mine = self._current is not None and self._current[0] is run
        if run.finished:
            state, score = "finished", _dice(run) or score
        elif (run.folder / FAILED).is_file() and not mine:
            state = "failed"
        else:
            state = "running" if mine else "begun" if epochs else "waiting"
        left = ""
        if mine and state == "running" and self._current:
            done = len(epochs) - self._current[2]
            left = _time((now - self._current[1]) / done * (most - len(epochs))) if done else "?"
        return run.name, state, f"{len(epochs)}/{most}", score, left


def _epochs(run: Planned) -> list[dict[str, Any]]:
    try:
        with open(run.folder / EPOCHS, newline="") as file:
            return list(csv.DictReader(file))
    except OSError:
        return []


def _dice(run: Planned) -> str:
    try:
        return f"test {guard.read_json(run.folder / EVALUATION)['mean_dice']:.4f}"
    except (JaxsegError, KeyError, TypeError):  # another process has removed it, or no case has a Dice
        return ""


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
