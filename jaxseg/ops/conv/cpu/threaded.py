"""Make XLA compute a dense 2-D convolution on all cores of a CPU.

From 17 channels on, XLA (jaxlib 0.10) passes a 2-D float32 convolution to ynnpack. ynnpack divides each row of the output over
the cores if the row is long enough (390 GFLOP/s on two cores), and otherwise uses only one core (180), whatever the number of
rows. If the output is larger than the input, XLA's own routine is used, which runs on all cores (280). A convolution with short
rows is therefore computed with an additional row of output, which is then dropped.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp

from jaxseg.ops.conv import reference
from jaxseg.ops.conv.spec import Spec
from jaxseg.types import Array

_CHANNELS = 16  # up to this number of channels XLA uses its own routine anyway
_ROW = 2**22  # number of products per row of the output from which ynnpack uses all cores


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
