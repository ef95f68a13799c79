"""A dense 2-D convolution that XLA computes on every core of a CPU.

From 17 channels on, XLA (jaxlib 0.10) hands a 2-D float32 convolution to a library that runs it on a single core, unless the
output is larger than the input: then its own routine takes it, which uses them all (197 and 308 GFLOP/s on two cores).
So a convolution that keeps the size is asked for one more row of output, which is then dropped.
"""

from collections.abc import Sequence

import jax.numpy as jnp

from jaxseg.ops.conv import reference
from jaxseg.ops.conv.spec import Spec
from jaxseg.types import Array

CHANNELS = 16  # up to so many channels XLA's own routine is taken anyway


def forward(spec: Spec, x: Array, w: Array) -> Array:
    """[B, H, W, C] and [kh, kw, C, O] -> [B, H', W', O], as `reference.forward`."""
    rows = spec.output(x.shape[1:-1], w.shape[:2])[0]
    if not spec.plain or rows != x.shape[1] or max(w.shape[-2:]) <= CHANNELS:
        return reference.forward(spec, x, w)
    (low, high), columns = spec.padding
    return reference.forward(spec._replace(padding=((low, high + 1), columns)), x, w)[:, :rows]


def input_gradient(spec: Spec, size: Sequence[int], g: Array, w: Array) -> Array:
    """Gradient [B, *size, C] of the input."""
    if not spec.plain:
        return reference.input_gradient(spec, size, g, w)
    return forward(spec.backward(size, w.shape[:2]), g, jnp.flip(w, (0, 1)).swapaxes(-1, -2))
