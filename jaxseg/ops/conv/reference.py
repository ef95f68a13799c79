"""Convolutions as XLA's own primitive: the reference implementation that every faster lowering is tested against."""

from collections.abc import Sequence

import jax
from jax import lax

from jaxseg.ops import devices
from jaxseg.ops.conv.spec import Spec
from jaxseg.types import Array

_LETTERS = "DHW"


def dimension_numbers(rank: int) -> tuple[str, str, str]:
    """Channels-last dimension numbers of a convolution over `rank` spatial axes."""
    s = _LETTERS[-rank:]
    return f"N{s}C", f"{s}IO", f"N{s}C"


def forward(spec: Spec, x: Array, w: Array) -> Array:
    """Correlation of [B, *S, C] with [*k, C/groups, O] -> [B, *S', O], in x's dtype."""
    return lax.conv_general_dilated(
        x,
        w,
        window_strides=spec.stride,
        padding=spec.padding,
        rhs_dilation=spec.dilation,
        feature_group_count=spec.groups,
        dimension_numbers=dimension_numbers(x.ndim - 2),
    )


def input_gradient(spec: Spec, size: Sequence[int], g: Array, w: Array) -> Array:
    """Gradient of an input of spatial `size`, by XLA's transposition of `forward`."""
    channels = w.shape[-2] * spec.groups
    g, w = devices.varying((g, w), g, w)
    x = devices.struct((g.shape[0], *size, channels), g)
    return jax.linear_transpose(lambda a: forward(spec, a, w), x)(g)[0]


def weight_gradient(spec: Spec, kernel: Sequence[int], x: Array, g: Array) -> Array:
    """Gradient [*k, C/groups, O] of the weights, by XLA's transposition of `forward`."""
    g, x = devices.varying((g, x), g, x)
    w = devices.struct((*kernel, x.shape[-1] // spec.groups, g.shape[-1]), x)
    return jax.linear_transpose(lambda a: forward(spec, x, a), w)(g)[0]


def conv_transpose(x: Array, w: Array, *, stride: Sequence[int], padding: Sequence[tuple[int, int]]) -> Array:
    """Transposed convolution of [B, *S, C] with [*k, C, O]: output position s*i + t - pad_low receives x[i] w[t].

    The output size per axis is (in - 1) * stride + k - pad_low - pad_high, as in PyTorch.
    """
    rank = x.ndim - 2
    k = w.shape[:rank]
    pads = [(k[a] - 1 - padding[a][0], k[a] - 1 - padding[a][1]) for a in range(rank)]
    flipped = jax.numpy.flip(w, axis=tuple(range(rank)))
    return lax.conv_general_dilated(
        x,
        flipped,
        window_strides=(1,) * rank,
        padding=pads,
        lhs_dilation=tuple(stride),
        dimension_numbers=dimension_numbers(rank),
    )
