"""Depthwise convolution for CPUs: sums of shifted products, which XLA turns into vectorised loops.

XLA's own grouped convolution is 3 to 17 times slower than PyTorch's on a CPU (table.py). Here the forward pass

  y[p, c] = sum_t x[p + t, c] w[t, c]

is one fused loop over the taps t of a padded copy of x. An optimization barrier on the copy keeps XLA from computing the padding
again for every tap. The weight gradient

  dw[t, c] = sum_p x[p + t, c] g[p, c]

is a `lax.scan` over taps (a small program for any number of taps). Each step adds _SEGMENTS slabs of x * g, so that the remaining
sum over positions is short and is computed once for all taps. XLA's own sum over positions reads memory with a stride of C
numbers and is not vectorised.

Large 3-D kernels are faster as products of spectra: spectral.py.

Strides are treated as phases: x[s p + t] is entry p + t // s of the copy of x that has every s-th position from t % s on.
Sums are computed in float32 for all dtypes.
"""

import functools
import itertools
import math
from collections.abc import Iterable, Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.ops import devices
from jaxseg.ops.conv.spec import Ints, Spec, spread
from jaxseg.types import Array

_SEGMENTS = 8  # number of slabs along the first spatial axis that one step of a weight gradient adds
_UNROLL = 49  # above this number of taps a loop is used, with about as many taps per step
_FEW = 9  # up to this number of taps, and
_LARGE = 2**20  # from this number of numbers on, a weight gradient loops over rows instead of taps
_PARTIAL = 2**26  # bytes of partial sums that a weight gradient may keep


def forward(spec: Spec, x: Array, w: Array) -> Array:
    """[B, *S, C] and [*k, 1, m C] -> [B, *S', m C]."""
    kernel, channels = w.shape[:-2], w.shape[-1]
    out = spec.output(x.shape[1:-1], kernel)
    phases = lax.optimization_barrier(_phases(spec, repeated(x, channels), kernel, out))
    table, weights = _table(spec, kernel), w.reshape(-1, channels)
    size = (1, x.shape[0], *out, channels)

    def part(where, weight) -> Array:  # sum over the taps `where` [T, 1 + rank], `weight` [T, C]
        taps = (lax.broadcast_in_dim(_row(weight, t), size[1:], (len(size) - 2,)) for t in range(len(where)))
        return _sum(lax.mul(_slice(phases, where[t], size), tap) for t, tap in enumerate(taps))

    if len(table) <= _UNROLL:
        return part(table, weights).astype(x.dtype)
    # Whole rows of taps per step, with one pass over y for all of them (343 taps: 7 per step are 5 times slower than 49).
    rows = len(table) // kernel[-1]
    steps = -(-rows // max(_UNROLL // kernel[-1], 1))
    taps = -(-rows // steps) * kernel[-1]
    fill = ((0, steps * taps - len(table)), (0, 0))  # taps of weight 0
    lines = jnp.asarray(np.pad(table, fill).reshape(steps, taps, -1)), jnp.pad(weights, fill).reshape(steps, taps, channels)
    add = lambda y, line: (y + part(*line), None)
    return lax.scan(add, devices.varying(jnp.zeros(size[1:], jnp.float32), x, w), lines)[0].astype(x.dtype)


def input_gradient(spec: Spec, size: Sequence[int], g: Array, w: Array) -> Array:
    """Gradient of an input of spatial `size`: the convolution of g, with zeros between its entries, by the flipped kernel."""
    kernel = w.shape[:-2]
    back = spec.backward(size, kernel)._replace(groups=w.shape[-1])
    dx = forward(back, spread(g, spec.stride), jnp.flip(w, range(len(kernel))))
    return dx if w.shape[-1] == spec.groups else dx.reshape(*dx.shape[:-1], spec.groups, -1).sum(-1)


def weight_gradient(spec: Spec, kernel: Sequence[int], x: Array, g: Array) -> Array:
    """Gradient [*k, 1, m C] of the weights."""
    batch, *out, channels = g.shape
    segments = min(_SEGMENTS, out[0])
    slab = -(-out[0] // segments)
    fill = slab * segments - out[0]
    phases = _phases(spec, repeated(x, channels), kernel, (out[0] + fill, *out[1:]))
    # The last spatial axis and the channels are merged for longer vector loops; a tap is still one offset.
    phases = lax.optimization_barrier(phases.reshape(*phases.shape[:-2], -1))  # [P, B, ..., W C]
    g = jnp.pad(g, ((0, 0), (0, fill), *[(0, 0)] * (g.ndim - 2))).reshape(batch, out[0] + fill, *out[1:-1], -1)
    table = _table(spec, kernel) * np.array([1] * len(kernel) + [channels])
    sums = _by_rows if len(table) <= _FEW and g.size >= _LARGE else _by_taps
    return sums(phases, g, table, segments, slab, channels).reshape(*kernel, 1, channels).astype(x.dtype)


def _by_taps(phases: Array, g: Array, table: np.ndarray, segments: int, slab: int, channels: int) -> Array:
    """The weight gradient [T, C] with one step per tap, which adds `segments` slabs of rows."""
    size = (1, g.shape[0], slab, *g.shape[2:])
    late = len(table) * math.prod(size) * 4 <= _PARTIAL

    def step(_, where) -> tuple[None, Array]:
        where = [lax.index_in_dim(where, i, keepdims=False) for i in range(where.shape[0])]
        part = _sum(_product(phases, g, where, r * slab, size) for r in range(segments))
        return None, part if late else part.reshape(-1, channels).sum(0)

    parts = lax.scan(step, None, jnp.asarray(table, jnp.int32))[1]
    return parts.reshape(len(table), -1, channels).sum(1) if late else parts


def _by_rows(phases: Array, g: Array, table: np.ndarray, segments: int, slab: int, channels: int) -> Array:
    """The weight gradient [T, C] with one step per `segments` rows, for all taps while these rows are in the cache."""
    size = (1, g.shape[0], 1, *g.shape[2:])

    def step(total, block) -> tuple[tuple[Array, ...], None]:
        rows = [block * segments + r for r in range(segments)]
        return tuple(t + _sum(_product(phases, g, where, r, size) for r in rows) for t, where in zip(total, table)), None

    zero = (devices.varying(jnp.zeros(size[1:], jnp.float32), phases, g),) * len(table)
    return jnp.stack([t.reshape(-1, channels).sum(0) for t in lax.scan(step, zero, jnp.arange(slab))[0]])


def _product(phases: Array, g: Array, where: Sequence, row, size: Ints) -> Array:
    """x[p + t] * g[p] over `size[2]` rows p from `row` on, t at `where` of the phases."""
    at = (where[0], 0, lax.add(where[1], row), *where[2:])
    here = _piece(g, (0, row, *[0] * (g.ndim - 2)), size[1:])
    return lax.mul(lax.squeeze(_piece(phases, at, size), (0,)), here)


def _phases(spec: Spec, x: Array, kernel: Sequence[int], out: Sequence[int]) -> Array:
    """[P, B, *L, C]: a copy of the padded x for each phase of the strides, L = out + the largest offset of a tap."""
    s, rank = spec.stride, len(kernel)
    length = [o + d * (k - 1) // v for o, k, d, v in zip(out, kernel, spec.dilation, s)]
    pads = [(lo, n * v - size - lo, 0) for n, v, size, (lo, _) in zip(length, s, x.shape[1:-1], spec.padding)]
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *pads, (0, 0, 0)))
    if spec.plain:
        return x[None]
    x = x.reshape(x.shape[0], *itertools.chain(*zip(length, s)), x.shape[-1])  # [B, L1, s1, L2, s2, ..., C]
    x = x.transpose(*range(2, 2 * rank + 1, 2), 0, *range(1, 2 * rank, 2), 2 * rank + 1)
    return x.reshape(-1, *x.shape[rank:])


def _table(spec: Spec, kernel: Sequence[int]) -> np.ndarray:
    """[taps, 1 + rank] int32: phase number and offset within it of every tap, in the kernel's order."""
    rows = []
    for tap in itertools.product(*map(range, kernel)):
        position = [t * d for t, d in zip(tap, spec.dilation)]
        phase = functools.reduce(lambda a, b: a * b[1] + b[0] % b[1], zip(position, spec.stride), 0)
        rows.append((phase, *(p // s for p, s in zip(position, spec.stride))))
    return np.array(rows, np.int32)


def _slice(phases: Array, where, size: Ints) -> Array:
    """float32 [*size[1:]] that starts at phase where[0], batch 0, offsets where[1:], channel 0."""
    if isinstance(where, np.ndarray):
        start = (int(where[0]), 0, *map(int, where[1:]), 0)
        found = lax.slice(phases, start, [a + n for a, n in zip(start, size)])
        return lax.squeeze(found, (0,)).astype(jnp.float32)
    first, *others = (lax.index_in_dim(where, i, keepdims=False) for i in range(where.shape[0]))
    return lax.squeeze(_piece(phases, (first, 0, *others, 0), size), (0,))


def _piece(array: Array, start: Sequence, size: Ints) -> Array:
    """float32 slice; no index is negative or reaches beyond the array, so that nothing is traced to mend them."""
    return lax.dynamic_slice(array, start, size, allow_negative_indices=False).astype(jnp.float32)


def _row(weight: Array, t: int) -> Array:
    return lax.squeeze(lax.slice_in_dim(weight, t, t + 1), (0,)).astype(jnp.float32)


def repeated(x: Array, channels: int) -> Array:
    """x with every channel repeated in place, so that there are `channels` of them."""
    return x if x.shape[-1] == channels else jnp.repeat(x, channels // x.shape[-1], axis=-1)


def _sum(terms: Iterable[Array]) -> Array:
    return functools.reduce(lax.add, terms)
