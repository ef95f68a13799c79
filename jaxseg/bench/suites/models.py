"""Forward pass and training step of the networks in jaxseg and PyTorch, with the same weights and inputs.

jaxseg's side is what users run: `Network.apply` under jit, and `train.step` (loss, gradient, AdamW, guards against non-finite
values). There is no augmentation and no dropout on either side. On a GPU both compute in bfloat16; the logits are first compared
in float32 without TF32.
"""

import collections
import math
import re
import time
from collections.abc import Callable
from typing import NamedTuple

from jaxseg.bench import machine
from jaxseg.bench.side import Options, TimedCall


class NetworkCase(NamedTuple):
    """A network and its input sizes [B, *S] on a GPU, on a CPU and in the quick benchmark."""

    gpu: tuple[int, ...]
    cpu: tuple[int, ...]
    quick: tuple[int, ...]
    options: dict = {}
    channels: int = 3
    classes: int = 1
    aux: tuple[
        float, ...
    ] = ()  # weights of auxiliary outputs; if there are any, training is nnU-Net's (Dice and cross-entropy, SGD)
    tolerance: float = 1e-3  # of the logits in float32, in their standard deviations

    def shape(self, options: Options) -> tuple[int, ...]:
        """[B, *S, C]."""
        return (*(self.quick if options.quick else self.gpu if options.gpu else self.cpu), self.channels)


LR = 1e-4
CHECKED = 2  # number of examples whose logits are compared
_NO_DROP = dict(drop_path=0.0, dropout=0.0)
_SEGNEXT = dict(ham_bases="buffer", **_NO_DROP)
_SEGFORMER = dict(block_eps=1e-5, **_NO_DROP)  # transformers 5 has PyTorch's eps in the blocks too
_FLAT, _SMALL = (2, 256, 256), (1, 64, 64)
_CUBE = ((2, 128, 128, 128), (1, 48, 48, 48), (1, 32, 32, 32))
_TRANSFORMER = ((2, 96, 96, 96), (1, 64, 64, 64), (1, 64, 64, 64))
CASES: dict[str, NetworkCase] = {
    "segnext_t": NetworkCase((16, 512, 512), _FLAT, _SMALL, _SEGNEXT),
    "segnext_b": NetworkCase((8, 512, 512), _FLAT, _SMALL, _SEGNEXT),
    "segformer_b0": NetworkCase((16, 512, 512), _FLAT, _SMALL, _SEGFORMER),
    "segformer_b2": NetworkCase((8, 512, 512), _FLAT, _SMALL, _SEGFORMER),
    "effisegnet_b0": NetworkCase((64, 224, 224), (2, 224, 224), _SMALL, dict(drop_connect=0.0)),
    "effisegnet_b4": NetworkCase((16, 380, 380), (1, 380, 380), _SMALL, dict(drop_connect=0.0)),
    "unet_base": NetworkCase((16, 512, 512), (1, 256, 256), (1, 32, 32), channels=1),
    "unet2d": NetworkCase((16, 256, 256), (1, 256, 256), _SMALL, channels=4, classes=4),
    "attention_unet2d": NetworkCase((16, 256, 256), (1, 256, 256), _SMALL, dict(bridge_dropout=0.0), channels=4, classes=4),
    "mobile_unetr": NetworkCase((16, 512, 512), _FLAT, _SMALL, dict(encoder_dropout=0.0, dropout=0.0)),
    # PyTorch refuses to train a BatchNorm on one value a channel, which the pyramid's 1 x 1 pool has with one image. Its logits
    # in float32 are 7e-4 off its own in float64: with random weights each residual block adds to the rounding before it.
    "pspnet_r50": NetworkCase((8, 512, 512), _FLAT, (2, 64, 64), dict(aux=False, dropout=0.0), classes=19, tolerance=4e-3),
    "unet3d_xs": NetworkCase((2, 128, 128, 128), (1, 64, 64, 64), (1, 32, 32, 32), channels=2, classes=4),
    "unet3d_s": NetworkCase(*_CUBE, channels=2, classes=4),
    "dualbranch_04_unet_s": NetworkCase(*_CUBE, channels=2, classes=4),
    # nnU-Net's own benchmark: as planned for BraTS, deep supervision with halved weights and none for the coarsest level
    "nnunet_plain": NetworkCase(
        (2, 128, 128, 128), (1, 64, 64, 64), (1, 64, 64, 64), channels=4, classes=4, aux=(0.5, 0.25, 0.125, 0.0)
    ),
    "unetr": NetworkCase(*_TRANSFORMER, channels=4, classes=4),
    "swin_unetr": NetworkCase(*_TRANSFORMER, channels=4, classes=4),
}


def works(name: str, options: Options) -> dict[str, dict]:
    """The measurements of a case.

    Training steps are compared by the losses of the first two steps. The second loss amplifies rounding errors: Adam's first
    update is the sign of the gradient, and the gradient of a bias before a BatchNorm consists of rounding errors.
    """
    size = "x".join(map(str, CASES[name].shape(options))) + "".join(f", {k} {v}" for k, v in narrowed(name, options).items())
    return {
        "forward": {"size": size, "tolerance": CASES[name].tolerance},
        "train step": {"size": size, "tolerance": 3e-2 if options.gpu else 3e-3},
    }


def case_options(name: str, options: Options) -> dict:
    """Options of `create_model` for a case."""
    case = CASES[name]
    shape = case.shape(options)
    fixed = {"image_size": shape[1:-1]} if name == "unetr" else {}
    return {**case.options, **fixed, **narrowed(name, options), "in_channels": shape[-1], "num_classes": case.classes}


def narrowed(name: str, options: Options) -> dict:
    """Options that make a network narrower where it would take minutes (Swin UNETR on a CPU)."""
    if name == "swin_unetr" and not options.gpu:
        return {"width": 24}
    quick = {"unet_base": (4, 8, 8, 8, 8), "nnunet_plain": (4, 8, 8, 8, 8, 8)}
    return {"widths": quick[name]} if options.quick and name in quick else {}


def arrays(shape: tuple[int, ...], classes: int):
    """Random (image, mask) from numpy, the same on both sides."""
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.normal(size=shape).astype(np.float32), rng.integers(0, max(classes, 2), shape[:-1]).astype(np.int32)


def ours(name: str, options: Options) -> dict[str, Callable[[], TimedCall]]:
    """{measurement: function that compiles it}."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxseg.models import create_model, functional
    from jaxseg.models.summary import summarize
    from jaxseg.weights import from_torch

    shape, classes = CASES[name].shape(options), CASES[name].classes
    model = create_model(name, **case_options(name, options))
    if options.peers:
        with np.load(options.path("weights.npz")) as file:
            from_torch.load(model, dict(file))
    network, params, state = functional.split(model)
    image, mask = arrays(shape, classes)
    image, mask = jnp.asarray(image), jnp.asarray(mask)
    dtype = "bfloat16" if options.gpu else "float32"
    flop = 2 * summarize(name, shape, **{k: v for k, v in case_options(name, options).items() if k != "in_channels"}).macs
    shared = {"parameters": sum(math.prod(p.shape) for p in params.values()), "flop_per_s": matmul_rate(dtype, options)}
    peak = machine.Peak(options.gpu, compiles=True)

    def logits(params, state, image):
        return network.apply(params, state, image)[0].logits

    def forward() -> TimedCall:
        call = compiled(jax.jit(logits), (params, state, image.astype(dtype)), peak, {**shared, "flop": flop})
        if options.peers:
            exact = full_precision(logits, params, state, image[:CHECKED]) if options.gpu else call.run()[:CHECKED]
            np.save(options.path("forward.ours.npy"), np.asarray(exact))
        return call

    def train_step() -> TimedCall:
        losses: list[float] = []
        call = step_call(
            network, params, state, image, mask, classes, dtype, peak, {**shared, "flop": 3 * flop}, losses, aux=CASES[name].aux
        )
        np.save(options.path("train step.ours.npy"), np.array(losses))
        return call

    return {"forward": forward, "train step": train_step}


def full_precision(function, *arguments):
    """The result in float32 without TF32, compiled without autotuning: for comparisons, not for timing."""
    import jax

    with jax.default_matmul_precision("highest"):
        return jax.jit(function).lower(*arguments).compile(compiler_options={"xla_gpu_autotune_level": "0"})(*arguments)


def training(network, params, state, image, mask, classes: int, dtype: str, aux: tuple[float, ...] = ()):
    """(jitted `train.step`, its state, one batch on the device): AdamW, cross-entropy, no augmentation; with auxiliary outputs
    nnU-Net's SGD, Dice of the foreground and cross-entropy."""
    from jaxseg.augment import compose as augmentations
    from jaxseg.losses import compose as losses
    from jaxseg.optim import build as optimizers
    from jaxseg.train import mesh as meshes
    from jaxseg.train import state as states
    from jaxseg.train import step as steps

    mesh, entropy = meshes.make(1), ("bce" if classes == 1 else "cross_entropy", 1.0)
    if aux:
        optimizer = optimizers.build(params, name="sgd", options={"momentum": 0.99, "nesterov": True}, weight_decay=3e-5)
        loss = losses.build((entropy, ("dice", 1.0)), {"dice": {"background": False}}, aux)
    else:
        optimizer = optimizers.build(params, name="adamw", weight_decay=1e-2)
        loss = losses.build((entropy,))
    step = steps.build(
        network,
        loss,
        optimizer,
        lambda n: 1.0,
        augmentations.build((), rank=mask.ndim - 1),
        mesh,
        lr=LR,
        dtype=dtype,
        auxiliary=bool(aux),
    )
    held = states.place(
        states.storage(network, optimizer).join(states.create(params, state, optimizer, ema=False)), meshes.replicated(mesh)
    )
    return step, held, meshes.put({"image": image, "mask": mask}, mesh)


def step_call(
    network,
    params,
    state,
    image,
    mask,
    classes: int,
    dtype: str,
    peak: machine.Peak,
    facts: dict,
    first: list[float] | None = None,
    aux: tuple[float, ...] = (),
) -> TimedCall:
    """Repeated training steps on one batch; the losses of the first two steps are appended to `first`."""
    step, held, batch = training(network, params, state, image, mask, classes, dtype, aux)
    first = [] if first is None else first

    def once(executable):
        nonlocal held  # the step donates it
        held, metrics = executable(held, batch)
        if len(first) < 2:
            first.append(float(metrics["loss"]))
        return metrics["loss"]

    return compiled(step, (held, batch), peak, facts, lambda executable: lambda: once(executable))


def compiled(function, arguments, peak: machine.Peak, facts: dict, caller: Callable | None = None) -> TimedCall:
    """Compile a jitted function for these arguments; records the seconds until the end of its first call, and its memory."""
    import jax

    start = time.perf_counter()
    executable = function.lower(*arguments).compile()
    run = caller(executable) if caller else lambda: executable(*arguments)
    jax.block_until_ready(run())
    seconds = time.perf_counter() - start
    peak.reset()
    for _ in range(2):
        jax.block_until_ready(run())
    facts = {**facts, "compile_s": seconds, "xla_mb": planned(executable), "peak_mb": peak.read(), "calls": calls(executable)}
    return TimedCall(run, jax.block_until_ready, facts)


def calls(executable) -> dict[str, int]:
    """Numbers of library calls and data movements in a compiled program: {custom-call target, "transpose" or "copy": number}."""
    text = executable.as_text()
    found = re.findall(r'custom_call_target="([^"]+)"|= \S+ (transpose|copy)\(', text)
    return dict(collections.Counter(a or b for a, b in found))


def planned(executable) -> float | None:
    """MiB that XLA plans for one call: arguments, outputs that are not arguments, scratch memory. None if it is unknown."""
    memory = executable.memory_analysis()
    if memory is None:
        return None
    return (
        memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes + memory.temp_size_in_bytes
    ) / 2**20


def matmul_rate(dtype: str, options: Options) -> float:
    """FLOP/s of a square matrix product of random numbers in this process, the denominator of the MFU."""
    import jax

    n = 256 if options.quick else 8192 if options.gpu else 1024
    a = jax.random.normal(jax.random.key(0), (n, n), dtype)
    product = jax.jit(lambda a: a @ a)
    jax.block_until_ready(product(a))
    best = min(_seconds(product, a) for _ in range(5))
    return 2 * n**3 / best


def _seconds(f: Callable, a) -> float:
    import jax

    start = time.perf_counter()
    for _ in range(4):
        out = f(a)
    jax.block_until_ready(out)
    return (time.perf_counter() - start) / 4


def peer(name: str, options: Options) -> dict[str, Callable[[], TimedCall]]:
    """The same for PyTorch's network, in its fastest execution mode; its weights are saved for jaxseg's side."""
    import copy

    import numpy as np
    import torch

    from jaxseg.bench import peers

    classes, aux = CASES[name].classes, CASES[name].aux
    image, mask = arrays(CASES[name].shape(options), classes)
    device = "cuda" if options.gpu else "cpu"
    module, origin = peers.prepared(name, image, case_options(name, options), device)
    parameters = peers.save_weights(module, options)
    start = copy.deepcopy(module.state_dict())  # with the version that loading asks for
    image, mask = torch.from_numpy(image).movedim(-1, 1).contiguous(), torch.from_numpy(mask)
    module = module.to(device)
    peak = machine.Peak(options.gpu)

    def inputs(mode: str):
        module.load_state_dict(start)
        called, layout = peers.in_mode(module, mode, image.ndim - 2)
        return called, image.to(device, memory_format=layout), mask.to(device)

    def autocast():
        return torch.autocast("cuda", torch.bfloat16, enabled=options.gpu)

    def forward(mode: str) -> Callable:
        called, x, _ = inputs(mode)
        module.eval()

        def run():
            with torch.inference_mode(), autocast():
                return called(x)

        return run

    def train_step(mode: str) -> Callable:
        called, x, y = inputs(mode)
        module.train()
        if aux:
            optimizer = torch.optim.SGD(module.parameters(), lr=LR, weight_decay=3e-5, momentum=0.99, nesterov=True, fused=True)
        else:
            optimizer = torch.optim.AdamW(module.parameters(), lr=LR, weight_decay=1e-2, fused=True)
        lost = torch.nn.functional.binary_cross_entropy_with_logits if classes == 1 else torch.nn.functional.cross_entropy
        target = y[:, None].float() if classes == 1 else y.long()

        def run():
            with autocast():
                found = called(x)
                if aux:
                    loss = sum(w * peers.dice_cross_entropy(f.float(), target) for w, f in zip((1.0, *aux), found) if w)
                else:
                    loss = lost(found.float(), target)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return loss.detach()

        return run

    def ready(work: str, make: Callable) -> TimedCall:
        run, facts = peers.fastest(make, options, peers.finish(options))
        peak.reset()
        for _ in range(2):
            peers.finish(options)(run())
        return TimedCall(
            run,
            peers.finish(options),
            {**facts, "mode": f"{origin}, {facts['mode']}", "parameters": parameters, "peak_mb": peak.read()},
        )

    def forward_work() -> TimedCall:
        peers.exact(True)
        module.load_state_dict(start)
        with torch.inference_mode():
            logits = module.eval()(image[:CHECKED].to(device))
        np.save(options.path("forward.peer.npy"), np.moveaxis(logits.float().cpu().numpy(), 1, -1))
        peers.exact(False)
        return ready("forward", forward)

    def train_work() -> TimedCall:
        run = train_step("channels_last")
        np.save(options.path("train step.peer.npy"), np.array([float(run()), float(run())]))
        return ready("train step", train_step)

    return {"forward": forward_work, "train step": train_work}
