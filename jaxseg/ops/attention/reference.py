"""Attention with the whole score matrix in memory: the reference implementation."""

import jax
import jax.numpy as jnp

from jaxseg.types import Array

APART = -100.0  # added to the score of two positions in different regions, as in Swin's code


def apart(rows: Array, keys: Array) -> Array:
    """The bias [..., T, S] of integers [..., T] and [..., S]: APART where they differ, else 0."""
    return jnp.where(rows[..., :, None] != keys[..., None, :], APART, 0.0)


def joined(bias: Array | None, regions: Array | None, b: int) -> Array | None:
    """The sum of bias and regions, as one bias for a batch of b entries."""
    if regions is None:
        return bias
    between = jnp.tile(apart(regions, regions), (b // len(regions), 1, 1))[:, None]
    return between if bias is None else bias + between


def attention(q: Array, k: Array, v: Array, *, bias: Array | None, scale: float) -> Array:
    """softmax(scale q k' + bias) v in float32; shapes as in `api.attention`."""
    scores = jnp.einsum("bthd,bshd->bhts", q, k, preferred_element_type=jnp.float32) * scale
    if bias is not None:
        scores = scores + bias.astype(jnp.float32)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bhts,bshd->bthd", weights, v)
