"""Stopping on SIGTERM: every process notices it between the same two steps. Also faults on request, for tests."""

import contextlib
import os
import signal
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

PREEMPTED = 42  # exit code: stopped by SIGTERM after saving; the same command resumes


class Stopped(BaseException):
    """SIGTERM came during work that can be abandoned at once, because the next start repeats it."""


class Preemption:
    """Whether this run has been asked to stop.

    One process: within the block a SIGTERM handler sets a flag. Several: jax's preemption service agrees on one step for all
    of them; every process must ask at every step, with the same number.

    Attributes:
      asked: SIGTERM came to this process (one process alone).
    """

    def __init__(self):
        self.asked, self._at_once = False, False
        self._previous = None

    def __enter__(self) -> "Preemption":
        if jax.process_count() == 1:
            self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def _note(self, signum, frame):
        self.asked = True
        if self._at_once:
            raise Stopped

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within the block SIGTERM raises `Stopped`, at its end also one that came before."""
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False
        if self.asked:
            raise Stopped

    def reached(self, step: int) -> bool:
        """Whether the run is to save at `step` and exit with code 42."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self.asked


def fault(step: int, point: str) -> None:
    """Kill this process here if the environment asks for it: JAXSEG_FAULT=kill@STEP:POINT (used by the fault tests); or let it
    hang (hang@STEP:POINT), or send it SIGTERM (term@STEP:POINT).

    Points: before_join, before_next, after_step, before_eval, in_eval, before_save, after_save, before_report.
    """
    wanted = os.environ.get("JAXSEG_FAULT")
    if not wanted or wanted.partition("@")[2] != f"{step}:{point}":
        return
    kind = wanted.partition("@")[0]
    if kind == "hang":
        signal.pause()
    os.kill(os.getpid(), {"kill": signal.SIGKILL, "term": signal.SIGTERM}[kind])
