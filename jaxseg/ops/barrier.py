"""An optimization barrier for programs on CPUs only.

XLA's CPU backend shares a common expression even where computing it separately for each user is cheaper; a barrier prevents
this. A GPU backend fuses by other rules, and there the same barrier would only force arrays through memory.
"""

from jax import lax


def cpu_barrier(tree):
    """`lax.optimization_barrier(tree)` if the program is lowered for a CPU, else `tree`; the values are the same."""
    return lax.platform_dependent(tree, cpu=lax.optimization_barrier, default=lambda a: a)
