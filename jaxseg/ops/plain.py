"""XLA's own operations and derived gradients in place of this package's lowerings.

Faster lowerings bring gradients written by hand, which JAX differentiates backwards alone: `jax.jvp`, `jax.jacfwd` and
`jax.hessian` end with its TypeError "can't apply forward-mode autodiff (jvp) to a custom_vjp function". Where they are wanted:

    with ops.plain_lowerings():
        y, dy = jax.jvp(f, (x,), (dx,))

What is traced in the block keeps to XLA's operations, on a CPU up to several times slower. jit keeps the programs apart.
"""

from contextlib import AbstractContextManager

import jax

_context = jax.make_user_context(False)


def plain_lowerings() -> AbstractContextManager:
    """Operations traced in the block are XLA's own, differentiable forwards and backwards any number of times."""
    return _context(True)


def wanted() -> bool:
    """Whether this is inside of `plain_lowerings`."""
    return _context.value
