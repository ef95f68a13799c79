"""Convolution and linear layers for any rank. Names, defaults and shapes follow PyTorch; layout is channels-last.

The computation has the input's dtype: parameters are float32 and are cast where they are used.

| layer | default here | PyTorch | flax nnx |
|---|---|---|---|
| Conv padding | None: dilation * (k - 1) // 2 | 0 | SAME (differs at stride 2) |
| Conv, Linear init | uniform +-1/sqrt(fan_in), bias too | the same | lecun_normal, bias 0 |
| kernel_size=3 at rank 2 | (3, 3) | (3, 3) | one axis (silently) |
"""

import math
from collections.abc import Sequence

from flax import nnx

from jaxseg import ops
from jaxseg.layers import initial
from jaxseg.layers.context import EVAL, ForwardContext
from jaxseg.ops.conv.api import per_axis
from jaxseg.types import Array


class Conv(nnx.Module):
    """Convolution over `rank` spatial axes, [B, *S, C] -> [B, *S', O].

    Args:
      in_channels, out_channels: C and O.
      kernel: an int for all axes, or one per axis.
      rank: number of spatial axes, checked at every call.
      stride, dilation, groups: as in PyTorch.
      padding: see `jaxseg.ops.conv.api.resolve_padding`; None keeps the size for odd kernels at stride 1.
      bias: add a bias [O].
      weight_init, bias_init: initializers; PyTorch's defaults when None.
      rngs: nnx.Rngs.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | Sequence[int],
        *,
        rank: int,
        stride: int | Sequence[int] = 1,
        padding=None,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        weight_init=None,
        bias_init=None,
        rngs: nnx.Rngs,
    ):
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"got in_channels={in_channels}, out_channels={out_channels}, groups={groups}; both must be divisible by groups"
            )
        self.kernel, self.rank, self.groups = per_axis(kernel, rank, "kernel"), rank, groups
        self.stride, self.dilation = per_axis(stride, rank, "stride"), per_axis(dilation, rank, "dilation")
        self.padding = (
            padding
            if padding is None or isinstance(padding, (int, str))
            else tuple(p if isinstance(p, int) else tuple(p) for p in padding)
        )
        default = initial.torch_default(in_channels // groups * math.prod(self.kernel))
        shape = (*self.kernel, in_channels // groups, out_channels)
        self.weight = nnx.Param((weight_init or default)(rngs, shape), layout="conv")
        self.bias = nnx.Param((bias_init or default)(rngs, (out_channels,))) if bias else None

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        if x.ndim != self.rank + 2:
            raise ValueError(
                f"got an input of shape {x.shape} for a rank-{self.rank} convolution; must be [B, {self.rank} spatial axes, C]"
            )
        y = ops.conv(x, self.weight[...], stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups)
        return y if self.bias is None else y + self.bias[...].astype(y.dtype)


class ConvTranspose(nnx.Module):
    """Transposed convolution, [B, *S, C] -> [B, *((S - 1) * stride + kernel - 2 * padding), O]; arguments as for Conv.

    Args:
      padding: an int, one per axis, or (low, high) pairs; for PyTorch's output_padding reduce `high` by it.
      groups: 1, or C = O for a kernel of its own in every channel.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | Sequence[int],
        *,
        rank: int,
        stride: int | Sequence[int],
        padding: int | Sequence = 0,
        groups: int = 1,
        bias: bool = True,
        weight_init=None,
        bias_init=None,
        rngs: nnx.Rngs,
    ):
        self.kernel, self.rank, self.groups = per_axis(kernel, rank, "kernel"), rank, groups
        self.stride, self.padding = per_axis(stride, rank, "stride"), padding
        each = out_channels // groups
        default = initial.torch_default(each * math.prod(self.kernel))  # PyTorch takes fan_in of [C, O/groups, *k]
        self.weight = nnx.Param((weight_init or default)(rngs, (*self.kernel, in_channels, each)), layout="conv_transpose")
        self.bias = nnx.Param((bias_init or default)(rngs, (out_channels,))) if bias else None

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        if x.ndim != self.rank + 2:
            raise ValueError(
                f"got an input of shape {x.shape} for a rank-{self.rank} transposed convolution; "
                f"must be [B, {self.rank} spatial axes, C]"
            )
        y = ops.conv_transpose(x, self.weight[...], stride=self.stride, padding=self.padding, groups=self.groups)
        return y if self.bias is None else y + self.bias[...].astype(y.dtype)


class Linear(nnx.Module):
    """Linear layer x @ weight + bias, [..., C] -> [..., O], with PyTorch's initial values unless others are given."""

    def __init__(
        self, in_channels: int, out_channels: int, *, bias: bool = True, weight_init=None, bias_init=None, rngs: nnx.Rngs
    ):
        default = initial.torch_default(in_channels)
        self.weight = nnx.Param((weight_init or default)(rngs, (in_channels, out_channels)), layout="linear")
        self.bias = nnx.Param((bias_init or default)(rngs, (out_channels,))) if bias else None

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        y = ops.linear(x, self.weight[...])
        return y if self.bias is None else y + self.bias[...].astype(y.dtype)
