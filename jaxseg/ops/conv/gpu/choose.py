"""Which lowering a convolution takes on a GPU: the kernels of depthwise.py or XLA's own. The reasons: table.py."""

import functools
import math
import os
import warnings
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxseg.ops.conv.cpu.choose import XLA, Choice
from jaxseg.ops.conv.gpu import table as gpu_table
from jaxseg.ops.conv.spec import Spec
from jaxseg.types import ConfigError

MODES = ("auto", "xla", "pallas")


def mode() -> str:
    """JAXSEG_CONV: "auto" (the default: by the table), "xla" or "pallas"; "xla" where "auto" meets no GPU.

    The kernels' branch is traced only where it can run, or where it was asked for (to lower for CUDA elsewhere): on a CPU
    host it would cost tracing time in every depthwise convolution.
    """
    wanted = os.environ.get("JAXSEG_CONV", "auto")
    if wanted not in MODES:
        raise ConfigError(f"got JAXSEG_CONV={wanted!r}; it is {', '.join(MODES)}")
    if wanted == "auto" and jax.default_backend() != "gpu":
        return "xla"
    return wanted if wanted == "xla" or compiles() else "xla"


@functools.cache
def compiles() -> bool:
    """Whether Triton's kernels can be built here. Without a GPU: whether their module is there at all."""
    try:
        from jaxseg.ops.conv.gpu import depthwise as gpu
        if jax.default_backend() == "gpu":
            spec = Spec((1, 1), ((1, 1), (1, 1)), (1, 1), 8)
            x, w = jax.ShapeDtypeStruct((1, 4, 4, 8), jnp.bfloat16), jax.ShapeDtypeStruct((3, 3, 1, 8), jnp.bfloat16)
            jax.jit(functools.partial(gpu.forward, spec)).lower(x, w).compile()
            jax.jit(functools.partial(gpu.weight_gradient, spec, (3, 3))).lower(x, x).compile()
        return True
    except Exception as error:  # whatever a version of jax, its GPU plugin or a driver lacks: slower, not broken
        warnings.warn(f"no GPU kernels for depthwise convolutions ({type(error).__name__}: {str(error)[:200]}); "
                      "XLA's own convolutions are used", RuntimeWarning, stacklevel=2)
        return False


def lowerings(mode: str, spec: Spec, x_shape: Sequence[int], w_shape: Sequence[int]) -> Choice:
    """The choice for one shape under `mode()`: x_shape [B, *S, C], w_shape [*k, C/groups, O]."""
    if mode == "xla" or not spec.depthwise(w_shape):
        return XLA
    from jaxseg.ops.conv.gpu import depthwise as gpu  # imports Pallas, which only a GPU needs
    if not gpu.fits(spec, x_shape, w_shape):
        return XLA
    kernels = Choice(gpu.forward, gpu.input_gradient, gpu.weight_gradient)
    if mode == "pallas":
        return kernels
    if math.prod(x_shape) < gpu_table.SMALLEST:
        return XLA
    kernel, dilation = tuple(w_shape[:-2]), max(spec.dilation)
    return Choice(*(plain if gpu_table.slower(kernel, dilation, direction) else chosen
                    for direction, chosen, plain in zip(Choice._fields, kernels, XLA)))
