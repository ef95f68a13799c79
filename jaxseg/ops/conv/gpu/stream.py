"""Depthwise convolution on a GPU as a stream along one spatial axis: Pallas kernels for Triton.

A program computes `lines` lines of the output along the streamed axis, for `width` channels, step by step. Each step loads one
position of the input for each tap of the other axes ("cross taps"; one for a strip), adds it to `taps` float32 accumulators (one
for each output that it contributes to), and stores the finished output. A position is therefore loaded once per cross tap
instead of once per tap: a 1 x 21 strip reads its input once, a 7^3 kernel 49 times instead of 343 times, from caches. The weight
gradient works in the same way, with the last `taps` inputs in a ring buffer and `taps` accumulators; it stores one partial sum
per program, without atomics, so that every run gives the same bits.

Addresses are flat integer offsets with a mask, without slices or padding of the data, because Triton does not support slices of
values and needs sizes that are powers of two. Sums are in float32 for all dtypes.

All sizes are an argument of the kernel, and its grid is constant: each program does every GRID-th piece of the work. The code of
a kernel is therefore the same for all shapes and for both axes of a strip, and XLA compiles it once. With sizes as constants the
training step of SegNeXt-T had about seventy kernels with one to four seconds of compilation each.

The measurements in table.py were made with sizes as constants. Registers then (sm_90a, Triton 3.6, bfloat16, 128 threads; no
spills), forward / weight gradient: strips of 7 72 / 96, 11 117 / 125, 21 108 / 114; 3^3 168 / 46, 5^3 59 / 64, 7^3 80 / 70.

Differs from the usual method (a tile of outputs, one load per tap), which is limited by the load units from about 15 taps on.
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

HELD = 27  # up to this number of taps weights stay in registers; more are loaded again at every step
TILE = 512  # numbers per program at up to 11 taps, half of it above: 4 or 2 in each of 128 threads
WRITTEN = 7  # taps of the last cross axis that are written out; more are looped over
LOADS = 64  # loads written out per turn of a loop: Triton took 59 s to compile 392 (7x7), 2 s to compile 50
GRID = 1056  # programs: 8 for each of 132 processors
PARTIALS = 528  # parts of the lines of a weight gradient, about, over all blocks of channels and cross taps


class Axis(NamedTuple):
    """One spatial axis: input and output positions, padding, dilation, and numbers from one position to the next in both
    arrays. Integers, or scalars in a kernel."""

    size: int | Array
    out: int | Array
    low: int | Array
    dilation: int | Array
    x_step: int | Array
    y_step: int | Array


class Kernel(NamedTuple):
    """The constants of a kernel: taps, tile, and options for Triton's compiler.

    Attributes:
      taps: number of taps along the streamed axis.
      cross: number of taps along each of the other axes.
      still: for each other axis whether it has one tap, no padding and as many outputs as inputs, so that it needs no checks.
      dilated: whether the streamed axis is dilated, which gives `dilation` interleaved streams.
      lines, width: tile of one program, lines x channels, powers of two.
      unroll: number of unrolled steps per iteration of the loop; with `taps` steps no register has to be moved.
    """

    taps: int
    cross: tuple[int, ...]
    still: tuple[bool, ...]
    dilated: bool
    lines: int
    width: int
    unroll: int
    warps: int
    stages: int
    grid: int
    interpret: bool

    @property
    def cross_taps(self) -> int:
        return math.prod(self.cross)

    @property
    def held(self) -> bool:
        return self.taps * self.cross_taps <= HELD


class Sizes(NamedTuple):
    """The sizes that depend on the shape: integers, or scalars in a kernel.

    Attributes:
      channels: C. count: lines of the output.
      chunk: outputs along the stream per piece of work.
      blocks: of channels, of lines and of the stream.
      shares: parts among which the lines are dealt out, per block of channels and cross tap, in a weight gradient.
      stream, cross: the axes.
    """

    channels: int | Array
    count: int | Array
    chunk: int | Array
    blocks: tuple
    shares: int | Array
    stream: Axis
    cross: tuple[Axis, ...]


class Plan(NamedTuple):
    """A kernel, the sizes for its call, and the sizes of its results."""

    kernel: Kernel
    sizes: Sizes
    out: int


def streamed(kernel: tuple[int, ...]) -> int:
    """The streamed axis: the one with the most taps (the last of several)."""
    return max(range(len(kernel)), key=lambda i: (kernel[i], i))


def width(channels: int) -> int:
    """Number of channels of one program: a power of two that leaves few channels of the last program unused."""
    return min(pl.next_power_of_2(channels), 32 if channels % 64 else 64)


def plan(spec: Spec, x_shape: tuple[int, ...], kernel: tuple[int, ...], *, interpret: bool = False, **tiles) -> Plan:
    """Kernel and sizes for x [B, *S, C] and *k taps; `tiles` overrides lines, width, chunk, unroll, warps, stages, grid."""
    batch, *size, channels = x_shape
    out = spec.output(size, kernel)
    steps = lambda n: [channels * math.prod(n[i + 1 :]) for i in range(len(n))]
    axes = [
        Axis(n, o, lo, d, xs, ys)
        for n, o, (lo, _), d, xs, ys in zip(size, out, spec.padding, spec.dilation, steps(size), steps(out))
    ]
    i = streamed(kernel)
    stream, cross, taps, others = axes[i], (*axes[:i], *axes[i + 1 :]), kernel[i], (*kernel[:i], *kernel[i + 1 :])
    still = tuple(k == 1 and a.low == 0 and a.out == a.size for k, a in zip(others, cross))
    block = tiles.get("width", width(channels))
    written = others[-1] if others and others[-1] <= WRITTEN else 1
    loads = math.prod(others) if math.prod(kernel) <= HELD else written * (1 + taps)
    length, count = pl.cdiv(stream.out, stream.dilation), batch * math.prod(a.out for a in cross) * stream.dilation
    lines = tiles.get("lines", (TILE if taps <= 11 else TILE // 2) // block)
    chunk = min(128, length)
    blocks = lambda: (pl.cdiv(channels, block), pl.cdiv(count, lines), pl.cdiv(length, chunk))
    while math.prod(blocks()) < GRID // 2 and chunk >= max(32, 4 * taps):
        chunk = pl.cdiv(chunk, 2)
    chunk = tiles.get("chunk", chunk)
    parts, cells = blocks(), pl.cdiv(channels, block) * math.prod(others)
    text = Kernel(
        taps,
        others,
        still,
        stream.dilation > 1,
        lines,
        block,
        max(1, min(taps, 7, LOADS // loads)),
        max(1, min(4, lines * block // 64)),
        2,
        GRID,
        interpret,
    )
    text = text._replace(**{k: v for k, v in tiles.items() if k in ("unroll", "warps", "stages", "grid")})
    sizes = Sizes(channels, count, chunk, parts, min(parts[1] * parts[2], max(PARTIALS // cells, 8)), stream, cross)
    return Plan(text, sizes, batch * channels * math.prod(out))


def correlate(p: Plan, x: Array, w: Array) -> Array:
    """Output, flat, of x [B, *S, C] and weights [cross taps, stream taps, C], in x's dtype."""
    return _call(_correlate, "depthwise", p, jax.ShapeDtypeStruct((p.out,), x.dtype), x, w)


def weights(p: Plan, x: Array, g: Array) -> Array:
    """Gradient float32 [cross taps, stream taps, C] of the weights from x [B, *S, C] and the output's gradient g."""
    shape = (p.sizes.shares, p.kernel.cross_taps, p.kernel.taps, p.sizes.channels)
    parts = _call(_weights, "depthwise_weights", p, jax.ShapeDtypeStruct((math.prod(shape),), jnp.float32), x, g)
    return parts.reshape(shape).sum(0)


def _call(body, name: str, p: Plan, out: jax.ShapeDtypeStruct, *arrays: Array) -> Array:
    # no array of numpy's: `custom_partitioning` takes no constants
    numbers = lax.concatenate([lax.full((1,), n, jnp.int32) for n in jax.tree.leaves(p.sizes)], 0)
    name = f"{name}_{p.kernel.cross_taps}x{p.kernel.taps}"
    return _kernel(body, name, p.kernel, out, numbers, *(a.reshape(-1) for a in arrays))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _kernel(body, name: str, k: Kernel, out: jax.ShapeDtypeStruct, *arrays: Array) -> Array:
    # Triton addresses whole arrays from the block's first number; a block of one, unlike the whole, has no size to be
    # written into the text. `body` is jitted so that all calls share one trace: the text holds the lines of who called.
    # Interpret mode knows no more of an array than its block, and no program's number inside of jit.
    first = pl.BlockSpec() if k.interpret else pl.BlockSpec((1,), lambda i: (0,))
    body = body.__wrapped__ if k.interpret else body
    return pl.pallas_call(
        functools.partial(body, k=k),
        grid=(k.grid,),
        out_shape=out,
        interpret=k.interpret,
        name=name,
        in_specs=[pl.BlockSpec(), *[first] * (len(arrays) - 1)],
        out_specs=first,
        compiler_params=triton.CompilerParams(num_warps=k.warps, num_stages=k.stages),
    )(*arrays)


def _sizes(k: Kernel, ref) -> Sizes:
    """The sizes that `_call` has laid into an array."""
    like = Sizes(0, 0, 0, (0, 0, 0), 0, Axis(*(0,) * 6), tuple(Axis(*(0,) * 6) for _ in k.cross))
    leaves, tree = jax.tree.flatten(like)
    return jax.tree.unflatten(tree, [ref[i] for i in range(len(leaves))])


def _pieces(k: Kernel, count: Array, one) -> None:
    """`one(number)` for every GRID-th of `count` pieces of work."""
    program = pl.program_id(0)

    def turn(i, carry):
        one(program + i * k.grid)
        return carry

    lax.fori_loop(0, (count - program + k.grid - 1) // k.grid, turn, jnp.int32(0))


class _Lines(NamedTuple):
    """Where a program's lines begin: offsets [lines, width] of input and output, and what masks need."""

    x: Array  # offset of stream position 0 in the input, all taps at 0 and low not yet subtracted along the stream
    y: Array
    inside: Array  # [lines, width] bool: a line and a channel that exist
    places: tuple[Array, ...]  # input coordinate of tap 0 along each cross axis, [lines, 1]
    phase: Array | int  # position of the line among `dilation` interleaved ones


def _lines(k: Kernel, s: Sizes, block: Array, channel: Array) -> _Lines:
    line = block * k.lines + lax.broadcasted_iota(jnp.int32, (k.lines, 1), 0)
    rest, phase = line, 0
    if k.dilated:
        rest, phase = rest // s.stream.dilation, rest % s.stream.dilation
    x, y, places = phase * s.stream.x_step, phase * s.stream.y_step, []
    x_all, y_all = s.channels * s.stream.size, s.channels * s.stream.out
    for axis in reversed(s.cross):
        rest, at = rest // axis.out, rest % axis.out
        places.insert(0, at - axis.low)
        x, y = x + (at - axis.low) * axis.x_step, y + at * axis.y_step
        x_all, y_all = x_all * axis.size, y_all * axis.out
    tile = lambda v: jnp.broadcast_to(v, (k.lines, k.width))
    return _Lines(
        tile(x + rest * x_all) + channel,
        tile(y + rest * y_all) + channel,
        tile(line < s.count) & (channel < s.channels),
        tuple(places),
        phase,
    )


def _at(k: Kernel, s: Sizes, lines: _Lines, ref, q: Array, cross: tuple) -> Array:
    """Input tile [lines, width] in float32 at stream step q (input position phase + dilation q - low), 0 outside."""
    position = s.stream.dilation * q - s.stream.low
    seen = (position + lines.phase >= 0) & (position + lines.phase < s.stream.size)
    offset = position * s.stream.x_step
    for axis, still, tap, place in zip(s.cross, k.still, cross, lines.places):
        if still:
            continue
        offset = offset + tap * (axis.dilation * axis.x_step)
        at = place + tap * axis.dilation
        seen = seen & (at >= 0) & (at < axis.size)
    return triton.load(ref.at[lines.x + offset], mask=lines.inside & seen, other=0).astype(jnp.float32)


def _end(s: Sizes, lines: _Lines, start: Array, m: Array) -> tuple[Array, Array]:
    """Offsets of output m of each line, and which of them exist and are this piece's."""
    mine = (m >= start) & (m < start + s.chunk) & (s.stream.dilation * m + lines.phase < s.stream.out)
    return lines.y + m * (s.stream.dilation * s.stream.y_step), lines.inside & mine


def _channel(k: Kernel, block: Array) -> Array:
    return block * k.width + lax.broadcasted_iota(jnp.int32, (k.lines, k.width), 1)


def _walk(k: Kernel, s: Sizes, step, state: tuple) -> tuple:
    """`step(i, state)` for each of the chunk + taps - 1 positions, `unroll` of them per turn."""

    def turn(i, state):
        for u in range(k.unroll):
            state = step(i * k.unroll + u, state)
        return state

    return lax.fori_loop(0, (s.chunk + (k.taps - 1 + k.unroll - 1)) // k.unroll, turn, state)


@functools.partial(jax.jit, static_argnames="k")
def _correlate(sizes_ref, x_ref, w_ref, y_ref, *, k: Kernel):
    s, taps = _sizes(k, sizes_ref), k.taps

    def piece(number):
        block, rest = number % s.blocks[0], number // s.blocks[0]
        lines = _lines(k, s, rest % s.blocks[1], _channel(k, block))
        start = (rest // s.blocks[1]) * s.chunk
        row = block * k.width + lax.broadcasted_iota(jnp.int32, (1, k.width), 1)

        def weight(cross: Array | int, tap: int) -> Array:
            offset = (cross * taps + tap) * s.channels
            return triton.load(w_ref.at[row + offset], mask=row < s.channels, other=0).astype(jnp.float32)

        kept = [[weight(t, j) for j in range(taps)] for t in range(k.cross_taps)] if k.held else None

        def tap(q, number: Array | int, cross: tuple, sums: tuple) -> tuple:
            """One cross tap, `number` of them all, into all accumulators."""
            x = _at(k, s, lines, x_ref, q, cross)
            w = kept[number] if k.held else [weight(number, j) for j in range(taps)]
            return tuple(total + x * w[taps - 1 - j] for j, total in enumerate(sums))

        def last(q, first: Array | int, outer: tuple, sums: tuple) -> tuple:
            """All taps along the last cross axis; `first` is the number of the first one."""
            count = k.cross[-1]
            if not k.held and count > WRITTEN:
                return lax.fori_loop(0, count, lambda t, sums: tap(q, first + t, (*outer, t), sums), sums)
            for t in range(count):
                sums = tap(q, first + t, (*outer, t), sums)
            return sums

        def step(i, sums):
            q = start + i
            if not k.cross:
                sums = tap(q, 0, (), sums)
            elif len(k.cross) == 1:
                sums = last(q, 0, (), sums)
            elif k.held:
                for a in range(k.cross[0]):
                    sums = last(q, a * k.cross[1], (a,), sums)
            else:
                sums = lax.fori_loop(0, k.cross[0], lambda a, sums: last(q, a * k.cross[1], (a,), sums), sums)
            offset, mask = _end(s, lines, start, q - (taps - 1))
            triton.store(y_ref.at[offset], sums[0].astype(y_ref.dtype), mask=mask)
            return (*sums[1:], jnp.zeros_like(sums[0]))

        _walk(k, s, step, (jnp.zeros((k.lines, k.width), jnp.float32),) * taps)

    _pieces(k, s.blocks[0] * s.blocks[1] * s.blocks[2], piece)


@functools.partial(jax.jit, static_argnames="k")
def _weights(sizes_ref, x_ref, g_ref, o_ref, *, k: Kernel):
    s, taps = _sizes(k, sizes_ref), k.taps
    zero = jnp.zeros((k.lines, k.width), jnp.float32)

    def piece(which):
        block, rest = which % s.blocks[0], which // s.blocks[0]
        number, share = rest % k.cross_taps, rest // k.cross_taps
        channel, cross, left = _channel(k, block), [], number
        for count in reversed(k.cross):
            left, tap = left // count, left % count
            cross.insert(0, tap)

        def part(turn, sums):
            deal = turn * s.shares + share
            lines, start = _lines(k, s, deal // s.blocks[2], channel), (deal % s.blocks[2]) * s.chunk

            def step(i, state):
                ring, sums = state
                ring = (*ring[1:], _at(k, s, lines, x_ref, start + i, tuple(cross)))
                offset, mask = _end(s, lines, start, start + i - (taps - 1))
                g = triton.load(g_ref.at[offset], mask=mask, other=0).astype(jnp.float32)
                return ring, tuple(total + g * x for total, x in zip(sums, ring))

            return _walk(k, s, step, ((zero,) * taps, sums))[1]

        sums = lax.fori_loop(0, (s.blocks[1] * s.blocks[2] + s.shares - 1) // s.shares, part, (zero,) * taps)
        row = block * k.width + lax.broadcasted_iota(jnp.int32, (k.width,), 0)
        for j, total in enumerate(sums):
            offset = ((share * k.cross_taps + number) * taps + j) * s.channels
            triton.store(o_ref.at[row + offset], jnp.sum(total, axis=0), mask=row < s.channels)

    _pieces(k, s.blocks[0] * k.cross_taps * s.shares, piece)
