"""Coordinates of voxels as additional channels (CoordConv, Liu et al. 2018, arXiv 1807.03247).

The coordinate along an axis of length L is linspace(0, 1, L): 0 at the centre of the first voxel, 1 at that of the last one (in
the paper from -1 to 1). An axis of one voxel has coordinate 0. The channels have the order of the axes.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.types import Array


def line(length: int) -> np.ndarray:
    """Coordinates along one axis, float32 [length]."""
    return np.linspace(0, 1, length).astype(np.float32)


def along(lines: Sequence[Array]) -> Array:
    """Coordinate channels float32 [L0, L1, ..., rank] from the coordinates along each axis, [L0], [L1], ..."""
    shape = tuple(len(one) for one in lines)
    return jnp.stack([lax.broadcast_in_dim(jnp.asarray(one, jnp.float32), shape, (axis,)) for axis, one in enumerate(lines)], -1)


def maps(shape: Sequence[int]) -> Array:
    """Coordinate channels of a whole volume, float32 [*shape, rank]."""
    return along([line(length) for length in shape])


def append(image: Array) -> Array:
    """Append the coordinate channels to an image: [*S, C] -> [*S, C + rank], in the image's dtype."""
    return jnp.concatenate([image, maps(image.shape[:-1]).astype(image.dtype)], -1)
