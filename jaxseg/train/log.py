"""Run logging: console lines, TensorBoard events, a CSV with a row for every epoch. Only process 0 writes."""

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxseg.checkpoint.claims import EPOCHS
from jaxseg.types import StorageError
from jaxseg.utils import output
from jaxseg.utils.files import write_atomic

COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class Log:
    """Writes console lines, TensorBoard events and the CSV of epochs of one run.

    Args:
      workdir: the run's folder; events go to <workdir>/events, epochs to <workdir>/epochs.csv.
      step: events at or after this step, from a run that was killed, are discarded.
      quiet: write nothing (all processes but the first).
    Raises:
      StorageError: the folder cannot be created or written to.
    """

    def __init__(self, workdir: Path, *, step: int = 0, quiet: bool = False):
        self.workdir, self.quiet, self._events = workdir, quiet, None
        if quiet:
            return
        from jaxseg.train.events import Events  # no other mode waits for tensorboardX

        try:
            self._events = Events(workdir / "events", step=step, warn=self.say)
        except OSError as error:
            raise StorageError(
                f"cannot create or write to {workdir}: {error.strerror or error}; choose another --workdir"
            ) from error

    def say(self, text: str, *, result: bool = False) -> None:
        """Print a line with the time; with --quiet only if it is a `result`."""
        if not self.quiet:
            output.say(text, result=result, head=f"{time.strftime('%H:%M:%S')} ")

    def event(self, name: str, **values: Any) -> None:
        """One object for machines, where --json asks for them."""
        if not self.quiet:
            output.event(name, **values)

    def alarm(self, text: str) -> None:
        """Print a line that stands out."""
        self.say(f"ALARM: {text}")
        if self._events:
            self._events.text("alarm", text)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Write scalars to the event file."""
        if self._events:
            for name, value in values.items():
                self._events.scalar(name, float(value), step)

    def config(self, config: dict, difference: dict) -> None:
        """Write the resolved configuration, and its difference from the defaults, to the event file."""
        if self._events:
            fence = lambda value: "```\n" + json.dumps(value, indent=2, default=str) + "\n```"
            self._events.text("config", fence(config))
            self._events.text("experiment", fence({k: f"{a} -> {b}" for k, (a, b) in difference.items()}))

    def panel(self, step: int, name: str, image: np.ndarray) -> None:
        """Write an RGB picture, uint8 [H, W, 3], to the event file."""
        if self._events:
            self._events.picture(name, image, step)

    def results(self, step: int, settings: dict[str, Any], scores: dict[str, float]) -> None:
        """Write hyperparameters and final scores for the HParams tab, to the event file."""
        if self._events:
            plain = lambda value: value if isinstance(value, bool | int | float | str) else json.dumps(value, default=str)
            self._events.results({key: plain(value) for key, value in settings.items()}, scores, step)

    def epochs(self, rows: list[dict]) -> None:
        """Write the CSV of all epochs so far, completely or not at all; after a disk error, the next epoch tries again."""
        if self.quiet or not rows:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        try:
            write_atomic(self.workdir / EPOCHS, text.getvalue())
        except StorageError as error:
            self.say(f"{error}; training continues")

    def close(self) -> None:
        """Close the event file."""
        if self._events:
            self._events.close()


class CompileCounter:
    """Counts the programs that XLA compiled (or fetched from the cache) within the block."""

    def __init__(self):
        self.count, self.seconds = 0, 0.0

    def __enter__(self) -> "CompileCounter":
        jax.monitoring.register_event_duration_secs_listener(self._note)
        return self

    def __exit__(self, *_) -> None:
        jax.monitoring.unregister_event_duration_listener(self._note)

    def _note(self, event: str, seconds: float, **_) -> None:
        if event == COMPILE_EVENT:
            self.count, self.seconds = self.count + 1, self.seconds + seconds
