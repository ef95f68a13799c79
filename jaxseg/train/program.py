"""A jitted function whose last arguments are a run's own numbers.

What a program closes over is a constant of it: a step with its seed inside is another program for every seed, and compiles
anew. With the numbers as arguments runs that differ in them alone share one entry of the compilation cache.
"""

from collections.abc import Callable

from jaxseg.utils.memory import uncollected


class Program:
    """`program(*arguments, *own)`, before or after its compilation.

    Attributes:
      program: what `jax.jit` gave, or what came of `.lower` and `.compile`.
    """

    def __init__(self, program: Callable, *own):
        self.program, self._own = program, own

    def __call__(self, *arguments):
        with uncollected():  # the first call traces
            return self.program(*arguments, *self._own)

    def lower(self, *arguments) -> "Program":
        """Traced for these arguments."""
        with uncollected():
            return Program(self.program.lower(*arguments, *self._own), *self._own)

    def compile(self) -> "Program":
        """Compiled, after `lower`."""
        with uncollected():
            return Program(self.program.compile(), *self._own)

    def memory_analysis(self):
        """XLA's plan of the compiled program's memory."""
        return self.program.memory_analysis()

    def as_text(self) -> str:
        """The compiled program's optimised HLO."""
        return self.program.as_text()
