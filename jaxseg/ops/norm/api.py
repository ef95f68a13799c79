"""Normalisation: mean and variance in float32, one fused scale and shift, and a fused activation.

The variance is computed in two passes, mean((x - mean(x))^2), because E[x^2] - E[x]^2 loses all digits where |mean| >> std, as
for CT values.

`standardize` has a hand-written gradient that saves only x: two sums per channel, then one pass

  z = (x - mean) / sqrt(var + eps) * weight + bias,   dz = g act'(z)
  dx = scale (dz - mean(dz) - xhat mean(dz xhat)),   dweight = sum dz xhat,   dbias = sum dz

With the automatic gradient XLA passes over the volume again for the mean, the variance and the scale, which is three times slower
at 64^3 with 16 channels on a CPU.

Passes over memory: XLA's CPU backend sums an expression on all cores without storing it, if no part of it is used elsewhere. But
x - mean is used by the variance, the result and both sums, so that XLA stored it in the forward pass for the backward pass. With
an optimization barrier on the mean it becomes a separate expression for each use. Reads and writes of arrays of x's size: forward
3 and 1 instead of 4 and 2, backward 7 and 2 as before, but in one buffer; the time is 0.67 to 1.0 of that before (2 cores, 16 MB
and 4 MB, 2026-11-21). Alternatives, relative to the time before: dz computed again in both sums 0.9 to 1.25 for relu, 1.3 to 1.8
for silu, 2.3 to 3.6 for gelu; sums over slabs 1.0 to 1.1; both sums as one complex number 0.7 to 0.9.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg.ops import devices, plain
from jaxseg.ops.activation.table import ACTS
from jaxseg.ops.barrier import cpu_barrier
from jaxseg.types import Array


def moments(x: Array, axes: Sequence[int]) -> tuple[Array, Array]:
    """Mean and biased variance over `axes` in float32, those axes kept with size 1."""
    x = x.astype(jnp.float32)
    mean = jnp.mean(x, axis=tuple(axes), keepdims=True)
    var = jnp.mean(jnp.square(x - mean), axis=tuple(axes), keepdims=True)
    return mean, var


def normalize(
    x: Array, mean: Array, var: Array, weight: Array | None, bias: Array | None, eps: float, act: str = "identity"
) -> Array:
    """act((x - mean) / sqrt(var + eps) * weight + bias) in float32, returned in x's dtype.

    Args:
      x: [B, *S, C].
      mean, var: broadcastable to x.
      weight, bias: [C], or None for 1 and 0.
      eps: added to the variance.
      act: one of `ops.FUSED`.
    """
    scale = lax.rsqrt(var.astype(jnp.float32) + eps)
    if weight is not None:
        scale = scale * weight
    y = (x.astype(jnp.float32) - mean) * scale
    if bias is not None:
        y = y + bias
    return ACTS[act].value(y).astype(x.dtype)


def standardize(
    x: Array, weight: Array, bias: Array, axes: tuple[int, ...], eps: float, act: str = "identity", groups: int | None = None
) -> tuple[Array, Array, Array]:
    """`normalize` with the mean and variance of x over `axes`; returns (y, mean, variance).

    Args:
      x: [B, *S, C].
      weight, bias: [C].
      axes: axes of mean and variance; not the last axis.
      eps: added to the variance.
      act: one of `ops.FUSED`.
      groups: number of groups of channels that share mean and variance; None: separate ones for each channel.
    Returns:
      y with the shape and dtype of x; mean and variance of every channel (those of its group), with axes of size 1.
    """
    return (_value if plain.wanted() else _standardize)(x, weight, bias, axes, eps, act, groups)


def _value(x: Array, weight: Array, bias: Array, axes: tuple[int, ...], eps: float, act: str, groups: int | None):
    wide = x.astype(jnp.float32)
    mean = _joined(jnp.mean(wide, axis=axes, keepdims=True), groups)
    var = _joined(jnp.mean(jnp.square(wide - cpu_barrier(mean)), axis=axes, keepdims=True), groups)
    return normalize(x, mean, var, weight, bias, eps, act), mean, var


_standardize = jax.custom_vjp(_value, nondiff_argnums=(3, 4, 5, 6))


def _forward(x: Array, weight: Array, bias: Array, axes: tuple[int, ...], eps: float, act: str, groups: int | None):
    y, mean, var = _standardize(x, weight, bias, axes, eps, act, groups)
    return (y, mean, var), (x, mean, var, weight, bias)


def _backward(axes: tuple[int, ...], eps: float, act: str, groups: int | None, saved, cotangents):
    x, mean, var, weight, bias = saved
    g, to_mean, to_var = cotangents
    n, rest = math.prod(x.shape[a] for a in axes), tuple(range(x.ndim - 1))
    inverse = lax.rsqrt(var + eps)
    scale = weight * inverse
    wide = x.astype(jnp.float32)
    if act != "identity":
        dz = ACTS[act].pull((wide - mean) * scale + bias, g.astype(jnp.float32)).astype(g.dtype)
        g = cpu_barrier(dz)  # stored; dx reuses its memory
    g = g.astype(jnp.float32)
    mean_barrier, bias_sum = cpu_barrier((mean, jnp.sum(g, axis=axes, keepdims=True)))
    weight_sum = jnp.sum(g * (wide - mean_barrier), axis=axes, keepdims=True) * inverse
    var_term = (2 * _joined(to_var, groups) - jnp.square(inverse) * _joined(weight * weight_sum, groups)) / n
    mean_term = (_joined(to_mean, groups) - inverse * _joined(weight * bias_sum, groups)) / n
    total = lambda a, like: devices.cotangent(jnp.sum(a, axis=rest), like)
    return (scale * g + var_term * (wide - mean) + mean_term).astype(x.dtype), total(weight_sum, weight), total(bias_sum, bias)


_standardize.defvjp(_forward, _backward)


def _joined(a: Array, groups: int | None) -> Array:
    """Replace the channels [..., C] by the mean of their group."""
    if groups is None:
        return a
    grouped = a.reshape(*a.shape[:-1], groups, -1)
    return jnp.broadcast_to(jnp.mean(grouped, axis=-1, keepdims=True), grouped.shape).reshape(a.shape)
