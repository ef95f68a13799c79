"""Depthwise convolution on a GPU as a stream along one spatial axis: Pallas kernels in Triton's dialect.

A program owns `lines` lines of the output that run along the streamed axis, for `channels` channels. It walks along them;
at every step it loads one position of the input per tap of the other axes ("cross taps"; one for a strip), adds it into
`taps` float32 accumulators, one for each output that it reaches, and stores the output that is finished. So a position is
loaded once per cross tap instead of once per tap: a 1 x 21 strip reads its input once, a 7^3 kernel 49 times instead
of 343, from caches. The gradient of the weights walks the same way with the last `taps` inputs in a ring and `taps`
accumulators, and stores one partial sum per program: no atomics, the same bits in every run.

Addresses are written as flat integer offsets with a mask (no slices, no padding of the data): Triton takes no slices of
values and sizes that are powers of two alone. Sums are in float32 whatever the arrays' dtype.

Compiled for sm_90a by Triton 3.6 and ptxas, on a host without GPU (2026-11-21, bfloat16, 128 threads), nothing spilt;
registers forward / weight gradient: strips of 7 72 / 96, 11 117 / 125, 21 108 / 114; 3x3 80 / 40, 5x5 168 / 70, 7x7 80 / 72;
3^3 168 / 46 (dilated 228 / 40), 5^3 59 / 64, 7^3 80 / 70. Not yet run or timed on a GPU.

Differs from the usual recipe (a tile of outputs, one load per tap): that one meets the load units' limit at about 15 taps.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from jaxseg.ops.conv.spec import Spec
from jaxseg.types import Array

HELD = 27  # weights of so many taps stay in registers; more are loaded again at every step
TILE = 512  # numbers per program at up to 11 taps, half of it above: 4 or 2 in each of 128 threads
WRITTEN = 7  # taps of the last cross axis that are written out; more are looped over
LOADS = 64  # loads written out per turn of a loop: Triton took 59 s to compile 392 (7x7), 2 s to compile 50
FILL = 1056  # programs that fill a large GPU: 8 for each of 132 processors
PARTIALS = 528  # programs of a weight gradient: each loops over its share of the lines


class Axis(NamedTuple):
    """One spatial axis: input and output positions, kernel, and elements from one position to the next in both arrays."""

    size: int
    out: int
    taps: int
    low: int
    dilation: int
    x_step: int
    y_step: int


class Plan(NamedTuple):
    """All that is static in a kernel: the axes, the tiles and how Triton compiles it.

    Attributes:
      batch, channels: B and C.
      stream: the axis that is walked along; cross: the others.
      lines, width: tile of one program, lines x channels, powers of two.
      chunk: outputs along the stream per program.
      unroll: steps written out per turn of the loop; `taps` of them leave no register moves.
    """

    batch: int
    channels: int
    stream: Axis
    cross: tuple[Axis, ...]
    lines: int
    width: int
    chunk: int
    unroll: int
    warps: int
    stages: int
    interpret: bool

    @property
    def cross_taps(self) -> int:
        return math.prod(a.taps for a in self.cross)

    @property
    def line_count(self) -> int:
        """Lines of the output; a dilated stream is `dilation` interleaved ones."""
        return self.batch * math.prod(a.out for a in self.cross) * self.stream.dilation

    @property
    def length(self) -> int:
        """Outputs of the longest line."""
        return pl.cdiv(self.stream.out, self.stream.dilation)

    @property
    def blocks(self) -> tuple[int, int, int]:
        """Blocks of channels, of lines and of the stream."""
        return (pl.cdiv(self.channels, self.width), pl.cdiv(self.line_count, self.lines), pl.cdiv(self.length, self.chunk))


def streamed(kernel: tuple[int, ...]) -> int:
    """The axis to walk along: the one with the most taps, the last of equals."""
    return max(range(len(kernel)), key=lambda i: (kernel[i], i))


def width(channels: int) -> int:
    """Channels of one program: a power of two, with few idle ones at the end."""
    return min(pl.next_power_of_2(channels), 32 if channels % 64 else 64)


def plan(spec: Spec, x_shape: tuple[int, ...], kernel: tuple[int, ...], *, interpret: bool = False, **tiles) -> Plan:
    """Axes and tiles for x [B, *S, C] and *k taps; `tiles` overrides any of lines, width, chunk, unroll, warps, stages."""
    batch, *size, channels = x_shape
    out = spec.output(size, kernel)
    steps = lambda n: [channels * math.prod(n[i + 1:]) for i in range(len(n))]
    axes = [Axis(n, o, k, lo, d, xs, ys) for n, o, k, (lo, _), d, xs, ys in
            zip(size, out, kernel, spec.padding, spec.dilation, steps(size), steps(out))]
    stream = streamed(kernel)
    cross = tuple(a for i, a in enumerate(axes) if i != stream)
    block = width(channels)
    taps, written = kernel[stream], cross[-1].taps if cross and cross[-1].taps <= WRITTEN else 1
    held = math.prod(kernel) <= HELD
    loads = math.prod(a.taps for a in cross) if held else written * (1 + taps)
    draft = Plan(batch, channels, axes[stream], cross, (TILE if taps <= 11 else TILE // 2) // block, block, 128,
                 max(1, min(taps, 7, LOADS // loads)), 4, 2, interpret)
    draft = draft._replace(lines=min(draft.lines, pl.next_power_of_2(draft.line_count)), chunk=min(128, draft.length))
    while math.prod(draft.blocks) < FILL and draft.chunk >= max(32, 4 * taps):
        draft = draft._replace(chunk=pl.cdiv(draft.chunk, 2))
    return draft._replace(warps=max(1, min(4, draft.lines * draft.width // 64)), **tiles)


def _call(kernel, name: str, p: Plan, programs: int, out):
    return pl.pallas_call(functools.partial(kernel, p=p), grid=(programs,), out_shape=out, interpret=p.interpret, name=name,
                          compiler_params=triton.CompilerParams(num_warps=p.warps, num_stages=p.stages))


@functools.partial(jax.jit, static_argnums=0)
def correlate(p: Plan, x: Array, w: Array) -> Array:
    """Output [B, *S', C] of x [B, *S, C] and weights [cross taps, stream taps, C], in x's dtype; flat arrays in and out."""
    size = p.batch * p.channels * p.stream.out * math.prod(a.out for a in p.cross)
    call = _call(_correlate, f"depthwise_{p.cross_taps}x{p.stream.taps}", p, math.prod(p.blocks),
                 jax.ShapeDtypeStruct((size,), x.dtype))
    return call(x.reshape(-1), w.reshape(-1))


@functools.partial(jax.jit, static_argnums=0)
def weights(p: Plan, x: Array, g: Array) -> Array:
    """Gradient float32 [cross taps, stream taps, C] of the weights from x [B, *S, C] and the output's gradient g."""
    shares = _shares(p)
    call = _call(_weights, f"depthwise_weights_{p.cross_taps}x{p.stream.taps}", p, p.blocks[0] * p.cross_taps * shares,
                 jax.ShapeDtypeStruct((shares * p.cross_taps * p.stream.taps * p.channels,), jnp.float32))
    return call(x.reshape(-1), g.reshape(-1)).reshape(shares, p.cross_taps, p.stream.taps, p.channels).sum(0)


def _shares(p: Plan) -> int:
    """Programs among which the lines are dealt out, per block of channels and cross tap."""
    return min(p.blocks[1] * p.blocks[2], max(PARTIALS // (p.blocks[0] * p.cross_taps), 8))


class _Lines(NamedTuple):
    """Where a program's lines begin: offsets [lines, width] of input and output, and what masks need."""

    x: Array  # offset of stream position 0 in the input, all taps at 0 and low not yet subtracted along the stream
    y: Array
    inside: Array  # [lines, width] bool: a line and a channel that exist
    places: tuple[Array, ...]  # input coordinate of tap 0 along each cross axis, [lines, 1]
    phase: Array | int  # position of the line among `dilation` interleaved ones


def _lines(p: Plan, block: Array, channel: Array) -> _Lines:
    line = block * p.lines + lax.broadcasted_iota(jnp.int32, (p.lines, 1), 0)
    rest, phase = line, 0
    if p.stream.dilation > 1:
        rest, phase = rest // p.stream.dilation, rest % p.stream.dilation
    x, y, places = phase * p.stream.x_step, phase * p.stream.y_step, []
    for axis in reversed(p.cross):
        rest, at = rest // axis.out, rest % axis.out
        places.insert(0, at - axis.low)
        x, y = x + (at - axis.low) * axis.x_step, y + at * axis.y_step
    axes = (p.stream, *p.cross)
    x = x + rest * (p.channels * math.prod(a.size for a in axes))
    y = y + rest * (p.channels * math.prod(a.out for a in axes))
    tile = lambda v: jnp.broadcast_to(v, (p.lines, p.width))
    return _Lines(tile(x) + channel, tile(y) + channel,
                  tile(line < p.line_count) & (channel < p.channels), tuple(places), phase)


def _at(p: Plan, lines: _Lines, ref, q: Array, cross: tuple) -> Array:
    """Input tile [lines, width] in float32 at stream step q (input position phase + dilation q - low), 0 outside."""
    s = p.stream
    position = s.dilation * q - s.low
    seen = (position + lines.phase >= 0) & (position + lines.phase < s.size)
    offset = position * s.x_step
    for axis, tap, place in zip(p.cross, cross, lines.places):
        offset = offset + tap * (axis.dilation * axis.x_step)
        if axis.taps > 1 or axis.low or axis.out != axis.size:
            at = place + tap * axis.dilation
            seen = seen & (at >= 0) & (at < axis.size)
    return triton.load(ref.at[lines.x + offset], mask=lines.inside & seen, other=0).astype(jnp.float32)


def _end(p: Plan, lines: _Lines, start: Array, m: Array) -> tuple[Array, Array]:
    """Offsets of output m of each line, and which of them exist and are this program's."""
    s = p.stream
    mine = (m >= start) & (m < start + p.chunk) & (s.dilation * m + lines.phase < s.out)
    return lines.y + m * (s.dilation * s.y_step), lines.inside & mine


def _channel(p: Plan, block: Array) -> Array:
    return block * p.width + lax.broadcasted_iota(jnp.int32, (p.lines, p.width), 1)


def _walk(p: Plan, step, state: tuple) -> tuple:
    """`step(i, state)` for each of the chunk + taps - 1 positions, `unroll` of them per turn."""
    def turn(i, state):
        for u in range(p.unroll):
            state = step(i * p.unroll + u, state)
        return state
    return lax.fori_loop(0, pl.cdiv(p.chunk + p.stream.taps - 1, p.unroll), turn, state)


def _correlate(x_ref, w_ref, y_ref, *, p: Plan):
    taps, program = p.stream.taps, pl.program_id(0)
    block, rest = program % p.blocks[0], program // p.blocks[0]
    channel = _channel(p, block)
    lines, start = _lines(p, rest % p.blocks[1], channel), (rest // p.blocks[1]) * p.chunk
    row = block * p.width + lax.broadcasted_iota(jnp.int32, (1, p.width), 1)

    def weight(cross: Array | int, tap: int) -> Array:
        offset = (cross * taps + tap) * p.channels
        return triton.load(w_ref.at[row + offset], mask=row < p.channels, other=0).astype(jnp.float32)

    held = p.cross_taps * taps <= HELD
    kept = [[weight(t, k) for k in range(taps)] for t in range(p.cross_taps)] if held else None

    def tap(q, number: Array | int, cross: tuple, sums: tuple) -> tuple:
        """One cross tap, `number` of them all, into all accumulators."""
        x = _at(p, lines, x_ref, q, cross)
        w = kept[number] if held else [weight(number, k) for k in range(taps)]
        return tuple(total + x * w[taps - 1 - j] for j, total in enumerate(sums))

    def last(q, first: Array | int, outer: tuple, sums: tuple) -> tuple:
        """The taps of the last cross axis; `first` is the number of the first of them."""
        count = p.cross[-1].taps
        if not held and count > WRITTEN:
            return lax.fori_loop(0, count, lambda t, s: tap(q, first + t, (*outer, t), s), sums)
        for t in range(count):
            sums = tap(q, first + t, (*outer, t), sums)
        return sums

    def step(i, sums):
        q = start + i
        if not p.cross:
            sums = tap(q, 0, (), sums)
        elif len(p.cross) == 1:
            sums = last(q, 0, (), sums)
        elif held:
            for a in range(p.cross[0].taps):
                sums = last(q, a * p.cross[1].taps, (a,), sums)
        else:
            sums = lax.fori_loop(0, p.cross[0].taps, lambda a, s: last(q, a * p.cross[1].taps, (a,), s), sums)
        offset, mask = _end(p, lines, start, q - (taps - 1))
        triton.store(y_ref.at[offset], sums[0].astype(y_ref.dtype), mask=mask)
        return (*sums[1:], jnp.zeros_like(sums[0]))

    _walk(p, step, (jnp.zeros((p.lines, p.width), jnp.float32),) * taps)


def _weights(x_ref, g_ref, o_ref, *, p: Plan):
    taps, program, shares = p.stream.taps, pl.program_id(0), _shares(p)
    block, rest = program % p.blocks[0], program // p.blocks[0]
    number, share = rest % p.cross_taps, rest // p.cross_taps
    channel, cross, left = _channel(p, block), [], number
    for axis in reversed(p.cross):
        left, tap = left // axis.taps, left % axis.taps
        cross.insert(0, tap)
    zero = jnp.zeros((p.lines, p.width), jnp.float32)

    def part(turn, sums):
        deal = turn * shares + share
        lines, start = _lines(p, deal // p.blocks[2], channel), (deal % p.blocks[2]) * p.chunk

        def step(i, state):
            ring, sums = state
            ring = (*ring[1:], _at(p, lines, x_ref, start + i, tuple(cross)))
            offset, mask = _end(p, lines, start, start + i - (taps - 1))
            g = triton.load(g_ref.at[offset], mask=mask, other=0).astype(jnp.float32)
            return ring, tuple(total + g * x for total, x in zip(sums, ring))

        return _walk(p, step, ((zero,) * taps, sums))[1]

    sums = lax.fori_loop(0, pl.cdiv(p.blocks[1] * p.blocks[2], shares), part, (zero,) * taps)
    row = block * p.width + lax.broadcasted_iota(jnp.int32, (p.width,), 0)
    for k, total in enumerate(sums):
        offset = ((share * p.cross_taps + number) * taps + k) * p.channels
        triton.store(o_ref.at[row + offset], jnp.sum(total, axis=0), mask=row < p.channels)
