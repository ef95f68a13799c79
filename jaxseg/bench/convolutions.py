"""Time the chosen lowerings, XLA's own and PyTorch's: `python -m jaxseg.bench.convolutions [--peers] [--only dense]`.

Prints the rows of ops/conv/cpu/table.py, with --onednn those of ops/conv/cpu/onednn/table.py. Every time is the median of
interleaved runs (a, b, c, a, b, c, ...), so that a slow moment of the machine affects all of them. PyTorch runs in its fastest
configuration: channels_last, with as many threads as jax. Set GLIBC_TUNABLES=glibc.malloc.hugetlb=1 for both: XLA allocates its
scratch memory in every call, and page faults would cost more than a small convolution.
"""

import argparse
import functools
import os
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.ops.conv import reference
from jaxseg.ops.conv.cpu import choose
from jaxseg.ops.conv.cpu.onednn import library, primitive
from jaxseg.ops.conv.cpu.onednn.table import ROWS as rows_of_onednn
from jaxseg.ops.conv.cpu.table import S, Shape
from jaxseg.ops.conv.spec import Spec

DIRECTIONS = ("forward", "input_gradient", "weight_gradient")


def medians(functions: dict[str, Callable], seconds: float) -> dict[str, float]:
    """Median milliseconds of each function over interleaved rounds that last about `seconds`, at least 5."""
    for f in functions.values():
        f(), f()
    times = {name: [] for name in functions}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[next(iter(times))]) < 5:
        for name, f in functions.items():
            start = time.perf_counter()
            f()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(t) for name, t in times.items()}


def draw(shape: Shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, w and g, the same numbers in every process."""
    rng = np.random.default_rng(0)
    out = (shape.x[0], *shape.spec.output(shape.x[1:-1], shape.kernel), shape.out)
    return tuple(rng.normal(size=s).astype(np.float32) for s in (shape.x, shape.weights, out))


def timed(lowering: Callable, shape: Shape, direction: str) -> Callable:
    """A function that calls a lowering of `direction` and waits for the result."""
    x, w, g = jax.device_put(draw(shape))
    static, arrays = {
        "forward": ((), (x, w)),
        "input_gradient": ((shape.x[1:-1],), (g, w)),
        "weight_gradient": ((shape.kernel,), (x, g)),
    }[direction]
    compiled = jax.jit(functools.partial(lowering, shape.spec, *static)).lower(*arrays).compile()
    return lambda: jax.block_until_ready(compiled(*arrays))


def functions(shape: Shape, direction: str, peers: bool) -> dict[str, Callable]:
    """{"xla", "ours", "torch": blocking function}; without "ours" where XLA's own lowering is chosen."""
    plain, chosen = getattr(reference, direction), getattr(choose.lowerings(shape.spec, shape.x, shape.weights), direction)
    found = {"xla": timed(plain, shape, direction)} | ({"ours": timed(chosen, shape, direction)} if chosen is not plain else {})
    return found | ({"torch": _torch(shape.spec, *draw(shape), direction)} if peers else {})


def _torch(spec: Spec, x: np.ndarray, w: np.ndarray, g: np.ndarray, direction: str) -> Callable:
    import torch

    rank = x.ndim - 2
    layout = torch.channels_last if rank == 2 else torch.channels_last_3d
    turn = lambda a: torch.tensor(np.moveaxis(a, -1, 1).copy()).to(memory_format=layout)
    x, g = turn(x), turn(g)
    w = torch.tensor(np.moveaxis(w, (-1, -2), (0, 1)).copy()).to(memory_format=layout)
    pads = [low for low, _ in spec.padding]
    if direction == "forward":
        conv = torch.conv2d if rank == 2 else torch.conv3d
        return lambda: conv(x, w, None, spec.stride, pads, spec.dilation, spec.groups)
    mask = [direction == "input_gradient", direction == "weight_gradient", False]
    return lambda: torch.ops.aten.convolution_backward(
        g, x, w, None, spec.stride, pads, spec.dilation, False, [0] * rank, spec.groups, mask
    )


def name_of(lowering: Callable) -> str:
    """ "folded.slabs" for the function `slabs` of that module; the module's name if the function has a direction's name."""
    module = lowering.__module__.rpartition(".")[2]
    return "xla" if module == "reference" else module if lowering.__name__ in DIRECTIONS else f"{module}.{lowering.__name__}"


def beside_onednn(only: str, seconds: float) -> None:
    """Print milliseconds of the ordinary lowerings and of oneDNN for the rows of cpu/onednn/table.py."""
    print(library.engine())
    for shape in (row.shape for row in rows_of_onednn if only in row.shape.name):
        choice = choose.lowerings(shape.spec, shape.x, shape.weights)
        for direction in DIRECTIONS:
            ordinary = getattr(choice, direction)
            ms = medians(
                {
                    "ordinary": timed(ordinary, shape, direction),
                    "oneDNN": timed(primitive.over(ordinary, direction), shape, direction),
                },
                seconds,
            )
            print(
                f"{shape.name}, {direction}: {ms['ordinary']:.2f} / {ms['oneDNN']:.2f} ms, {ms['oneDNN'] / ms['ordinary']:.2f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", action="store_true", help="also time PyTorch")
    parser.add_argument("--only", default="", help="time only shapes whose names contain this text")
    parser.add_argument("--seconds", type=float, default=0.4, help="approximate time for each measurement")
    parser.add_argument("--onednn", action="store_true", help="compare oneDNN with the ordinary lowerings instead")
    options = parser.parse_args()
    if options.onednn:
        return beside_onednn(options.only, options.seconds)
    if options.peers:
        os.environ["OMP_WAIT_POLICY"] = (
            "PASSIVE"  # otherwise PyTorch's idle threads would spin on the cores on which XLA is timed
        )
        import torch

        torch.set_num_threads(os.cpu_count())
    worst = 0.0
    for shape in S.values():
        if options.only not in shape.name:
            continue
        choice = choose.lowerings(shape.spec, shape.x, shape.weights)
        for direction in DIRECTIONS:
            ms = medians(functions(shape, direction, options.peers), options.seconds)
            ours = ms.get("ours", ms["xla"])
            worst = max(worst, ours / ms["xla"])
            print(
                f'    Timing(S["{shape.name}"], "{direction}", "{name_of(getattr(choice, direction))}", {ms["xla"]:.2f}, '
                f"{ours:.2f}, {format(ms['torch'], '.2f') if 'torch' in ms else None}),",
                flush=True,
            )
    print(f"# slowest choice: {worst:.2f} of XLA's own lowering on {jnp.zeros(()).device}")


if __name__ == "__main__":
    main()
