"""Time: how fast a loop runs and when it will end, and a watchdog for loops that stop running."""

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple


class Rates(NamedTuple):
    """What a progress line says.

    Attributes:
      images_per_second: of the window since the last reading, pauses left out.
      input_share: fraction (0-1) of that window spent waiting for the input pipeline.
      seconds_left: until the last step at the pace of the whole run, pauses included; None before two steps.
    """

    images_per_second: float
    input_share: float
    seconds_left: float | None

    def __str__(self) -> str:
        rate = f"{self.images_per_second:.0f}" if self.images_per_second >= 100 else f"{self.images_per_second:.3g}"
        left = "?" if self.seconds_left is None else duration(self.seconds_left)
        return f"{rate} images/s, input wait {100 * self.input_share:.0f} %, {left} left"


class Meter:
    """Measures a training loop.

        for step in range(start, total):
            with meter.waiting():
                batch = next(batches)
            ...
            meter.step(batch_size)
        print(meter.read())

    Args:
      total: steps at the end of the run.
      start: steps already done.
      now: the clock, seconds.
    """

    def __init__(self, total: int, *, start: int = 0, now: Callable[[], float] = time.perf_counter):
        self._total, self._done, self._now = total, start, now
        self._first: tuple[int, float] | None = None  # (steps done, time) after the first step: compilation is left out
        self._reset()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """The block waits for the next batch."""
        start = self._now()
        try:
            yield
        finally:
            self._waited += self._now() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The block is not training (validation): no part of images per second, though of the time left."""
        start = self._now()
        try:
            yield
        finally:
            self._paused += self._now() - start

    def step(self, images: int) -> None:
        """One step is done, over this many images (of all processes)."""
        self._done += 1
        self._images += images
        if self._first is None:
            self._first = (self._done, self._now())

    def read(self) -> Rates:
        """The rates since the last reading; a new window begins."""
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
    """Seconds as text of two units at most: 42 s, 3 min 07 s, 5 h 02 min, 2 d 03 h."""
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
    """Ends the process with code 75 when no step has finished for `seconds`: a stuck peer raises no error by itself.

    Within the block. Before the first step, which is compiled, and in what `stretch` begins, `longer` seconds may pass. `tick`
    after each step whose result is known (after block_until_ready or float(loss), since dispatch returns at once). A thread is
    enough: Python's lock is free while a collective waits. On expiry the stacks of all threads go to hang.<pid>.txt, and
    os._exit skips the clean-up that would wait for the stuck peer.

    Args:
      seconds: without a tick, until the end; 0: never.
      folder: where hang.<pid>.txt goes.
      longer: the same, before the first tick and after `stretch`; at least `seconds`.
      now: a clock in seconds.
    """

    exit_code = 75

    def __init__(self, seconds: float, folder: str | Path, *, longer: float = 1800.0, now: Callable[[], float] = time.monotonic):
        if seconds < 0:
            raise ValueError(f"got seconds={seconds}; give the longest time a step may take, or 0 for no watchdog")
        self.path = Path(folder) / f"hang.{os.getpid()}.txt"
        self._seconds, self._longer, self._now = seconds, max(seconds, longer), now
        self._allowed: tuple[float, float] | None = None  # (since when, seconds)
        self._stop = threading.Event()

    def tick(self) -> None:
        """A step has finished."""
        self._allowed = (self._now(), self._seconds)

    def stretch(self) -> None:
        """What begins now may take longer than a step, until the next tick: a turn of a validation or of an evaluation."""
        self._allowed = (self._now(), self._longer)

    def pause(self) -> None:
        """Disarm until the next tick. For the last save, in which no process waits for another."""
        self._allowed = None

    def __enter__(self) -> "Watchdog":
        self.stretch()
        if self._seconds:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Disarm for good."""
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(min(self._seconds / 10, 1.0)):
            expired = self.expired()
            if expired is not None:
                self._end_process(expired)

    def expired(self) -> float | None:
        """The limit in seconds that has passed without a tick; None while there is time, when paused and when switched off."""
        allowed = self._allowed
        return allowed[1] if self._seconds and allowed is not None and self._now() - allowed[0] > allowed[1] else None

    def _end_process(self, seconds: float) -> None:
        try:
            with open(self.path, "w") as file:
                faulthandler.dump_traceback(file, all_threads=True)
            print(
                f"jaxseg: no step finished for {seconds:g} s: this process or a peer hangs; stacks are in {self.path}; "
                "end all processes and start them again",
                file=sys.stderr,
                flush=True,
            )
        finally:
            os._exit(self.exit_code)
