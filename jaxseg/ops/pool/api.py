"""Pooling over all spatial axes, any rank; maxima whose gradient never compares a number with its own copy.

jax finds the place of a maximum again by x == max. XLA may compute x once more for that comparison, in another rounding; then
no place is equal, and the gradient is 0/0 (`jnp.max`) or lost (`jnp.maximum`). Here a place is chosen once and handed on.
Among equals the first takes the whole gradient, as in PyTorch's pooling.
"""

import functools
import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.ops import tally
from jaxseg.ops.conv.api import per_axis
from jaxseg.types import Array


def max_pool(x: Array, kernel: int | Sequence[int] = 2, *, stride=None, padding: int | Sequence[int] = 0) -> Array:
    """Maximum over windows of [B, *S, C]; sizes round down as in PyTorch.

    Where windows do not overlap and nothing is padded it is a chain of maxima of two: the gradient then needs no
    select-and-scatter (slow on a GPU, refused under its deterministic flag).
    """
    rank = x.ndim - 2
    kernel = per_axis(kernel, rank, "kernel")
    stride = kernel if stride is None else per_axis(stride, rank, "stride")
    padding = per_axis(padding, rank, "padding")
    if kernel == stride and not any(padding):
        x = _blocks(x, kernel)
        for axis in reversed(range(rank)):  # the last first, so that of equal numbers the first in the window's order is taken
            parts = [lax.index_in_dim(x, i, 2 + 2 * axis, keepdims=False) for i in range(kernel[axis])]
            x = functools.reduce(larger, parts)
        return x
    pads = ((0, 0), *((p, p) for p in padding), (0, 0))
    low = -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
    # a numpy scalar: jax knows the gradient of a maximum only if it can see that the initial value is the lowest
    return lax.reduce_window(x, np.asarray(low, x.dtype)[()], lax.max, (1, *kernel, 1), (1, *stride, 1), pads)


def spatial_max(x: Array) -> Array:
    """The maximum over space of [B, *S, C]: [B, 1, ..., 1, C].

    Its place is found row by row, then within the best row: argmax over all places at once is 20 times slower than a maximum
    on a CPU (2.8 ms against 0.13 for 24^3 x 64, two cores).
    """
    rows = x.reshape(*x.shape[:2], -1, x.shape[-1])  # [B, S1, S2 S3, C]
    of_rows = lax.stop_gradient(rows).max(axis=2, keepdims=True)
    row = jnp.take_along_axis(rows, jnp.argmax(of_rows, axis=1, keepdims=True), axis=1)  # [B, 1, S2 S3, C]
    found = jnp.take_along_axis(row, jnp.argmax(row, axis=2, keepdims=True), axis=2)
    return found.reshape(x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])


def larger(a: Array, b: Array | float) -> Array:
    """max(a, b) by element; NaN where either is. The gradient goes to a where a >= b, else to b."""
    return jnp.where((a >= b) | (a != a), a, b)


def avg_pool(x: Array, kernel: int | Sequence[int] = 2) -> Array:
    """Mean over windows of [B, *S, C] that do not overlap; sizes round down."""
    rank = x.ndim - 2
    kernel = per_axis(kernel, rank, "kernel")
    return _blocks(x, kernel).mean(axis=tuple(range(2, 2 + 2 * rank, 2)))


def adaptive_avg_pool(x: Array, size: int | Sequence[int]) -> Array:
    """PyTorch's adaptive average pooling: window i of n covers floor(i S / n) to ceil((i + 1) S / n).

    Args:
      x: [B, *S, C].
      size: output size per spatial axis.
    Returns:
      [B, *size, C].
    """
    size = per_axis(size, x.ndim - 2, "size")
    tally.add("mean", math.prod(x.shape))
    for axis, n in enumerate(size, 1):
        matrix = np.zeros((n, x.shape[axis]))
        for i in range(n):
            lo, hi = i * x.shape[axis] // n, -(-(i + 1) * x.shape[axis] // n)
            matrix[i, lo:hi] = 1 / (hi - lo)
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean = jnp.tensordot(jnp.asarray(matrix, wide.dtype), wide, axes=(1, axis), precision=lax.Precision.HIGHEST)
        x = jnp.moveaxis(mean, 0, axis).astype(x.dtype)
    return x


def _blocks(x: Array, kernel: Sequence[int]) -> Array:
    """[B, S1/k1, k1, S2/k2, k2, ..., C], what does not fill a window cut off."""
    kept = [n // k for n, k in zip(x.shape[1:-1], kernel)]
    if min(kept) < 1:
        raise ValueError(f"got spatial size {x.shape[1:-1]}: smaller than the pooling window {tuple(kernel)}")
    x = x[(slice(None), *(slice(0, n * k) for n, k in zip(kept, kernel)))]
    return x.reshape(x.shape[0], *(v for n, k in zip(kept, kernel) for v in (n, k)), x.shape[-1])
