"""Depthwise convolution with a large kernel for CPUs, as a product of spectra; the Fourier transforms are matrix products.

  y[p] = sum_t x[p + t - pad] w[t]   <=>   Y = X conj(W) along every axis, evaluated at p - pad

and similarly dw[t] = sum_p x[p + t - pad] g[p]. The transform of an axis of about 20 numbers is a product with a matrix of
cosines and sines; the axes are transformed one after the other, with all other axes, batch and channels as columns. This is the
fastest operation of a CPU, whereas XLA's FFT needs the transformed axes last. For the last axis only the half of the spectrum
that real numbers need is kept. The period L of an axis is the smallest without wrap-around in the used results: max(N + low, k +
N' - 1 - low) for N inputs, N' results and a kernel of k (22 for 13 taps on 16 voxels).

Rounding errors are spread over a channel: about 2e-6 of the result's standard deviation everywhere (13^3 on 16^3 to 40^3), also
where the input is small or zero; a NaN fills its whole channel. Rank 3, stride 1, no dilation; sums in float32.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxseg.ops.conv.cpu.depthwise import repeated
from jaxseg.ops.conv.spec import Spec
from jaxseg.types import Array


def forward(spec: Spec, x: Array, w: Array) -> Array:
    """[B, *S, C] and [*k, 1, m C] -> [B, *S', m C]."""
    kernel, channels = w.shape[:-2], w.shape[-1]
    out, low = spec.output(x.shape[1:-1], kernel), [lo for lo, _ in spec.padding]
    periods = _periods(x.shape[1:-1], out, kernel, low)
    product = _times_conjugate(_spectrum(_batch_behind(repeated(x, channels)), periods), _spectrum(w, periods))
    return jnp.moveaxis(_values(product, periods, low, out), -2, 0).astype(x.dtype)


def input_gradient(spec: Spec, size: Sequence[int], g: Array, w: Array) -> Array:
    """Gradient of an input of spatial `size`: the convolution of g by the flipped kernel."""
    kernel = w.shape[:-2]
    back = spec.backward(size, kernel)._replace(groups=w.shape[-1])
    dx = forward(back, g.astype(jnp.float32), jnp.flip(w, range(len(kernel))))
    return dx.reshape(*dx.shape[:-1], spec.groups, -1).sum(-1).astype(g.dtype)


def weight_gradient(spec: Spec, kernel: Sequence[int], x: Array, g: Array) -> Array:
    """Gradient [*k, 1, m C] of the weights."""
    low = [lo for lo, _ in spec.padding]
    periods = _periods(x.shape[1:-1], g.shape[1:-1], kernel, low)
    spectra = (_spectrum(_batch_behind(a), periods) for a in (repeated(x, g.shape[-1]), g))
    product = _times_conjugate(*spectra).sum(-2, keepdims=True)
    return _values(product, periods, low, kernel).astype(x.dtype)


def _periods(size: Sequence[int], out: Sequence[int], kernel: Sequence[int], low: Sequence[int]) -> list[int]:
    return [max(n + lo, k + o - 1 - lo) for n, o, k, lo in zip(size, out, kernel, low)]


def _batch_behind(x: Array) -> Array:
    """[B, *S, C] -> [*S, B, C]."""
    return jnp.moveaxis(x, 0, -2)


def _spectrum(a: Array, periods: Sequence[int]) -> Array:
    """The spectrum of [*S, B, C]: [2 (real, imaginary), *L, B, C], with only half of the last axis of L."""
    rank, a = len(periods), a.astype(jnp.float32)
    half = periods[-1] // 2 + 1
    angles = _angles(np.arange(half), np.arange(a.shape[rank - 1]), periods[-1])
    a = jnp.tensordot(np.float32([np.cos(angles), -np.sin(angles)]), a, ((2,), (rank - 1,)))  # [2, L3, S1, S2, B, C]
    for period in reversed(periods[:-1]):
        angles = _angles(np.arange(period), np.arange(a.shape[rank]), period)  # the last of S that remains
        a = jnp.tensordot(_complex(np.cos(angles), -np.sin(angles)), a, ((2, 3), (0, rank)))  # [2, L2, L3, S1, B, C], ...
    return a


def _values(a: Array, periods: Sequence[int], low: Sequence[int], out: Sequence[int]) -> Array:
    """The inverse transform of [2, *L, B, C] at the positions 0 - low, 1 - low, ... of every axis: [*out, B, C]."""
    rank, half = len(periods), periods[-1] // 2 + 1
    for axis in range(rank - 1):
        angles = _angles(np.arange(out[axis]) - low[axis], np.arange(periods[axis]), periods[axis])
        inverse = _complex(np.cos(angles), np.sin(angles)) / np.float32(periods[axis])
        a = jnp.tensordot(inverse, a, ((2, 3), (0, axis + 1)))  # [2, o1, L2, L3, B, C], [2, o2, o1, L3, B, C]
    frequencies = np.arange(half)
    angles = _angles(np.arange(out[-1]) - low[-1], frequencies, periods[-1])
    times = np.where((frequencies == 0) | (2 * frequencies == periods[-1]), 1, 2) / periods[-1]  # the other half's share
    a = jnp.tensordot(np.float32([np.cos(angles) * times, -np.sin(angles) * times]), a, ((0, 2), (0, rank)))
    return jnp.moveaxis(a, range(rank), reversed(range(rank)))


def _angles(rows: np.ndarray, columns: np.ndarray, period: int) -> np.ndarray:
    return 2 * np.pi * (np.outer(rows, columns) % period) / period


def _complex(real: np.ndarray, imaginary: np.ndarray) -> np.ndarray:
    """A complex matrix [M, N] as a real one [2, M, 2, N] of (real, imaginary) parts."""
    return np.stack([np.stack([real, -imaginary], 1), np.stack([imaginary, real], 1)]).astype(np.float32)


def _times_conjugate(f: Array, h: Array) -> Array:
    return jnp.stack([f[0] * h[0] + f[1] * h[1], f[1] * h[0] - f[0] * h[1]])
