"""Time every hand-written GPU kernel and the attention against XLA's own programs, at real sizes.

`python -m jaxseg.bench.gpu.kernels [--only strip]` prints, on a GPU: the milliseconds of both, the kernel's memory bandwidth as a
fraction of that of a copy, and the largest difference in standard deviations of the reference. The rows of `ops.conv` are kept in
ops/conv/gpu/table.py. `python -m jaxseg.bench --suite=ops --peers` has the same rows, with each side in a separate process;
`python -m jaxseg.bench --gpu` runs this module in several parts.
"""

import argparse
import functools
import importlib
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.bench.gpu import lanes
from jaxseg.ops.conv.spec import Spec

Factory = Callable[
    [], Callable[[], jax.Array]
]  # creates arrays on the device and returns a function that does not wait for its result


class GpuRow(NamedTuple):
    """One measurement: factories of the kernel's and the reference implementation's call, bytes to move, float operations."""

    name: str
    ours: Factory
    plain: Factory
    bytes: int
    flops: int
    shifted: Factory | None = None  # a depthwise convolution as a sum of shifted products, left to XLA's fusions


STRIPS = (
    ((8, 128, 128, 256), (1, 7), 1),
    ((8, 128, 128, 256), (1, 11), 1),
    ((8, 128, 128, 256), (1, 21), 1),
    ((8, 128, 128, 256), (21, 1), 1),
    ((16, 40, 40, 320), (1, 21), 1),
)
WINDOWS = (
    ((8, 128, 128, 256), (3, 3), 1),
    ((8, 128, 128, 256), (5, 5), 1),
    ((8, 64, 64, 384), (7, 7), 1),
    ((2, 64, 64, 64, 64), (3, 3, 3), 1),
    ((2, 64, 64, 64, 64), (5, 5, 5), 2),
    ((2, 48, 48, 48, 48), (7, 7, 7), 1),
    ((1, 32, 32, 32, 64), (13, 13, 13), 1),
    ((8, 64, 64, 24), (5, 5), 1),
    ((8, 40, 40, 40), (3, 3), 1),
    ((8, 28, 28, 144), (5, 5), 1),
)
DIRECTIONS = ("forward", "input_gradient", "weight_gradient")
TILES = ({}, {"unroll": 1}, {"chunk": 128}, {"chunk": 32}, {"stages": 3})  # of strips of 21


def gpu_rows() -> list[GpuRow]:
    """All rows, bfloat16: depthwise convolutions in three directions, attention."""
    rows = []
    for shape, kernel, dilation in (*STRIPS, *WINDOWS):
        for direction in DIRECTIONS:
            rows.append(_conv(shape, kernel, dilation, direction, {}))
    rows += [_conv(*STRIPS[2], direction, tiles) for tiles in TILES[1:] for direction in ("forward", "weight_gradient")]
    return rows + [
        _attention(*sizes)
        for sizes in (
            (8, 16384, 256, 1, 32, False),
            (512, 343, 343, 3, 16, True),
            (256, 512, 512, 4, 32, True),
            (8, 512, 512, 12, 64, False),
        )
    ]


def _conv(shape, kernel, dilation: int, direction: str, tiles: dict[str, int]) -> GpuRow:
    channels, numbers, rank = shape[-1], math.prod(shape), len(kernel)
    spec = Spec((1,) * rank, tuple((dilation * (k - 1) // 2,) * 2 for k in kernel), (dilation,) * rank, channels)
    out = (shape[0], *spec.output(shape[1:-1], kernel), channels)
    static = {"forward": (), "input_gradient": (shape[1:-1],), "weight_gradient": (kernel,)}[direction]
    weights = (*kernel, 1, channels)
    shapes = {"forward": (shape, weights), "input_gradient": (out, weights), "weight_gradient": (shape, out)}[direction]
    title = f"depthwise {'x'.join(map(str, kernel))} {'x'.join(map(str, shape))}{f' dilation {dilation}' if dilation > 1 else ''}"
    extra = "".join(f" {k}={v}" for k, v in tiles.items())

    def make(module: str, **options) -> Callable[[], jax.Array]:
        lowerings = importlib.import_module(f"jaxseg.ops.conv.{module}")
        return _ready(functools.partial(getattr(lowerings, direction), spec, *static, **options), *shapes)

    def shifted() -> Callable[[], jax.Array]:
        one = functools.partial(_shifted, spec)
        if direction == "forward":
            return _ready(one, *shapes)
        fixed = {
            "input_gradient": (jax.ShapeDtypeStruct(shape, jnp.bfloat16), lambda w: lambda x: one(x, w)),
            "weight_gradient": (jax.ShapeDtypeStruct(weights, jnp.bfloat16), lambda x: lambda w: one(x, w)),
        }[direction]
        g, other = (0, 1) if direction == "input_gradient" else (1, 0)
        return _ready(lambda *a: jax.linear_transpose(fixed[1](a[other]), fixed[0])(a[g])[0], *shapes)

    return GpuRow(
        f"{title} {direction}{extra}",
        functools.partial(make, "gpu.depthwise", **tiles),
        functools.partial(make, "reference"),
        2 * (numbers + math.prod(out)),
        2 * math.prod(out) * math.prod(kernel),
        None if tiles or math.prod(kernel) > 49 else shifted,
    )


def _shifted(spec: Spec, x: jax.Array, w: jax.Array) -> jax.Array:
    """A depthwise convolution as a sum over all taps of shifted x times the tap's weights, in float32."""
    kernel = w.shape[:-2]
    out = spec.output(x.shape[1:-1], kernel)
    padded = jnp.pad(x, ((0, 0), *spec.padding, (0, 0)))
    total = 0.0
    for tap in itertools.product(*map(range, kernel)):
        starts = [t * d for t, d in zip(tap, spec.dilation)]
        window = padded[(slice(None), *(slice(a, a + (o - 1) * s + 1, s) for a, o, s in zip(starts, out, spec.stride)))]
        total = total + window.astype(jnp.float32) * w[tap][0].astype(jnp.float32)
    return total.astype(x.dtype)


def _attention(b: int, t: int, s: int, heads: int, d: int, biased: bool) -> GpuRow:
    def make(ours: bool) -> Callable[[], jax.Array]:
        from jaxseg.ops.attention import api, reference

        one = api.attention if ours else functools.partial(reference.attention, scale=d**-0.5)
        shapes = ((b, t, heads, d), (b, s, heads, d), (b, s, heads, d), *([(1, heads, t, s)] if biased else []))
        return _ready(lambda q, k, v, bias=None: one(q, k, v, bias=bias), *shapes)

    return GpuRow(
        f"attention {b}x{t}x{s}, {heads} heads of {d}{', biased' if biased else ''}",
        functools.partial(make, True),
        functools.partial(make, False),
        4 * b * heads * d * (t + s),
        4 * b * heads * t * s * d,
    )


def _ready(function: Callable, *shapes: tuple[int, ...]) -> Callable[[], jax.Array]:
    """A call without arguments of the compiled `function`, on normal bfloat16 numbers of these shapes."""
    draw = jax.jit(jax.random.normal, static_argnums=(1, 2))  # on the device: the host would take longer than the kernels
    arrays = [draw(jax.random.key(i), shape, jnp.bfloat16) for i, shape in enumerate(shapes)]
    compiled = jax.jit(function).lower(*arrays).compile()
    return lambda: compiled(*arrays)


def milliseconds(call: Callable[[], jax.Array], repeats: int = 5) -> float:
    """Median time of one call in a queue that is long enough to hide the dispatch, over `repeats` queues."""
    jax.block_until_ready(call())
    start = time.perf_counter()
    jax.block_until_ready([call() for _ in range(5)])
    count = max(5, min(200, int(0.05 / ((time.perf_counter() - start) / 5))))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(count - 1):
            call()
        jax.block_until_ready(call())
        times.append(1e3 * (time.perf_counter() - start) / count)
    return statistics.median(times)


def copy_rate(numbers: int = 2**29) -> float:
    """Bandwidth of a copy of bfloat16 numbers in bytes per second, reading plus writing."""
    copy = _ready(lambda x: -x, (numbers,))
    return 4 * numbers / milliseconds(copy) * 1e3


def measured(row: GpuRow, bandwidth: float) -> dict:
    """The figures of a row; a call that fails has its error instead of a time."""
    found, results = {"row": row.name}, {}
    for side, factory in (("ours", row.ours), ("xla", row.plain), ("shifted", row.shifted)):
        if factory is None:
            continue
        try:
            start = time.perf_counter()
            call = factory()
            results[side] = np.asarray(call(), np.float32)
            found[f"{side}_compile_s"] = round(time.perf_counter() - start, 2)
            with lanes.alone():
                found[side] = milliseconds(call)
        except Exception as error:  # one kernel that fails must not cost the other rows
            found[side] = f"{type(error).__name__}: {str(error)[:300]}"
    if {"ours", "xla"} <= results.keys():
        found["difference"] = float(np.abs(results["ours"] - results["xla"]).max() / results["xla"].std())
    if isinstance(found["ours"], float):
        found |= {"copy_share": 1e3 * row.bytes / found["ours"] / bandwidth, "tflops": row.flops / found["ours"] / 1e9}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="only rows whose names contain this text")
    parser.add_argument("--share", default="0/1", help="i/n: only rows i, i + n, i + 2n, ...")
    parser.add_argument("--results", default="", help="file to which a line of JSON is appended for each row")
    options = parser.parse_args()
    if jax.default_backend() != "gpu":
        raise SystemExit(f"got backend {jax.default_backend()}; the kernels need a GPU")
    with lanes.alone():
        bandwidth = copy_rate()
    first, step = map(int, options.share.split("/"))
    for row in [row for row in gpu_rows() if options.only in row.name][first::step]:
        found = measured(row, bandwidth)
        shown = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in found.items()}
        print(", ".join(f"{k} {v}" for k, v in shown.items()), flush=True)
        if options.results:
            with open(options.results, "a") as file:
                file.write(json.dumps({"stage": "kernels", **found}) + "\n")


if __name__ == "__main__":
    main()
