"""Choose the lowering of a convolution by platform, shape and direction.

The platform is chosen by `lax.platform_dependent`, not `jax.default_backend()`: the decision is made when the program is
lowered, so that a program exported for CUDA on a CPU host, or placed on the CPU of a GPU host, gets the right lowering. For a
single platform no branch remains. GPU kernels are traced only if a GPU is the default backend or if they were requested
(`gpu_choose.mode`), because tracing them takes time. On a CPU oneDNN is preferred to the lowerings of cpu/ where it is installed
and faster (`cpu/onednn`). Each direction is an inner `jax.jit`, so that it is traced once per shape, however many layers have
that shape (SegNeXt-T: 6 s of tracing instead of 16).
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax import lax

from jaxseg.ops import devices, plain
from jaxseg.ops.conv import patches, reference
from jaxseg.ops.conv.cpu import choose
from jaxseg.ops.conv.cpu.onednn import primitive as onednn
from jaxseg.ops.conv.gpu import choose as gpu_choose
from jaxseg.ops.conv.matmul import matmul
from jaxseg.ops.conv.spec import Spec
from jaxseg.types import Array


class Engines(NamedTuple):
    """What is preferred to XLA's operations: on a GPU by a mode of gpu/choose.py, on a CPU whether oneDNN is used."""

    gpu: str
    onednn: bool


def conv(x: Array, w: Array, *, stride: Sequence[int], padding, dilation: Sequence[int], groups: int) -> Array:
    """`api.conv` with every argument resolved."""
    if groups == 1 and math.prod(w.shape[:-2]) == 1 and not any(map(any, padding)):
        if any(s > 1 for s in stride):
            x = lax.slice(x, (0,) * x.ndim, x.shape, (1, *stride, 1))  # indexing is a gather where the batch is symbolic
        return matmul(x, w.reshape(w.shape[-2:]))
    spec = Spec(tuple(stride), tuple(map(tuple, padding)), tuple(dilation), groups)
    if patches.fits(spec, w.shape[:-2]):
        return patches.conv(x, w)
    if plain.wanted():
        return reference.forward(spec, x, w)
    gpu = gpu_choose.mode() if spec.depthwise(w.shape) else "xla"
    engines, alone = Engines(gpu, onednn.wanted(spec, x, w.shape)), devices.share(x.shape) == x.shape
    if not engines.onednn and (
        alone and choose.lowerings(spec, x.shape, w.shape) == gpu_choose.lowerings(gpu, spec, x.shape, w.shape) == choose.XLA
    ):
        return reference.forward(spec, x, w)
    return _conv(spec, engines, x, w)


def conv_transpose(x: Array, w: Array, *, stride: Sequence[int], padding) -> Array:
    """`api.conv_transpose` with every argument resolved."""
    if tuple(stride) == w.shape[:-2]:
        return patches.conv_transpose(x, w, padding)
    return reference.conv_transpose(x, w, stride=stride, padding=padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _conv(spec: Spec, engines: Engines, x: Array, w: Array) -> Array:
    return _forward(spec, engines, x, w)


def _conv_fwd(spec: Spec, engines: Engines, x: Array, w: Array):
    return _forward(spec, engines, x, w), (x, w)


def _conv_bwd(spec: Spec, engines: Engines, saved, g: Array):
    x, w = saved
    dx = _input_gradient(spec, engines, x.shape[1:-1], g, w)
    dw = _weight_gradient(spec, engines, w.shape[:-2], x, g)
    return devices.cotangent(dx, x), devices.cotangent(dw, w)


_conv.defvjp(_conv_fwd, _conv_bwd)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _forward(spec: Spec, engines: Engines, x: Array, w: Array) -> Array:
    own = lambda x, w: (_by_platform("forward", engines, spec, x.shape, w.shape)(x, w),)
    return devices.per_device(own, "bw", "b")(x, w)[0]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _input_gradient(spec: Spec, engines: Engines, size: tuple[int, ...], g: Array, w: Array) -> Array:
    def own(g, w):
        shape = (g.shape[0], *size, w.shape[-2] * spec.groups)
        return (_by_platform("input_gradient", engines, spec, shape, w.shape, size)(g, w),)

    return devices.per_device(own, "bw", "b")(g, w)[0]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _weight_gradient(spec: Spec, engines: Engines, kernel: tuple[int, ...], x: Array, g: Array) -> Array:
    shape = (*kernel, x.shape[-1] // spec.groups, g.shape[-1])
    own = lambda x, g: (_by_platform("weight_gradient", engines, spec, x.shape, shape, kernel)(x, g),)
    return devices.per_device(own, "bb", "s")(x, g)[0]


def _by_platform(direction: str, engines: Engines, spec: Spec, x_shape, w_shape, *static):
    """The lowering of a direction: on a CPU that of cpu/choose.py or oneDNN, for CUDA that of gpu/choose.py, else XLA's own."""
    plain, cpu, cuda = (
        functools.partial(getattr(choice, direction), spec, *static)
        for choice in (
            choose.XLA,
            choose.lowerings(spec, x_shape, w_shape),
            gpu_choose.lowerings(engines.gpu, spec, x_shape, w_shape),
        )
    )
    if engines.onednn and onednn.faster(direction, spec, x_shape, w_shape):
        cpu = functools.partial(onednn.over(cpu.func, direction), spec, *static)
    branches = {"cpu": cpu} if cuda.func is plain.func else {"cpu": cpu, "cuda": cuda}
    return lambda *arrays: lax.platform_dependent(*arrays, **branches, default=plain)
