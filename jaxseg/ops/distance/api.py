"""Exact Euclidean distance transform on the device, for one to three spatial axes.

It works axis by axis (Saito and Toriwaki 1994): with f the squared distance over the axes so far and s the spacing of the next
axis, g(i) = min_j f(j) + (s (i - j))^2. For the first processed axis (the last one of the array) f is 0 or infinite, and two
cumulative extrema give g. The other axes try the offsets |i - j| = 1, 2, ... by shifting the whole array, and stop when
(s offset)^2 >= max g, because no farther voxel can be nearer. The work is O(voxels * largest distance) and vectorises well.

Measured against the minimum over all pairs of voxels of a line ("dense", `reference.py`), one CPU core, 2026-11-21, in ms:
| mask | scipy | dense | offsets (this) |
|---|---|---|---|
| 256^2 random / ball / all but one voxel | 3.7 / 2.5 / 1.1 | 3.1 / 3.3 / 2.8 | 0.8 / 1.6 / 2.7 |
| 96^3 random / ball / all but one voxel | 78 / 78 / 86 | 179 / 174 / 174 | 10 / 21 / 36 |
The lower envelope of parabolas (Felzenszwalb and Huttenlocher 2012) is sequential along each line and was not implemented.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from jaxseg.ops import devices
from jaxseg.types import Array


def distance_transform(mask: Array, spacing: Sequence[float] | None = None) -> Array:
    """Distance of each True voxel to the nearest False voxel, from centre to centre; 0 at False voxels.

    This is scipy.ndimage.distance_transform_edt for a batch; it may be jitted and vmapped. Differs from scipy for an example
    without any False voxel: all distances are inf (scipy's are arbitrary).

    Args:
      mask: [B, *S] bool, or integers with non-zero as True; one to three spatial axes.
      spacing: voxel size along each spatial axis, in the unit of the result; None: 1.
    Returns:
      float32 [B, *S].
    Raises:
      ValueError: the rank is not in 1..3, or the spacing does not fit.
    """
    mask = jnp.asarray(mask) != 0
    squared_sizes = _squared(mask.ndim - 1, mask.shape, spacing)
    return devices.per_device(lambda mask: (_distances(mask, squared_sizes),), "b", "b")(mask)[0]


def signed_distance(mask: Array, spacing: Sequence[float] | None = None) -> Array:
    """Signed distance to the nearest voxel of the other kind: negative inside the mask, positive outside, nowhere 0.

    Arguments and result are those of `distance_transform`; +inf everywhere for an empty mask, -inf for a full one.
    """
    mask = jnp.asarray(mask) != 0
    squared_sizes = _squared(mask.ndim - 1, mask.shape, spacing)

    def signed(mask):
        outside, inside = jnp.split(_distances(jnp.concatenate([~mask, mask]), squared_sizes), 2)
        return (jnp.where(mask, -inside, outside),)

    return devices.per_device(signed, "b", "b")(mask)[0]


def _distances(mask: Array, squared_sizes: Sequence[float]) -> Array:
    """`distance_transform` of a boolean mask, with the squared voxel sizes."""
    squared = _last_axis(mask, squared_sizes[-1])
    for axis in range(mask.ndim - 2, 0, -1):
        squared = _along(squared, squared_sizes[axis - 1], axis)
    return jnp.sqrt(squared)


def _squared(rank: int, shape: tuple[int, ...], spacing: Sequence[float] | None) -> tuple[float, ...]:
    """The squared voxel sizes, checked."""
    if rank not in (1, 2, 3):
        raise ValueError(f"got a mask of shape {shape}; must be [B, *S] with one to three spatial axes")
    sizes = (1.0,) * rank if spacing is None else tuple(float(s) for s in spacing)
    if len(sizes) != rank or not all(0 < s < math.inf for s in sizes):
        raise ValueError(f"got spacing={spacing} for {rank} spatial axes; must be {rank} positive numbers, or None for 1")
    return tuple(s * s for s in sizes)


def _last_axis(mask: Array, weight: float) -> Array:
    """weight * (steps to the nearest False voxel of the line)^2; inf in a line without one."""
    axis = mask.ndim - 1
    i = lax.broadcasted_iota(jnp.float32, mask.shape, axis)
    below = lax.cummax(jnp.where(mask, -jnp.inf, i), axis=axis)
    above = lax.cummin(jnp.where(mask, jnp.inf, i), axis=axis, reverse=True)
    return weight * jnp.square(jnp.minimum(i - below, above - i))


def _along(f: Array, weight: float, axis: int) -> Array:
    """min_j f(j) + weight * (i - j)^2 along one axis."""
    n = f.shape[axis]
    margins = [(n, n) if a == axis else (0, 0) for a in range(f.ndim)]
    wide = jnp.pad(f, margins, constant_values=jnp.inf)

    def cost(offset):
        return weight * jnp.square(offset.astype(jnp.float32))

    def can_improve(carry):
        offset, g = carry
        return (offset < n) & (cost(offset) < jnp.max(g))

    def step(carry):
        offset, g = carry
        low = lax.dynamic_slice_in_dim(wide, n - offset, n, axis)
        high = lax.dynamic_slice_in_dim(wide, n + offset, n, axis)
        return offset + 1, jnp.minimum(g, jnp.minimum(low, high) + cost(offset))

    return lax.while_loop(can_improve, step, (jnp.int32(1), f))[1]
