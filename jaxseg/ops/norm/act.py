"""Normalisation and activation in one: y = act((x - mean) / sqrt(var + eps) * weight + bias).

Statistics per sample and channel ("instance"), per sample and group of channels ("group"), or given (a batch norm at
inference). Given statistics are a single operation that XLA fuses into one pass; statistics of its own a GPU takes through
gpu.py, where that was asked for, and everything else through `api.standardize`.
"""

import os

from jax import lax

from jaxseg.ops.norm import api
from jaxseg.ops.norm.api import ACTS
from jaxseg.types import Array, ConfigError


def norm_act(x: Array, weight: Array | None, bias: Array | None, *, groups: int | None = None, mean: Array | None = None,
             var: Array | None = None, eps: float = 1e-5, act: str = "relu") -> Array:
    """act(norm(x)), in x's dtype.

    Args:
      x: [B, *S, C].
      weight, bias: [C].
      groups: of channels that share statistics; None: each channel its own.
      mean, var: [C], given statistics instead of x's own; weight and bias may be None then.
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
        return api.normalize(x, mean, var, weight, bias, eps, act)
    plain = lambda x, weight, bias: reference(x, weight, bias, groups, eps, act)
    if not _kernels() or not ACTS[act].kernel:
        return plain(x, weight, bias)
    from jaxseg.ops.norm import gpu  # imports Pallas, which only a GPU needs
    if not gpu.fits(x.shape):
        return plain(x, weight, bias)
    fused = lambda x, weight, bias: gpu.norm_act((groups, eps, act, False), x, weight, bias)
    return lax.platform_dependent(x, weight, bias, cuda=fused, default=plain)


def reference(x: Array, weight: Array, bias: Array, groups: int, eps: float, act: str) -> Array:
    """The plain twin of the kernels, and what a CPU runs."""
    return api.standardize(x, weight, bias, tuple(range(1, x.ndim - 1)), eps, act, None if groups == x.shape[-1] else groups)[0]


def _kernels() -> bool:
    """JAXSEG_NORM=pallas asks for the kernels. "xla" is the default until they are measured: XLA's own fusions already run
    at the same number of passes but one, so that a kernel is worth its risk only with a figure."""
    wanted = os.environ.get("JAXSEG_NORM", "xla")
    if wanted not in ("xla", "pallas"):
        raise ConfigError(f"got JAXSEG_NORM={wanted!r}; it is xla or pallas")
    return wanted == "pallas"
