"""Normalisation: two-pass moments in float32 and one fused scale and shift.

Two passes, mean((x - mean(x))^2), because the one-pass E[x^2] - E[x]^2 loses all digits where |mean| >> std,
as on CT values.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from jaxseg.types import Array


def moments(x: Array, axes: Sequence[int]) -> tuple[Array, Array]:
    """Mean and biased variance over `axes` in float32, those axes kept with size 1."""
    x = x.astype(jnp.float32)
    mean = jnp.mean(x, axis=tuple(axes), keepdims=True)
    var = jnp.mean(jnp.square(x - mean), axis=tuple(axes), keepdims=True)
    return mean, var


def normalize(x: Array, mean: Array, var: Array, weight: Array | None, bias: Array | None, eps: float) -> Array:
    """(x - mean) / sqrt(var + eps) * weight + bias in float32, returned in x's dtype.

    Args:
      x: [B, *S, C].
      mean, var: broadcastable to x.
      weight, bias: [C], or None for 1 and 0.
      eps: added to the variance.
    """
    scale = lax.rsqrt(var.astype(jnp.float32) + eps)
    if weight is not None:
        scale = scale * weight
    y = (x.astype(jnp.float32) - mean) * scale
    if bias is not None:
        y = y + bias
    return y.astype(x.dtype)
