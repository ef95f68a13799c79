"""PyTorch's side of `models`: the networks, and PyTorch's ways to run them fast.

PyTorch's execution modes are "channels_last" and "contiguous" (eager; with cudnn.benchmark and autocast to bfloat16 on a GPU),
"compile" (channels_last with torch.compile) and "graphs" (the same with mode="reduce-overhead": CUDA graphs). Each requested mode
is tried a few times, and the fastest is timed. Inference uses inference_mode, training fused AdamW and gradients set to None; all
threads are used, and no value is fetched inside the loop.

Networks come from transformers and MONAI where those have them, else from `ports/`.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np

from jaxseg.bench import machine
from jaxseg.bench.side import Options, TimedCall
from jaxseg.types import ConfigError

MODES = ("channels_last", "contiguous", "compile", "graphs")
CPU_MODES, GPU_MODES = MODES[:2], ("channels_last", "compile")
_SEGNEXT = {"segnext_t": ((32, 64, 160, 256), (3, 3, 5, 2), 256, 16), "segnext_b": ((64, 128, 320, 512), (3, 3, 12, 3), 512, 64)}
_SEGFORMER = {"segformer_b0": ((32, 64, 160, 256), (2, 2, 2, 2), 256), "segformer_b2": ((64, 128, 320, 512), (3, 4, 6, 3), 768)}
_UNET2D = {"unet2d": {}, "attention_unet2d": dict(norm="after", gate=True, extra=(32, 32))}
_MOBILE_UNETR = ((16, 32, 64, 96, 128, 160, 640), (144, 192, 240), 4, (2, 4, 3), 196, 240, 3)
_EFFISEGNET = {"effisegnet_b0": (1.0, 1.0), "effisegnet_b4": (1.4, 1.8)}


def network(name: str, size: tuple[int, ...], ours: dict):
    """The PyTorch network of a case with its initial weights, and its origin (library or port).

    Args:
      name: jaxseg's name of the network.
      size: spatial size of the image.
      ours: the options with which jaxseg's network is built.
    """
    channels, classes = ours["in_channels"], ours["num_classes"]
    if name in _SEGNEXT:
        from jaxseg.bench.ports.segnext import Official

        dims, depths, width, rank = _SEGNEXT[name]
        sizes = dict(ham=width, width=width, bases=rank, in_channels=channels, classes=classes)
        return Official(dims, depths, **sizes, dropout=0.0), "port"
    if name in _SEGFORMER:
        from jaxseg.bench.ports.live import SegFormer

        return SegFormer(*_SEGFORMER[name], channels=channels, classes=classes), "transformers"
    if name in _EFFISEGNET:
        from jaxseg.bench.ports.effisegnet import EffiSegNet

        return EffiSegNet(*_EFFISEGNET[name], size[0], 32), "MONAI encoder"
    if name == "unet_base":
        from jaxseg.bench.ports.unet import UNetBase

        return UNetBase(ours.get("widths", (64, 128, 256, 512, 1024)), in_channels=channels, classes=classes), "port"
    if name in _UNET2D:
        from jaxseg.bench.ports.brats2d import UNet

        return UNet((64, 128, 256, 512), 1024, **_UNET2D[name], in_channels=channels, classes=classes), "port"
    if name == "mobile_unetr":
        from jaxseg.bench.ports.mobile_unetr import MobileUNETR

        return he_initialized(MobileUNETR(*_MOBILE_UNETR, classes=classes)), "port around transformers' encoder"
    if name == "pspnet_r50":
        from jaxseg.bench.ports.pspnet import PSPNet

        return PSPNet((3, 4, 6, 3), in_channels=channels, classes=classes, dropout=0.0, aux=False), "port"
    if name in ("unet3d_xs", "unet3d_s"):
        from jaxseg.bench.ports.volume import UNet3D

        base = 16 if name == "unet3d_xs" else 32
        return UNet3D([base * 2**i for i in range(5)], channels, classes), "port"
    if name == "dualbranch_04_unet_s":
        from jaxseg.bench.ports.volume import DualBranch04

        return DualBranch04((16, 32, 64), (256, 512), (256, 128, 32, 32), classes), "port"
    if name == "nnunet_plain":
        from jaxseg.bench.ports.nnunet import PlainUNet

        return PlainUNet(ours.get("widths", (32, 64, 128, 256, 320, 320)), channels, classes), "port"
    from monai.networks import nets

    if name == "unetr":
        return nets.UNETR(channels, classes, size, feature_size=16), "MONAI"
    if name == "swin_unetr":
        return nets.SwinUNETR(in_channels=channels, out_channels=classes, feature_size=ours.get("width", 48)), "MONAI"
    raise ConfigError(f"got network {name!r}; the benchmark has no PyTorch counterpart for it")


def prepared(name: str, image: np.ndarray, ours: dict, device: str = "cpu"):
    """`network` on the CPU, with BatchNorm statistics of the given image, which are computed on `device`: with the initial
    statistics the output of deep networks is nearly constant."""
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    threads()
    torch.manual_seed(0)
    module, origin = network(name, image.shape[1:-1], ours)
    norms = {m: m.momentum for m in module.modules() if isinstance(m, _BatchNorm)}
    if norms:
        for m in norms:
            m.momentum = 1.0
        with torch.no_grad():
            module.to(device).train()(torch.from_numpy(np.moveaxis(image, -1, 1).copy()).to(device))
        module.to("cpu")
        for m, momentum in norms.items():
            m.momentum = momentum
    return module, origin


def he_initialized(module):
    """He initialisation of the convolutions: with the deviation of 0.02 that transformers gives MobileViT, activations fall to
    1e-6 of the image, below the eps of the norms, and PyTorch's own logits in float32 are 1.5 % off those in float64."""
    import torch

    for m in module.modules():
        if isinstance(m, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(m.weight)
    return module


def threads() -> None:
    """All cores, and cuDNN's search for the fastest algorithm."""
    import torch

    torch.set_num_threads(machine.cores())
    torch.backends.cudnn.benchmark = True


def save_weights(module, options: Options) -> int:
    """Save the state dict for jaxseg's side; returns the number of parameters that are used."""
    np.savez(
        options.path("weights.npz"),
        **{k: v.numpy() for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")},
    )
    return sum(p.numel() for name, p in module.named_parameters() if "cross_attn" not in name)  # MONAI's ViT never calls these


def dice_cross_entropy(logits, labels):
    """Cross-entropy plus mean Dice loss of the foreground classes, at the size of `logits`: nnU-Net's loss without batch Dice."""
    import torch

    F = torch.nn.functional
    if labels.shape[1:] != logits.shape[2:]:
        labels = F.interpolate(labels[:, None].float(), logits.shape[2:], mode="nearest")[:, 0].long()
    truth = F.one_hot(labels, logits.shape[1]).movedim(-1, 1).float()[:, 1:].flatten(2)
    found = logits.softmax(1)[:, 1:].flatten(2)
    dice = (2 * (found * truth).sum(-1) + 1e-5) / (found.sum(-1) + truth.sum(-1) + 1e-5)
    return F.cross_entropy(logits, labels) + 1 - dice.mean()


def in_mode(module, mode: str, rank: int):
    """(the module to call in this mode, the memory format of its input); the module is converted to this format."""
    import torch

    last = torch.channels_last if rank == 2 else torch.channels_last_3d
    layout = torch.contiguous_format if mode == "contiguous" else last
    module.to(memory_format=layout)
    if mode in ("compile", "graphs"):
        return torch.compile(module, mode="reduce-overhead" if mode == "graphs" else None, dynamic=False), layout
    return module, layout


def exact(yes: bool) -> None:
    """Switch TF32 off for comparing values, or on for timing (XLA's default)."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not yes


def finish(options: Options) -> Callable:
    """A function that waits until the device has finished all queued work."""
    import torch

    return (lambda _: torch.cuda.synchronize()) if options.gpu else (lambda _: None)


def fastest(
    make: Callable[[str], Callable],
    options: Options,
    wait: Callable,
    *,
    tries: int = 3,
    close: Callable[[str], None] | None = None,
) -> tuple[Callable, dict]:
    """The fastest of the requested modes: (call, {"mode", "compile_s": seconds until the end of its first call}).

    Args:
      make: function mode -> call.
      wait: function that waits for a call's result.
      tries: number of timed calls for each mode, of which the median is used.
      close: called with a mode after it was tried; the best mode is then built again.
    """
    import torch

    trials = {}
    for mode in options.modes or (GPU_MODES if options.gpu else CPU_MODES):
        torch.compiler.reset()
        begin = time.perf_counter()
        run = make(mode)
        wait(run())
        first = time.perf_counter() - begin
        wait(run())
        times = []
        for _ in range(tries):
            begin = time.perf_counter()
            wait(run())
            times.append(time.perf_counter() - begin)
        trials[mode] = (statistics.median(times), first)
        if close is not None:
            close(mode)
    best = min(trials, key=lambda d: trials[d][0])
    if best != mode or close is not None:  # the last mode tried has left the module in its own layout
        run = make(best)
        for _ in range(2):
            wait(run())
    return run, {"mode": best, "compile_s": trials[best][1]}


def convolution(shape, direction: str, options: Options) -> TimedCall:
    """One direction of one convolution of `ops.conv.cpu.table`, channels_last, on the numbers that `bench.convolutions` draws."""
    import torch

    threads()
    device, spec, rank = "cuda" if options.gpu else "cpu", shape.spec, len(shape.kernel)
    rng = np.random.default_rng(0)
    draw = lambda s: rng.normal(size=s).astype(np.float32)
    layout = torch.channels_last if rank == 2 else torch.channels_last_3d
    place = lambda a, source, target: torch.tensor(np.moveaxis(a, source, target).copy()).to(device, memory_format=layout)
    x, w = draw(shape.x), draw((*shape.kernel, shape.x[-1] // shape.groups, shape.out))
    g = place(draw((shape.x[0], *spec.output(shape.x[1:-1], shape.kernel), shape.out)), -1, 1)
    x, w = place(x, -1, 1), place(w, (-1, -2), (0, 1))
    pads = [low for low, _ in spec.padding]
    mask = [direction == "input_gradient", direction == "weight_gradient", False]

    def run():
        if direction == "forward":
            return (torch.conv2d if rank == 2 else torch.conv3d)(x, w, None, spec.stride, pads, spec.dilation, spec.groups)
        return torch.ops.aten.convolution_backward(
            g, x, w, None, spec.stride, pads, spec.dilation, False, [0] * rank, spec.groups, mask
        )[mask.index(True)]

    result = run().cpu().numpy()
    back = np.moveaxis(result, (0, 1), (-1, -2)) if direction == "weight_gradient" else np.moveaxis(result, 1, -1)
    np.save(options.path(f"{direction}.peer.npy"), back)
    return TimedCall(run, finish(options), {"mode": "PyTorch, channels_last"})
