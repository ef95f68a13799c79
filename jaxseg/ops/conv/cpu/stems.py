"""A strided convolution of few channels for CPUs: strides are folded into channels, taps into columns of one matrix product.

With x divided into blocks of s positions, x[s p + t] for t = s q + r is channel (r, c) of block p + q, so that the kernel has
ceil(k / s) taps and stride 1. XLA's convolution of 1 or 3 channels uses only part of a vector register. Its gradients are as fast
as with this method, so that only the forward pass is implemented. No dilation or groups.
"""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from jaxseg.ops.conv.matmul import matmul
from jaxseg.ops.conv.spec import Ints, Spec
from jaxseg.types import Array


def forward(spec: Spec, x: Array, w: Array) -> Array:
    """[B, *S, C] and [*k, C, O] -> [B, *S', O]."""
    kernel, rank = w.shape[:-2], w.ndim - 2
    out = spec.output(x.shape[1:-1], kernel)
    taps = tuple(-(-k // s) for k, s in zip(kernel, spec.stride))
    w = jnp.pad(w, (*((0, q * s - k) for q, s, k in zip(taps, spec.stride, kernel)), (0, 0), (0, 0)))
    w = w.reshape(*itertools.chain(*zip(taps, spec.stride)), *w.shape[-2:])  # [q1, s1, q2, s2, ..., C, O]
    w = w.transpose(*range(0, 2 * rank, 2), *range(1, 2 * rank, 2), 2 * rank, 2 * rank + 1)
    return matmul(_columns(spec, x, taps, out), w.reshape(-1, w.shape[-1]))


def _columns(spec: Spec, x: Array, taps: Ints, out: Sequence[int]) -> Array:
    """The inputs of each output position, [B, *S', taps strides C]."""
    rank, stride, length = len(taps), spec.stride, [o + q - 1 for o, q in zip(out, taps)]
    pads = [(low, n * s - low - size, 0) for n, s, size, (low, _) in zip(length, stride, x.shape[1:-1], spec.padding)]
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *pads, (0, 0, 0)))
    x = x.reshape(x.shape[0], *itertools.chain(*zip(length, stride)), x.shape[-1])  # [B, L1, s1, L2, s2, ..., C]
    x = x.transpose(0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2), 2 * rank + 1)
    x = lax.optimization_barrier(x.reshape(*x.shape[: rank + 1], -1))  # [B, *L, strides C]
    views = [x[(slice(None), *(slice(q, q + o) for q, o in zip(tap, out)))] for tap in itertools.product(*map(range, taps))]
    return lax.optimization_barrier(jnp.concatenate(views, -1))
