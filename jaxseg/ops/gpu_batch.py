"""Hand-written kernels over a batch: what jit, vmap and several devices need to know about them.

A kernel is opaque: without a rule the partitioner gathers its arguments onto every device, and vmap adds a grid axis to a
launch that was tuned without it. `over_batch` says which arrays have the batch in front: under jit each device then runs
the kernel on its part of the batch and sums over the batch are added up between devices; under vmap the mapped axis joins
the batch where that is the same thing, otherwise the kernel runs once per entry.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec


def over_batch(kernel: Callable, inputs: str, outputs: str, *, plain: bool = False) -> Callable:
    """`kernel(static, *arrays) -> tuple of arrays`, made partitionable and mappable over its batch.

    Args:
      kernel: `static` is hashable; every size of the batch must do.
      inputs: a letter per array: "b" for [B, ...], "w" for an array without batch axis.
      outputs: a letter per result: "b" for [B, ...], "s" for a sum over the batch.
      plain: the kernel is made of JAX's own operations, which one device needs no rules for.
    """
    placed = custom_partitioning(kernel, static_argnums=(0,))

    def rule(_, __, operands, results):
        ranks = [t.rank for t in (*operands, *results)]
        words = [
            ["b" if letter == "b" and a == 0 else f"x{i:02}y{a}" for a in range(rank)]
            for i, (letter, rank) in enumerate(zip(inputs + outputs, ranks))
        ]
        text = [" ".join(word) for word in words]
        fixed = tuple(sorted({name for word in words for name in word} - {"b"}))
        n = len(inputs)
        options = {"need_replication_factors": fixed} | ({} if "b" in outputs else {"reduction_factors": ("b",)})
        return f"{', '.join(text[:n])} -> {', '.join(text[n:])}", options

    def partition(static, mesh, arguments, results):
        spec = arguments[inputs.index("b")].sharding.spec
        axes = spec[0] if spec else None
        place = lambda letter: NamedSharding(mesh, PartitionSpec(axes) if letter == "b" else PartitionSpec())

        def local(*arrays):
            found = kernel(static, *arrays)
            return tuple(lax.psum(a, axes) if letter == "s" and axes is not None else a for letter, a in zip(outputs, found))

        return mesh, local, tuple(map(place, outputs)), tuple(map(place, inputs))

    placed.def_partition(partition, sharding_rule=rule)

    def call(static, *arrays):
        if plain and not _several_devices():
            return kernel(static, *arrays)
        run = functools.partial(placed if _several_devices() else kernel, static)
        mapped = custom_vmap(run)

        @mapped.def_vmap
        def rule_of_vmap(size, batched, *arrays):
            if any(a for a, letter in zip(batched, inputs) if letter == "w") or "s" in outputs:
                mine = [i for i, a in enumerate(batched) if a]
                one = lambda own: call(static, *(own[mine.index(i)] if i in mine else v for i, v in enumerate(arrays)))
                found = lax.map(one, tuple(arrays[i] for i in mine))
            else:
                whole = [
                    v if a else jnp.broadcast_to(v, (size, *v.shape)) if letter == "b" else v
                    for a, v, letter in zip(batched, arrays, inputs)
                ]
                flat = [v.reshape(-1, *v.shape[2:]) if letter == "b" else v for v, letter in zip(whole, inputs)]
                found = tuple(v.reshape(size, -1, *v.shape[1:]) for v in call(static, *flat))
            return found, (True,) * len(outputs)

        return mapped(*arrays)

    return call


def _several_devices() -> bool:
    """There is something to partition over. A program for a device that is only described (jax.sharding.AbstractDevice)
    has no devices to ask."""
    described = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    return jax.device_count() > 1 and described is None
