"""Attention with the whole score matrix in memory: the plain twin."""

import jax
import jax.numpy as jnp

from jaxseg.types import Array


def attention(q: Array, k: Array, v: Array, *, bias: Array | None, scale: float) -> Array:
    """softmax(scale q k' + bias) v in float32; shapes as in `api.attention`."""
    scores = jnp.einsum("bthd,bshd->bhts", q, k, preferred_element_type=jnp.float32) * scale
    if bias is not None:
        scores = scores + bias.astype(jnp.float32)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bhts,bshd->bthd", weights, v)
