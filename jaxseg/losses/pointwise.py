"""Losses that compare voxel by voxel: binary and categorical cross entropy, focal loss.

All take logits [B, *S, K], labels [B, *S] (or [B, *S, K]), weight [B] and return (sum, weight); see `targets`. Everything
is computed from logits through log_sigmoid and log_softmax, so that a logit of 1e4 has a finite loss and gradient.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxseg.losses.targets import average, prepare
from jaxseg.types import Array, ConfigError


def bce(logits: Array, labels: Array, *, weight: Array | None = None, positive_weight: float | Sequence[float] = 1.0,
        log_floor: float | None = None) -> tuple[Array, Array]:
    """-(positive_weight t log p + (1 - t) log(1 - p)), p = sigmoid(z), mean over voxels and channels.

    Args:
      positive_weight: factor of the foreground's term, one number or one per channel.
      log_floor: clamp both logarithms from below (-5 in the seed's weighted BCE, which has positive_weight 3); a voxel
        below the floor then has no gradient. None: no clamp.
    Source: torch.nn.BCEWithLogitsLoss.
    """
    target = prepare(logits, labels, weight, "sigmoid")
    factor = per_class(positive_weight, logits.shape[-1], "positive_weight")
    log_p, log_q = jax.nn.log_sigmoid(target.logits), jax.nn.log_sigmoid(-target.logits)
    if log_floor is not None:
        log_p, log_q = jnp.maximum(log_p, log_floor), jnp.maximum(log_q, log_floor)
    loss = -(factor * target.truth * log_p + (1.0 - target.truth) * log_q)
    return average(_mean(loss), target.weight)


def per_class(value: float | Sequence[float], classes: int, name: str) -> Array:
    """One factor per class, float32 [K] or a scalar.

    Raises:
      ConfigError: not one number and not one per class, or negative.
    """
    factor = jnp.asarray(value, jnp.float32)
    if factor.ndim and factor.shape != (classes,):
        raise ConfigError(f"got {name} of shape {factor.shape}; it takes one number, or one for each of {classes} channels")
    if min(value if factor.ndim else [value]) < 0:
        raise ConfigError(f"got {name}={value}; it must not be negative")
    return factor


def _mean(array: Array) -> Array:
    """Mean over everything but the batch: [B]."""
    return array.mean(tuple(range(1, array.ndim)))
