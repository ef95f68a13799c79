"""What a gradient written by hand owes to `jax.shard_map`.

Inside of it an array is known to vary over some axes of the mesh, and an argument that does not (weights beside a sharded
batch) needs a gradient that does not: the sum over those axes. Derived gradients come out so by themselves.
"""

import jax
from jax import lax

from jaxseg.types import Array


def like(gradient: Array, argument: Array) -> Array:
    """`gradient` in the dtype of `argument`, summed over the mesh axes over which it varies and `argument` does not."""
    varying = lambda a: jax.typeof(a).manual_axis_type.varying
    axes = varying(gradient) - varying(argument)
    return (lax.psum(gradient, tuple(sorted(axes))) if axes else gradient).astype(argument.dtype)
