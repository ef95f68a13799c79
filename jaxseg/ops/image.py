"""From stored images to what a network sees."""

import jax.numpy as jnp

from jaxseg.types import Array


def to_float(image: Array) -> Array:
    """float32: integers (uint8 0..255) divided by 255, floats as they are."""
    scaled = image.astype(jnp.float32)
    return scaled / 255 if jnp.issubdtype(image.dtype, jnp.integer) else scaled
