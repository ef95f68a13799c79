"""Hand-written kernels over a batch: what several devices and vmap need to know about them.

A kernel is opaque: without a rule the partitioner gathers its arguments onto every device, and vmap adds a grid axis to a
launch that was tuned without it. `over_batch` says which arrays have the batch in front: several devices each run the kernel on
their part of the batch (`devices.per_device`); under vmap the mapped axis joins the batch where that is the same thing,
otherwise the kernel runs once per entry.
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from jaxseg.ops import devices


def over_batch(kernel: Callable, inputs: str, outputs: str) -> Callable:
    """`kernel(static, *arrays) -> tuple of arrays`, divisible and mappable over its batch.

    Args:
      kernel: `static` is hashable; every size of the batch must do.
      inputs: a letter per array: "b" for [B, ...], "w" for an array without batch axis.
      outputs: a letter per result: "b" for [B, ...], "s" for a sum over the batch.
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
