"""Rules for hand-written kernels over a batch, on several devices and under vmap.

XLA cannot look into a kernel: without a rule the partitioner gathers its arguments onto every device, and vmap adds a grid axis
to a kernel that was tuned without it. `over_batch` states which arrays have a batch axis. Each device then runs the kernel on its
part of the batch (`devices.per_device`). Under vmap the mapped axis is merged with the batch axis where this is equivalent;
otherwise the kernel runs once for each entry.
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from jaxseg.ops import devices


def over_batch(kernel: Callable, inputs: str, outputs: str) -> Callable:
    """Make `kernel(static, *arrays) -> tuple of arrays` work with a batch on several devices and with vmap.

    Args:
      kernel: the function; `static` is hashable, and any batch size must work.
      inputs: a letter for each array: "b" for [B, ...], "w" for an array without a batch axis.
      outputs: a letter for each result: "b" for [B, ...], "s" for a sum over the batch.
    """

    def call(static, *arrays):
        mapped = custom_vmap(devices.per_device(functools.partial(kernel, static), inputs, outputs))

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
