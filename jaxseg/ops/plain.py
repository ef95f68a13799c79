"""Use XLA's own operations and automatic gradients instead of this package's lowerings.

The faster lowerings have hand-written gradients, which JAX can differentiate only in reverse mode: `jax.jvp`, `jax.jacfwd` and
`jax.hessian` raise "can't apply forward-mode autodiff (jvp) to a custom_vjp function". To use them, write:

    with ops.plain_lowerings():
        y, dy = jax.jvp(f, (x,), (dx,))

Programs traced within the block use XLA's operations, which can be several times slower on a CPU. jit caches them separately.
"""

from contextlib import AbstractContextManager

import jax

_context = jax.make_user_context(False)


def plain_lowerings() -> AbstractContextManager:
    """Within the block trace XLA's own operations, which are differentiable in forward and reverse mode any number of times."""
    return _context(True)


def wanted() -> bool:
    """Whether the program is traced within `plain_lowerings`."""
    return _context.value
