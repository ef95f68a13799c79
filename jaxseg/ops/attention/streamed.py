"""Attention that computes the score matrix block by block, so that it is never in memory as a whole.

The forward pass saves the log-sum-exp of each row, from which the backward pass recomputes the weights (Dao et al. 2022,
arXiv 2205.14135, without its loop over keys: a block has whole rows). On a CPU, where a pass over memory costs more than the
products, blocks that stay in the cache make Swin's windows of 343 positions three to five times faster; on other devices the
loop bounds the memory.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg.ops.attention import reference
from jaxseg.ops.devices import cotangent, per_device, varying
from jaxseg.types import Array


class Cut(NamedTuple):
    """Size of a block of the scores [B, heads, T, S]: several batch entries with all heads, or several heads, or rows of one."""

    entries: int
    heads: int
    rows: int


class Static(NamedTuple):
    """Static settings of a program: numbers in a block, factor of the scores, and kinds of addends."""

    block: int
    scale: float
    bias: bool
    regions: bool


def cut(b: int, h: int, t: int, s: int, block: int) -> Cut:
    """The size of blocks with at most `block` numbers, but at least one row."""
    if t * s > block:
        return Cut(1, 1, max(1, block // s))
    heads = _divisor(h, block // (t * s))
    return Cut(_divisor(b, block // (h * t * s)) if heads == h else 1, heads, t)


def _divisor(n: int, most: int) -> int:
    return next(d for d in range(max(1, min(n, most)), 0, -1) if n % d == 0)


def attention(q: Array, k: Array, v: Array, *, bias: Array | None, regions: Array | None, scale: float, block: int) -> Array:
    """softmax(scale q k' + bias) v, `block` numbers of the scores at a time; arguments as in `api.attention`."""
    b, t, h, _ = q.shape
    more = -t % cut(b, h, t, k.shape[1], block).rows
    grown = lambda a, axis: jnp.pad(a, [(0, more if i == axis else 0) for i in range(a.ndim)]) if more else a
    static = Static(block, scale, bias is not None, regions is not None)
    bias = jnp.zeros((1, 1, 1, 1), jnp.float32) if bias is None else grown(bias.astype(jnp.float32), 2)
    regions = jnp.zeros((b, 1), jnp.int32) if regions is None else jnp.tile(grown(regions, 1), (b // len(regions), 1))
    first = lambda a: jnp.swapaxes(a, 1, 2)  # [B, heads, T or S, d]
    return first(_attention(static, first(grown(q, 1)), first(k), first(v), bias, regions))[:, :t]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(static: Static, q: Array, k: Array, v: Array, bias: Array, regions: Array) -> Array:
    return _forward(static, q, k, v, bias, regions)[0]


def _forward(static, q, k, v, bias, regions):
    own = "b" if len(bias) > 1 else "w"
    out, total = per_device(functools.partial(_rows, static), f"bbb{own}b", "bb")(q, k, v, bias, regions)
    return out, (q, k, v, bias, regions, out, total)


def _backward(static, kept, grad):
    *arrays, out, total = kept
    own = "b" if len(arrays[3]) > 1 else "w"
    inner = jnp.sum(grad.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)  # [B, heads, T]
    run = per_device(functools.partial(_gradients, static), f"bbb{own}bbbb", f"bbb{'b' if own == 'b' else 's'}")
    return *map(cotangent, run(*arrays, grad, total, inner), arrays), None


_attention.defvjp(_forward, _backward)


class _Loop:
    """The loops over units (parts of the batch and heads) and over blocks of rows: positions of a block, and its scores."""

    def __init__(self, static: Static, q: Array, k: Array, bias: Array, regions: Array):
        self.static, self.bias, self.regions = static, bias, regions
        self.shape, self.keys = q.shape[:3], k.shape[2]
        self.cut = cut(*self.shape, self.keys, static.block)

    def fold(self, a: Array) -> Array:
        """[B, heads, ...] -> [units, entries, heads of a unit, ...]."""
        return a.reshape(-1, self.cut.entries, self.cut.heads, *a.shape[2:])

    def rows(self, a: Array) -> Array:
        """[B, heads, T, ...] -> [units, blocks, entries, heads of a unit, rows, ...]."""
        return jnp.moveaxis(self.fold(a.reshape(*a.shape[:2], -1, self.cut.rows, *a.shape[3:])), 3, 1)

    def whole(self, a: Array) -> Array:
        """The inverse of `rows`."""
        return jnp.moveaxis(a, 1, 3).reshape(*self.shape, *a.shape[5:])

    def place(self, unit: Array, block: Array) -> tuple[tuple, tuple]:
        """Where the bias [B or 1, heads or 1, T, S] of a block begins, and its size."""
        per = self.shape[1] // self.cut.heads
        each, every = (n > 1 for n in self.bias.shape[:2])
        return (
            (unit // per * self.cut.entries * each, unit % per * self.cut.heads * every, block * self.cut.rows, 0),
            (self.cut.entries if each else 1, self.cut.heads if every else 1, self.cut.rows, self.keys),
        )

    def scores(self, q: Array, k: Array, unit: Array, block: Array) -> Array:
        """[entries, heads, rows, S] in float32."""
        scores = jnp.einsum("bhtd,bhsd->bhts", q, k, preferred_element_type=jnp.float32) * self.static.scale
        if self.static.bias:
            scores += lax.dynamic_slice(self.bias, *self.place(unit, block))
        if self.static.regions:
            first = unit // (self.shape[1] // self.cut.heads) * self.cut.entries
            here = lax.dynamic_slice_in_dim(self.regions, first, self.cut.entries)
            rows = lax.dynamic_slice_in_dim(here, block * self.cut.rows, self.cut.rows, axis=1)
            scores += reference.apart(rows, here[:, : self.keys])[:, None]
        return scores


def _rows(static: Static, q, k, v, *addends) -> tuple[Array, Array]:
    """[B, heads, T, d], and log sum exp of the scores [B, heads, T]."""
    loop = _Loop(static, q, k, *addends)

    def unit(_, part):
        i, rows, k, v = part

        def block(_, part):
            j, q = part
            scores = loop.scores(q, k, i, j)
            most = jnp.max(scores, axis=-1, keepdims=True)
            weights = jnp.exp(scores - most)
            total = jnp.sum(weights, axis=-1, keepdims=True)
            out = jnp.einsum("bhts,bhsd->bhtd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
            return None, ((out / total).astype(v.dtype), (most + jnp.log(total))[..., 0])

        return lax.scan(block, None, (jnp.arange(len(rows)), rows))

    rows, k, v = loop.rows(q), loop.fold(k), loop.fold(v)
    out, total = lax.scan(unit, None, (jnp.arange(len(k)), rows, k, v))[1]
    return loop.whole(out), loop.whole(total)


def _gradients(static: Static, q, k, v, bias, regions, grad, total, inner) -> tuple[Array, ...]:
    """Gradients of q, k, v and the bias. `inner`: scalar product of each row's gradient and result."""
    loop = _Loop(static, q, k, bias, regions)
    dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    def unit(d_bias, part):
        i, rows, k, v = part

        def block(carry, part):
            d_k, d_v, d_bias = carry
            j, (q, grad, total, inner) = part
            weights = jnp.exp(loop.scores(q, k, i, j) - total[..., None])
            d_v += dot("bhts,bhtd->bhsd", weights.astype(v.dtype), grad)
            d_scores = weights * (dot("bhtd,bhsd->bhts", grad, v) - inner[..., None])
            if static.bias:
                at, size = loop.place(i, j)
                over = tuple(axis for axis in (0, 1) if bias.shape[axis] == 1)
                summed = jnp.sum(d_scores, axis=over, keepdims=True)
                d_bias = lax.dynamic_update_slice(d_bias, lax.dynamic_slice(d_bias, at, size) + summed, at)
            scaled = (d_scores * static.scale).astype(k.dtype)
            d_k += dot("bhts,bhtd->bhsd", scaled, q)
            return (d_k, d_v, d_bias), dot("bhts,bhsd->bhtd", scaled, k).astype(q.dtype)

        zeros = (jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32), d_bias)
        (d_k, d_v, d_bias), d_q = lax.scan(block, varying(zeros, q, k, v, grad, d_bias), (jnp.arange(len(rows[0])), rows))
        return d_bias, (d_q, d_k.astype(k.dtype), d_v.astype(v.dtype))

    rows = tuple(map(loop.rows, (q, grad, total, inner)))
    keys, values = loop.fold(k), loop.fold(v)
    d_bias, (d_q, d_k, d_v) = lax.scan(
        unit, varying(jnp.zeros_like(bias), q, k, v, bias, grad), (jnp.arange(len(keys)), rows, keys, values)
    )
    return loop.whole(d_q), d_k.reshape(k.shape), d_v.reshape(v.shape), d_bias
