"""Make a CPU compute an array once and store it, however many operations use it.

XLA's CPU backend fuses a chain of elementwise operations (such as a depthwise convolution as a sum of 25 shifted products) into
each of its consumers, and therefore computes it several times (8 times for the 5x5 of an MSCA block with its gradient, twice for
each strip). Optimization barriers do not help, because they are removed before fusion. XLA does not fuse through a call that
cannot be inlined: this one has an empty body and returns its argument without a copy.
"""

import jax
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

from jaxseg.ops import devices, plain, space
from jaxseg.types import Array


def materialize(x: Array) -> Array:
    """Return x, stored in memory on a CPU; the same holds for its gradient. On other platforms this does nothing.

    Nor does it where several devices share the rows of an image: convolutions are XLA's own there.
    """
    return x if plain.wanted() or space.count() > 1 else _kept(x)


def stored_apart(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """Return arrays, each stored in memory of its own on a CPU; for use outside of gradients, on one device."""
    return lax.platform_dependent(arrays, cpu=_through_call, default=lambda a: a)


@jax.custom_vjp
def _kept(x: Array) -> Array:
    return _materialize(x)


_kept.defvjp(lambda x: (_kept(x), None), lambda _, g: (_kept(g),))


@jax.jit  # traced once for each shape
def _materialize(x: Array) -> Array:
    own = lambda x: (lax.platform_dependent(x, cpu=_through_call, default=lambda a: a),)
    return devices.per_device(own, "b", "b")(x)[0]


def _through_call(x):
    with set_xla_metadata(inlineable="false"):
        return _handed_on(x)


@jax.jit
def _handed_on(x):
    return lax.optimization_barrier(x)  # without this, which is removed later, jit would omit the call
