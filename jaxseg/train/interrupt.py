"""Being told to stop: SIGTERM is noticed between steps, by every process at the same step. And faults on request, for tests."""

import os
import signal

import jax
from jax.experimental import multihost_utils


class Preemption:
    """Whether this run has been asked to stop.

    One process: a SIGTERM handler sets a flag. Several: jax's preemption service agrees on one step for all of them;
    every process must ask at every step, with the same number.
    """

    def __init__(self):
        self._asked = False
        self._previous = None
        if jax.process_count() == 1:
            self._previous = signal.signal(signal.SIGTERM, self._note)

    def _note(self, signum, frame):
        self._asked = True

    def reached(self, step: int) -> bool:
        """True once the run is to save at `step` and leave with exit code 42."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked

    def close(self) -> None:
        """Give the signal back to whoever had it."""
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)


def fault(step: int, point: str) -> None:
    """Kill this process here if the environment asks for it: JAXSEG_FAULT=kill@STEP:POINT (used by the fault tests).

    Points: before_next, after_step, before_eval, before_save, after_save.
    """
    wanted = os.environ.get("JAXSEG_FAULT")
    if wanted and wanted == f"kill@{step}:{point}":
        os.kill(os.getpid(), signal.SIGKILL)
