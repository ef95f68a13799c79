"""Connected components on the device, for any rank.

Every foreground voxel points at a voxel of its component with a smaller or equal index in C order; at first at the start of
its run along the last axis. A round hooks each tree onto the smallest root among its voxels' neighbours (a scatter with
minimum) and halves the paths (p <- p[p]), until a round changes nothing: then every voxel points at the first voxel of its
component. Rounds grow with the logarithm of a component's length, not with the length, so that a spiral costs little more
than a ball. After Zhang, Azad and Hu 2020 (FastSV); differs from it in the start from runs.
One CPU core, 2026-11-21, in ms, scipy / this: 256^2 ball 0.4 / 2.6, 60 % random 0.6 / 2.9, snake 0.2 / 1.8; 96^3 ball
3.5 / 38, 30 % random 9 / 46, 60 % random 16 / 45: for masks that are on the host anyway, scipy is the faster one.

All functions take one image [*S] and may be jitted; `jax.vmap` makes a batch of them.
"""

import itertools

import jax.numpy as jnp
from jax import lax

from jaxseg.types import Array


def label(mask: Array, connectivity: int = 1) -> Array:
    """Number the connected components in the order of their first voxel in C order.

    scipy.ndimage.label with generate_binary_structure(rank, connectivity), up to the order of the numbers.

    Args:
      mask: [*S] bool, or integers with non-zero as True; fewer than 2^31 voxels.
      connectivity: neighbours differ by one along at most this many axes: 1 faces, rank: corners too.
    Returns:
      int32 [*S]: 0 background, 1..N.
    Raises:
      ValueError: a connectivity outside 1 to rank, or an image without axes.
    """
    mask = jnp.asarray(mask) != 0
    roots = _roots(mask, connectivity)
    first = mask.ravel() & (roots == jnp.arange(mask.size))
    numbers = jnp.cumsum(first.astype(jnp.int32))
    return jnp.where(mask, numbers[roots].reshape(mask.shape), 0)


def sizes(labels: Array, max_count: int) -> Array:
    """Voxels of each component 1..max_count; labels beyond are not counted.

    Args:
      labels: int [*S] from `label`.
      max_count: length of the result, static.
    Returns:
      int32 [max_count], 0 where there is no such component.
    """
    counts = jnp.zeros(max_count + 1, jnp.int32).at[labels.ravel()].add(1, mode="drop")
    return counts[1:]


def largest(mask: Array, connectivity: int = 1) -> Array:
    """The largest component of a mask [*S], as bool [*S]; of equally large ones the first; nothing of an empty mask."""
    mask = jnp.asarray(mask) != 0
    roots = _roots(mask, connectivity)
    counts = _counts(mask, roots)
    return mask & (roots == jnp.argmax(counts)).reshape(mask.shape)


def remove_small(mask: Array, voxels: int, connectivity: int = 1) -> Array:
    """A mask [*S] without its components of fewer than `voxels` voxels, as bool [*S]."""
    mask = jnp.asarray(mask) != 0
    roots = _roots(mask, connectivity)
    return mask & (_counts(mask, roots)[roots] >= voxels).reshape(mask.shape)


def centroids(labels: Array, max_count: int) -> Array:
    """Mean voxel index of each component 1..max_count.

    Args:
      labels: int [*S] from `label`.
      max_count: rows of the result, static; labels beyond are left out.
    Returns:
      float32 [max_count, rank] in voxels; NaN where there is no such component.
    """
    counts = sizes(labels, max_count)
    flat = labels.ravel()
    columns = []
    for axis in range(labels.ndim):
        # two steps keep sums exact enough: offsets from the component's first index, small for all but huge components
        index = lax.broadcasted_iota(jnp.int32, labels.shape, axis).ravel()
        start = jnp.full(max_count + 1, labels.shape[axis], jnp.int32).at[flat].min(index, mode="drop")
        offset = (index - start[jnp.minimum(flat, max_count)]).astype(jnp.float32)
        total = jnp.zeros(max_count + 1, jnp.float32).at[flat].add(offset, mode="drop")
        columns.append(jnp.where(counts > 0, start[1:] + total[1:] / jnp.maximum(counts, 1), jnp.nan))
    return jnp.stack(columns, axis=-1)


def _counts(mask: Array, roots: Array) -> Array:
    """Voxels of the component whose first voxel is i, [voxels]; 0 elsewhere."""
    return jnp.zeros(mask.size, jnp.int32).at[roots].add(mask.ravel().astype(jnp.int32))


def _roots(mask: Array, connectivity: int) -> Array:
    """Flat index of the first voxel of each voxel's component, [voxels] int32; a background voxel's own index."""
    if mask.ndim < 1 or not 1 <= connectivity <= mask.ndim:
        raise ValueError(f"got connectivity={connectivity} for a mask of shape {mask.shape}; it is 1 to {max(mask.ndim, 1)}, "
                         "the number of axes along which neighbours may differ")
    index = jnp.arange(mask.size, dtype=jnp.int32).reshape(mask.shape)
    last = mask.ndim - 1
    position = lax.broadcasted_iota(jnp.int32, mask.shape, last)
    start = lax.cummax(jnp.where(mask, -1, position), axis=last) + 1  # of the run along the last axis
    begin = jnp.where(mask, index - position + start, index).ravel()
    neighbours = _neighbours(mask.ndim, connectivity)

    def least(pointers: Array) -> Array:
        """The smallest value among the foreground neighbours of each voxel; at the background, nothing small."""
        wide = jnp.pad(jnp.where(mask, pointers.reshape(mask.shape), mask.size), 1, constant_values=mask.size)
        shifted = [wide[tuple(slice(1 + o, 1 + o + n) for o, n in zip(offset, mask.shape))] for offset in neighbours]
        smallest = shifted[0]
        for other in shifted[1:]:
            smallest = jnp.minimum(smallest, other)
        return jnp.where(mask, smallest, mask.size).ravel()

    def round_(carry):
        p, _ = carry
        near = least(p)
        new = jnp.minimum(p, near).at[p].min(near)
        new = new[new]
        return new[new], p

    return lax.while_loop(lambda c: jnp.any(c[0] != c[1]), round_, (begin, jnp.full_like(begin, -1)))[0]


def _neighbours(rank: int, connectivity: int) -> list[tuple[int, ...]]:
    """Offsets of the neighbours: 1 to `connectivity` axes differ by one."""
    return [o for o in itertools.product((-1, 0, 1), repeat=rank) if 1 <= sum(map(abs, o)) <= connectivity]
