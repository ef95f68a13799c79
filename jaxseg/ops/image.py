"""Convert stored images to the input of a network."""

import jax.numpy as jnp

from jaxseg.types import Array, ConfigError


def to_float(image: Array) -> Array:
    """Convert an image to float32: integers (uint8 0..255) are divided by 255, floats are not changed."""
    scaled = image.astype(jnp.float32)
    return scaled / 255 if jnp.issubdtype(image.dtype, jnp.integer) else scaled


def standardise(image: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
    """Standardise each channel, (image - mean) / std, after augmentation; empty mean and std leave the image unchanged.

    Args:
      image: float [..., C]; in 0..1 if mean and std are those of ImageNet.
      mean, std: C numbers each, or () for both.
    Returns:
      The image, with its shape and dtype.
    Raises:
      ConfigError: there are not C numbers, only one of the two is empty, or a std is not above 0.
    """
    if not len(mean) and not len(std):
        return image
    c = image.shape[-1]
    if len(mean) != c or len(std) != c or not all(s > 0 for s in std):
        raise ConfigError(
            f"got data.mean={tuple(mean)} and data.std={tuple(std)} for {c} channels; must be {c} numbers each, "
            "those of std above 0, or () for both"
        )
    return (image - jnp.asarray(mean, image.dtype)) / jnp.asarray(std, image.dtype)
