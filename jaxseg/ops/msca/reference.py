"""SegNeXt's multi-scale convolutional attention as single operations: the reference implementation, also used on CPUs.

The gradient is automatic: recomputing the strips' intermediate results would save three arrays of the size of x per block, but
cost six more strips, which are most of the time on a CPU. Every result with several consumers is stored (`ops.materialize`);
without this XLA computed the 5x5 eight times, each strip twice and the sum with all its strips twice (forward and backward of one
attention on one core, [2, 64, 64, 32]: 36.8 ms, now 11.0; [2, 32, 32, 64]: 17.9, now 4.1; 2026-11-21). Slower alternatives: one
padded copy for all strips of a source, all columns in one loop and a sum for each tap of the weights (20.6 and 11.1).
"""

from collections.abc import Sequence

from jaxseg.ops.conv import api
from jaxseg.ops.materialize import materialize
from jaxseg.types import Array

Layer = tuple[Array, Array]  # weights [*k, C / groups, O], bias [O]


def depthwise(x: Array, layer: Layer) -> Array:
    """Depthwise convolution that keeps the size, with bias."""
    weight, bias = layer
    return materialize(api.conv(x, weight, groups=x.shape[-1]) + bias.astype(x.dtype))


def strip_sums(source: Array, total: Array, strips: Sequence[tuple[Layer, Layer]]) -> Array:
    """total + the sum over pairs of column(row(source)), all [B, H, W, C]."""
    for row, column in strips:
        total = total + depthwise(depthwise(source, row), column)
    return materialize(total)
