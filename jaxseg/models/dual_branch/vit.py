"""The "ViT" blocks of the multi-branch networks: attention over all positions, or over patches of size 2."""

import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from jaxseg.layers.activation import activation
from jaxseg.layers.attention import SelfAttention, TransformerLayer, apply_to_unfolded_patches
from jaxseg.layers.blocks import ConvNorm, Sequential
from jaxseg.layers.context import EVAL, ForwardContext
from jaxseg.layers.conv import Conv, Linear
from jaxseg.layers.norm import BatchNorm, LayerNorm
from jaxseg.models.dual_branch.large_kernel import Transition
from jaxseg.types import Array


class GlobalViT(nnx.Module):
    """Attention between all positions: convolution, 1x1, one transformer layer, 1x1, residual, norm.

    The transformer layer uses one LayerNorm twice, and adds the attention to the normalised tokens:
    t = norm(t); t = t + attention(t); t = t + ffn(norm(t)).
    """

    def __init__(self, channels: int, *, heads: int = 4, ratio: int = 2, rank: int, rngs: nnx.Rngs):
        self.local = ConvNorm(channels, channels, 3, rank=rank, rngs=rngs)
        self.proj_in = Conv(channels, channels, 1, rank=rank, rngs=rngs)
        self.norm = LayerNorm(channels, rngs=rngs)
        self.attention = SelfAttention(channels, heads, rngs=rngs)
        self.fc1 = Linear(channels, channels * ratio, rngs=rngs)
        self.fc2 = Linear(channels * ratio, channels, rngs=rngs)
        self.proj_out = Conv(channels, channels, 1, rank=rank, rngs=rngs)
        self.last = BatchNorm(channels, rngs=rngs)

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        y = self.proj_in(self.local(x, context))
        t = self.norm(rearrange(y, "b ... c -> b (...) c"))
        t = t + self.attention(t)
        t = t + self.fc2(activation("gelu")(self.fc1(self.norm(t))))
        return self.last(self.proj_out(t.reshape(y.shape)) + x, context)


class PatchViT(nnx.Module):
    """Attention over patches of size 2: convolution, 1x1, two transformer layers, 1x1, concatenation with the input, fusion."""

    def __init__(self, channels: int, *, rank: int, rngs: nnx.Rngs):
        one = lambda a, k, act: ConvNorm(a, channels, k, rank=rank, act=act, rngs=rngs)
        self.local, self.proj_in = one(channels, 3, "relu"), one(channels, 1, "identity")
        self.layers = nnx.List([TransformerLayer(channels, 2 * channels, act="gelu", rngs=rngs) for _ in range(2)])
        self.proj_out, self.fuse = one(channels, 1, "identity"), one(2 * channels, 3, "relu")

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        y = apply_to_unfolded_patches(self.proj_in(self.local(x, context), context), self.layers, 2, context, pad=True)
        return self.fuse(jnp.concatenate([x, self.proj_out(y, context)], axis=-1), context)


class DownViT(Sequential):
    """Downsampling, then attention between all positions or, with `patches`, between equal positions of patches of size 2."""

    def __init__(self, cin: int, cout: int, *, patches: bool = False, rank: int, rngs: nnx.Rngs):
        vit = PatchViT if patches else GlobalViT
        super().__init__(Transition(cin, cout, rank=rank, rngs=rngs), vit(cout, rank=rank, rngs=rngs))
