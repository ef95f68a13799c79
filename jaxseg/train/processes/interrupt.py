"""Stopping on SIGTERM: every process notices it between the same two steps, or the same two turns of a validation or evaluation.
Also faults on request, for tests.
"""

import contextlib
import itertools
import os
import signal
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

from jaxseg.utils import turns

PREEMPTED = 42  # exit code: stopped by SIGTERM after saving; the same command resumes


_asked = itertools.count(1)  # how often this process has asked: jax's service finds a number that all processes will come to


class Stopped(BaseException):
    """SIGTERM came during work that can be abandoned at once, because the next start repeats it."""


class Preemption:
    """Whether this run has been asked to stop.

    One process: within the block a SIGTERM handler sets a flag. Several: jax's preemption service agrees on one of
    their questions, at which it says yes to all of them; so every process must ask equally often.

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
        """Within the block SIGTERM raises `Stopped`, at its end also one that came before; with several processes at a turn."""
        self._at_once = True
        try:
            with turns.at_each(self._ask):
                yield
        finally:
            self._at_once = False
        if self.asked:
            raise Stopped

    def reached(self) -> bool:
        """Whether the run is to save now and exit with code 42."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(next(_asked))
        return self.asked

    def _ask(self) -> None:
        if jax.process_count() > 1 and self.reached():
            raise Stopped


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
