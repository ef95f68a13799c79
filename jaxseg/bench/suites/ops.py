"""Single operations: distance transform and connected components against scipy, convolutions and attention against PyTorch; on a
GPU every hand-written kernel against XLA's program of its reference implementation.

The convolutions are some of the shapes of `ops.conv.cpu.table`, forward and both gradients, in float32 (`bench.convolutions`
prints the whole table). The kernels are those of `bench.gpu.kernels`, in bfloat16; their notes have the memory bandwidth as a
fraction of that of a copy.
"""

import functools
import time
from collections.abc import Callable

from jaxseg.bench import machine
from jaxseg.bench.side import Options, TimedCall
from jaxseg.bench.suites import attention

MASKS = ("distance_transform", "signed_distance", "components", "largest_component")
CONVOLUTIONS = ("dense 3x3 64^2 x 64", "depthwise 1x21 64^2 x 64", "dense 3^3 32^3 x 32", "depthwise 13^3 16^3 x 32")
DIRECTIONS = ("forward", "input_gradient", "weight_gradient")
KERNELS = ("depthwise", "attention")  # starts of the row names of `bench.gpu.kernels`
WINDOWS = "window attention"
CASES = (*MASKS, *CONVOLUTIONS, WINDOWS, *KERNELS)
COMPARED = 2**20  # how many numbers of a kernel's result are compared


def works(name: str, options: Options) -> dict[str, dict]:
    """The measurements of an operation: one call on a volume, the three directions of a convolution, or rows of GPU kernels."""
    if name in KERNELS:
        # 4 % of the largest value, which is some five standard deviations: bfloat16 has 8 bits, on both sides
        return {work: {"tolerance": 0.2, "bytes": row.bytes} for work, row in kernels(name).items()} if options.gpu else {}
    if name in CONVOLUTIONS:
        return {direction: {"tolerance": 1e-3} for direction in DIRECTIONS}
    if name == WINDOWS:
        size = "x".join(map(str, attention.sizes(options)))
        return {} if options.gpu else {work: {"size": size, "tolerance": 1e-4} for work in attention.WORKS}
    n = _edge(options)
    return {"call": {"size": f"{n}x{n}x{n}", "tolerance": 1e-4}}


def _edge(options: Options) -> int:
    return 16 if options.quick else 128 if options.gpu else 96


def kernels(name: str) -> dict:
    """The rows of `bench.gpu.kernels` of one kind, by the second part of their names."""
    from jaxseg.bench.gpu.kernels import gpu_rows

    return {row.name.removeprefix(f"{name} "): row for row in gpu_rows() if row.name.startswith(f"{name} ")}


def _kernel(work: str, make: Callable, which: str, options: Options, facts: Callable[[], dict]) -> TimedCall:
    import jax
    import numpy as np

    start = time.perf_counter()
    run = make()
    result = jax.block_until_ready(run()).reshape(-1)
    seconds = time.perf_counter() - start
    np.save(options.path(f"{work}.{which}.npy"), np.asarray(result[:: max(1, result.size // COMPARED)], np.float32))
    return TimedCall(run, jax.block_until_ready, {"compile_s": seconds, **facts()})


def ours(name: str, options: Options) -> dict[str, Callable[[], TimedCall]]:
    """jaxseg's compiled operations, with arrays on the device."""
    if name in KERNELS:
        from jaxseg.bench.gpu.kernels import copy_rate
        from jaxseg.bench.suites.models import matmul_rate

        rates = functools.cache(
            lambda: {"flop_per_s": matmul_rate("bfloat16", options), "bytes_per_s": copy_rate(2**16 if options.quick else 2**29)}
        )
        return {
            work: functools.partial(_kernel, work, row.ours, "ours", options, lambda row=row: {"flop": row.flops, **rates()})
            for work, row in kernels(name).items()
        }

    import jax
    import numpy as np

    from jaxseg.bench.suites.models import compiled
    from jaxseg.ops.components import api as components
    from jaxseg.ops.distance import api as distance

    if name in CONVOLUTIONS:
        return {direction: functools.partial(_convolution, name, direction, options) for direction in DIRECTIONS}
    if name == WINDOWS:
        return {work: functools.partial(attention.ours, work, options) for work in attention.WORKS}
    function = {
        "distance_transform": lambda m: distance.distance_transform(m[None])[0],
        "signed_distance": lambda m: distance.signed_distance(m[None])[0],
        "components": components.label,
        "largest_component": components.largest,
    }[name]

    def call() -> TimedCall:
        mask = volume(_edge(options))
        if "component" in name and not options.gpu:  # masks in host memory are labelled on the host
            made = TimedCall(lambda: function(mask), lambda result: None, {})
        else:
            made = compiled(jax.jit(function), (jax.device_put(mask),), machine.Peak(options.gpu, compiles=True), {})
        result = np.asarray(made.run())
        np.save(options.path("call.ours.npy"), (canonical(result) if name == "components" else result).astype(np.float32))
        return made

    return {"call": call}


def _convolution(name: str, direction: str, options: Options) -> TimedCall:
    import jax
    import numpy as np

    from jaxseg.bench import convolutions
    from jaxseg.ops.conv.cpu import choose
    from jaxseg.ops.conv.cpu.onednn import library, primitive
    from jaxseg.ops.conv.cpu.table import S

    shape = S[name]
    lowering = getattr(choose.lowerings(shape.spec, shape.x, shape.weights), direction)
    if library.wanted() and primitive.faster(direction, shape.spec, shape.x, shape.weights):
        lowering = primitive.over(lowering, direction)
    run = convolutions.timed(lowering, shape, direction)
    np.save(options.path(f"{direction}.ours.npy"), np.asarray(run()))
    return TimedCall(run, jax.block_until_ready, {})


def peer(name: str, options: Options) -> dict[str, Callable[[], TimedCall]]:
    """scipy.ndimage on the host (it has no device); PyTorch for convolutions; XLA for a kernel's reference implementation."""
    if name in KERNELS:
        return {
            work: functools.partial(_kernel, work, row.plain, "peer", options, lambda: {"mode": "reference, XLA"})
            for work, row in kernels(name).items()
        }
    if name == WINDOWS:
        return {work: functools.partial(attention.peer, work, options) for work in attention.WORKS}

    import numpy as np
    from scipy import ndimage

    if name in CONVOLUTIONS:
        from jaxseg.bench import peers
        from jaxseg.ops.conv.cpu.table import S

        return {direction: functools.partial(peers.convolution, S[name], direction, options) for direction in DIRECTIONS}

    def signed(mask):
        # ours measures to the nearest voxel of the other kind, which is what these two transforms do
        return ndimage.distance_transform_edt(~mask) - ndimage.distance_transform_edt(mask)

    def largest(mask):
        labels, _ = ndimage.label(mask)
        return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])

    function = {
        "distance_transform": ndimage.distance_transform_edt,
        "signed_distance": signed,
        "components": lambda mask: ndimage.label(mask)[0],
        "largest_component": largest,
    }[name]

    def call() -> TimedCall:
        mask = volume(_edge(options))
        result = function(mask)
        np.save(options.path("call.peer.npy"), (canonical(result) if name == "components" else result).astype(np.float32))
        return TimedCall(lambda: function(mask), lambda result: None, {"mode": "scipy, one core"})

    return {"call": call}


def volume(n: int):
    """A mask of blobs, bool [n, n, n]: smoothed noise above its 80th percentile."""
    import numpy as np
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(n, n, n)), n / 24)
    return smooth > np.quantile(smooth, 0.8)


def canonical(labels):
    """Components numbered in the order of their first voxel."""
    import numpy as np

    values, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(np.where(values == 0, -1, first)))
    return order[inverse].reshape(labels.shape)
