"""Blocks of MobileNetV2 (arXiv 1801.04381), MobileViT (arXiv 2110.02178) and GhostNet (arXiv 1911.11907), for any rank."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxseg import ops
from jaxseg.layers.activation import activation
from jaxseg.layers.conv import Conv, Linear
from jaxseg.layers.large_kernel import Transition
from jaxseg.layers.norm import BatchNorm, LayerNorm
from jaxseg.layers.run import EVAL, Run
from jaxseg.layers.volume import ConvNorm, Sequence
from jaxseg.types import Array


class ChannelAttention(nnx.Module):
    """x times sigmoid(f(mean x) + f(max x)) over space; f: C -> C / reduction -> C with ReLU, no biases (CBAM's first half).

    With fewer channels than `reduction` nothing is left between, f is 0 and the gate 1/2, as in the source.
    """

    def __init__(self, channels: int, reduction: int, *, rngs: nnx.Rngs):
        inner = channels // reduction
        self.fc1 = Linear(channels, inner, bias=False, rngs=rngs) if inner else None
        self.fc2 = Linear(inner, channels, bias=False, rngs=rngs) if inner else None

    def __call__(self, x: Array, run: Run = EVAL) -> Array:
        if self.fc1 is None:
            return x * 0.5
        space = tuple(range(1, x.ndim - 1))
        f = lambda v: self.fc2(jax.nn.relu(self.fc1(v)))
        return x * jax.nn.sigmoid(f(x.mean(space, keepdims=True)) + f(x.max(space, keepdims=True)))


class InvertedResidual(nnx.Module):
    """1x1 to `hidden` (left out when cin is that), depthwise convolutions, 1x1 to cout; the input added where shapes allow.

    Args:
      hidden: channels between.
      rates: dilations of the depthwise convolutions of kernel 3, one after the other; `stride` is the first one's.
      act: activation after all but the last norm.
      reduction: of a channel attention before the last 1x1; 0: none.
    """

    def __init__(self, cin: int, cout: int, hidden: int, *, stride: int = 1, rates: tuple[int, ...] = (1,), act: str = "relu6",
                 reduction: int = 0, rank: int, rngs: nnx.Rngs):
        self.expand = ConvNorm(cin, hidden, 1, rank=rank, act=act, rngs=rngs) if hidden != cin else None
        self.depthwise = Sequence(*(ConvNorm(hidden, hidden, 3, rank=rank, stride=1 if i else stride, dilation=rate,
                                             groups=hidden, act=act, rngs=rngs) for i, rate in enumerate(rates)))
        self.attention = ChannelAttention(hidden, reduction, rngs=rngs) if reduction else None
        self.project = ConvNorm(hidden, cout, 1, rank=rank, act="identity", rngs=rngs)
        self.shortcut = stride == 1 and cin == cout

    def __call__(self, x: Array, run: Run = EVAL) -> Array:
        y = x if self.expand is None else self.expand(x, run)
        y = self.depthwise(y, run)
        y = y if self.attention is None else self.attention(y)
        y = self.project(y, run)
        return x + y if self.shortcut else y


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


class GlobalViT(nnx.Module):
    """Attention of all positions with each other: convolution, 1x1, one transformer layer, 1x1, the input added, norm.

    One LayerNorm serves twice, and the attention is added to the normalised tokens:
    t = norm(t); t = t + attention(t); t = t + ffn(norm(t)).
    """

    def __init__(self, channels: int, *, heads: int = 4, ratio: int = 2, rank: int, rngs: nnx.Rngs):
        self.local = ConvNorm(channels, channels, 3, rank=rank, rngs=rngs)
        self.enter = Conv(channels, channels, 1, rank=rank, rngs=rngs)
        self.norm = LayerNorm(channels, rngs=rngs)
        self.attention = SelfAttention(channels, heads, rngs=rngs)
        self.fc1 = Linear(channels, channels * ratio, rngs=rngs)
        self.fc2 = Linear(channels * ratio, channels, rngs=rngs)
        self.leave = Conv(channels, channels, 1, rank=rank, rngs=rngs)
        self.last = BatchNorm(channels, rngs=rngs)

    def __call__(self, x: Array, run: Run = EVAL) -> Array:
        y = self.enter(self.local(x, run))
        t = self.norm(y.reshape(y.shape[0], -1, y.shape[-1]))  # [B, T, C]
        t = t + self.attention(t)
        t = t + self.fc2(activation("gelu")(self.fc1(self.norm(t))))
        return self.last(self.leave(t.reshape(y.shape)) + x, run)


class DownViT(Sequence):
    """Transition, then attention of all positions."""

    def __init__(self, cin: int, cout: int, *, rank: int, rngs: nnx.Rngs):
        super().__init__(Transition(cin, cout, rank=rank, rngs=rngs), GlobalViT(cout, rank=rank, rngs=rngs))


class GhostModule(nnx.Module):
    """Half of cout by a convolution of kernel 3, the other half by a depthwise one of those; ReLU after both norms."""

    def __init__(self, cin: int, cout: int, *, stride: int = 1, rank: int, rngs: nnx.Rngs):
        half = cout // 2
        self.primary = ConvNorm(cin, half, 3, rank=rank, stride=stride, rngs=rngs)
        self.cheap = ConvNorm(half, cout - half, 3, rank=rank, groups=half, rngs=rngs)

    def __call__(self, x: Array, run: Run = EVAL) -> Array:
        y = self.primary(x, run)
        return jnp.concatenate([y, self.cheap(y, run)], axis=-1)


class GhostBottleneck(nnx.Module):
    """Two ghost modules, cin -> cout / 2 -> cout, and a shortcut: the input, or at stride 2 a depthwise and a 1x1 convolution."""

    def __init__(self, cin: int, cout: int, *, stride: int = 1, rank: int, rngs: nnx.Rngs):
        self.first = GhostModule(cin, cout // 2, stride=stride, rank=rank, rngs=rngs)
        self.second = GhostModule(cout // 2, cout, rank=rank, rngs=rngs)
        self.same = stride == 1 and cin == cout
        self.shortcut = None if stride == 1 else Sequence(
            ConvNorm(cin, cin, 3, rank=rank, stride=stride, groups=cin, act="identity", rngs=rngs),
            ConvNorm(cin, cout, 1, rank=rank, act="identity", rngs=rngs))

    def __call__(self, x: Array, run: Run = EVAL) -> Array:
        y = self.second(self.first(x, run), run)
        if self.shortcut is not None:
            return y + self.shortcut(x, run)
        return x + y if self.same else y
