"""Normalisation and activation in one: y = act((x - mean) / sqrt(var + eps) * weight + bias).

Statistics per sample and channel ("instance"), per sample and group of channels ("group"), or given (a batch norm at
inference). Given statistics, and every case on a CPU, are single operations that XLA fuses into one pass; statistics of
its own a GPU takes through gpu.py, where that was asked for.
"""

import os
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg.ops.activation.api import gelu
from jaxseg.ops.norm import api
from jaxseg.types import Array, ConfigError


class Act(NamedTuple):
    """A function and its slope; `slope` is None where the function is no sum of what a GPU kernel has (erf)."""

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array] | None


ACTS = {
    "identity": Act(lambda z: z, jnp.ones_like),
    "relu": Act(jax.nn.relu, lambda z: jnp.where(z > 0, 1.0, 0.0)),
    "leaky_relu": Act(lambda z: jnp.where(z >= 0, z, 0.01 * z), lambda z: jnp.where(z >= 0, 1.0, 0.01)),
    "silu": Act(lambda z: z * lax.logistic(z), lambda z: lax.logistic(z) * (1 + z * (1 - lax.logistic(z)))),
    "gelu": Act(gelu, None),
}


def norm_act(x: Array, weight: Array, bias: Array, *, groups: int | None = None, mean: Array | None = None,
             var: Array | None = None, eps: float = 1e-5, act: str = "relu") -> Array:
    """act(norm(x)), in x's dtype.

    Args:
      x: [B, *S, C].
      weight, bias: [C].
      groups: of channels that share statistics; None: each channel its own.
      mean, var: [C], given statistics instead of x's own.
      eps: added to the variance.
      act: a key of ACTS.
    Raises:
      ConfigError: an unknown activation, or channels that groups do not divide.
    """
    if act not in ACTS:
        raise ConfigError(f"got act={act!r}; it is {', '.join(ACTS)}")
    channels = x.shape[-1]
    groups = groups or channels
    if channels % groups:
        raise ConfigError(f"got groups={groups} for {channels} channels; channels must be divisible by groups")
    if mean is not None and var is not None:
        return ACTS[act].value(api.normalize(x, mean, var, weight, bias, eps))
    plain = lambda x, weight, bias: reference(x, weight, bias, groups, eps, act)
    if not _kernels() or ACTS[act].slope is None:
        return plain(x, weight, bias)
    from jaxseg.ops.norm import gpu  # imports Pallas, which only a GPU needs
    if not gpu.fits(x.shape):
        return plain(x, weight, bias)
    fused = lambda x, weight, bias: gpu.norm_act((groups, eps, act, False), x, weight, bias)
    return lax.platform_dependent(x, weight, bias, cuda=fused, default=plain)


def reference(x: Array, weight: Array, bias: Array, groups: int, eps: float, act: str) -> Array:
    """The plain twin, operation by operation."""
    space = tuple(range(1, x.ndim - 1))
    if groups == x.shape[-1]:
        return ACTS[act].value(api.standardize(x, weight, bias, space, eps)[0])
    grouped = x.reshape(*x.shape[:-1], groups, -1)
    mean, var = (jnp.repeat(m[..., 0], x.shape[-1] // groups, axis=-1) for m in api.moments(grouped, (*space, x.ndim)))
    return ACTS[act].value(api.normalize(x, mean, var, weight, bias, eps))


def _kernels() -> bool:
    """JAXSEG_NORM=pallas asks for the kernels. "xla" is the default until they are measured: XLA's own fusions already run
    at the same number of passes but one, so that a kernel is worth its risk only with a figure."""
    wanted = os.environ.get("JAXSEG_NORM", "xla")
    if wanted not in ("xla", "pallas"):
        raise ConfigError(f"got JAXSEG_NORM={wanted!r}; it is xla or pallas")
    return wanted == "pallas"
