"""XLA flags that must be set before the first program, where a process has an NVIDIA GPU."""

import os
from collections.abc import MutableMapping
from pathlib import Path

NHWC = "--xla_gpu_force_conv_nhwc"
DEVICES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")  # the last: Windows' subsystem for Linux


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
