"""From stored images to what a network sees."""

import jax.numpy as jnp

from jaxseg.types import Array, ConfigError


def to_float(image: Array) -> Array:
    """float32: integers (uint8 0..255) divided by 255, floats as they are."""
    scaled = image.astype(jnp.float32)
    return scaled / 255 if jnp.issubdtype(image.dtype, jnp.integer) else scaled


def standardise(image: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
    """(image - mean) / std of each channel, after augmentation; with empty mean and std the image itself.

    Args:
      image: float [..., C], 0..1 where mean and std are those of ImageNet.
      mean, std: C numbers each, or () both.
    Returns:
      image's shape and dtype.
    Raises:
      ConfigError: another count than C, one without the other, or a std that is not above 0.
    """
    if not len(mean) and not len(std):
        return image
    c = image.shape[-1]
    if len(mean) != c or len(std) != c or not all(s > 0 for s in std):
        raise ConfigError(
            f"got data.mean={tuple(mean)} and data.std={tuple(std)} for {c} channels; give {c} numbers each, "
            "those of std above 0, or () for both"
        )
    return (image - jnp.asarray(mean, image.dtype)) / jnp.asarray(std, image.dtype)
