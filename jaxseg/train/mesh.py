"""The device mesh with one axis `data`: parameters are replicated, batches split, on one process or several."""

import math
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxseg.types import Batch, ConfigError


def make(devices: int = 0) -> Mesh:
    """Return a mesh over `devices` devices (0: all) with the axis "data".

    Raises:
      ConfigError: there are fewer devices, or not all devices of several processes are used.
    """
    everything = jax.devices()
    count = devices or len(everything)
    if count > len(everything):
        raise ConfigError(
            f"config.mesh.data={devices}: only {len(everything)} devices are available; set at most that many, or 0 for all"
        )
    if jax.process_count() > 1 and count != len(everything):
        raise ConfigError(
            f"config.mesh.data={devices}: with {jax.process_count()} processes all {len(everything)} devices "
            "must be used; leave it at 0"
        )
    # AxisType.Auto: jax.make_mesh defaults to Explicit axes, under which dropout does not trace.
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=everything[:count])


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding with the same value on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batched(mesh: Mesh, *, axis: int = 0) -> NamedSharding:
    """Return the sharding that splits arrays along one axis, by default the leading one."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, "data"))


def shared(shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    """Where an array lies that the devices share: split along its longest axis that they divide, else whole on each."""
    fitting = [axis for axis, size in enumerate(shape) if size and size % mesh.devices.size == 0]
    return batched(mesh, axis=max(fitting, key=lambda axis: shape[axis])) if fitting else replicated(mesh)


def check_batch(batch_size: int, mesh: Mesh, key: str) -> None:
    """Raise a ConfigError that names the nearest valid sizes if a batch size is not divisible by the number of devices."""
    n = mesh.devices.size
    if batch_size % n:
        lower, upper = batch_size // n * n, math.ceil(batch_size / n) * n
        sizes = " or ".join(str(s) for s in (lower, upper) if s)
        raise ConfigError(
            f"config.{key}={batch_size}: must be divisible by the number of devices, {n}; set {sizes}, "
            f"or config.mesh.data={math.gcd(batch_size, n)}"
        )


def rounded(batch_size: int, mesh: Mesh) -> int:
    """`batch_size`, or the next multiple of the devices: of a batch that decides no number."""
    n = mesh.devices.size
    return -(-batch_size // n) * n


def say_rounded(batch_size: int, mesh: Mesh, key: str, say: Callable[[str], None]) -> None:
    """One line where `rounded` changes a batch."""
    if rounded(batch_size, mesh) != batch_size:
        say(f"config.{key}={batch_size} becomes {rounded(batch_size, mesh)}, a multiple of the {mesh.devices.size} devices")


def put(batch: Batch, mesh: Mesh) -> Batch:
    """Assemble every process's part of a batch to global arrays that are split over the mesh."""
    sharding = batched(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, np.asarray(v)) for k, v in batch.items()}


def describe(mesh: Mesh, batch_size: int) -> str:
    """Return a sentence that states the devices and the global, per-process and per-device batch size."""
    n, p = mesh.devices.size, jax.process_count()
    device = mesh.devices.flat[0]
    return (
        f"{n} x {device.device_kind or device.platform} in {p} process{'es' if p > 1 else ''}; batch {batch_size} global, "
        f"{batch_size // p} per process, {batch_size // n} per device"
    )
