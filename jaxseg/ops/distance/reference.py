"""The reference implementation of the distance transform: per axis, the minimum over all pairs of voxels of a line."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxseg.types import Array


def distance_transform(mask: Array, spacing: Sequence[float] | None = None) -> Array:
    """As `api.distance_transform`: mask [B, *S] -> float32 [B, *S]; O(n) memory per voxel for lines of n voxels."""
    squared = jnp.where(jnp.asarray(mask) != 0, jnp.inf, 0.0)
    for axis, size in enumerate(spacing or (1.0,) * (squared.ndim - 1), 1):
        i = np.arange(squared.shape[axis])
        cost = jnp.asarray((size * (i[:, None] - i[None])) ** 2, jnp.float32)  # [to, from]
        lines = jnp.moveaxis(squared, axis, -1)
        squared = jnp.moveaxis(jnp.min(lines[..., None, :] + cost, axis=-1), -1, axis)
    return jnp.sqrt(squared)
