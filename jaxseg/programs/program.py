"""A jitted function whose last arguments are per-run constants, such as the seed and the learning rate.

Values in the closure of a jitted function become constants of the compiled program: with the seed or the length of the schedule
as constants, every seed and every number of epochs would compile again. Passed as arguments, runs that differ only in them share
one entry of the compilation cache: for example the folds of a cross-validation, or a run that is extended.
"""

from collections.abc import Callable

import jax
from jax.sharding import Sharding

from jaxseg.programs import parts
from jaxseg.utils.process import uncollected

CACHE_HIT = "/jax/compilation_cache/cache_hits"


class Program:
    """Calls `program(*arguments, *own, *derive(*arguments))`, before or after compilation.

    Args:
      program: the result of `jax.jit`, or of its `.lower` and `.compile`.
      own: arrays that are the same in every call.
      derive: computes further arrays from the arguments; a separate small program.
      place: where all arrays are, if that is one device and the program may be compiled in parts (`programs.parts`).

    Attributes:
      fetched: whether `compile` found it in jax's compilation cache.
    """

    fetched = False

    def __init__(
        self, program: Callable, *own, derive: Callable[..., tuple] = lambda *arguments: (), place: Sharding | None = None
    ):
        self.program, self._own, self._derive, self._place = program, own, derive, place

    def __call__(self, *arguments):
        with uncollected():  # the first call traces
            return self.program(*arguments, *self._own, *self._derive(*arguments))

    def lower(self, *arguments, whole: bool = True) -> "Program":
        """Trace the program for these arguments; unless `whole`, a large one is lowered in parts, which computes the same."""
        with uncollected():
            traced = self.program.trace(*self.arguments(*arguments))
            place = None if whole else self._place
            return self.with_program(parts.lower(traced, place) if place else traced.lower())

    def compile(self) -> "Program":
        """Compile the program after `lower`."""
        hits = []
        note = lambda event, **_: hits.append(event) if event == CACHE_HIT else None
        jax.monitoring.register_event_listener(note)
        try:
            with uncollected():
                compiled = self.with_program(self.program.compile())
        finally:
            jax.monitoring.unregister_event_listener(note)
        compiled.fetched = bool(hits)
        return compiled

    def arguments(self, *arguments) -> tuple:
        """Everything that the program is called with, the derived arrays as shapes."""
        return *arguments, *self._own, *jax.eval_shape(self._derive, *arguments)

    def with_program(self, program: Callable) -> "Program":
        """The same with another program for the same arguments, such as this one compiled in an earlier process."""
        return Program(program, *self._own, derive=self._derive, place=self._place)

    def memory_analysis(self):
        """Return XLA's memory estimate of the compiled program."""
        return self.program.memory_analysis()

    def as_text(self) -> str:
        """Return the optimised HLO of the compiled program."""
        return self.program.as_text()
