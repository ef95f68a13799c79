"""Where a voxel lies in its volume, as extra channels (CoordConv, Liu et al. 2018, arXiv 1807.03247).

Along each axis of length L the coordinate is linspace(0, 1, L): 0 at the first voxel's centre, 1 at the last one's, in the
order of the axes. (The paper's run from -1 to 1.) An axis of one voxel has coordinate 0.
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
    """Channels from one line of coordinates per axis: [L0], [L1], ... -> float32 [L0, L1, ..., rank]."""
    shape = tuple(len(one) for one in lines)
    return jnp.stack([lax.broadcast_in_dim(jnp.asarray(one, jnp.float32), shape, (axis,)) for axis, one in enumerate(lines)], -1)


def maps(shape: Sequence[int]) -> Array:
    """Coordinate channels of a whole volume, float32 [*shape, rank]."""
    return along([line(length) for length in shape])


def append(image: Array) -> Array:
    """An image [*S, C] followed by its coordinates: [*S, C + rank], in the image's dtype."""
    return jnp.concatenate([image, maps(image.shape[:-1]).astype(image.dtype)], -1)
