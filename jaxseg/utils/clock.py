"""Time measurements: the speed and remaining time of a training loop, and a watchdog that ends a hanging process."""

import contextlib
import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from jaxseg.utils import command


class Rates(NamedTuple):
    """The figures of a progress line.

    Attributes:
      images_per_second: speed since the last reading, without pauses.
      input_share: fraction (0-1) of that time spent waiting for the input pipeline.
      seconds_left: estimated seconds until the last step, from the whole run including pauses; None before two steps.
    """

    images_per_second: float
    input_share: float
    seconds_left: float | None

    def __str__(self) -> str:
        rate = f"{self.images_per_second:.0f}" if self.images_per_second >= 100 else f"{self.images_per_second:.3g}"
        left = "?" if self.seconds_left is None else duration(self.seconds_left)
        return f"{rate} images/s, input wait {100 * self.input_share:.0f} %, {left} left"


class Meter:
    """Measure the speed of a training loop.

        for step in range(start, total):
            with meter.waiting():
                batch = next(batches)
            ...
            meter.step(batch_size)
        print(meter.read())

    Args:
      total: number of steps of the whole run.
      start: number of steps already done.
      now: a clock in seconds.
    """

    def __init__(self, total: int, *, start: int = 0, now: Callable[[], float] = time.perf_counter):
        self._total, self._done, self._now = total, start, now
        self._first: tuple[int, float] | None = (
            None  # (steps done, time) after the first step, so that compilation does not count
        )
        self._reset()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block as waiting for the next batch."""
        start = self._now()
        try:
            yield
        finally:
            self._waited += self._now() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of the block (a validation) out of images per second, but not out of the time left."""
        start = self._now()
        try:
            yield
        finally:
            self._paused += self._now() - start

    def step(self, images: int) -> None:
        """Record a finished step with this number of images (over all processes)."""
        self._done += 1
        self._images += images
        if self._first is None:
            self._first = (self._done, self._now())

    def read(self) -> Rates:
        """The rates since the last reading."""
        now = self._now()
        span = max(now - self._start - self._paused, 1e-9)
        left = None
        if self._first is not None and self._done > self._first[0]:
            left = (now - self._first[1]) / (self._done - self._first[0]) * max(self._total - self._done, 0)
        rates = Rates(self._images / span, min(self._waited / span, 1.0), left)
        self._reset()
        return rates

    def _reset(self) -> None:
        self._start, self._images, self._waited, self._paused = self._now(), 0, 0.0, 0.0


def duration(seconds: float) -> str:
    """A duration as text with at most two units: 42 s, 3 min 07 s, 5 h 02 min, 2 d 03 h."""
    s = round(seconds)
    if s < 60:
        return f"{s} s"
    if s < 3600:
        return f"{s // 60} min {s % 60:02d} s"
    m = round(seconds / 60)
    if m < 24 * 60:
        return f"{m // 60} h {m % 60:02d} min"
    h = round(seconds / 3600)
    return f"{h // 24} d {h % 24:02d} h"


class Watchdog:
    """Context manager that ends the process with exit code 75 if no step finishes for `seconds`.

    It is needed because a process that waits for a hanging peer gets no error. Call `tick` after each step whose result is known
    (after block_until_ready or float(loss), because dispatch returns at once). Before the first step, which includes compilation,
    and after `stretch` the limit is `longer`. The watchdog is a thread, which runs because a waiting collective releases Python's
    lock. When the time is over, it writes the stacks of all threads to hang.<pid>.txt and calls os._exit, because a normal exit
    would wait for the hanging peer.

    Args:
      seconds: longest time without a tick; 0: no limit.
      folder: folder for hang.<pid>.txt.
      longer: longest time before the first tick and after `stretch`; at least `seconds` is used.
      now: a clock in seconds.
    """

    exit_code = 75

    def __init__(self, seconds: float, folder: str | Path, *, longer: float = 1800.0, now: Callable[[], float] = time.monotonic):
        if seconds < 0:
            raise ValueError(f"got seconds={seconds}; must be the longest time that a step may take, or 0 for no watchdog")
        self.path = Path(folder) / f"hang.{os.getpid()}.txt"
        self._seconds, self._longer, self._now = seconds, max(seconds, longer), now
        self._allowed: tuple[float, float] | None = None  # (since when, seconds)
        self._stop = threading.Event()

    def tick(self) -> None:
        """Report that a step has finished."""
        self._allowed = (self._now(), self._seconds)

    def stretch(self) -> None:
        """Allow `longer` seconds until the next tick, for work that takes longer than a step (part of a validation)."""
        self._allowed = (self._now(), self._longer)

    def pause(self) -> None:
        """Switch the watchdog off until the next tick, for the last save, in which no process waits for another."""
        self._allowed = None

    def __enter__(self) -> "Watchdog":
        self.stretch()
        if self._seconds:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Switch the watchdog off."""
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(min(self._seconds / 10, 1.0)):
            expired = self.expired()
            if expired is not None:
                self._end_process(expired)

    def expired(self) -> float | None:
        """The limit in seconds if it has passed without a tick; None if there is time left, or the watchdog is off."""
        allowed = self._allowed
        return allowed[1] if self._seconds and allowed is not None and self._now() - allowed[0] > allowed[1] else None

    def _end_process(self, seconds: float) -> None:
        try:
            with open(self.path, "w") as file:
                faulthandler.dump_traceback(file, all_threads=True)
            command.last_line(
                f"jaxseg: no step finished for {seconds:g} s: this process or a peer hangs; stacks are in {self.path}; "
                "end all processes and start them again"
            )
        finally:
            os._exit(self.exit_code)
