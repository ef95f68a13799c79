"""Self-attention, the pre-norm transformer layer for tokens [B, T, C], and attention between the patches of a map."""

import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from jaxseg import ops
from jaxseg.layers.activation import activation
from jaxseg.layers.context import EVAL, ForwardContext
from jaxseg.layers.conv import Linear
from jaxseg.layers.norm import LayerNorm
from jaxseg.layers.residual import Dropout
from jaxseg.ops import space
from jaxseg.types import Array


class SelfAttention(nnx.Module):
    """Multi-head attention of [B, T, C] with one joint projection for queries, keys and values."""

    def __init__(self, channels: int, heads: int, *, head_width: int | None = None, qkv_bias: bool = True, rngs: nnx.Rngs):
        if head_width is None and channels % heads:
            raise ValueError(f"got channels={channels}, heads={heads}; channels must be divisible by heads")
        self.heads = heads
        inner = heads * (head_width or channels // heads)
        self.qkv = Linear(channels, 3 * inner, bias=qkv_bias, rngs=rngs)
        self.proj = Linear(inner, channels, rngs=rngs)

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        q, k, v = rearrange(self.qkv(x), "b t (three heads d) -> three b t heads d", three=3, heads=self.heads)
        return self.proj(rearrange(space.over_queries(ops.attention, q, k, v), "b t heads d -> b t (heads d)"))


class TransformerLayer(nnx.Module):
    """Pre-norm transformer layer: x + attention(norm x), then x + fc2(act(fc1(norm x))); x [B, T, C].

    Args:
      ffn: hidden units of the feed-forward network.
      act: their activation.
      heads, head_width, qkv_bias: see `SelfAttention`.
      dropout: dropout of both branches before they are added to x.
      inner_dropout: dropout of the hidden units.
    """

    def __init__(
        self,
        channels: int,
        ffn: int,
        *,
        act: str = "silu",
        heads: int = 4,
        head_width: int | None = None,
        qkv_bias: bool = True,
        dropout: float = 0.0,
        inner_dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        self.act = act
        self.norm1 = LayerNorm(channels, rngs=rngs)
        self.attn = SelfAttention(channels, heads, head_width=head_width, qkv_bias=qkv_bias, rngs=rngs)
        self.norm2 = LayerNorm(channels, rngs=rngs)
        self.fc1, self.fc2 = Linear(channels, ffn, rngs=rngs), Linear(ffn, channels, rngs=rngs)
        self.drop1, self.drop2, self.drop3 = Dropout(dropout), Dropout(inner_dropout), Dropout(dropout)

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        x = x + self.drop1(self.attn(self.norm1(x)), context)
        y = self.drop2(activation(self.act)(self.fc1(self.norm2(x))), context)
        return x + self.drop3(self.fc2(y), context)


def patch_axes(rank: int) -> tuple[str, str, str]:
    """einops patterns for a map that is divided into patches: ("(x i) (y j)", "x y", "i j") for rank 2.

    x, y, z number the patches, i, j, k the positions inside a patch.
    """
    grid, inside = "xyz"[:rank], "ijk"[:rank]
    return " ".join(f"({g} {i})" for g, i in zip(grid, inside)), " ".join(grid), " ".join(inside)


def apply_to_unfolded_patches(x: Array, layers, patch: int, context: ForwardContext = EVAL, *, pad: bool = False) -> Array:
    """Apply transformer layers to a map [B, *S, C], between the positions at the same place in all patches (MobileViT).

    With patch 1 the layers connect all positions. A size that is not a multiple of `patch` is resized linearly to the next
    multiple and back afterwards; with `pad` it is zero-padded at its end instead (the zeros take part in the attention) and cut
    afterwards.
    """
    size = list(x.shape[1:-1])
    rank, whole = len(size), [-(-n // patch) * patch for n in size]
    y = x
    if whole != size:
        y = jnp.pad(x, ((0, 0), *((0, m - n) for n, m in zip(size, whole)), (0, 0))) if pad else ops.resize(x, whole)
    axes, grid, inside = patch_axes(rank)
    sides = dict.fromkeys("ijk"[:rank], patch)
    t = rearrange(y, f"b {axes} c -> (b {inside}) ({grid}) c", **sides)
    for layer in layers:
        t = layer(t, context)
    y = rearrange(t, f"(b {inside}) ({grid}) c -> b {axes} c", **sides, **{a: n // patch for a, n in zip("xyz", whole)})
    if whole == size:
        return y
    return y[:, *(slice(n) for n in size)] if pad else ops.resize(y, size)
