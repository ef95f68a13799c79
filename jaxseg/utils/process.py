"""Settings of the process: huge pages for memory, garbage collection, and XLA flags."""

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
    """Restart this Python process so that glibc uses huge pages; call it before anything is imported or read.

    XLA allocates the memory of a step by malloc in every call. With pages of 4 KiB, page faults and TLB misses cost a CPU a third
    of the step (SegNeXt-T, 2 x 256 x 256, two cores: 446 ms without huge pages, 264 ms with them). glibc (2.35) reads the setting
    only when a process starts, hence the restart, which keeps the process number. Nothing is done on other systems than Linux
    with glibc, if GLIBC_TUNABLES is set already, or with JAXSEG_HUGE_PAGES=0.
    """
    if sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ or os.environ.get("JAXSEG_HUGE_PAGES") == "0":
        return
    if not sys.executable or platform.libc_ver()[0] != "glibc":
        return
    os.environ["GLIBC_TUNABLES"] = TUNABLE
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Switch garbage collection off within the block.

    Tracing and lowering create millions of long-lived objects; scanning them repeatedly took 2 of the 13 s before the first step
    of SegNeXt-T (with programs from the compilation cache).
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def convolve_channels_last(env: MutableMapping[str, str] = os.environ) -> None:
    """Let XLA use cuDNN's channels-last convolutions also for three spatial axes, unless XLA_FLAGS already sets this flag.

    By default XLA uses channels last for two axes but channels first for three, where cuDNN converts every array to channels last
    and back. With the flag a training step takes 0.72 of the time for unet3d_s and 0.77 for nnunet_plain (2 x 128^3, bfloat16,
    NVIDIA H200, jax 0.11.2, 2026-11-27). XLA reads the variable before its first program, and an unknown flag ends the process;
    jax 0.10 to 0.12 know this one. Without a GPU nothing is changed, so that cached programs remain valid.
    """
    if env.get("JAX_PLATFORMS", "").startswith("cpu") or NHWC in env.get("XLA_FLAGS", ""):
        return
    if any(Path(device).exists() for device in DEVICES):
        env["XLA_FLAGS"] = f"{env.get('XLA_FLAGS', '')} {NHWC}=true".strip()
