"""Operations over a batch that several devices share: each device works on its own part.

XLA's partitioner decides for every operation by itself what each device computes. In loops, of which this package's lowerings
consist, it decides badly: it gathers whole activations, or sums a weight gradient over the devices in every step of the loop.
`per_device` avoids this: if the mesh in context has an axis "data", each device runs the function on its part of the batch
(`jax.shard_map`), and sums over the batch are added between the devices once.

The mesh in context is that of `jax.set_mesh`, or of `over` while a program is traced. Without one the partitioner decides.
`jax.experimental.custom_partitioning` needs no context, but is not used: the key of the compilation cache would contain a memory
address, and every start would compile again.

Inside a `shard_map` of the caller, jax tracks over which mesh axes an array varies. `varying` and `cotangent` make loops and
hand-written gradients pass its checks.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from jaxseg.types import Array

AXIS = "data"


def over(mesh: Mesh, function: Callable) -> Callable:
    """Return `function`, to be traced with `mesh` in context, so that its operations know the devices that share the batch."""

    @functools.wraps(function)
    def traced(*arguments, **options):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments, **options)

    return traced


def share(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of a device's part of an array [B, ...] in `per_device`; the whole shape if B is not divisible."""
    mesh = jax.sharding.get_abstract_mesh()
    # not inside of `shard_map`, where the axis is manual and the batch a part already, nor one of unknown size (`jax.export`)
    if AXIS not in mesh.auto_axes or not shape or not isinstance(shape[0], int) or shape[0] % mesh.shape[AXIS]:
        return tuple(shape)
    return (shape[0] // mesh.shape[AXIS], *shape[1:])


def per_device(function: Callable[..., tuple], inputs: str, outputs: str) -> Callable[..., tuple]:
    """Return `function(*arrays) -> tuple of arrays`, run by each device on its part of the batch.

    Args:
      inputs: a letter per array: "b" for [B, ...], "w" for an array without batch axis, the same on all devices.
      outputs: a letter per result: "b" for [B, ...], "s" for a sum over the batch.
    """
    place = {"b": PartitionSpec(AXIS), "w": PartitionSpec(), "s": PartitionSpec()}

    def local(*arrays):
        return tuple(lax.psum(a, AXIS) if letter == "s" else a for a, letter in zip(function(*arrays), outputs, strict=True))

    def run(*arrays):
        whole = arrays[inputs.index("b")].shape
        if share(whole) == whole:
            return function(*arrays)
        specs = [tuple(place[letter] for letter in letters) for letters in (inputs, outputs)]
        # the sums are written above, so that the checks of what varies are not needed
        return jax.shard_map(local, in_specs=specs[0], out_specs=specs[1], axis_names={AXIS}, check_vma=False)(*arrays)

    return run


def varying(initial, *arrays: Array):
    """Mark `initial` (a tree, such as a loop's carry) as varying over the mesh axes over which any of `arrays` varies."""
    axes = frozenset().union(*map(_axes, arrays))
    mark = lambda a: lax.pcast(a, tuple(sorted(axes - _axes(a))), to="varying") if axes - _axes(a) else a
    return jax.tree.map(mark, initial)


def struct(shape: Sequence[int], like: Array) -> jax.ShapeDtypeStruct | Array:
    """Return a stand-in of this shape for `jax.linear_transpose`, with the dtype and the varying mesh axes of `like`."""
    return varying(jnp.zeros(shape, like.dtype), like) if _axes(like) else jax.ShapeDtypeStruct(shape, like.dtype)


def cotangent(gradient: Array, argument: Array) -> Array:
    """Return `gradient` in the dtype of `argument`, summed over the mesh axes over which it varies and `argument` does not.

    An argument that does not vary (weights beside a sharded batch) needs a gradient that does not: the sum over those axes.
    Automatic gradients have this property already.
    """
    axes = _axes(gradient) - _axes(argument)
    return (lax.psum(gradient, tuple(sorted(axes))) if axes else gradient).astype(argument.dtype)


def _axes(a: Array) -> frozenset[str]:
    return jax.typeof(a).manual_axis_type.varying
