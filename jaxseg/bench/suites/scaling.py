"""Scaling of time and XLA's memory with the number of voxels, the batch size and the number of windows.

The slope of log cost against log size is fitted for each case; 1 means linear growth, which is expected for everything here. A
slope above 1.05 means that something grows faster than the size (the fixed cost of small sizes lowers the slope).
"""

from collections.abc import Callable, Iterator

from jaxseg.bench import clock, machine, pair
from jaxseg.bench.side import Options, TimedCall
from jaxseg.bench.suites import models
from jaxseg.bench.table import Row

SECONDS = 1.5  # of timing for each size
CASES = (
    "forward by voxels",
    "train step by batch",
    "sliding window by windows",
    "distance transform by voxels",
    "components by voxels",
)
_EDGES = {
    "forward by voxels": (32, 48, 64),
    "distance transform by voxels": (32, 64, 96, 128),
    "components by voxels": (32, 64, 96, 128),
}
_COUNTS = {"train step by batch": (1, 2, 4, 8), "sliding window by windows": (8, 16, 32, 64)}
EDGE = 32  # of a batch's volumes, voxels


def sizes(name: str, options: Options) -> dict[str, int]:
    """{measurement: size in voxels, examples or windows}."""
    if name in _COUNTS:
        return {str(n): n for n in _COUNTS[name][: 2 if options.quick else None]}
    edges = _EDGES[name][:2] if options.quick else _EDGES[name]
    return {f"{n}^3": n**3 for n in edges}


def rows(name: str, options: Options, *, limit: float, log) -> Iterator[Row]:
    """The rows: one for each size, then the slopes."""
    options, counted = options._replace(peers=False), sizes(name, options)
    seconds = 0.05 if options.quick else SECONDS
    measured = list(pair.rows("scaling", name, {work: {} for work in counted}, options, seconds=seconds, limit=limit, log=log))
    yield from measured
    for what, costs in (("time", [r.ours for r in measured]), ("memory", [r.xla_mb for r in measured])):
        if all(costs):
            slope = clock.slope(list(counted.values()), costs)
            yield Row(
                "scaling", name, f"slope of {what}", unit="exponent", ours=slope, note="" if slope <= 1.05 else "more than 1.05"
            )


def ours(name: str, options: Options) -> dict[str, Callable[[], TimedCall]]:
    """{measurement: function that compiles it}."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxseg.infer.window import sliding_window
    from jaxseg.models import create_model, functional
    from jaxseg.ops.components import api as components
    from jaxseg.ops.distance import api as distance

    dtype = "bfloat16" if options.gpu else "float32"
    rng = np.random.default_rng(0)
    peak = machine.Peak(options.gpu, compiles=True)

    def network_call(shape: tuple[int, ...], train: bool) -> TimedCall:
        network, params, state = functional.split(create_model("unet3d_xs"))
        image, mask = models.arrays(shape, 4)
        if train:
            return models.step_call(network, params, state, image, mask, 4, dtype, peak, {})
        run = lambda params, state, image: network.apply(params, state, image)[0].logits
        return models.compiled(jax.jit(run), (params, state, jnp.asarray(image, dtype)), peak, {})

    def windows_call(count: int) -> TimedCall:
        window = 16 if options.quick else 48  # eight of them exceed the caches
        values = jnp.asarray(rng.normal(size=(2, 4)), jnp.float32)
        forward = jax.tree_util.Partial(lambda w, x: x @ w, values)
        volume = jnp.asarray(rng.normal(size=(1, window, window, window * count, 2)), jnp.float32)
        run = lambda: sliding_window(forward, volume, window=window, num_classes=4, overlap=0.0, accumulator="device")
        return TimedCall(run, jax.block_until_ready, {})

    def mask_call(function: Callable, edge: int) -> TimedCall:
        mask = jnp.asarray(rng.random((edge,) * 3) < 0.3)
        return models.compiled(jax.jit(function), (mask,), peak, {})

    def one(size: int) -> TimedCall:
        edge = round(size ** (1 / 3))
        if name == "forward by voxels":
            return network_call((1, edge, edge, edge, 2), False)
        if name == "train step by batch":
            return network_call((size, EDGE, EDGE, EDGE, 2), True)
        if name == "sliding window by windows":
            return windows_call(size)
        if name == "distance transform by voxels":
            return mask_call(lambda m: distance.distance_transform(m[None])[0], edge)
        return mask_call(components.label, edge)

    return {work: (lambda size=size: one(size)) for work, size in sizes(name, options).items()}
