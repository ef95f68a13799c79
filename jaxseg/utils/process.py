"""How a process is set up: memory as it gets it from the system and as Python cleans it up, and flags of XLA."""

import contextlib
import gc
import os
import platform
import sys
from collections.abc import Iterator, MutableMapping
from pathlib import Path

TUNABLE = "glibc.malloc.hugetlb=1"
NHWC = "--xla_gpu_force_conv_nhwc"
DEVICES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")  # the last: Windows' subsystem for Linux


def start_with_huge_pages() -> None:
    """Start this Python again with glibc asking for huge pages; to be called before anything is imported or read.

    XLA takes the memory of a step anew in every call, by malloc; in pages of 4 KiB its faults and misses cost a CPU a third of
    the step (SegNeXt-T, 2 x 256 x 256, two cores: 446 ms without, 264 with). glibc (2.35) reads the setting when a process
    starts, hence the new start, under the same process number. Nothing happens outside Linux and glibc, where GLIBC_TUNABLES
    is set already, or with JAXSEG_HUGE_PAGES=0.
    """
    if sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ or os.environ.get("JAXSEG_HUGE_PAGES") == "0":
        return
    if not sys.executable or platform.libc_ver()[0] != "glibc":
        return
    os.environ["GLIBC_TUNABLES"] = TUNABLE
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection within the block.

    Tracing and lowering make millions of objects that stay; looking through them time and again took 2 of the 13 s before the
    first step of SegNeXt-T from the compilation cache.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def convolve_channels_last(env: MutableMapping[str, str] = os.environ) -> None:
    """Ask XLA for cuDNN's channels-last convolutions over three axes too, unless XLA_FLAGS says otherwise already.

    By itself XLA calls cuDNN with channels last over two axes, and with channels first over three, where cuDNN then turns
    every array to channels last and back: 0.72 of the time of a training step of unet3d_s, 0.77 of nnunet_plain (2 x 128^3,
    bfloat16, NVIDIA H200, jax 0.11.2, 2026-11-27). XLA reads the variable before its first program; an unknown flag ends the
    process: this one is known to jax 0.10 to 0.12. Without a GPU nothing changes, so that programs' cache keys stay.
    """
    if env.get("JAX_PLATFORMS", "").startswith("cpu") or NHWC in env.get("XLA_FLAGS", ""):
        return
    if any(Path(device).exists() for device in DEVICES):
        env["XLA_FLAGS"] = f"{env.get('XLA_FLAGS', '')} {NHWC}=true".strip()
