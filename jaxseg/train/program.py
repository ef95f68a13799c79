"""A jitted function whose last arguments are per-run constants, such as the seed and the learning rate.

What a program closes over is a constant of it: a step with its seed or the length of its schedule inside is another program for
every seed and every number of epochs, and compiles anew. With the numbers as arguments runs that differ in them alone share one
entry of the compilation cache: the folds of a cross-validation, or a run that is made longer.
"""

from collections.abc import Callable

import jax

from jaxseg.utils.process import uncollected


class Program:
    """`program(*arguments, *own, *derive(*arguments))`, before or after its compilation.

    Args:
      own: arrays that are the same in every call.
      derive: gives those that depend on the arguments: a small program of its own.

    Attributes:
      program: the result of `jax.jit`, or of its `.lower` and `.compile`.
    """

    def __init__(self, program: Callable, *own, derive: Callable[..., tuple] = lambda *arguments: ()):
        self.program, self._own, self._derive = program, own, derive

    def __call__(self, *arguments):
        with uncollected():  # the first call traces
            return self.program(*arguments, *self._own, *self._derive(*arguments))

    def lower(self, *arguments) -> "Program":
        """Traced for these arguments."""
        with uncollected():
            derived = jax.eval_shape(self._derive, *arguments)
            return Program(self.program.lower(*arguments, *self._own, *derived), *self._own, derive=self._derive)

    def compile(self) -> "Program":
        """Compiled, after `lower`."""
        with uncollected():
            return Program(self.program.compile(), *self._own, derive=self._derive)

    def memory_analysis(self):
        """XLA's plan of the compiled program's memory."""
        return self.program.memory_analysis()

    def as_text(self) -> str:
        """The compiled program's optimised HLO."""
        return self.program.as_text()
