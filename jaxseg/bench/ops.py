"""Operations outside the networks: distance transform and components beside scipy, convolutions beside PyTorch.

The convolutions are some of the shapes of `ops.conv.table`, forward and both gradients, in float32 as `ops.conv.bench` has
them; it prints the whole table.
"""

import functools
from collections.abc import Callable

from jaxseg.bench import machine
from jaxseg.bench.side import Call, Options

MASKS = ("distance_transform", "signed_distance", "components", "largest_component")
CONVOLUTIONS = ("dense 3x3 64^2 x 64", "depthwise 1x21 64^2 x 64", "dense 3^3 32^3 x 32", "depthwise 13^3 16^3 x 32")
DIRECTIONS = ("forward", "input_gradient", "weight_gradient")
CASES = (*MASKS, *CONVOLUTIONS)


def works(name: str, options: Options) -> dict[str, dict]:
    """One call on one volume; the three directions of a convolution."""
    if name in CONVOLUTIONS:
        return {direction: {"tolerance": 1e-3} for direction in DIRECTIONS}
    n = _edge(options)
    return {"call": {"size": f"{n}x{n}x{n}", "tolerance": 1e-4}}


def _edge(options: Options) -> int:
    return 16 if options.quick else 128 if options.gpu else 96


def ours(name: str, options: Options) -> dict[str, Callable[[], Call]]:
    """Compiled, the arrays on the device."""
    import jax
    import numpy as np

    from jaxseg.bench.models import compiled
    from jaxseg.ops.components import api as components
    from jaxseg.ops.distance import api as distance

    if name in CONVOLUTIONS:
        return {direction: functools.partial(_convolution, name, direction, options) for direction in DIRECTIONS}
    function = {"distance_transform": lambda m: distance.distance_transform(m[None])[0],
                "signed_distance": lambda m: distance.signed_distance(m[None])[0],
                "components": components.label, "largest_component": components.largest}[name]

    def call() -> Call:
        mask = jax.device_put(volume(_edge(options)))
        made = compiled(jax.jit(function), (mask,), machine.Peak(options.gpu, compiles=True), {})
        result = np.asarray(made.run())
        np.save(options.path("call.ours.npy"), (canonical(result) if name == "components" else result).astype(np.float32))
        return made

    return {"call": call}


def _convolution(name: str, direction: str, options: Options) -> Call:
    import jax
    import numpy as np

    from jaxseg.ops.conv import bench
    from jaxseg.ops.conv.table import S
    found = bench.functions(S[name], direction, False)
    run = found.get("ours", found["xla"])
    np.save(options.path(f"{direction}.ours.npy"), np.asarray(run()))
    return Call(run, jax.block_until_ready, {})


def peer(name: str, options: Options) -> dict[str, Callable[[], Call]]:
    """scipy.ndimage on the host (it has no device); PyTorch for convolutions."""
    import numpy as np
    from scipy import ndimage

    if name in CONVOLUTIONS:
        from jaxseg.bench import peers
        from jaxseg.ops.conv.table import S
        return {direction: functools.partial(peers.convolution, S[name], direction, options) for direction in DIRECTIONS}

    def signed(mask):
        # ours measures to the nearest voxel of the other kind, which is what these two transforms do
        return ndimage.distance_transform_edt(~mask) - ndimage.distance_transform_edt(mask)

    def largest(mask):
        labels, _ = ndimage.label(mask)
        return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])

    function = {"distance_transform": ndimage.distance_transform_edt, "signed_distance": signed,
                "components": lambda mask: ndimage.label(mask)[0], "largest_component": largest}[name]

    def call() -> Call:
        mask = volume(_edge(options))
        result = function(mask)
        np.save(options.path("call.peer.npy"), (canonical(result) if name == "components" else result).astype(np.float32))
        return Call(lambda: function(mask), lambda result: None, {"dress": "scipy, one core"})

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
