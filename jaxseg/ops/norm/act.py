"""Normalisation and activation in one: y = act((x - mean) / sqrt(var + eps) * weight + bias).

Statistics per sample and channel ("instance"), per sample and group of channels ("group"), or given (a batch norm at
inference). Given statistics are a single operation that XLA fuses into one pass; statistics of its own go through
`api.standardize`, on a GPU as well: hand-written kernels of four passes took 1.22 to 1.95 of the time of XLA's fusions there
(NVIDIA H200, bfloat16, jax 0.11.2, 2026-11-27; 2 x 96^3 x 32 forward 0.206 / 0.138 ms, gradient 0.340 / 0.174; 8 x 128^2 x 256
0.121 / 0.099, 0.212 / 0.144).
"""

from jaxseg.ops.activation.table import FUSED
from jaxseg.ops.norm import api
from jaxseg.types import Array, ConfigError


def norm_act(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    *,
    groups: int | None = None,
    mean: Array | None = None,
    var: Array | None = None,
    eps: float = 1e-5,
    act: str = "relu",
) -> Array:
    """act(norm(x)), in x's dtype.

    Args:
      x: [B, *S, C].
      weight, bias: [C].
      groups: of channels that share statistics; None: each channel its own.
      mean, var: [C], given statistics instead of x's own; weight and bias may be None then.
      eps: added to the variance.
      act: one of FUSED.
    Raises:
      ConfigError: an unknown activation, or channels that groups do not divide.
    """
    if act not in FUSED:
        raise ConfigError(f"got act={act!r}; it is {', '.join(FUSED)}")
    channels = x.shape[-1]
    groups = groups or channels
    if channels % groups:
        raise ConfigError(f"got groups={groups} for {channels} channels; channels must be divisible by groups")
    if mean is not None and var is not None:
        return api.normalize(x, mean, var, weight, bias, eps, act)
    return api.standardize(x, weight, bias, tuple(range(1, x.ndim - 1)), eps, act, None if groups == channels else groups)[0]
