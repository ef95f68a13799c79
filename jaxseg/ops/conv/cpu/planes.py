"""A dense 3-D convolution for CPUs as a sum of 2-D convolutions, one for each tap of the depth axis, with depth in the batch.

  y[d] = sum_t conv2d(x[s d + t], w[t])

On CPUs XLA's convolution is nearly as fast as PyTorch's in 2-D, but 4 to 25 times slower in 3-D (table.py). Any stride and
dilation is supported.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from jaxseg.ops.conv import reference
from jaxseg.ops.conv.cpu import threaded
from jaxseg.ops.conv.spec import Spec
from jaxseg.types import Array


def forward(spec: Spec, x: Array, w: Array) -> Array:
    """[B, D, H, W, C] and [kd, kh, kw, C, O] -> [B, D', H', W', O]."""
    depth = spec.output(x.shape[1:-1], w.shape[:3])[0]
    y = sum(
        _unstack(threaded.forward(spec.plane, _stack(xt), w[t]).astype(jnp.float32), depth)
        for t, xt in enumerate(_taps(spec, x, w.shape[0], depth))
    )
    return y.astype(x.dtype)


def input_gradient(spec: Spec, size: Sequence[int], g: Array, w: Array) -> Array:
    """Gradient [B, *size, C] of the input."""
    if spec.plain:
        return forward(spec.backward(size, w.shape[:3]), g, jnp.flip(w, (0, 1, 2)).swapaxes(-1, -2))
    (low, _), stride, dilation, depth = spec.padding[0], spec.stride[0], spec.dilation[0], g.shape[1]
    total = 0
    for t in range(w.shape[0]):  # slice o of g meets slice stride * o + t * dilation - low of x
        part = reference.input_gradient(spec.plane, size[1:], _stack(g), w[t]).astype(jnp.float32)
        before = t * dilation - low
        after = size[0] - before - (stride * (depth - 1) + 1)
        total = total + lax.pad(_unstack(part, depth), jnp.float32(0), ((0, 0, 0), (before, after, stride - 1), *[(0, 0, 0)] * 3))
    return total.astype(g.dtype)


def weight_gradient(spec: Spec, kernel: Sequence[int], x: Array, g: Array) -> Array:
    """Gradient [*k, C, O] of the weights."""
    return jnp.stack(
        [reference.weight_gradient(spec.plane, kernel[1:], _stack(xt), _stack(g)) for xt in _taps(spec, x, kernel[0], g.shape[1])]
    )


def _taps(spec: Spec, x: Array, taps: int, depth: int) -> list[Array]:
    """For each tap of the depth axis the slices [B, depth, H, W, C] to which it is applied."""
    (low, high), stride, dilation = spec.padding[0], spec.stride[0], spec.dilation[0]
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (low, high, 0), *[(0, 0, 0)] * 3))
    return [lax.slice_in_dim(x, t * dilation, t * dilation + stride * (depth - 1) + 1, stride, axis=1) for t in range(taps)]


def _stack(x: Array) -> Array:
    return x.reshape(-1, *x.shape[2:])


def _unstack(y: Array, depth: int) -> Array:
    return y.reshape(-1, depth, *y.shape[1:])
