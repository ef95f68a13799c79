"""Stop on SIGTERM: all processes stop between the same two training steps, or at the same point of a validation or evaluation.
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
    """Detects that this run has been asked to stop.

    With one process, a SIGTERM handler sets a flag within the block. With several, jax's preemption service chooses one of the
    numbered calls of `reached` and answers yes at this call on every process; so all processes must call it equally often.

    Attributes:
      asked: this process has received SIGTERM (only with a single process).
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
        """Raise `Stopped` if SIGTERM arrives within the block or before it; with several processes, at a point of `turns`."""
        self._at_once = True
        try:
            with turns.at_each(self._ask):
                yield
        finally:
            self._at_once = False
        if self.asked:
            raise Stopped

    def reached(self) -> bool:
        """Return whether the run must now save and exit with code 42."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(next(_asked))
        return self.asked

    def _ask(self) -> None:
        if jax.process_count() > 1 and self.reached():
            raise Stopped


def fault(step: int, point: str) -> None:
    """Inject a fault if the environment asks for it, for tests: kill this process (JAXSEG_FAULT=kill@STEP:POINT), let it hang
    (hang@STEP:POINT) or send it SIGTERM (term@STEP:POINT).

    Points: before_join, before_next, after_step, before_eval, in_eval, before_save, after_save, before_report.
    """
    wanted = os.environ.get("JAXSEG_FAULT")
    if not wanted or wanted.partition("@")[2] != f"{step}:{point}":
        return
    kind = wanted.partition("@")[0]
    if kind == "hang":
        signal.pause()
    os.kill(os.getpid(), {"kill": signal.SIGKILL, "term": signal.SIGTERM}[kind])
