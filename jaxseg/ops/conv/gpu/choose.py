"""Choose the lowering of a convolution on a GPU: the kernels of depthwise.py or XLA's own; table.py has the measurements."""

import functools
import math
import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxseg.ops import gpu_probe
from jaxseg.ops.conv.cpu.choose import XLA, Choice
from jaxseg.ops.conv.gpu import table as gpu_table
from jaxseg.ops.conv.spec import Spec
from jaxseg.ops.sizes import known
from jaxseg.types import ConfigError

MODES = ("auto", "xla", "pallas")


def mode() -> str:
    """The value of JAXSEG_CONV: "auto" (default: by the table), "xla" or "pallas"; without a GPU "auto" becomes "xla".

    The kernels are traced only where they can run, or if they were requested (to lower for CUDA on another machine): on a CPU
    host they would cost tracing time in every depthwise convolution.
    """
    wanted = os.environ.get("JAXSEG_CONV", "auto")
    if wanted not in MODES:
        raise ConfigError(f"got JAXSEG_CONV={wanted!r}; must be one of {', '.join(MODES)}")
    return "xla" if wanted == "auto" and gpu_probe.capability() is None else wanted


def lowerings(mode: str, spec: Spec, x_shape: Sequence[int], w_shape: Sequence[int]) -> Choice:
    """The choice for one shape under `mode()`: x_shape [B, *S, C], w_shape [*k, C/groups, O]."""
    if mode == "xla" or not spec.depthwise(w_shape):
        return XLA
    from jaxseg.ops.conv.gpu import depthwise as gpu  # imports Pallas, which is needed on a GPU only

    x_shape = known(x_shape)
    if not gpu.fits(spec, x_shape, w_shape):
        return XLA
    if mode == "auto" and math.prod(x_shape) < gpu_table.SMALLEST:
        return XLA
    kernel = tuple(w_shape[:-2])
    wanted = [direction for direction in Choice._fields if mode == "pallas" or gpu_table.faster(kernel, direction)]
    found = {direction: getattr(gpu, direction) for direction in wanted if _compiles(direction, spec, kernel, x_shape[-1])}
    return XLA._replace(**found)


def _compiles(direction: str, spec: Spec, kernel: tuple[int, ...], channels: int) -> bool:
    """Whether this class of kernels compiles on this GPU; the input's gradient uses the forward kernel."""
    from jaxseg.ops.conv.gpu import depthwise as gpu
    from jaxseg.ops.conv.gpu import stream

    weights, width = direction == "weight_gradient", stream.width(channels)
    small = spec._replace(groups=width)
    x = jax.ShapeDtypeStruct((64, *(d * (k - 1) + 8 for k, d in zip(kernel, spec.dilation)), width), jnp.bfloat16)
    g = jax.ShapeDtypeStruct((64, *small.output(x.shape[1:-1], kernel), width), jnp.bfloat16)
    w = jax.ShapeDtypeStruct((*kernel, 1, width), jnp.bfloat16)
    function = functools.partial(gpu.weight_gradient, small, kernel) if weights else functools.partial(gpu.forward, small)
    return gpu_probe.compiles(
        "Weight gradients of depthwise convolutions" if weights else "Depthwise convolutions",
        (kernel, spec.dilation, width),
        function,
        arguments=(x, g) if weights else (x, w),
    )
