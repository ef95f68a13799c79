"""SegNeXt's multi-scale convolutional attention as single operations: the plain twin, and what a CPU runs.

Its gradient is the automatic one: one that computes the strips' intermediates again would save three arrays of the size of x
a block and cost six strips more, which on a CPU, where the strips are most of the block, is time lost.
"""

from collections.abc import Sequence

from jaxseg.ops.conv import api
from jaxseg.types import Array

Layer = tuple[Array, Array]  # weights [*k, C / groups, O], bias [O]


def depthwise(x: Array, layer: Layer) -> Array:
    """Depthwise convolution that keeps the size, with bias."""
    weight, bias = layer
    return api.conv(x, weight, groups=x.shape[-1]) + bias.astype(x.dtype)


def strip_sums(source: Array, total: Array, strips: Sequence[tuple[Layer, Layer]]) -> Array:
    """total + the sum over pairs of column(row(source)), all [B, H, W, C]."""
    for row, column in strips:
        total = total + depthwise(depthwise(source, row), column)
    return total
