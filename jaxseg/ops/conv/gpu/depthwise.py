"""Depthwise convolutions on a GPU by the kernels of stream.py, with the signatures of reference.py.

Both kernels are linear in both arguments. The gradients of each kernel are again one of the two kernels (or itself with flipped
taps), so that gradients of any order exist. With a sharded batch each device computes its part (see ops/gpu_batch.py).
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxseg.ops.conv.gpu import stream
from jaxseg.ops.conv.spec import Spec
from jaxseg.ops.gpu_batch import over_batch
from jaxseg.types import Array

STREAM_TAPS = 31  # largest number of accumulators of one program
CROSS_TAPS = 13  # along the other axes: 169 loads a step


def fits(spec: Spec, x_shape: Sequence[int], w_shape: Sequence[int]) -> bool:
    """Whether the kernels support a convolution.

    It must be depthwise with stride 1, one output per channel and one to three axes, with at most STREAM_TAPS taps along the
    longest axis of the kernel and CROSS_TAPS along the others, and arrays of fewer than 2^31 numbers (offsets are int32).
    """
    kernel = sorted(w_shape[:-2])
    if not (spec.depthwise(w_shape) and spec.plain and w_shape[-1] == spec.groups and 1 <= len(kernel) <= 3):
        return False
    out = spec.output(x_shape[1:-1], w_shape[:-2])
    numbers = x_shape[0] * x_shape[-1] * max(math.prod(x_shape[1:-1]), math.prod(out))
    return kernel[-1] <= STREAM_TAPS and max(kernel[:-1], default=1) <= CROSS_TAPS and numbers + 2**24 < 2**31


def forward(spec: Spec, x: Array, w: Array, *, interpret: bool = False, **tiles) -> Array:
    """`reference.forward`; `tiles` as in `stream.plan`."""
    return _correlate(_static(spec, interpret, tiles), x, w)


def input_gradient(spec: Spec, size: Sequence[int], g: Array, w: Array, *, interpret: bool = False, **tiles) -> Array:
    """`reference.input_gradient`: the same kernel on g, taps flipped."""
    return _correlate(_static(spec.backward(size, w.shape[:-2]), interpret, tiles), g, _flip(w))


def weight_gradient(spec: Spec, kernel: Sequence[int], x: Array, g: Array, *, interpret: bool = False, **tiles) -> Array:
    """`reference.weight_gradient`, summed in float32 and rounded once."""
    return _weights(_static(spec, interpret, tiles), tuple(kernel), x, g).astype(x.dtype)


Static = tuple[Spec, bool, tuple[tuple[str, int], ...]]


def _static(spec: Spec, interpret: bool, tiles: dict[str, int]) -> Static:
    return spec, interpret, tuple(sorted(tiles.items()))


def _flip(w: Array) -> Array:
    return jnp.flip(w, tuple(range(w.ndim - 2)))


def _plan(static: Static, x_shape: tuple[int, ...], kernel: tuple[int, ...]) -> stream.Plan:
    spec, interpret, tiles = static
    return stream.plan(spec, x_shape, kernel, interpret=interpret, **dict(tiles))


def _run_correlate(static: Static, x: Array, w: Array) -> tuple[Array]:
    kernel = w.shape[:-2]
    out = static[0].output(x.shape[1:-1], kernel)
    flat = jnp.moveaxis(w.reshape(*kernel, w.shape[-1]), stream.streamed(kernel), -2)
    return (stream.correlate(_plan(static, x.shape, kernel), x, flat).reshape(x.shape[0], *out, x.shape[-1]),)


def _run_weights(static: tuple[Static, tuple[int, ...]], x: Array, g: Array) -> tuple[Array]:
    static, kernel = static
    found = stream.weights(_plan(static, x.shape, kernel), x, g)  # [cross taps, stream taps, C]
    axis = stream.streamed(kernel)
    cross = kernel[:axis] + kernel[axis + 1 :]
    return (jnp.moveaxis(found.reshape(*cross, kernel[axis], -1), -2, axis)[..., None, :],)


_batched_correlate = over_batch(_run_correlate, "bw", "b")
_batched_weights = over_batch(_run_weights, "bb", "s")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _correlate(static: Static, x: Array, w: Array) -> Array:
    return _batched_correlate(static, x, w)[0]


def _correlate_bwd(static: Static, saved, g: Array):
    x, w = saved
    spec, kernel = static[0], w.shape[:-2]
    back = (spec.backward(x.shape[1:-1], kernel), *static[1:])
    return _correlate(back, g, _flip(w)).astype(x.dtype), _weights(static, kernel, x, g).astype(w.dtype)


_correlate.defvjp(lambda static, x, w: (_correlate(static, x, w), (x, w)), _correlate_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _weights(static: Static, kernel: tuple[int, ...], x: Array, g: Array) -> Array:
    return _batched_weights((static, kernel), x, g)[0]


def _weights_bwd(static: Static, kernel: tuple[int, ...], saved, dw: Array):
    x, g = saved
    back = (static[0].backward(x.shape[1:-1], kernel), *static[1:])
    return _correlate(back, g, _flip(dw)).astype(x.dtype), _correlate(static, x, dw).astype(g.dtype)


_weights.defvjp(lambda static, kernel, x, g: (_weights(static, kernel, x, g), (x, g)), _weights_bwd)
