"""Depthwise convolutions on a GPU through the kernels of stream.py; signatures as in reference.py.

Both kernels are linear in both arguments, and each one's gradients are the other or itself with flipped taps, so that
gradients of any order exist. Under jit with a sharded batch each device takes its part (see ops/gpu_batch.py).
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxseg.ops.conv.gpu import stream
from jaxseg.ops.conv.spec import Spec, spread
from jaxseg.ops.gpu_batch import over_batch
from jaxseg.types import Array

STREAM_TAPS = 31  # accumulators of one program
CROSS_TAPS = 13  # along the other axes: 169 loads a step


def fits(spec: Spec, x_shape: Sequence[int], w_shape: Sequence[int]) -> bool:
    """Depthwise over one to three axes, at most STREAM_TAPS taps along the longest axis of the kernel and CROSS_TAPS along the
    others, arrays of fewer than 2^31 numbers (offsets are int32)."""
    kernel = sorted(w_shape[:-2])
    if not (spec.depthwise(w_shape) and 1 <= len(kernel) <= 3):
        return False
    numbers = x_shape[0] * w_shape[-1] * max(math.prod(x_shape[1:-1]), math.prod(_dense(spec, x_shape[1:-1], w_shape[:-2])[1]))
    return kernel[-1] <= STREAM_TAPS and max(kernel[:-1], default=1) <= CROSS_TAPS and numbers + 2**24 < 2**31


def forward(spec: Spec, x: Array, w: Array, *, interpret: bool = False, **tiles) -> Array:
    """`reference.forward`; `tiles` as in `gpu_stream.plan`. With a stride every output of stride 1 is made, and most dropped."""
    x, spec = _repeated(spec, x, w.shape[-1])
    dense, _ = _dense(spec, x.shape[1:-1], w.shape[:-2])
    y = _correlate(_static(dense, interpret, tiles), x, w)
    return y if spec.plain else y[(slice(None), *(slice(None, None, s) for s in spec.stride))]


def input_gradient(spec: Spec, size: Sequence[int], g: Array, w: Array, *, interpret: bool = False, **tiles) -> Array:
    """`reference.input_gradient`: the same kernel on g (with a stride: zeros between its entries), taps flipped."""
    wide = spec._replace(groups=w.shape[-1])
    dx = _correlate(_static(wide.backward(size, w.shape[:-2]), interpret, tiles), spread(g, spec.stride), _flip(w))
    many = w.shape[-1] // spec.groups
    return dx if many == 1 else dx.reshape(*dx.shape[:-1], spec.groups, many).astype(jnp.float32).sum(-1).astype(g.dtype)


def weight_gradient(spec: Spec, kernel: Sequence[int], x: Array, g: Array, *, interpret: bool = False, **tiles) -> Array:
    """`reference.weight_gradient`, summed in float32 and rounded once."""
    x, spec = _repeated(spec, x, g.shape[-1])
    dense, _ = _dense(spec, x.shape[1:-1], kernel)
    return _weights(_static(dense, interpret, tiles), tuple(kernel), x, spread(g, spec.stride)).astype(x.dtype)


def _repeated(spec: Spec, x: Array, out: int) -> tuple[Array, Spec]:
    """Each channel as often as it has kernels, so that every output has an input of its own."""
    return (x if out == spec.groups else jnp.repeat(x, out // spec.groups, axis=-1)), spec._replace(groups=out)


def _dense(spec: Spec, size: Sequence[int], kernel: Sequence[int]) -> tuple[Spec, tuple[int, ...]]:
    """The stride-1 convolution whose output has stride - 1 more entries between those of `spec`, and the size of that output."""
    out = tuple(s * (o - 1) + 1 for s, o in zip(spec.stride, spec.output(size, kernel)))
    pads = tuple((lo, o - 1 - n - lo + d * (k - 1) + 1) for o, n, (lo, _), k, d in
                 zip(out, size, spec.padding, kernel, spec.dilation))
    return Spec((1,) * len(pads), pads, spec.dilation, spec.groups), out


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
    cross = kernel[:axis] + kernel[axis + 1:]
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
