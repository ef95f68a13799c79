"""Convolution for any rank, stride, dilation and grouping, by the implementation that was measured to be fastest.

`conv` checks and normalises its arguments, counts multiply-accumulates and calls a lowering. `reference.py` is the reference
implementation.
"""

import functools
import math
from collections.abc import Sequence

import jax.numpy as jnp

from jaxseg.ops import space, tally
from jaxseg.ops.conv import dispatch, rows
from jaxseg.ops.conv.matmul import matmul
from jaxseg.ops.conv.spec import spread
from jaxseg.types import Array

Pads = tuple[tuple[int, int], ...]


def per_axis(value: int | Sequence[int], rank: int, name: str) -> tuple[int, ...]:
    """`value` for each of `rank` axes: an int is repeated, a sequence must have `rank` entries."""
    if isinstance(value, int):
        return (value,) * rank
    value = tuple(int(v) for v in value)
    if len(value) != rank:
        raise ValueError(f"got {name}={value}: {len(value)} numbers for {rank} spatial axes; must be one int or {rank} ints")
    return value


def resolve_padding(padding, size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Pads:
    """Padding as (low, high) voxels per axis.

    Args:
      padding: None for dilation * (k - 1) // 2 on both sides (PyTorch's usual "same" of odd kernels); an int or one int
        per axis for both sides; (low, high) pairs; or "same_tf" for TensorFlow's rule, computed from the actual size:
        total = max((ceil(n / s) - 1) * s + (k - 1) * d + 1 - n, 0), an odd voxel at the end.
      size, kernel, stride, dilation: one number per axis.
    """
    rank = len(kernel)
    if padding is None:
        return tuple((d * (k - 1) // 2,) * 2 for k, d in zip(kernel, dilation))
    if padding == "same_tf":
        totals = [max((math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n, 0) for n, k, s, d in zip(size, kernel, stride, dilation)]
        return tuple((t // 2, t - t // 2) for t in totals)
    if isinstance(padding, str):
        raise ValueError(f"got padding={padding!r}; must be None, an int, one int per axis, (low, high) pairs or 'same_tf'")
    if isinstance(padding, int) or all(isinstance(p, int) for p in padding):
        return tuple((p, p) for p in per_axis(padding, rank, "padding"))
    return tuple((int(low), int(high)) for low, high in padding)


def conv(
    x: Array, w: Array, *, stride: int | Sequence[int] = 1, padding=None, dilation: int | Sequence[int] = 1, groups: int = 1
) -> Array:
    """Convolution (correlation) over all spatial axes.

    Args:
      x: [B, *S, C], one to three spatial axes.
      w: [*k, C/groups, O]; cast to x's dtype.
      stride, dilation: an int, or one per axis.
      padding: see `resolve_padding`.
      groups: C and O are split into this many independent groups; groups == C is depthwise.
    Returns:
      [B, *S', O] in x's dtype, S' = floor((S + low + high - dilation * (k - 1) - 1) / stride) + 1.
    Raises:
      ValueError: ranks or numbers of channels do not fit, or the window is larger than the padded input.
    """
    rank = x.ndim - 2
    if w.ndim != rank + 2:
        raise ValueError(f"got x of shape {x.shape} and w of shape {w.shape}; w must be [{rank} kernel axes, C/groups, O]")
    if x.shape[-1] != w.shape[-2] * groups or w.shape[-1] % groups:
        raise ValueError(
            f"got x with {x.shape[-1]} channels, w with {w.shape[-2]} per group, {w.shape[-1]} outputs and "
            f"groups={groups}; must be C == groups * (channels per group) and O % groups == 0"
        )
    kernel = w.shape[:rank]
    stride, dilation = per_axis(stride, rank, "stride"), per_axis(dilation, rank, "dilation")
    pads = resolve_padding(padding, x.shape[1:-1], kernel, stride, dilation)
    out = tuple(
        (n + lo + hi - d * (k - 1) - 1) // s + 1 for n, (lo, hi), k, d, s in zip(x.shape[1:-1], pads, kernel, dilation, stride)
    )
    if min(out) < 1:
        raise ValueError(
            f"got spatial size {x.shape[1:-1]} with padding {pads}; must not be smaller than the {kernel} window "
            f"at dilation {dilation}; use a larger input"
        )
    tally.add("conv", x.shape[0] * math.prod(out) * math.prod(w.shape))
    run = dispatch.conv if space.count() == 1 else functools.partial(rows.conv, dispatch.conv)
    return run(x, w.astype(x.dtype), stride=stride, padding=pads, dilation=dilation, groups=groups)


def conv_transpose(x: Array, w: Array, *, stride: int | Sequence[int] = 2, padding=0, groups: int = 1) -> Array:
    """Transposed convolution: output position stride * i + t - low receives x[i] * w[t] (no kernel flip).

    Args:
      x: [B, *S, C].
      w: [*k, C, O], or [*k, C, 1] with `groups`, which is PyTorch's weight [C, O, *k] with permuted axes; cast to x's dtype.
      stride: as in PyTorch, an int or one per axis.
      padding: an int, one per axis, or (low, high) pairs; for PyTorch's output_padding reduce `high` by it.
      groups: 1, or C for a depthwise transposed convolution.
    Returns:
      [B, *S', O], S' = (S - 1) * stride + k - low - high.
    """
    rank = x.ndim - 2
    if w.ndim != rank + 2 or w.shape[-2] != x.shape[-1]:
        raise ValueError(f"got x of shape {x.shape} and w of shape {w.shape}; w must be [{rank} kernel axes, C, O]")
    if groups != 1 and not (groups == x.shape[-1] and w.shape[-1] == 1):
        raise ValueError(
            f"got groups={groups}, w of shape {w.shape} for {x.shape[-1]} channels; groups must be 1, or C with w [*k, C, 1]"
        )
    kernel, stride = w.shape[:rank], per_axis(stride, rank, "stride")
    pads = resolve_padding(padding, x.shape[1:-1], kernel, stride, (1,) * rank)
    if space.count() > 1:
        return rows.conv_transpose(conv_transpose, x, w, stride=stride, padding=pads, groups=groups)
    if groups > 1:  # the convolution, by the kernel turned round, of x with zeros between its entries
        flipped = jnp.flip(w, tuple(range(rank))).swapaxes(-2, -1)
        turned = tuple((k - 1 - low, k - 1 - high) for k, (low, high) in zip(kernel, pads))
        return conv(spread(x, stride), flipped, padding=turned, groups=groups)
    taps = math.prod(w.shape)
    out = [(n - 1) * s + k - low - high for n, s, k, (low, high) in zip(x.shape[1:-1], stride, kernel, pads)]
    true = x.shape[0] * math.prod(x.shape[1:-1]) * taps
    tally.add("conv_transpose", true)
    tally.add("conv_transpose_overcount", x.shape[0] * math.prod(out) * taps - true)
    return dispatch.conv_transpose(x, w.astype(x.dtype), stride=stride, padding=pads)


def linear(x: Array, w: Array) -> Array:
    """x [..., C] times w [C, O] (cast to x's dtype) -> [..., O]."""
    tally.add("linear", math.prod(x.shape[:-1]) * math.prod(w.shape))
    return matmul(x, w.astype(x.dtype))
