"""ShuffleNet's units, v1 (arXiv 1707.01083) and v2 (arXiv 1807.11164), and ConvNeXt's block (arXiv 2201.03545), for any rank."""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from jaxseg.layers.activation import activation
from jaxseg.layers.blocks import ConvNorm, Sequential
from jaxseg.layers.context import EVAL, ForwardContext
from jaxseg.layers.conv import Conv
from jaxseg.layers.mobile import ChannelAttention
from jaxseg.layers.norm import BatchNorm
from jaxseg.layers.residual import LayerScale
from jaxseg.types import Array


def channel_shuffle(x: Array, groups: int) -> Array:
    """ShuffleNet's channel shuffle: channel g C/groups + c (number c of group g) moves to c groups + g."""
    return rearrange(x, "... (g c) -> ... (c g)", g=groups)


class ShuffleV2(nnx.Module):
    """ShuffleNet v2 unit of stride 1: half of the channels are unchanged, half are convolved; then a channel shuffle.

    The convolutions are pairs of depthwise and 1x1; the last depthwise norm has no activation after it.

    Args:
      channels: C.
      kernel: size of the depthwise convolutions.
      rates: their dilations, one per pair.
    """

    def __init__(self, channels: int, *, kernel: int = 3, rates: tuple[int, ...] = (1, 1), rank: int, rngs: nnx.Rngs):
        half = channels // 2
        blocks = []
        for i, rate in enumerate(rates):
            act = "identity" if i == len(rates) - 1 else "relu"
            blocks.append(ConvNorm(half, half, kernel, rank=rank, dilation=rate, groups=half, act=act, rngs=rngs))
            blocks.append(ConvNorm(half, half, 1, rank=rank, rngs=rngs))
        self.right = Sequential(*blocks)

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        left, right = jnp.split(x, 2, axis=-1)
        return channel_shuffle(jnp.concatenate([left, self.right(right, context)], axis=-1), 2)


class ShuffleV2Down(nnx.Module):
    """ShuffleNet v2 unit of stride 2: two branches convolve all channels to cout / 2 each; concatenation and channel shuffle."""

    def __init__(self, cin: int, cout: int, *, kernel: int = 3, rank: int, rngs: nnx.Rngs):
        depthwise = lambda: ConvNorm(cin, cin, kernel, rank=rank, stride=2, groups=cin, act="identity", rngs=rngs)
        self.left = Sequential(depthwise(), ConvNorm(cin, cout // 2, 1, rank=rank, rngs=rngs))
        self.right = Sequential(
            ConvNorm(cin, cin, 1, rank=rank, rngs=rngs), depthwise(), ConvNorm(cin, cout // 2, 1, rank=rank, rngs=rngs)
        )

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        return channel_shuffle(jnp.concatenate([self.left(x, context), self.right(x, context)], axis=-1), 2)


class ShuffleV1(nnx.Module):
    """ShuffleNet v1 unit: 1x1 to cout / 4, depthwise convolution, 1x1 to cout, ReLU; at stride 1 the input is added.

    As in the BraTS 3-D project it has one group, so that there is no channel shuffle, and no pooled shortcut at stride 2.

    Args:
      reduction: reduction ratio of a channel attention after the depthwise convolution; 0: no attention.
    """

    def __init__(self, cin: int, cout: int, *, stride: int = 1, reduction: int = 0, rank: int, rngs: nnx.Rngs):
        if stride == 1 and cin != cout:
            raise ValueError(f"got cin={cin}, cout={cout} at stride 1; must be equal, because the input is added")
        middle = cout // 4
        self.proj_in = ConvNorm(cin, middle, 1, rank=rank, rngs=rngs)
        self.depthwise = ConvNorm(middle, middle, 3, rank=rank, stride=stride, groups=middle, act="identity", rngs=rngs)
        self.attention = ChannelAttention(middle, reduction, rngs=rngs) if reduction else None
        self.proj_out = ConvNorm(middle, cout, 1, rank=rank, act="identity", rngs=rngs)
        self.shortcut = stride == 1

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        y = self.depthwise(self.proj_in(x, context), context)
        y = self.proj_out(y if self.attention is None else self.attention(y), context)
        return jax.nn.relu(x + y if self.shortcut else y)


class ConvNeXtBlock(nnx.Module):
    """ConvNeXt block x + scale * 1x1(gelu(1x1(norm(depthwise7 x)))), 4 C channels inside; BatchNorm in place of LayerNorm."""

    def __init__(self, channels: int, *, rank: int, rngs: nnx.Rngs):
        self.depthwise = Conv(channels, channels, 7, rank=rank, groups=channels, rngs=rngs)
        self.norm = BatchNorm(channels, rngs=rngs)
        self.expand = Conv(channels, 4 * channels, 1, rank=rank, rngs=rngs)
        self.project = Conv(4 * channels, channels, 1, rank=rank, rngs=rngs)
        self.scale = LayerScale(channels, 1e-6, rngs=rngs)

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        y = self.norm(self.depthwise(x), context)
        return x + self.scale(self.project(activation("gelu")(self.expand(y))))


class DownConvNeXt(nnx.Module):
    """Norm, convolution with kernel and stride 2, two ConvNeXt blocks."""

    def __init__(self, cin: int, cout: int, *, rank: int, rngs: nnx.Rngs):
        self.norm = BatchNorm(cin, rngs=rngs)
        self.conv = Conv(cin, cout, 2, rank=rank, stride=2, padding=0, rngs=rngs)
        self.blocks = Sequential(*(ConvNeXtBlock(cout, rank=rank, rngs=rngs) for _ in range(2)))

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        return self.blocks(self.conv(self.norm(x, context)), context)
