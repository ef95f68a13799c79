"""Normalisation with a fused activation: y = act((x - mean) / sqrt(var + eps) * weight + bias).

Statistics are computed per sample and channel (instance norm) or per sample and group of channels (group norm), or are given
(batch norm in inference). With given statistics XLA fuses everything into one pass; otherwise `api.standardize` is used, also on
a GPU: hand-written kernels with four passes took 1.22 to 1.95 times as long as XLA's fusions there
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
      groups: number of groups of channels that share statistics; None: separate statistics for each channel.
      mean, var: [C], given statistics instead of those of x; weight and bias may then be None.
      eps: added to the variance.
      act: one of FUSED.
    Raises:
      ConfigError: the activation is unknown, or the channels are not divisible by groups.
    """
    if act not in FUSED:
        raise ConfigError(f"got act={act!r}; must be one of {', '.join(FUSED)}")
    channels = x.shape[-1]
    groups = groups or channels
    if channels % groups:
        raise ConfigError(f"got groups={groups} for {channels} channels; channels must be divisible by groups")
    if mean is not None and var is not None:
        return api.normalize(x, mean, var, weight, bias, eps, act)
    return api.standardize(x, weight, bias, tuple(range(1, x.ndim - 1)), eps, act, None if groups == channels else groups)[0]
