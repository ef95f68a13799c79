"""Strip pairs on a GPU: 1 x k, k x 1 and the running sum in one Pallas kernel (Triton's dialect).

A program owns `lines` columns of the image for `width` channels and walks down the rows. At each row it loads the shifted
positions of its columns once for all pairs, forms each pair's 1 x k, and adds that into the `taps` accumulators of the
outputs that the k x 1 reaches: the intermediate of a pair is never stored, and pairs share accumulators because the result is
their sum. Floats per number: k loads, which caches serve from one read of memory, and 2 k multiply-adds a pair.

Why the pairs of 7 and 11 go together and 21 alone: all three need 78 weights a channel and 21 accumulators, more than the
registers hold; weights loaded at every row instead would outnumber the data four to one.
Compiled for an H100 by XLA of jax 0.11.2 on a host without GPU (2026-11-21); not yet run or timed on one.

Gradients: those of the plain composition, which computes the intermediates again; its strips take the GPU's depthwise kernels.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from jaxseg.ops.gpu_batch import over_batch
from jaxseg.ops.msca import reference
from jaxseg.types import Array

GROUPED = 40  # weights a channel that one kernel holds in registers
UNROLL = 2  # rows per turn of the loop: 4 took 6 s to compile at k = 21


class Plan(NamedTuple):
    """Static parts of one kernel: x [B, H, W, C], the pairs' sizes, the tile (lines x width) and rows per program."""

    shape: tuple[int, int, int, int]
    sizes: tuple[int, ...]
    lines: int
    width: int
    chunk: int
    unroll: int
    warps: int
    interpret: bool

    @property
    def blocks(self) -> tuple[int, int, int]:
        """Blocks of channels, of columns (of all images), of rows."""
        b, h, w, c = self.shape
        return pl.cdiv(c, self.width), pl.cdiv(b * w, self.lines), pl.cdiv(h, self.chunk)


def fits(shape: Sequence[int], strips) -> bool:
    """Pairs of the same odd size, at most 31, and arrays of fewer than 2^31 numbers."""
    same = all(row[0].shape[:2] == (1, k) and column[0].shape[:2] == (k, 1) and k % 2 and k <= 31
               for row, column in strips for k in [row[0].shape[1]])
    return same and len(shape) == 4 and math.prod(shape) + 2**24 < 2**31


def strip_sums(source: Array, total: Array, strips, *, interpret: bool = False, **tiles) -> Array:
    """`reference.strip_sums`; `tiles` overrides lines, width, chunk, unroll, warps of the plan."""
    groups, room = [], 0
    for pair in sorted(strips, key=lambda pair: pair[0][0].shape[1]):
        weights = 2 * pair[0][0].shape[1]
        if not groups or weights > room:
            groups, room = [*groups, []], GROUPED
        groups[-1].append(pair)
        room -= weights
    for group in groups:
        total = _sum((interpret, tuple(sorted(tiles.items()))), source, total, tuple(group))
    return total


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sum(static, source: Array, total: Array, strips) -> Array:
    sizes = tuple(row[0].shape[1] for row, _ in strips)
    wide = [array.astype(jnp.float32).reshape(-1, source.shape[-1]) for row, column in strips
            for array in (row[0], column[0], row[1])]
    bias = sum(column[1].astype(jnp.float32) for _, column in strips)
    packed = jnp.concatenate([*wide, bias[None]])  # per pair k + k + 1 rows; the columns' biases
    return _batched((sizes, *static), source, total, packed)[0]


def _sum_bwd(static, saved, g: Array):
    _, pull = jax.vjp(lambda source, strips: reference.strip_sums(source, jnp.zeros_like(source), strips), *saved)
    source, strips = pull(g)
    return source, g, strips


_sum.defvjp(lambda static, source, total, strips: (_sum(static, source, total, strips), (source, strips)), _sum_bwd)


def plan(shape: tuple[int, ...], sizes: tuple[int, ...], *, interpret: bool = False, **tiles) -> Plan:
    b, h, w, c = shape
    width = min(pl.next_power_of_2(c), 32 if c % 64 else 64)
    lines = min(256 // width, pl.next_power_of_2(b * w))
    return Plan(shape, sizes, lines, width, min(h, 64), UNROLL, max(1, lines * width // 64), interpret)._replace(**tiles)


def _run(static, source: Array, total: Array, packed: Array) -> tuple[Array]:
    sizes, interpret, tiles = static
    p = plan(source.shape, sizes, interpret=interpret, **dict(tiles))
    call = pl.pallas_call(functools.partial(_kernel, p=p), grid=(math.prod(p.blocks),), interpret=interpret,
                          out_shape=jax.ShapeDtypeStruct((source.size,), total.dtype),
                          name="strip_pairs_" + "_".join(map(str, sizes)),
                          compiler_params=triton.CompilerParams(num_warps=p.warps, num_stages=2))
    return (call(source.reshape(-1), total.reshape(-1), packed.reshape(-1)).reshape(source.shape),)


_batched = over_batch(_run, "bbw", "b")


def _kernel(x_ref, total_ref, w_ref, y_ref, *, p: Plan):
    b, h, w, c = p.shape
    program, most = pl.program_id(0), max(p.sizes)
    block, rest = program % p.blocks[0], program // p.blocks[0]
    start = (rest // p.blocks[1]) * p.chunk
    line = (rest % p.blocks[1]) * p.lines + lax.broadcasted_iota(jnp.int32, (p.lines, 1), 0)
    column = line % w
    channel = block * p.width + lax.broadcasted_iota(jnp.int32, (1, p.width), 1)
    inside = (line < b * w) & (channel < c)
    base = (line // w) * (h * w * c) + column * c + channel  # [lines, width], row 0
    load = lambda ref, offset, mask: triton.load(ref.at[offset], mask=mask, other=0).astype(jnp.float32)
    weight = lambda row: load(w_ref, row * c + channel, channel < c)
    pairs, row = [], 0
    for k in p.sizes:
        pairs.append(([weight(row + i) for i in range(k)], [weight(row + k + i) for i in range(k)], weight(row + 2 * k)))
        row += 2 * k + 1
    bias, reach = weight(row), most // 2

    def step(i, sums):
        q = start - reach + i  # row of the input
        exists = (q >= 0) & (q < h)
        lines = [0.0] * len(p.sizes)
        for shift in range(-reach, reach + 1):
            at = column + shift
            x = load(x_ref, base + (q * w + shift) * c, inside & exists & (at >= 0) & (at < w))
            lines = [line + x * rows[shift + k // 2] if abs(shift) <= k // 2 else line
                     for line, k, (rows, _, _) in zip(lines, p.sizes, pairs)]
        sums = list(sums)
        for k, line, (_, columns, offset) in zip(p.sizes, lines, pairs):
            line = jnp.where(exists, line + offset, 0.0)  # the k x 1 pads the intermediate with zeros, not with its bias
            for t in range(k):  # the output of row q + k // 2 - t; sums[j] is that of row q - reach + j
                sums[reach + k // 2 - t] = sums[reach + k // 2 - t] + line * columns[t]
        m = q - reach
        here, mask = base + m * (w * c), inside & (m >= start) & (m < start + p.chunk) & (m < h)
        triton.store(y_ref.at[here], (sums[0] + bias + load(total_ref, here, mask)).astype(y_ref.dtype), mask=mask)
        return (*sums[1:], jnp.zeros((p.lines, p.width), jnp.float32))

    def turn(i, sums):
        for u in range(p.unroll):
            sums = step(i * p.unroll + u, sums)
        return sums

    lax.fori_loop(0, pl.cdiv(p.chunk + 2 * reach, p.unroll), turn, (jnp.zeros((p.lines, p.width), jnp.float32),) * most)
