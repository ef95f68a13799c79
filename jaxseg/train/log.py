"""What a run tells: console lines, TensorBoard events, the CSV of every epoch. Process 0 speaks, the others are silent."""

import csv
import io
import json
import sys
import time
from pathlib import Path

import jax
import numpy as np

from jaxseg.types import StorageError
from jaxseg.utils.files import write_atomic

COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class Log:
    """Console, events and CSV of one run.

    Args:
      workdir: the run's folder; events go to <workdir>/events, epochs to <workdir>/epochs.csv.
      step: events at or after this step, left by a run that died, are void.
      quiet: say nothing (all processes but the first).
    Raises:
      StorageError: the folder cannot be made or written.
    """

    def __init__(self, workdir: Path, *, step: int = 0, quiet: bool = False):
        self.workdir, self.quiet, self._writer = workdir, quiet, None
        if quiet:
            return
        from tensorboardX import SummaryWriter  # which imports PyTorch where it is installed: no other mode waits for that
        try:
            self._writer = SummaryWriter(str(workdir / "events"), purge_step=step or None)
        except OSError as error:
            raise StorageError(f"cannot make or write {workdir}: {error.strerror or error}; choose another --workdir") from error

    def say(self, text: str) -> None:
        """One line on the console, with the time."""
        if not self.quiet:
            print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stdout, flush=True)

    def alarm(self, text: str) -> None:
        """A line that cannot be overlooked."""
        self.say(f"ALARM: {text}")
        if self._writer:
            self._writer.add_text("alarm", text)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Scalars into the event file."""
        if self._writer:
            for name, value in values.items():
                self._writer.add_scalar(name, float(value), step)

    def config(self, config: dict, difference: dict) -> None:
        """The resolved configuration and what makes this experiment, as text."""
        if self._writer:
            fence = lambda value: "```\n" + json.dumps(value, indent=2, default=str) + "\n```"
            self._writer.add_text("config", fence(config), 0)
            self._writer.add_text("experiment", fence({k: f"{a} -> {b}" for k, (a, b) in difference.items()}), 0)

    def panel(self, step: int, name: str, image: np.ndarray) -> None:
        """An RGB picture, uint8 [H, W, 3]."""
        if self._writer:
            self._writer.add_image(name, image, step, dataformats="HWC")

    def epochs(self, rows: list[dict]) -> None:
        """Write the CSV of all epochs so far (whole or not at all)."""
        if self.quiet or not rows:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(self.workdir / "epochs.csv", text.getvalue())

    def close(self) -> None:
        """Flush and close the event file."""
        if self._writer:
            self._writer.close()


class CompileCounter:
    """How many programs XLA has compiled (or fetched from the cache) since this object was made."""

    def __init__(self):
        self.count, self.seconds = 0, 0.0
        jax.monitoring.register_event_duration_secs_listener(self._note)

    def _note(self, event: str, seconds: float, **_) -> None:
        if event == COMPILE_EVENT:
            self.count, self.seconds = self.count + 1, self.seconds + seconds

