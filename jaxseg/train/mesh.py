"""The device mesh: parameters are replicated, batches split over its axis `data`, on one process or several.

With a second axis, `space`, the devices of a row of the mesh compute the same examples together, each its share of the rows along
the first spatial axis (`ops.space`). They belong to one process, which reads their examples.
"""

import math
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxseg.ops import space as rows
from jaxseg.types import Batch, ConfigError


def make(devices: int = 0, space: int = 1) -> Mesh:
    """Return a mesh over all devices with the axis "data", and "space" if `space` > 1.

    Args:
      devices: shares of a batch; 0: as many as there are devices, divided by `space`.
      space: devices that compute the examples of one share together.
    Raises:
      ConfigError: there are fewer devices, or not all devices of several processes are used.
    """
    everything = jax.devices()
    rows.check(space, jax.local_device_count())
    parts = devices or len(everything) // space
    count, given = parts * space, f"config.mesh.data={devices}" + (f" with config.mesh.space={space}" if space > 1 else "")
    if count > len(everything):
        raise ConfigError(
            f"{given}: only {len(everything)} devices are available; set config.mesh.data to at most {len(everything) // space}, "
            "or 0 for all"
        )
    if jax.process_count() > 1 and count != len(everything):
        raise ConfigError(
            f"{given}: with {jax.process_count()} processes all {len(everything)} devices must be used; leave it at 0"
        )
    if space > 1:  # in the order of the processes, so that each row of the mesh lies in one of them
        grid = np.array(everything[:count]).reshape(parts, space)
        return Mesh(grid, ("data", rows.AXIS), axis_types=(AxisType.Auto,) * 2)
    # AxisType.Auto: jax.make_mesh defaults to Explicit axes, under which dropout does not trace.
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=everything[:count])


def shares(mesh: Mesh) -> int:
    """Return the number of parts into which a batch is split."""
    return mesh.shape["data"]


def one_cpu(mesh: Mesh) -> bool:
    """Whether the mesh is one CPU device: there a step is made so that it compiles sooner (`optim.joined`, `programs.parts`)."""
    return mesh.devices.size == 1 and mesh.devices.flat[0].platform == "cpu"


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding with the same value on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batched(mesh: Mesh, *, axis: int = 0) -> NamedSharding:
    """Return the sharding that splits arrays along one axis, by default the leading one."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, "data"))


def shared(shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    """Where an array lies that all devices share: split along its longest axis that they divide, else whole on each."""
    fitting = [axis for axis, size in enumerate(shape) if size and size % mesh.devices.size == 0]
    if not fitting:
        return replicated(mesh)
    axis = max(fitting, key=lambda axis: shape[axis])
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, mesh.axis_names))


def check_batch(batch_size: int, mesh: Mesh, key: str) -> None:
    """Raise a ConfigError that names the nearest valid sizes if a batch size is not divisible by the devices that share it."""
    n = shares(mesh)
    if batch_size % n:
        lower, upper = batch_size // n * n, math.ceil(batch_size / n) * n
        sizes = " or ".join(str(s) for s in (lower, upper) if s)
        raise ConfigError(
            f"config.{key}={batch_size}: must be divisible by the number of {_parts(mesh)}, {n}; set {sizes}, "
            f"or config.mesh.data={math.gcd(batch_size, n)}"
        )


def rounded(batch_size: int, mesh: Mesh) -> int:
    """`batch_size`, or the next multiple of the devices that share it: of a batch that decides no number."""
    n = shares(mesh)
    return -(-batch_size // n) * n


def say_rounded(batch_size: int, mesh: Mesh, key: str, say: Callable[[str], None]) -> None:
    """One line where `rounded` changes a batch."""
    if rounded(batch_size, mesh) != batch_size:
        say(f"config.{key}={batch_size} becomes {rounded(batch_size, mesh)}, a multiple of the {shares(mesh)} {_parts(mesh)}")


def _parts(mesh: Mesh) -> str:
    """The noun for what has a part of the batch of its own."""
    return "groups of devices" if rows.AXIS in mesh.axis_names else "devices"


def put(batch: Batch, mesh: Mesh) -> Batch:
    """Assemble every process's part of a batch to global arrays that are split over the mesh."""
    sharding = batched(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, np.asarray(v)) for k, v in batch.items()}


def describe(mesh: Mesh, batch_size: int) -> str:
    """Return a sentence that states the devices and the global, per-process and per-device batch size."""
    n, p, parts = mesh.devices.size, jax.process_count(), shares(mesh)
    each = "device" if n == parts else f"{n // parts} devices, which share the rows of every image"
    device = mesh.devices.flat[0]
    return (
        f"{n} x {device.device_kind or device.platform} in {p} process{'es' if p > 1 else ''}; batch {batch_size} global, "
        f"{batch_size // p} per process, {batch_size // parts} per {each}"
    )
