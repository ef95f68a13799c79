"""Normalisation of every position over its channels: y = (x - mean) / sqrt(var + eps) * weight + bias.

With xhat = (x - mean) r and r = 1 / sqrt(var + eps), the gradient written by hand

  dx = r (g weight - mean(g weight) - xhat mean(g weight xhat)),   dweight = sum g xhat,   dbias = sum g

saves x, the mean and r. XLA's CPU backend computes sums over the channels one number after the other, and stores intermediate
results that two sums share; as a matrix product with the column weight / C the same sum is vectorised, and g xhat is not stored.
An optimization barrier on the mean and r keeps XLA from storing x - mean in the forward pass. Forward and backward together take
this fraction of the time of the automatic gradient (2 cores, float32, 2026-11-27; in brackets with sums instead of products): 2 x
64^2 x 32 0.49 (0.97), 2 x 64^2 x 64 0.39 (0.95), 32^3 x 24 0.25 (0.94), 9261 x 24 0.47 (1.04), 512 x 192 0.15 (0.48), 64 x 768
0.30 (0.59); SegFormer-B0's step 0.98, with 229 instead of 262 MB of scratch memory; UNETR's 0.99. The sums over the positions are
not computed as products, which would be faster, but with errors 10 to 30 times larger. In the forward pass products are not
faster. On other platforms all sums are computed as sums, which XLA fuses.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg.ops import devices, plain
from jaxseg.ops.norm.api import moments, normalize
from jaxseg.types import Array


def layer_norm(x: Array, weight: Array | None, bias: Array | None, eps: float) -> Array:
    """Layer norm: `normalize` with the mean and variance of x over its last axis, in x's dtype.

    Args:
      x: [..., C].
      weight, bias: [C], or both None for 1 and 0.
      eps: added to the variance.
    """
    return (_value if plain.wanted() else _layer_norm)(x, weight, bias, eps)


def _value(x: Array, weight: Array | None, bias: Array | None, eps: float) -> Array:
    return normalize(x, *moments(x, (-1,)), weight, bias, eps)


_layer_norm = jax.custom_vjp(_value, nondiff_argnums=(3,))


def _forward(x: Array, weight: Array | None, bias: Array | None, eps: float):
    mean, var = moments(x, (-1,))
    return normalize(x, mean, var, weight, bias, eps), (x, mean, lax.rsqrt(var + eps), weight, bias)


def _backward(eps: float, saved, g: Array):
    x, mean, inverse, weight, bias = saved
    dx, to_weight, to_bias = _gradients(x, mean, inverse, jnp.ones(x.shape[-1:]) if weight is None else weight, g)
    like = lambda d, a: None if a is None else devices.cotangent(d, a)
    return like(dx, x), like(to_weight, weight), like(to_bias, bias)


_layer_norm.defvjp(_forward, _backward)


@jax.jit
def _gradients(x: Array, mean: Array, inverse: Array, weight: Array, g: Array) -> tuple[Array, Array, Array]:
    """(dx, dweight, dbias) of x [..., C], mean and inverse [..., 1]."""
    return lax.platform_dependent(
        x, mean, inverse, weight.astype(jnp.float32), g, cpu=_by_products, default=functools.partial(_formula, _as_sum)
    )


def _by_products(x: Array, mean: Array, inverse: Array, weight: Array, g: Array) -> tuple[Array, Array, Array]:
    return _formula(_as_product, x, *lax.optimization_barrier((mean, inverse)), weight, g)


def _formula(weighted_mean, x: Array, mean: Array, inverse: Array, weight: Array, g: Array) -> tuple[Array, Array, Array]:
    wide, positions = g.astype(jnp.float32), range(x.ndim - 1)
    xhat = (x.astype(jnp.float32) - mean) * inverse
    slope = wide * xhat
    dx = inverse * (wide * weight - weighted_mean(wide, weight) - xhat * weighted_mean(slope, weight))
    return dx.astype(x.dtype), slope.sum(positions), wide.sum(positions)


def _as_product(a: Array, weight: Array) -> Array:
    """mean over c of a[..., c] weight[c], [..., 1]."""
    return a @ (weight / a.shape[-1])[:, None]


def _as_sum(a: Array, weight: Array) -> Array:
    return jnp.mean(a * weight, axis=-1, keepdims=True)
