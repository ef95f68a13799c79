"""A dense 3-D convolution of depth stride 1 for CPUs, one slice at a time, in a loop.

  gathered:   y[d] = conv2d(concat_t x[d + t], stack_t w[t])
  scattered:  y[d - t] += z[t],   concat_t z[t] = conv2d(x[d], concat_t w[t])
  weights:    dw = sum_d fold(x[d])^T concat_t g[d - t]

The taps of the depth axis become channels of a slice, which stays in the cache; the rest is one 2-D convolution (for the weights:
one matrix product, with the taps of the plane folded into channels of x). XLA's matrix kernels need about 48 columns to be fast:
with fewer output channels the taps are moved to the output ("scattered"). Folding whole volumes would exceed the cache (im2col of
64^3 is 46 times slower than PyTorch); large slices would too, so that they are folded in bands of rows. Slices beyond the border
need no padded copy of x. Two slices per step of the loop save copies of the carried arrays.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from jaxseg.ops import devices
from jaxseg.ops.conv.cpu import threaded
from jaxseg.ops.conv.spec import Spec
from jaxseg.types import Array

_COLUMNS = 48
_FOLDED = 150_000  # numbers of a folded band of rows
_BANDS = 6  # largest number of bands, because each of them is compiled
_UNROLL = 2


def forward(spec: Spec, x: Array, w: Array) -> Array:
    """[B, D, H, W, C] and [kd, kh, kw, C, O] -> [B, D', H', W', O]; stride 1 along D."""
    return (_gathered if w.shape[-1] >= _COLUMNS else _scattered)(spec, x, w)


def input_gradient(spec: Spec, size: Sequence[int], g: Array, w: Array) -> Array:
    """Gradient [B, *size, C] of the input; stride 1."""
    return forward(spec.backward(size, w.shape[:3]), g, jnp.flip(w, (0, 1, 2)).swapaxes(-1, -2))


def weight_gradient(spec: Spec, kernel: Sequence[int], x: Array, g: Array) -> Array:
    """Gradient [*k, C, O] of the weights; stride 1."""
    if x.shape[-1] > g.shape[-1]:  # fold the one with fewer channels: x and g can be exchanged if every tap is mirrored
        turned = weight_gradient(spec.backward(x.shape[1:-1], kernel), kernel, g, x)
        return jnp.flip(turned, (0, 1, 2)).swapaxes(-1, -2)
    (kd, kh, kw), (dd, dh, dw) = kernel, spec.dilation
    channels, out, (height, width) = x.shape[-1], g.shape[-1], g.shape[2:4]
    pads = ((0, 0, 0), *((low, high, 0) for low, high in spec.padding[1:]), (0, 0, 0))
    bands = max(1, min(_BANDS, height, round(height * width * kh * kw * channels / _FOLDED)))
    edges = [height * i // bands for i in range(bands + 1)]

    def step(total, d) -> tuple[Array, None]:
        one = lax.optimization_barrier(lax.pad(_slice(x, d), jnp.zeros((), x.dtype), pads))
        near = _column(g, d + spec.padding[0][0], -dd, kd)  # slice d of x meets slice d + low - t dd of g
        for top, end in zip(edges, edges[1:]):
            fold = [one[:, top + i * dh : end + i * dh, j * dw : j * dw + width] for i in range(kh) for j in range(kw)]
            fold = jnp.concatenate(fold, -1).reshape(-1, kh * kw * channels)
            fold, band = lax.optimization_barrier((fold, near[:, top:end].reshape(-1, kd * out)))
            total = total + jnp.matmul(band.T, fold, preferred_element_type=jnp.float32)
        return total, None

    zero = jnp.zeros((kd * out, kh * kw * channels), jnp.float32)
    total = lax.scan(step, devices.varying(zero, x, g), jnp.arange(x.shape[1]))[0]
    return total.reshape(kd, out, kh, kw, channels).transpose(0, 2, 3, 4, 1).astype(x.dtype)


def _gathered(spec: Spec, x: Array, w: Array) -> Array:
    weights = jnp.concatenate(list(w), axis=-2)  # [kh, kw, kd C, O]

    def step(y, d) -> tuple[Array, None]:
        near = lax.optimization_barrier(_column(x, d - spec.padding[0][0], spec.dilation[0], w.shape[0]))
        return _put(y, threaded.forward(spec.plane, near, weights), d), None

    y = _zeros(spec, x, w)
    return lax.scan(step, y, jnp.arange(y.shape[1]), unroll=_UNROLL)[0]


def _scattered(spec: Spec, x: Array, w: Array) -> Array:
    (low, high), dilation, taps, out = spec.padding[0], spec.dilation[0], w.shape[0], w.shape[-1]
    weights = jnp.concatenate(list(w), axis=-1)  # [kh, kw, C, kd O]
    reach, depth = dilation * (taps - 1), x.shape[1] + min(high, 0)
    y = _zeros(spec, x, w)
    # Slice d of x adds to the output slices d + low - reach ... d + low: the first is complete then, `reach` are pending.

    def step(carry, d) -> tuple[tuple, None]:
        y, pending = carry
        z = threaded.forward(spec.plane, _slice(x, d), weights).astype(jnp.float32)
        sums = [*pending, jnp.zeros_like(z[..., :out])]
        for t in range(taps):
            sums[reach - t * dilation] += z[..., t * out : (t + 1) * out]
        return (_put(y, sums[0], d + low - reach), tuple(sums[1:])), None  # an index below 0 is overwritten in the next steps

    pending = (devices.varying(jnp.zeros(y.shape[:1] + y.shape[2:], jnp.float32), x, w),) * reach
    y, pending = lax.scan(step, (y, pending), jnp.arange(depth), unroll=_UNROLL)[0]
    for d, last in enumerate(pending, depth + low - reach):
        y = _put(y, last, d) if 0 <= d < y.shape[1] else y
    return y


def _zeros(spec: Spec, x: Array, w: Array) -> Array:
    return devices.varying(jnp.zeros((x.shape[0], *spec.output(x.shape[1:-1], w.shape[:3]), w.shape[-1]), x.dtype), x, w)


def _put(y: Array, plane: Array, d) -> Array:
    return lax.dynamic_update_index_in_dim(y, plane.astype(y.dtype), jnp.maximum(d, 0), axis=1)


def _slice(x: Array, d) -> Array:
    return lax.dynamic_index_in_dim(x, d, axis=1, keepdims=False)


def _column(x: Array, start, step: int, count: int) -> Array:
    """[B, H, W, count C]: the slices start, start + step, ... of x concatenated as channels, zero outside x."""
    depth = x.shape[1]

    def plane(d) -> Array:
        return jnp.where((d >= 0) & (d < depth), _slice(x, jnp.clip(d, 0, depth - 1)), 0)

    return jnp.concatenate([plane(start + t * step) for t in range(count)], -1)
