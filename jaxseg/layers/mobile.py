"""Blocks of MobileNetV2 (arXiv 1801.04381), MobileViT (arXiv 2110.02178) and GhostNet (arXiv 1911.11907), for any rank."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from jaxseg import ops
from jaxseg.layers.attention import TransformerLayer, apply_to_unfolded_patches
from jaxseg.layers.blocks import ConvNorm, Sequential
from jaxseg.layers.context import EVAL, ForwardContext
from jaxseg.layers.conv import Linear
from jaxseg.types import Array


def round_channels(channels: int, scale: float) -> int:
    """Scaled number of channels, rounded to a multiple of 8 that is at most 10 % below the exact product."""
    exact = channels * scale
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


class ChannelAttention(nnx.Module):
    """x times sigmoid(f(mean x) + f(max x)), mean and maximum over space: the channel attention of CBAM.

    f maps C -> C / reduction -> C channels with a ReLU and no biases. With fewer channels than `reduction` there are no hidden
    channels, so that f is 0 and the gate 1/2, as in the source.
    """

    def __init__(self, channels: int, reduction: int, *, rngs: nnx.Rngs):
        inner = channels // reduction
        self.fc1 = Linear(channels, inner, bias=False, rngs=rngs) if inner else None
        self.fc2 = Linear(inner, channels, bias=False, rngs=rngs) if inner else None

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        if self.fc1 is None:
            return x * 0.5
        space = tuple(range(1, x.ndim - 1))
        f = lambda v: self.fc2(jax.nn.relu(self.fc1(v)))
        return x * jax.nn.sigmoid(f(x.mean(space, keepdims=True)) + f(ops.spatial_max(x)))


class InvertedResidual(nnx.Module):
    """Inverted residual: 1x1 to `hidden` channels, depthwise convolutions, 1x1 to cout; a shortcut where the shape is kept.

    The first 1x1 is left out if cin equals `hidden`.

    Args:
      hidden: channels of the depthwise convolutions.
      rates: dilations of the consecutive depthwise convolutions of kernel 3; the first one has the stride.
      act: activation after all norms but the last.
      reduction: reduction ratio of a channel attention before the last 1x1; 0: no attention.
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        hidden: int,
        *,
        stride: int = 1,
        rates: tuple[int, ...] = (1,),
        act: str = "relu6",
        reduction: int = 0,
        rank: int,
        rngs: nnx.Rngs,
    ):
        self.expand = ConvNorm(cin, hidden, 1, rank=rank, act=act, rngs=rngs) if hidden != cin else None
        self.depthwise = Sequential(
            *(
                ConvNorm(
                    hidden, hidden, 3, rank=rank, stride=1 if i else stride, dilation=rate, groups=hidden, act=act, rngs=rngs
                )
                for i, rate in enumerate(rates)
            )
        )
        self.attention = ChannelAttention(hidden, reduction, rngs=rngs) if reduction else None
        self.project = ConvNorm(hidden, cout, 1, rank=rank, act="identity", rngs=rngs)
        self.shortcut = stride == 1 and cin == cout

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        y = x if self.expand is None else self.expand(x, context)
        y = self.depthwise(y, context)
        y = y if self.attention is None else self.attention(y)
        y = self.project(y, context)
        return x + y if self.shortcut else y


class ViTBlock(nnx.Module):
    """MobileViT block: convolution, 1x1 to `width`, transformer layers, 1x1 back, concatenation with the input, convolution.

    Args:
      ffn: hidden units of the feed-forward network in a transformer layer.
      patch: attention is between positions at the same place in patches of this size; 1: between all positions.
    """

    def __init__(self, channels: int, width: int, depth: int, ffn: int, *, rank: int, patch: int = 1, rngs: nnx.Rngs):
        one = lambda a, b, k: ConvNorm(a, b, k, rank=rank, act="silu", rngs=rngs)
        self.patch = patch
        self.local, self.proj_in = one(channels, channels, 3), one(channels, width, 1)
        self.layers = nnx.List([TransformerLayer(width, ffn, head_width=8, qkv_bias=False, rngs=rngs) for _ in range(depth)])
        self.proj_out, self.fuse = one(width, channels, 1), one(2 * channels, channels, 3)

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        y = apply_to_unfolded_patches(self.proj_in(self.local(x, context), context), self.layers, self.patch, context)
        return self.fuse(jnp.concatenate([self.proj_out(y, context), x], axis=-1), context)


class GhostModule(nnx.Module):
    """Ghost module: a convolution gives half of cout, a depthwise convolution of these the other half; norm and ReLU after both.

    Args:
      kernel: size of the first convolution; the depthwise one has size 3.
      act_first: apply ReLU before the norm.
    """

    def __init__(
        self, cin: int, cout: int, *, kernel: int = 3, stride: int = 1, act_first: bool = False, rank: int, rngs: nnx.Rngs
    ):
        half = math.ceil(cout / 2)
        self.cout = cout
        self.primary = ConvNorm(cin, half, kernel, rank=rank, stride=stride, act_first=act_first, rngs=rngs)
        self.cheap = ConvNorm(half, half, 3, rank=rank, groups=half, act_first=act_first, rngs=rngs)

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        y = self.primary(x, context)
        return jnp.concatenate([y, self.cheap(y, context)], axis=-1)[..., : self.cout]


class GhostBottleneck(nnx.Module):
    """Two ghost modules, cin -> cout / 2 -> cout, and a shortcut (at stride 2 with a depthwise and a 1x1 convolution)."""

    def __init__(self, cin: int, cout: int, *, stride: int = 1, rank: int, rngs: nnx.Rngs):
        self.first = GhostModule(cin, cout // 2, stride=stride, rank=rank, rngs=rngs)
        self.second = GhostModule(cout // 2, cout, rank=rank, rngs=rngs)
        self.same = stride == 1 and cin == cout
        self.shortcut = (
            None
            if stride == 1
            else Sequential(
                ConvNorm(cin, cin, 3, rank=rank, stride=stride, groups=cin, act="identity", rngs=rngs),
                ConvNorm(cin, cout, 1, rank=rank, act="identity", rngs=rngs),
            )
        )

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        y = self.second(self.first(x, context), context)
        if self.shortcut is not None:
            return y + self.shortcut(x, context)
        return x + y if self.same else y
