"""Resizing of feature maps and masks with exactly PyTorch's rules, for any rank, differentiable.

Linear interpolation is one small matrix per axis. `jax.image.resize` is different: it has no align_corners=True, it antialiases
when it shrinks, and for non-integer ratios its 'nearest' picks other voxels than PyTorch's.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.ops import space, tally
from jaxseg.types import Array


def linear_matrix(n_in: int, n_out: int, align_corners: bool) -> np.ndarray:
    """Weights of linear interpolation along one axis, float64 [n_out, n_in].

    Source position of output i: i * (n_in - 1) / (n_out - 1) with align_corners, else max((i + 1/2) n_in / n_out - 1/2, 0).
    """
    i = np.arange(n_out, dtype=np.float64)
    if align_corners:
        src = i * (n_in - 1) / (n_out - 1) if n_out > 1 else np.zeros(1)
    else:
        src = np.maximum((i + 0.5) * n_in / n_out - 0.5, 0.0)
    low = np.minimum(np.floor(src).astype(int), n_in - 1)
    high = np.minimum(low + 1, n_in - 1)
    frac = src - low
    matrix = np.zeros((n_out, n_in))
    np.add.at(matrix, (np.arange(n_out), low), 1 - frac)
    np.add.at(matrix, (np.arange(n_out), high), frac)
    return matrix


def cubic_matrix(n_in: int, n_out: int) -> np.ndarray:
    """Weights of cubic convolution along one axis, float64 [n_out, n_in] (Keys 1981, eq. 4, with a = -3/4 as in PyTorch).

    Source position of output i: (i + 1/2) n_in / n_out - 1/2. The four voxels around it are used; border voxels are repeated.
    """
    a, src = -0.75, (np.arange(n_out) + 0.5) * n_in / n_out - 0.5
    base = np.floor(src).astype(int)
    matrix = np.zeros((n_out, n_in))
    for offset in (-1, 0, 1, 2):
        d = np.abs(src - base - offset)
        weight = np.where(d <= 1, ((a + 2) * d - (a + 3)) * d * d + 1, ((a * d - 5 * a) * d + 8 * a) * d - 4 * a)
        np.add.at(matrix, (np.arange(n_out), np.clip(base + offset, 0, n_in - 1)), weight)
    return matrix


def nearest_index(n_in: int, n_out: int) -> np.ndarray:
    """Source index floor(i * n_in / n_out) of each output position, in exact integer arithmetic."""
    return (np.arange(n_out) * n_in) // n_out


def resize(x: Array, size: Sequence[int], method: str = "linear", *, align_corners: bool = False) -> Array:
    """Resize all spatial axes of [B, *S, C] to `size`.

    Args:
      x: [B, *S, C].
      size: target size of each spatial axis, in voxels.
      method: "linear" (bilinear or trilinear) or "cubic", both without antialiasing, or "nearest".
      align_corners: for "linear" only: the centres of the corner voxels keep their positions.
    Returns:
      [B, *size, C] in x's dtype (integer arrays: nearest only).
    Raises:
      ValueError: the method is unknown, the size has another length, or an integer array is to be interpolated.
    """
    size = tuple(int(n) for n in size)
    if len(size) != x.ndim - 2 or min(size, default=0) < 1:
        raise ValueError(f"got size={size} for an array of shape {x.shape}; must be {x.ndim - 2} numbers of at least 1")
    if align_corners and method != "linear":
        raise ValueError(f"got align_corners=True with method={method!r}; it is supported for 'linear' only")
    if method == "nearest":
        for axis, n in enumerate(size, 1):
            x = _nearest(x, axis, n)
        return x
    if method not in ("linear", "cubic"):
        raise ValueError(f"got method={method!r}; must be 'linear', 'cubic' or 'nearest'")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"got an array of dtype {x.dtype} to interpolate; use method='nearest', or convert it to float")
    tally.add("resize", (4 if method == "linear" else 16) * x.shape[0] * math.prod(size) * x.shape[-1])
    for axis, n in sorted(enumerate(size, 1), key=lambda a: a[1] / x.shape[a[0]]):  # shrink first: fewer operations
        if n != x.shape[axis]:
            weights = linear_matrix(x.shape[axis], n, align_corners) if method == "linear" else cubic_matrix(x.shape[axis], n)
            wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))  # weights of 16 bits would move the grid by 1/512 of a voxel
            if axis == 1 and space.count() > 1:
                x = space.product(weights, wide).astype(x.dtype)
                continue
            product = jnp.tensordot(jnp.asarray(weights, wide.dtype), wide, axes=(1, axis), precision=lax.Precision.HIGHEST)
            x = jnp.moveaxis(product, 0, axis).astype(x.dtype)
    return x


def _nearest(x: Array, axis: int, n: int) -> Array:
    if n == x.shape[axis]:
        return x
    if axis == 1 and (devices := space.count()) > 1:
        if space.divides(n, x.shape[1]):  # the source of every row lies on its own device
            return space.over_rows(lambda x: _nearest(x, 1, n // devices), x)
        return space.whole(lambda x: _nearest(x, 1, n), x)
    if n % x.shape[axis] == 0:  # a repeat has a cheap gradient; a gather's is a scatter
        return jnp.repeat(x, n // x.shape[axis], axis=axis)
    return jnp.take(x, nearest_index(x.shape[axis], n), axis=axis)
