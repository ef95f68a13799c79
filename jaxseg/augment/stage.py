"""Transforms of a previous stage's classes, which a cascade's second network takes beside the image: (key, [*S, K]) -> [*S, K].

The first network errs less on its training cases than on new ones. nnU-Net therefore alters its classes while the second network
is trained: each class alone, in a random order, with probability `per_class`.

Source: MIC-DKFZ/batchgeneratorsv2, transforms/nnunet (version 0.3.6, with the values of nnunetv2 2.8.1).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxseg.ops.components.api import label
from jaxseg.types import Array, ConfigError

DILATE, ERODE, CLOSE, OPEN = range(4)
_FAR = 1 << 20  # more than any squared distance here


def binary(given: Array) -> Array:
    """Return classes [..., K] of zeros and ones from their shares after a resampling: the largest share wins, also background's.

    Of equal shares the background wins, else the lower class; in nnU-Net the class of the nearest voxel does.
    """
    shares = jnp.concatenate([1 - given.sum(-1, keepdims=True), given], -1)
    return jax.nn.one_hot(shares.argmax(-1) - 1, given.shape[-1], dtype=given.dtype)


def dilate(mask: Array, diameter: Array, largest: int) -> Array:
    """Dilate a mask [*S] with a ball; outside of the image nothing is set.

    Args:
      mask: bool [*S].
      diameter: n, voxels along an axis: the ball around a voxel's centre with radius (n - 1) / 2, or, for an even n, around the
        point half a voxel further along every axis, as in a convolution with padding "same".
      largest: the largest possible diameter (static).
    """
    odd = 1 - diameter % 2
    squared = jnp.where(mask, 0, _FAR)  # of twice the distance, in integers; axis by axis
    before, after = (largest - 1) // 2, largest // 2
    for axis in range(mask.ndim):
        n = mask.shape[axis]
        lines = jnp.pad(squared, [(before, after) if a == axis else (0, 0) for a in range(mask.ndim)], constant_values=_FAR)

        def nearer(i: Array, found: Array, lines: Array = lines, axis: int = axis, n: int = n) -> Array:
            moved = jax.lax.dynamic_slice_in_dim(lines, i, n, axis)
            return jnp.minimum(found, moved + (2 * (i - before) - odd) ** 2)

        squared = jax.lax.fori_loop(0, before + after + 1, nearer, jnp.full_like(squared, _FAR))
    return squared <= (diameter - 1) ** 2


def morph(mask: Array, operation: Array, diameter: Array, largest: int) -> Array:
    """Apply DILATE, ERODE, CLOSE or OPEN to a mask bool [*S]; erosion does not begin at the image's border.

    Other arguments as for `dilate`.
    """

    def step(found: Array, turned: Array) -> tuple[Array, Array]:
        new = dilate(found ^ turned, diameter, largest) ^ turned
        return new, new

    first = (operation == ERODE) | (operation == OPEN)  # dilates the background
    once, twice = jax.lax.scan(step, mask, jnp.stack([first, ~first]))[1]
    return jnp.where((operation == CLOSE) | (operation == OPEN), twice, once)


def without_component(mask: Array, key: Array, most: float) -> Array:
    """Remove one component, drawn uniformly among those of fewer than `most` (fraction 0-1) of the image's voxels.

    Args:
      mask: bool [*S]; neighbours across edges and corners are connected.
    """
    labels = label(mask, mask.ndim).reshape(-1)
    counts = jnp.zeros(mask.size + 1, jnp.int32).at[labels].add(1)
    known = (counts > 0) & (counts < mask.size * most) & (jnp.arange(mask.size + 1) > 0)
    drawn = jnp.where(known, jax.random.uniform(key, known.shape), -1.0).argmax()
    return mask & ~(known.any() & (labels == drawn).reshape(mask.shape))


def _in_turn(key: Array, given: Array, per_class: float, change: Callable[[Array, Array, Array], Array]) -> Array:
    """Apply change(key, classes [*S, K], class) -> classes to each class with the probability, in a random order."""
    order_key, draw_key = jax.random.split(key)
    k = given.shape[-1]

    def one(found: Array, turn: tuple[Array, Array]) -> tuple[Array, None]:
        number, own = turn
        flag_key, change_key = jax.random.split(own)
        applied = jax.random.uniform(flag_key) < per_class
        return jnp.where(applied, change(change_key, found, number), found), None

    return jax.lax.scan(one, given, (jax.random.permutation(order_key, k), jax.random.split(draw_key, k)))[0]


def _check_share(name: str, option: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{name} {option}={value!r}: must lie in 0..1")


@dataclasses.dataclass(frozen=True)
class Morphology:
    """Dilate, erode, close or open classes with a ball; voxels that a class gains are taken from the others.

    The radius r is uniform in `radius` (voxels), and the ball has int(2 r + 1) voxels along an axis: ApplyRandomBinaryOperator.
    """

    radius: tuple[float, float] = (1.0, 8.0)
    per_class: float = 0.5

    def __post_init__(self):
        low, high = self.radius
        if not 0 < low <= high <= 16:
            raise ConfigError(f"stage_morphology radius={self.radius}: must be two rising numbers above 0, at most 16 voxels")
        _check_share("stage_morphology", "per_class", self.per_class)

    def __call__(self, key: Array, given: Array) -> Array:
        largest = int(2 * self.radius[1] + 1)

        def change(key: Array, found: Array, number: Array) -> Array:
            size_key, operation_key = jax.random.split(key)
            radius = jax.random.uniform(size_key, minval=self.radius[0], maxval=self.radius[1])
            operation = jax.random.randint(operation_key, (), 0, 4)
            mask = jnp.take(found, number, -1) > 0
            new = morph(mask, operation, (2 * radius + 1).astype(jnp.int32), largest)
            own = jnp.arange(found.shape[-1]) == number
            others = jnp.where((new & ~mask)[..., None], 0, found)
            return jnp.where(own, new[..., None].astype(found.dtype), others)

        return _in_turn(key, given, self.per_class, change)


@dataclasses.dataclass(frozen=True)
class DropComponent:
    """Remove one component of classes, if it has fewer than `most` (fraction 0-1) of the patch's voxels.

    RemoveRandomConnectedComponentFromOneHotEncoding; what is removed becomes background.
    """

    most: float = 0.15
    per_class: float = 0.5

    def __post_init__(self):
        _check_share("stage_drop", "most", self.most)
        _check_share("stage_drop", "per_class", self.per_class)

    def __call__(self, key: Array, given: Array) -> Array:
        def change(key: Array, found: Array, number: Array) -> Array:
            new = without_component(jnp.take(found, number, -1) > 0, key, self.most)
            own = jnp.arange(found.shape[-1]) == number
            return jnp.where(own, new[..., None].astype(found.dtype), found)

        return _in_turn(key, given, self.per_class, change)
