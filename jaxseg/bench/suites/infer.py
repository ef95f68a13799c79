"""Sliding-window inference on a whole volume, against MONAI's `sliding_window_inference` with the same network.

There are two cases: unet3d_xs, and a trivial network (one 1x1x1 convolution), where nearly all time is spent on cutting,
weighting and stitching windows. "whole" is one volume from array to logits. "over the network" is the additional time relative to
the network alone on the same windows, in percent; both are timed alternately in one process.
"""

import functools
import math
import time
from collections.abc import Callable

from jaxseg.bench import clock, machine
from jaxseg.bench.gpu import lanes
from jaxseg.bench.side import Options, TimedCall

CASES = ("unet3d_xs", "1x1x1")
CHANNELS, CLASSES, OVERLAP = 4, 4, 0.25


def works(name: str, options: Options) -> dict[str, dict]:
    """Both measurements of a case, with tolerances (without a network the results differ only by the order of float32 sums)."""
    tolerance = 1e-5 if name == "1x1x1" else 1e-4
    found = {"whole": {"size": "x".join(map(str, (*_size(options), CHANNELS))), "tolerance": tolerance}}
    if name == "unet3d_xs":
        found["over the network"] = {"size": "x".join(map(str, (*_size_over(options), CHANNELS))), "unit": "%"}
    return found


def _size(options: Options) -> tuple[int, int, int]:
    return (48, 48, 40) if options.quick else (240, 240, 155)


def _size_over(options: Options) -> tuple[int, int, int]:
    """The size for "over the network": smaller on a CPU, where it shows the same overhead with more repetitions."""
    return (48, 48, 40) if options.quick else (240, 240, 155) if options.gpu else (144, 144, 96)


def _window(options: Options) -> int:
    return 32 if options.quick else 96


def _batch(options: Options) -> int:
    return 4 if options.gpu else 1


def volume(size: tuple[int, ...]):
    """float32 [1, *size, C] of standard normal numbers."""
    import numpy as np

    return np.random.default_rng(0).normal(size=(1, *size, CHANNELS)).astype(np.float32)


def matrix():
    """(weights [C, K], bias [K]) of the 1x1x1 network."""
    import numpy as np

    rng = np.random.default_rng(1)
    return rng.normal(size=(CHANNELS, CLASSES)).astype(np.float32), rng.normal(size=CLASSES).astype(np.float32)


def ours(name: str, options: Options) -> dict[str, Callable[[], TimedCall]]:
    """jaxseg's `infer.window.sliding_window`, with accumulators on the device."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxseg.infer import tiles
    from jaxseg.infer.window import sliding_window
    from jaxseg.models import create_model, functional
    from jaxseg.weights import from_torch

    window, batch = (_window(options),) * 3, _batch(options)
    dtype = jnp.bfloat16 if options.gpu else jnp.float32
    if name == "1x1x1":
        parameters = 0
        apply, values = lambda values, x: x @ values[0] + values[1], jax.device_put(matrix())
    else:
        model = create_model(name, in_channels=CHANNELS, num_classes=CLASSES)
        if options.peers:
            with np.load(options.path("weights.npz")) as file:
                from_torch.load(model, dict(file))
        network, params, state = functional.split(model)
        parameters = sum(math.prod(p.shape) for p in params.values())
        apply, values = lambda values, x: network.apply(*values, x)[0].logits, (params, state)
    fast = lambda values, x: apply(values, x.astype(dtype)).astype(jnp.float32)
    run = lambda apply, image: sliding_window(
        jax.tree_util.Partial(apply, values),
        image,
        window=window,
        num_classes=CLASSES,
        overlap=OVERLAP,
        batch=batch,
        blend="gaussian",
        accumulator="device",
    )
    peak = machine.Peak(options.gpu, compiles=True)

    def whole() -> TimedCall:
        image = jnp.asarray(volume(_size(options)))
        chosen = fast if options.gpu else apply
        begin = time.perf_counter()
        result = jax.block_until_ready(run(chosen, image))
        seconds = time.perf_counter() - begin
        if options.gpu and options.peers:
            with jax.default_matmul_precision("highest"):
                result = run(apply, image)
        np.save(options.path("whole.ours.npy"), np.asarray(result))
        del result
        peak.reset()
        jax.block_until_ready(run(chosen, image))
        return TimedCall(
            lambda: run(chosen, image),
            jax.block_until_ready,
            {"parameters": parameters, "compile_s": seconds, "peak_mb": peak.read()},
        )

    def over() -> TimedCall:
        size = _size_over(options)
        image, chosen = jnp.asarray(volume(size)), fast if options.gpu else apply
        count = len(tiles.grid(size, window, (OVERLAP,) * 3, "monai"))
        windows = jnp.asarray(volume(window)).repeat(batch, 0)
        alone = jax.jit(chosen).lower(values, windows).compile()
        return _over(
            lambda: run(chosen, image),
            lambda: alone(values, windows),
            math.ceil(count / batch),
            jax.block_until_ready,
            {"parameters": parameters},
        )

    return {"whole": whole, "over the network": over}


def _over(whole: Callable, network: Callable, calls: int, finish: Callable, facts: dict) -> TimedCall:
    """The percentage as a finished figure: the time of the whole against `calls` calls of the network alone."""
    blocks = {
        "whole": lambda runs: clock.block(whole, runs, finish),
        "network": lambda runs: clock.block(lambda: [network() for _ in range(calls)][-1], runs, finish),
    }
    with lanes.alone():
        ms = clock.interleaved(blocks, seconds=4.0, least=3)
    percent = 100 * (ms["whole"][0] / ms["network"][0] - 1)
    return TimedCall(
        None,
        None,
        {
            **facts,
            "value": percent,
            "runs": ms["whole"][1],
            "note": f"whole {ms['whole'][0]:.3g} ms, network {ms['network'][0]:.3g} ms",
        },
    )


def peer(name: str, options: Options) -> dict[str, Callable[[], TimedCall]]:
    """MONAI's sliding window with Gaussian blending; the network runs in its fastest mode."""
    import numpy as np
    import torch
    from monai.inferers import sliding_window_inference

    from jaxseg.bench import peers

    window = (_window(options),) * 3
    device = "cuda" if options.gpu else "cpu"
    if name == "1x1x1":
        peers.threads()
        module, origin, parameters = torch.nn.Conv3d(CHANNELS, CLASSES, 1), "MONAI", 0
        weight, bias = matrix()
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(weight.T.copy())[..., None, None, None])
            module.bias.copy_(torch.from_numpy(bias))
    else:
        module, _ = peers.prepared(name, volume(window), {"in_channels": CHANNELS, "num_classes": CLASSES})
        origin, parameters = "MONAI and port", peers.save_weights(module, options)
    module = module.to(device).eval()
    place = lambda size: torch.from_numpy(np.moveaxis(volume(size), -1, 1).copy()).to(device)
    peak, wait = machine.Peak(options.gpu), peers.finish(options)

    def in_mode(mode: str) -> Callable:
        called, layout = peers.in_mode(module, mode, 3)

        def forward(x):
            with torch.autocast("cuda", torch.bfloat16, enabled=options.gpu):
                return called(x.contiguous(memory_format=layout)).float()

        return forward

    def chosen() -> tuple[Callable, str]:
        example = place(window).repeat(_batch(options), 1, 1, 1, 1)
        with torch.inference_mode():
            made = {}
            _, facts = peers.fastest(lambda d: functools.partial(made.setdefault(d, in_mode(d)), example), options, wait)
        return in_mode(facts["mode"]), facts["mode"]

    def run(forward: Callable, image):
        with torch.inference_mode():
            return sliding_window_inference(image, window, _batch(options), forward, overlap=OVERLAP, mode="gaussian")

    def whole() -> TimedCall:
        image = place(_size(options))
        peers.exact(True)
        peak.reset()
        result = run(module, image)
        most = peak.read()
        np.save(options.path("whole.peer.npy"), np.moveaxis(result.float().cpu().numpy(), 1, -1))
        peers.exact(False)
        forward, mode = chosen()
        if options.gpu:
            wait(run(forward, image))
            peak.reset()
            wait(run(forward, image))
            most = peak.read()
        return TimedCall(
            lambda: run(forward, image), wait, {"parameters": parameters, "mode": f"{origin}, {mode}", "peak_mb": most}
        )

    def over() -> TimedCall:
        size = _size_over(options)
        image, windows = place(size), place(window).repeat(_batch(options), 1, 1, 1, 1)
        forward, mode = chosen()
        from jaxseg.infer import tiles

        count = len(tiles.grid(size, window, (OVERLAP,) * 3, "monai"))

        def network():
            with torch.inference_mode():
                return forward(windows)

        return _over(
            lambda: run(forward, image),
            network,
            math.ceil(count / _batch(options)),
            wait,
            {"parameters": parameters, "mode": f"{origin}, {mode}"},
        )

    return {"whole": whole, "over the network": over}
