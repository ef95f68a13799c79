"""Convolutions as XLA's own primitive: the plain twin that every faster lowering is tested against."""

from collections.abc import Sequence

import jax
from jax import lax

from jaxseg.types import Array

_LETTERS = "DHW"


def dimension_numbers(rank: int) -> tuple[str, str, str]:
    """Channels-last dimension numbers of a convolution over `rank` spatial axes."""
    s = _LETTERS[-rank:]
    return f"N{s}C", f"{s}IO", f"N{s}C"


def conv(x: Array, w: Array, *, stride: Sequence[int], padding: Sequence[tuple[int, int]], dilation: Sequence[int],
         groups: int) -> Array:
    """Correlation of [B, *S, C] with [*k, C/groups, O] -> [B, *S', O], in x's dtype."""
    return lax.conv_general_dilated(
        x, w, window_strides=tuple(stride), padding=tuple(padding), rhs_dilation=tuple(dilation),
        feature_group_count=groups, dimension_numbers=dimension_numbers(x.ndim - 2))


def conv_transpose(x: Array, w: Array, *, stride: Sequence[int], padding: Sequence[tuple[int, int]]) -> Array:
    """Transposed convolution of [B, *S, C] with [*k, C, O]: output position s*i + t - pad_low receives x[i] w[t].

    The output size per axis is (in - 1) * stride + k - pad_low - pad_high, as in PyTorch.
    """
    rank = x.ndim - 2
    k = w.shape[:rank]
    pads = [(k[a] - 1 - padding[a][0], k[a] - 1 - padding[a][1]) for a in range(rank)]
    flipped = jax.numpy.flip(w, axis=tuple(range(rank)))
    return lax.conv_general_dilated(
        x, flipped, window_strides=(1,) * rank, padding=pads, lhs_dilation=tuple(stride),
        dimension_numbers=dimension_numbers(rank))
