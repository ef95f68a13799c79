"""Instance and group normalisation with activation on a GPU: Pallas kernels in Triton's dialect.

Forward: one pass for moments, one for the result: 2 reads, 1 write. Backward: one pass for the two sums, one for dx: 4 reads,
1 write; z is formed again from x. The moments are exact in one read: a program takes mean and squared deviation of a tile
that lies in its registers, and tiles are joined by Chan's formula (Chan, Golub and LeVeque 1983), so that nothing is lost
where |mean| >> std. Partial results per program are joined outside, in a fixed order.

With s1 = sum dz, s2 = sum dz (x - mean) per sample and channel, inv = 1 / sqrt(var + eps), n numbers per group:
  dx = weight inv dz - inv sum_group(weight s1) / n - (x - mean) inv^2 sum_group(weight inv s2) / n
Compiled for an H100 by XLA of jax 0.11.2 on a host without GPU (2026-11-21); not yet run or timed on one.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from jaxseg.ops.gpu_batch import over_batch
from jaxseg.ops.norm.api import ACTS
from jaxseg.types import Array

TILE = 1024  # numbers per tile: 8 in each of 128 threads
FILL = 1056  # programs that fill a large GPU


class Plan(NamedTuple):
    """x as [batch, positions, channels] in tiles of rows x width, `turns` tiles per program."""

    batch: int
    positions: int
    channels: int
    rows: int
    width: int
    turns: int
    act: str
    interpret: bool

    @property
    def chunk(self) -> int:
        return self.rows * self.turns

    @property
    def chunks(self) -> int:
        return pl.cdiv(self.positions, self.chunk)

    @property
    def blocks(self) -> int:
        return pl.cdiv(self.channels, self.width)


def plan(shape: Sequence[int], act: str, interpret: bool) -> Plan:
    batch, channels, positions = shape[0], shape[-1], math.prod(shape[1:-1])
    width = min(pl.next_power_of_2(channels), 32 if channels % 64 else 64)
    rows = min(TILE // width, pl.next_power_of_2(positions))
    tiles = pl.cdiv(positions, rows)
    turns = max(1, min(32, tiles * batch * pl.cdiv(channels, width) // FILL))
    return Plan(batch, positions, channels, rows, width, turns, act, interpret)


def fits(shape: Sequence[int]) -> bool:
    """Fewer than 2^31 numbers: offsets are int32."""
    return math.prod(shape) + 2**24 < 2**31


Static = tuple[int, float, str, bool]  # groups, eps, act, interpret


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def norm_act(static: Static, x: Array, weight: Array, bias: Array) -> Array:
    """act.norm_act with x's own statistics."""
    return _forward(static, x, weight, bias)[0]


def _forward(static: Static, x: Array, weight: Array, bias: Array):
    groups, eps, act, interpret = static
    mean, square = _moments((act, interpret), x)  # [B, chunks, C] each
    p = plan(x.shape, act, interpret)
    count = jnp.minimum(p.chunk, p.positions - p.chunk * jnp.arange(p.chunks, dtype=jnp.float32))[:, None]
    per = x.shape[-1] // groups
    mean, square, count = (a.reshape(*a.shape[:-1], -1, n) for a, n in ((mean, per), (square, per), (count, 1)))
    total = _spread(jnp.sum(count * mean, axis=(1, 3), keepdims=True) / (p.positions * per), per)
    around = jnp.sum(square + count * jnp.square(mean - total[:, None].reshape(x.shape[0], 1, groups, per)), axis=(1, 3),
                     keepdims=True)
    inverse = lax.rsqrt(_spread(around / (p.positions * per), per) + eps)
    stats = jnp.stack([total, weight * inverse, jnp.broadcast_to(bias, total.shape).astype(jnp.float32)], axis=1)
    y = _apply((act, interpret), x, stats)[0]
    return y, (x, stats, inverse, weight, bias)


def _spread(a: Array, per: int) -> Array:
    """[B, 1, G, 1] -> [B, C]: each group's value for all its channels."""
    return jnp.repeat(a[:, 0, :, 0], per, axis=-1)


def _backward(static: Static, saved, g: Array):
    groups, _, act, interpret = static
    x, stats, inverse, weight, bias = saved
    partial = _sums((act, interpret), x, g, stats)
    s1, s2 = (jnp.sum(a, axis=1) for a in partial)  # [B, C]
    per = x.shape[-1] // groups
    join = lambda a: _spread(a.reshape(len(a), 1, groups, per).sum(-1, keepdims=True), per)
    n = math.prod(x.shape[1:-1]) * per
    flat = -inverse * join(weight * s1) / n
    slope = -jnp.square(inverse) * join(weight * inverse * s2) / n
    dx = _input((act, interpret), x, g, stats, jnp.stack([flat, slope], axis=1))[0]
    return dx, jnp.sum(inverse * s2, axis=0).astype(weight.dtype), jnp.sum(s1, axis=0).astype(bias.dtype)


norm_act.defvjp(_forward, _backward)


class _Tile(NamedTuple):
    """What a kernel's body sees: loads and stores of tile `turn`, per-channel rows, the number of valid positions."""

    load: Callable
    store: Callable
    row: Callable
    mask: Callable
    valid: Callable


def _tiles(p: Plan) -> tuple[_Tile, Callable]:
    program = pl.program_id(0)
    block, rest = program % p.blocks, program // p.blocks
    chunk, sample = rest % p.chunks, rest // p.chunks
    channel = block * p.width + lax.broadcasted_iota(jnp.int32, (1, p.width), 1)
    here = lambda turn: chunk * p.chunk + turn * p.rows + lax.broadcasted_iota(jnp.int32, (p.rows, 1), 0)
    mask = lambda turn: (here(turn) < p.positions) & (channel < p.channels)
    offset = lambda turn: (sample * p.positions + here(turn)) * p.channels + channel
    load = lambda ref, turn: triton.load(ref.at[offset(turn)], mask=mask(turn), other=0).astype(jnp.float32)

    def store(ref, turn, value):
        triton.store(ref.at[offset(turn)], value.astype(ref.dtype), mask=mask(turn))

    row = lambda ref, i, n: triton.load(ref.at[(sample * n + i) * p.channels + channel], mask=channel < p.channels, other=0)
    valid = lambda turn: jnp.clip(p.positions - chunk * p.chunk - turn * p.rows, 0, p.rows).astype(jnp.float32)

    def finish(ref, value):  # [width] into [B, chunks, C]
        at = block * p.width + lax.broadcasted_iota(jnp.int32, (p.width,), 0)
        triton.store(ref.at[(sample * p.chunks + chunk) * p.channels + at], value, mask=at < p.channels)

    return _Tile(load, store, row, mask, valid), finish


def _moments_kernel(x_ref, mean_ref, square_ref, *, p: Plan):
    tile, finish = _tiles(p)

    def turn(i, state):
        count, mean, square = state
        x, n = tile.load(x_ref, i), tile.valid(i)
        own = jnp.sum(x, axis=0) / jnp.maximum(n, 1)
        around = jnp.where(tile.mask(i), x - own[None], 0.0)
        delta, whole = own - mean, jnp.maximum(count + n, 1)
        return count + n, mean + delta * (n / whole), square + jnp.sum(around * around, 0) + delta * delta * (count * n / whole)

    zero = jnp.zeros((p.width,), jnp.float32)
    _, mean, square = lax.fori_loop(0, p.turns, turn, (jnp.float32(0), zero, zero))
    finish(mean_ref, mean)
    finish(square_ref, square)


def _apply_kernel(x_ref, stats_ref, y_ref, *, p: Plan):
    tile, _ = _tiles(p)
    mean, scale, bias = (tile.row(stats_ref, i, 3) for i in range(3))

    def turn(i, _):
        tile.store(y_ref, i, ACTS[p.act].value((tile.load(x_ref, i) - mean) * scale + bias))
        return 0

    lax.fori_loop(0, p.turns, turn, 0)


def _sums_kernel(x_ref, g_ref, stats_ref, first_ref, second_ref, *, p: Plan):
    tile, finish = _tiles(p)
    mean, scale, bias = (tile.row(stats_ref, i, 3) for i in range(3))

    def turn(i, state):
        centred = tile.load(x_ref, i) - mean
        dz = ACTS[p.act].pull(centred * scale + bias, tile.load(g_ref, i))
        return state[0] + jnp.sum(dz, axis=0), state[1] + jnp.sum(dz * centred, axis=0)

    zero = jnp.zeros((p.width,), jnp.float32)
    first, second = lax.fori_loop(0, p.turns, turn, (zero, zero))
    finish(first_ref, first)
    finish(second_ref, second)


def _input_kernel(x_ref, g_ref, stats_ref, terms_ref, dx_ref, *, p: Plan):
    tile, _ = _tiles(p)
    mean, scale, bias = (tile.row(stats_ref, i, 3) for i in range(3))
    flat, slope = (tile.row(terms_ref, i, 2) for i in range(2))

    def turn(i, _):
        centred = tile.load(x_ref, i) - mean
        dz = ACTS[p.act].pull(centred * scale + bias, tile.load(g_ref, i))
        tile.store(dx_ref, i, scale * dz + flat + slope * centred)
        return 0

    lax.fori_loop(0, p.turns, turn, 0)


def _call(kernel, results: int, static: tuple[str, bool], *arrays: Array) -> tuple[Array, ...]:
    """Run `kernel` over x = arrays[0]: `results` partial arrays [B, chunks, C] in float32, or one like x for 0."""
    x = arrays[0]
    p = plan(x.shape, *static)
    partial = jax.ShapeDtypeStruct((p.batch * p.chunks * p.channels,), jnp.float32)
    outs = [partial] * results or [jax.ShapeDtypeStruct((x.size,), x.dtype)]
    call = pl.pallas_call(functools.partial(kernel, p=p), grid=(p.batch * p.chunks * p.blocks,), out_shape=outs,
                          interpret=p.interpret, name=kernel.__name__.strip("_"),
                          compiler_params=triton.CompilerParams(num_warps=4, num_stages=2))
    shape = (p.batch, p.chunks, p.channels) if results else x.shape
    return tuple(a.reshape(shape) for a in call(*(a.reshape(-1) for a in arrays)))


_moments = over_batch(functools.partial(_call, _moments_kernel, 2), "b", "bb")
_apply = over_batch(functools.partial(_call, _apply_kernel, 0), "bb", "b")
_sums = over_batch(functools.partial(_call, _sums_kernel, 2), "bbb", "bb")
_input = over_batch(functools.partial(_call, _input_kernel, 0), "bbbb", "b")
