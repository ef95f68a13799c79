"""Normalisation: two-pass moments in float32 and one fused scale and shift.

Two passes, mean((x - mean(x))^2), because the one-pass E[x^2] - E[x]^2 loses all digits where |mean| >> std,
as on CT values.

`standardize` joins both with a gradient written by hand: per channel three sums, then one pass

  dx = scale (g - mean(g) - xhat mean(g xhat)),   dweight = sum g xhat,   dbias = sum g

Differentiated step by step, XLA walks over the volume again for the mean, the variance and the scale: three times slower
at 64^3 with 16 channels on a CPU.
"""

import functools
import math
from collections.abc import Sequence

import jax
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def standardize(x: Array, weight: Array, bias: Array, axes: tuple[int, ...], eps: float) -> tuple[Array, Array, Array]:
    """`normalize` with x's own moments over `axes`: (y, mean, variance).

    Args:
      x: [B, *S, C].
      weight, bias: [C].
      axes: of the moments; not the last.
      eps: added to the variance.
    """
    mean, var = moments(x, axes)
    return normalize(x, mean, var, weight, bias, eps), mean, var


def _forward(x: Array, weight: Array, bias: Array, axes: tuple[int, ...], eps: float):
    y, mean, var = standardize(x, weight, bias, axes, eps)
    return (y, mean, var), (x, mean, var, weight, bias)


def _backward(axes: tuple[int, ...], eps: float, saved, cotangents):
    x, mean, var, weight, bias = saved
    g, to_mean, to_var = cotangents
    n = math.prod(x.shape[a] for a in axes)
    rest = tuple(range(x.ndim - 1))
    g, centred, inverse = g.astype(jnp.float32), x.astype(jnp.float32) - mean, lax.rsqrt(var + eps)
    bias_sum = jnp.sum(g, axis=axes, keepdims=True)
    weight_sum = jnp.sum(g * centred, axis=axes, keepdims=True) * inverse
    scale = weight * inverse
    slope = (2 * to_var - scale * inverse * weight_sum) / n
    dx = scale * g + slope * centred + (to_mean - scale * bias_sum) / n
    total = lambda a, like: jnp.sum(a, axis=rest).astype(like.dtype)
    return dx.astype(x.dtype), total(weight_sum, weight), total(bias_sum, bias)


standardize.defvjp(_forward, _backward)
