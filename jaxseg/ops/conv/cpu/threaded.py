"""A dense 2-D convolution that XLA computes on every core of a CPU.

From 17 channels on, XLA (jaxlib 0.10) hands a 2-D float32 convolution to ynnpack, which shares a row of the output out among
the cores where that is worth it (390 GFLOP/s on two cores) and else stays on one (180), however many rows there are. Where the
output is larger than the input XLA's own routine takes it, which uses them all (280). So a convolution of narrow rows that
keeps the size is asked for one more row of output, which is then dropped.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp

from jaxseg.ops.conv import reference
from jaxseg.ops.conv.spec import Spec
from jaxseg.types import Array

_CHANNELS = 16  # up to so many channels XLA's own routine is taken anyway
_ROW = 2**22  # products of one row of the output from which on ynnpack uses every core


def forward(spec: Spec, x: Array, w: Array) -> Array:
    """[B, H, W, C] and [kh, kw, C, O] -> [B, H', W', O], as `reference.forward`."""
    rows, columns = spec.output(x.shape[1:-1], w.shape[:2])
    narrow = columns * math.prod(w.shape) < _ROW and max(w.shape[-2:]) > _CHANNELS
    if not spec.plain or rows != x.shape[1] or not narrow:
        return reference.forward(spec, x, w)
    (low, high), columns = spec.padding
    return reference.forward(spec._replace(padding=((low, high + 1), columns)), x, w)[:, :rows]


def input_gradient(spec: Spec, size: Sequence[int], g: Array, w: Array) -> Array:
    """Gradient [B, *size, C] of the input."""
    if not spec.plain:
        return reference.input_gradient(spec, size, g, w)
    return forward(spec.backward(size, w.shape[:2]), g, jnp.flip(w, (0, 1)).swapaxes(-1, -2))
