"""Transforms that paste or erase rectangles: (keys [B], image [B, *S, C], mask [B, *S]) -> (image, mask)."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxseg.types import Array, ConfigError


def _inside(start: Sequence[Array], stop: Sequence[Array], size: Sequence[int]) -> Array:
    """Boolean [*S]: whether a pixel lies in the box start <= index < stop."""
    inside = jnp.ones((), bool)
    for axis, (low, high, n) in enumerate(zip(start, stop, size)):
        index = jnp.arange(n).reshape([n if i == axis else 1 for i in range(len(size))])
        inside = inside & (index >= low) & (index < high)
    return jnp.broadcast_to(inside, tuple(size))


def _centred_box(key: Array, share: Array, size: Sequence[int]) -> Array:
    """Boolean [*S]: a box with `share` times the length of each axis, a uniform random centre, cut off at the image border."""
    centre = [jnp.floor(u * n) for u, n in zip(jax.random.uniform(key, (len(size),)), size)]
    side = [jnp.floor(share * n) for n in size]
    start = [jnp.maximum(c - jnp.floor(s / 2), 0) for c, s in zip(centre, side)]
    stop = [jnp.minimum(c + jnp.floor(s / 2), n) for c, s, n in zip(centre, side, size)]
    return _inside(start, stop, size)


@dataclasses.dataclass(frozen=True)
class CutMix:
    """Replace a box by the same box of another sample of the batch, in image and mask.

    lambda ~ Beta(alpha, alpha) is the fraction of the image that is kept: with r axes the box has (1 - lambda)^(1 / r) of the
    length of each. Its centre is uniform, and it is cut off at the border. The other samples are a random permutation of the
    batch.
    Source: Yun et al. 2019, arXiv 1905.04899. Differs in that every sample draws its own lambda and box.
    """

    alpha: float = 1.0

    def __post_init__(self):
        if not isinstance(self.alpha, (int, float)) or not 0 < self.alpha < math.inf:
            raise ConfigError(f"cutmix alpha={self.alpha!r}: must be a number above 0")

    def __call__(self, keys: Array, image: Array, mask: Array) -> tuple[Array, Array]:
        size = mask.shape[1:]

        def box(key: Array) -> tuple[Array, Array]:
            share, place, turn = jax.random.split(key, 3)
            kept = jax.random.uniform(share) if self.alpha == 1 else jax.random.beta(share, self.alpha, self.alpha)
            return _centred_box(place, (1 - kept) ** (1 / len(size)), size), jax.random.uniform(turn)

        inside, turns = jax.vmap(box)(keys)
        other = jnp.argsort(turns)
        return jnp.where(inside[..., None], image[other], image), jnp.where(inside, mask[other], mask)


@dataclasses.dataclass(frozen=True)
class Cutout:
    """Set boxes of the image to `fill`: `holes` boxes with `fraction` of the length of each axis, at uniform random centres.

    Boxes are cut off at the image border. The labels are set to 0 there if `mask` is True, and kept otherwise.
    Source: DeVries and Taylor 2017, arXiv 1708.04552.
    """

    holes: int = 1
    fraction: float = 0.5
    fill: float = 0.0
    mask: bool = False

    def __post_init__(self):
        if not isinstance(self.holes, int) or self.holes < 1 or not 0 < self.fraction <= 1:
            raise ConfigError(
                f"cutout holes={self.holes!r}, fraction={self.fraction!r}: must be at least one hole, and a fraction in (0, 1]"
            )

    def __call__(self, keys: Array, image: Array, mask: Array) -> tuple[Array, Array]:
        hole = lambda key: _centred_box(key, self.fraction, mask.shape[1:])
        inside = jax.vmap(lambda key: jax.vmap(hole)(jax.random.split(key, self.holes)).any(0))(keys)
        return jnp.where(inside[..., None], self.fill, image), jnp.where(inside, 0, mask) if self.mask else mask


@dataclasses.dataclass(frozen=True)
class BlackRectangle:
    """Set a box in a corner of image and mask to 0, with int(fraction * n) pixels along each axis of length n.

    corner: "first" (index 0 of every axis: top left) or "random" (any of the 2^r corners).
    """

    fraction: float = 0.3
    corner: str = "first"

    def __post_init__(self):
        if not isinstance(self.fraction, (int, float)) or not 0 < self.fraction <= 1:
            raise ConfigError(f"black_rectangle fraction={self.fraction!r}: must lie in (0, 1]")
        if self.corner not in ("first", "random"):
            raise ConfigError(f"black_rectangle corner={self.corner!r}: must be 'first' or 'random'")

    def __call__(self, keys: Array, image: Array, mask: Array) -> tuple[Array, Array]:
        size = mask.shape[1:]
        side = [int(self.fraction * n) for n in size]

        def box(key: Array) -> Array:
            far = jax.random.bernoulli(key, 0.5, (len(size),)) & (self.corner == "random")
            start = [jnp.where(f, n - s, 0) for f, n, s in zip(far, size, side)]
            return _inside(start, [a + s for a, s in zip(start, side)], size)

        inside = jax.vmap(box)(keys)
        return jnp.where(inside[..., None], 0.0, image), jnp.where(inside, 0, mask)
