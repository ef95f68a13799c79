"""Feature pyramids: the base class of staged encoders, and decoders for any pyramid.

Features are ordered from the finest to the coarsest, with the encoder's channels and strides.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from jaxseg import ops
from jaxseg.layers.blocks import ConvNorm
from jaxseg.layers.context import EVAL, ForwardContext
from jaxseg.layers.conv import Conv, Linear
from jaxseg.ops import tally
from jaxseg.types import Array


def _matrix(layer: Linear | Conv) -> Array:
    """The weight of a linear layer or a 1x1 convolution, [C, O]."""
    return layer.weight[...].reshape(layer.weight.shape[-2:])


def joined(features: Sequence[Array], branches: Sequence[Linear | Conv], size: Sequence[int]) -> Array:
    """The maps of all branches at one size, one behind the other: [B, *size, C of all]."""
    maps = [branch(f) for branch, f in zip(branches, features)]
    return jnp.concatenate([m if m.shape[1:-1] == tuple(size) else ops.resize(m, size) for m in maps], axis=-1)


def fused(features: Sequence[Array], branches: Sequence[Linear | Conv], fuse: Conv, size: Sequence[int]) -> Array:
    """`fuse(joined(features, branches, size))`, which is how SegFormer's decoder is defined, without calling these layers.

    A linear resize works on positions and a 1x1 convolution on channels, so that their order does not matter, and nothing stands
    between the two products: each feature is multiplied by the product of both weights at its own size. For SegFormer-B2 at
    2 x 256 x 256 that is a fourteenth of the decoder's multiplications. `tally` has those of the definition.

    Args:
      features: [B, *S, C] of each level.
      branches: a linear layer or 1x1 convolution with bias for each level, C to W channels.
      fuse: a 1x1 convolution of all their channels, in this order, to W channels, without bias.
      size: spatial size of the result.
    Returns:
      [B, *size, W].
    """
    size, width = tuple(size), fuse.weight.shape[-1]
    exact = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    total, bias = None, 0.0
    for i, (feature, branch) in enumerate(zip(features, branches)):
        part = lax.slice_in_dim(_matrix(fuse), i * width, (i + 1) * width)
        x = ops.linear(feature, exact(_matrix(branch), part))
        x = x if x.shape[1:-1] == size else ops.resize(x, size)
        total, bias = x if total is None else total + x, bias + exact(branch.bias[...], part)
    tally.add("conv", math.prod(total.shape[:-1]) * math.prod(fuse.weight.shape))
    return total + bias.astype(total.dtype)


class StagedEncoder(nnx.Module):
    """Base class of encoders with lists `embeds`, `stages` (lists of blocks) and `norms`, each with one entry per stage.

    The normalised output of a stage is its feature and the input of the next stage. Features come finest first.
    """

    embeds: nnx.List
    stages: nnx.List
    norms: nnx.List

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> list[Array]:
        features = []
        for i, (embed, blocks, norm) in enumerate(zip(self.embeds, self.stages, self.norms)):
            with jax.named_scope(f"stage{i + 1}"):
                x = embed(x, context)
                for block in blocks:
                    x = block(x, context)
                x = norm(x, context)
            features.append(x)
        return features


class UNetDecoder(nnx.Module):
    """U-Net decoder: from the coarsest feature on, upsample linearly, concatenate with the next finer one, convolve twice.

    Args:
      channels: channels of the features, finest first.
      width: channels of the finest level; each coarser level has twice as many, at most 8 times.
      rank: number of spatial axes.
    """

    def __init__(self, channels: Sequence[int], *, width: int = 32, rank: int = 2, rngs: nnx.Rngs):
        n = len(channels)
        widths = [width * min(2**i, 8) for i in range(n)]
        blocks, c = [], channels[-1]
        for i in reversed(range(n - 1)):
            pair = [
                ConvNorm(c + channels[i], widths[i], 3, rank=rank, rngs=rngs),
                ConvNorm(widths[i], widths[i], 3, rank=rank, rngs=rngs),
            ]
            blocks.append(nnx.List(pair))
            c = widths[i]
        self.blocks = nnx.List(blocks)
        self.channels = c

    def __call__(self, features: Sequence[Array], context: ForwardContext = EVAL) -> Array:
        x = features[-1]
        for skip, block in zip(features[-2::-1], self.blocks):
            x = jnp.concatenate([ops.resize(x, skip.shape[1:-1]), skip], axis=-1)
            for layer in block:
                x = layer(x, context)
        return x


class FPNDecoder(nnx.Module):
    """Feature pyramid network (Lin et al. 2017, arXiv 1612.03144): 1x1 laterals, top-down sums, 3x3 smoothing, concatenation.

    Args:
      channels: channels of the features, finest first.
      width: channels of every level.
      rank: number of spatial axes.
    """

    def __init__(self, channels: Sequence[int], *, width: int = 32, rank: int = 2, rngs: nnx.Rngs):
        self.laterals = nnx.List([Conv(c, width, 1, rank=rank, rngs=rngs) for c in channels])
        self.smooth = nnx.List([ConvNorm(width, width, 3, rank=rank, rngs=rngs) for _ in channels])
        self.channels = width

    def __call__(self, features: Sequence[Array], context: ForwardContext = EVAL) -> Array:
        size, total, x = features[0].shape[1:-1], None, None
        for feature, lateral, smooth in zip(features[::-1], self.laterals[::-1], self.smooth[::-1]):
            here = lateral(feature)
            x = here if x is None else here + ops.resize(x, here.shape[1:-1])
            level = ops.resize(smooth(x, context), size)
            total = level if total is None else total + level
        return total


class MLPDecoder(nnx.Module):
    """MLP decoder as in SegFormer: a 1x1 for each feature, upsampling to the finest size, concatenation, another 1x1.

    Args:
      channels: channels of the features, finest first.
      width: channels of every branch and of the result.
      rank: number of spatial axes.
    """

    def __init__(self, channels: Sequence[int], *, width: int = 32, rank: int = 2, rngs: nnx.Rngs):
        self.branches = nnx.List([Conv(c, width, 1, rank=rank, rngs=rngs) for c in channels])
        self.fuse = ConvNorm(width * len(channels), width, 1, rank=rank, rngs=rngs)
        self.channels = width

    def __call__(self, features: Sequence[Array], context: ForwardContext = EVAL) -> Array:
        size = features[0].shape[1:-1]
        if context.taps:  # of layers that are called
            return self.fuse(joined(features, self.branches, size), context)
        return self.fuse.finish(fused(features, self.branches, self.fuse.conv, size), context)


DECODERS = {"unet": UNetDecoder, "fpn": FPNDecoder, "mlp": MLPDecoder}
