"""An optimization barrier for programs of CPUs alone.

XLA's CPU backend merges expressions that are cheaper computed once for each reader, and a barrier keeps them apart. A GPU fuses
by other rules, and there the same barrier would only force arrays through memory.
"""

from jax import lax


def cpu_barrier(tree):
    """`lax.optimization_barrier(tree)` where the program is lowered for a CPU, else `tree`: values are the same everywhere."""
    return lax.platform_dependent(tree, cpu=lax.optimization_barrier, default=lambda a: a)
