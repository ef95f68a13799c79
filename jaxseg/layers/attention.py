"""Self-attention and the pre-norm transformer layer, over tokens [B, T, C]."""

import jax.numpy as jnp
from flax import nnx

from jaxseg import ops
from jaxseg.layers.activation import activation
from jaxseg.layers.conv import Linear
from jaxseg.layers.norm import LayerNorm
from jaxseg.layers.residual import Dropout
from jaxseg.layers.run import EVAL, Run
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

    def __call__(self, x: Array, run: Run = EVAL) -> Array:
        b, t, _ = x.shape
        q, k, v = jnp.moveaxis(self.qkv(x).reshape(b, t, 3, self.heads, -1), 2, 0)  # [B, T, heads, d] each
        return self.proj(ops.attention(q, k, v).reshape(b, t, -1))


class TransformerLayer(nnx.Module):
    """Pre-norm transformer layer: x + attention(norm x), then x + fc2(act(fc1(norm x))); x [B, T, C].

    Args:
      ffn: hidden units of the second half; act: their activation.
      heads, head_width, qkv_bias: see `SelfAttention`.
      dropout: of what is added to x; inner_dropout: of the hidden units.
    """

    def __init__(self, channels: int, ffn: int, *, act: str = "silu", heads: int = 4, head_width: int | None = None,
                 qkv_bias: bool = True, dropout: float = 0.0, inner_dropout: float = 0.0, rngs: nnx.Rngs):
        self.act = act
        self.norm1 = LayerNorm(channels, rngs=rngs)
        self.attn = SelfAttention(channels, heads, head_width=head_width, qkv_bias=qkv_bias, rngs=rngs)
        self.norm2 = LayerNorm(channels, rngs=rngs)
        self.fc1, self.fc2 = Linear(channels, ffn, rngs=rngs), Linear(ffn, channels, rngs=rngs)
        self.drop1, self.drop2, self.drop3 = Dropout(dropout), Dropout(inner_dropout), Dropout(dropout)

    def __call__(self, x: Array, run: Run = EVAL) -> Array:
        x = x + self.drop1(self.attn(self.norm1(x)), run)
        y = self.drop2(activation(self.act)(self.fc1(self.norm2(x))), run)
        return x + self.drop3(self.fc2(y), run)
