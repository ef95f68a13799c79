"""Attention within shifted windows for any rank (Swin, arXiv 2103.14030), and the merging of neighbouring patches."""

import functools
import itertools

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from jaxseg import ops
from jaxseg.layers import initial
from jaxseg.layers.activation import activation
from jaxseg.layers.attention import patch_axes
from jaxseg.layers.context import EVAL, ForwardContext
from jaxseg.layers.conv import Linear
from jaxseg.layers.norm import LayerNorm
from jaxseg.ops import space
from jaxseg.types import Array, ConfigError

# MONAI's orders of the eight sub-grids, as offsets along D, H, W; before 1.5 it used two of them twice and two not at all
_V2 = tuple(itertools.product((0, 1), repeat=3))
_MERGING = tuple(_V2[i] for i in (0, 4, 2, 1, 6, 5, 3, 7))
_LEGACY = tuple(_V2[i] for i in (0, 4, 2, 1, 5, 2, 1, 7))
ORDERS = {"merging": _MERGING, "mergingv2": _V2, "legacy": _LEGACY}


@functools.cache
def relative_index(window: int, rank: int) -> np.ndarray:
    """Row of the bias table for each pair of positions in a full window, integers [n, n] with n = window^rank."""
    grid = np.stack(np.meshgrid(*(np.arange(window),) * rank, indexing="ij")).reshape(rank, -1)  # [rank, n]
    delta = grid[:, :, None] - grid[:, None, :] + window - 1
    strides = [(2 * window - 1) ** (rank - 1 - i) for i in range(rank)]
    return sum(d * s for d, s in zip(delta, strides))


@functools.cache
def shift_regions(size: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]) -> np.ndarray:
    """Region numbers [windows, n] in shifted windows; only positions with the same number attend to each other.

    After the cyclic shift a window contains parts from opposite borders of the image; positions of one part have one number.
    `size` is the padded size.
    """
    region = np.zeros(size, np.int32)
    for axis, (n, w, s) in enumerate(zip(size, window, shift)):
        line = np.zeros(n, np.int32)
        line[n - w :] = 1
        line[n - s if s else n :] = 2
        region = region * 3 + line.reshape([-1 if a == axis else 1 for a in range(len(size))])
    return partition(region[None, ..., None], window)[..., 0]


def partition(x: Array, window: tuple[int, ...]) -> Array:
    """Divide [B, *S, C] into windows [B * windows, n, C]; the windows of one image are consecutive."""
    axes, grid, inside = patch_axes(len(window))
    return rearrange(x, f"b {axes} c -> (b {grid}) ({inside}) c", **dict(zip("ijk", window)))


def unpartition(x: Array, window: tuple[int, ...], size: tuple[int, ...]) -> Array:
    """The inverse of `partition`: [B * windows, n, C] -> [B, *size, C]."""
    axes, grid, inside = patch_axes(len(window))
    counts = {axis: n // w for axis, n, w in zip("xyz", size, window)}
    return rearrange(x, f"(b {grid}) ({inside}) c -> b {axes} c", **counts, **dict(zip("ijk", window)))


class WindowAttention(nnx.Module):
    """Multi-head attention of [B * windows, n, C] with a learned bias per relative position.

    A window that is clipped to a small image uses the first n rows and columns of the full window's index, as in MONAI.
    """

    def __init__(self, channels: int, heads: int, window: int, *, rank: int, rngs: nnx.Rngs):
        self.heads, self.window, self.rank = heads, window, rank
        self.relative_position_bias_table = nnx.Param(initial.truncated_normal(0.02)(rngs, ((2 * window - 1) ** rank, heads)))
        self.qkv = Linear(channels, 3 * channels, rngs=rngs)
        self.proj = Linear(channels, channels, rngs=rngs)

    def __call__(self, x: Array, regions: np.ndarray | None, windows: space.WindowShares) -> Array:
        n = x.shape[1]
        q, k, v = rearrange(self.qkv(x), "b n (three heads d) -> three b n heads d", three=3, heads=self.heads)
        index = relative_index(self.window, self.rank)[:n, :n]
        bias = rearrange(self.relative_position_bias_table[...][index], "n m heads -> 1 heads n m")
        y = windows.attend(ops.attention, q, k, v, bias, regions)
        return self.proj(rearrange(y, "b n heads d -> b n (heads d)"))


class WindowBlock(nnx.Module):
    """Swin block: x + window attention(norm x), then x + fc2(gelu(fc1(norm x))); `shifted`: windows shifted by half their size.

    After the norm the image is zero-padded at its ends to a multiple of the window; a shorter axis has one smaller window.
    """

    def __init__(self, channels: int, heads: int, window: int, *, shifted: bool, ratio: float = 4.0, rank: int, rngs: nnx.Rngs):
        self.window, self.shifted = window, shifted
        self.norm1 = LayerNorm(channels, rngs=rngs)
        self.attn = WindowAttention(channels, heads, window, rank=rank, rngs=rngs)
        self.norm2 = LayerNorm(channels, rngs=rngs)
        self.fc1 = Linear(channels, int(channels * ratio), rngs=rngs)
        self.fc2 = Linear(int(channels * ratio), channels, rngs=rngs)

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        x = x + self._attend(self.norm1(x))
        return x + self.fc2(activation("gelu")(self.fc1(self.norm2(x))))

    def _attend(self, x: Array) -> Array:
        size = x.shape[1:-1]
        window = tuple(min(n, self.window) for n in size)
        shift = tuple(self.window // 2 if self.shifted and n > self.window else 0 for n in size)
        x = jnp.pad(x, ((0, 0), *((0, -n % w) for n, w in zip(size, window)), (0, 0)))
        padded, axes = x.shape[1:-1], tuple(range(2, x.ndim - 1))
        windows = space.windows(x, window[0], shift[0])  # which shift along the first axis
        turned = lambda x, sign: jnp.roll(x, [sign * s for s in shift[1:]], axes) if any(shift[1:]) else x
        x = windows.cut(lambda x: partition(turned(x, -1), window), x)
        x = self.attn(x, shift_regions(padded, window, shift) if any(shift) else None, windows)
        own = (padded[0] // windows.parts, *padded[1:])
        x = windows.join(lambda x: turned(unpartition(x, window, own), 1), x)
        return x[(slice(None), *(slice(n) for n in size))]


class PatchMerging(nnx.Module):
    """Halve the size: concatenate eight neighbours, norm, linear 8 C -> 2 C without bias. `order`: a key of ORDERS."""

    def __init__(self, channels: int, *, order: str = "merging", rngs: nnx.Rngs):
        if order not in ORDERS:
            raise ConfigError(f"got merging={order!r}; must be one of {', '.join(map(repr, ORDERS))}")
        self.order = order
        self.norm = LayerNorm(8 * channels, rngs=rngs)
        self.reduction = Linear(8 * channels, 2 * channels, bias=False, rngs=rngs)

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        def neighbours(x: Array) -> Array:
            x = jnp.pad(x, ((0, 0), *((0, n % 2) for n in x.shape[1:-1]), (0, 0)))
            return jnp.concatenate([x[:, d::2, h::2, w::2] for d, h, w in ORDERS[self.order]], axis=-1)

        return self.reduction(self.norm(space.by_windows(neighbours, x, 2)))
