"""Voxel-wise losses: binary and categorical cross-entropy, focal loss, squared error.

All take logits [B, *S, K], labels [B, *S] (or [B, *S, K]), weight [B], annotated [B, *S] and return (sum, weight); see `targets`.
They are computed from logits by log_sigmoid and log_softmax, so that even a logit of 1e4 has a finite loss and gradient.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.losses.targets import average, prepare
from jaxseg.ops import larger
from jaxseg.types import Array, ConfigError


def bce(
    logits: Array,
    labels: Array,
    *,
    weight: Array | None = None,
    annotated: Array | None = None,
    positive_weight: float | Sequence[float] = 1.0,
    log_floor: float | None = None,
) -> tuple[Array, Array]:
    """Binary cross-entropy -(positive_weight t log p + (1 - t) log(1 - p)), p = sigmoid(z), mean over voxels and channels.

    Args:
      positive_weight: factor of the foreground's term, one number or one per channel.
      log_floor: lower bound of both logarithms; a voxel below it has no gradient. None: no bound. The weighted BCE of the
        left/right lung project has log_floor -5 and positive_weight 3.
    Source: torch.nn.BCEWithLogitsLoss.
    """
    target = prepare(logits, labels, weight, "sigmoid", annotated)
    factor = per_class(positive_weight, logits.shape[-1], "positive_weight")
    log_p, log_q = jax.nn.log_sigmoid(target.logits), jax.nn.log_sigmoid(-target.logits)
    if log_floor is not None:
        log_p, log_q = larger(log_p, log_floor), larger(log_q, log_floor)
    loss = -(factor * target.truth * log_p + (1.0 - target.truth) * log_q)
    return average(target.mean(loss), target.weight)


def cross_entropy(
    logits: Array,
    labels: Array,
    *,
    weight: Array | None = None,
    annotated: Array | None = None,
    class_weights: Sequence[float] | None = None,
) -> tuple[Array, Array]:
    """Cross-entropy: the sum over all voxels of -sum_k c_k t_k log softmax(z)_k, divided by that of sum_k c_k t_k.

    Args:
      class_weights: c, K numbers; None: 1 each. As in PyTorch the denominator has them too, so that the returned weight is
        the sum over samples of the mean class weight of a sample's voxels, not the number of samples.
    Raises:
      ConfigError: the logits have one channel, or there are not K class weights.
    Source: torch.nn.CrossEntropyLoss(weight=c).
    """
    if logits.shape[-1] == 1:
        raise ConfigError(
            "got the loss term 'cross_entropy' for a network with one output channel; use 'bce', or set config.model.softmax=True"
        )
    target = prepare(logits, labels, weight, "softmax", annotated)
    loss = -target.truth * jax.nn.log_softmax(target.logits, axis=-1)
    if class_weights is None:
        return average(target.mean(loss.sum(-1)), target.weight)
    factor = per_class(tuple(class_weights), logits.shape[-1], "class_weights")
    share = (factor * target.truth).sum(-1)  # [B, *S], the class weight of each voxel
    axes = tuple(range(1, share.ndim))
    return average((factor * loss).sum(-1).mean(axes), target.weight)[0], average(share.mean(axes), target.weight)[0]


def focal(
    logits: Array,
    labels: Array,
    *,
    weight: Array | None = None,
    annotated: Array | None = None,
    gamma: float = 2.0,
    alpha: float | Sequence[float] | None = None,
    background: bool = True,
    form: str = "auto",
    channels: str = "mean",
    activation: str = "auto",
) -> tuple[Array, Array]:
    """Focal loss: cross-entropy scaled by (1 - p_t)^gamma, where p_t is the probability of the true class.

    Args:
      gamma: the exponent.
      alpha: balance of classes. One number: alpha for the foreground and 1 - alpha for the background. One number per
        channel: factors of the positive terms.
      background: with softmax, include class 0. (Its logit always takes part in the softmax; MONAI removes it first.)
      form: "elements": binary cross-entropy of every channel, p_t = p or 1 - p. "true_class": only the term of the true
        class. "auto": true_class after a softmax, elements after sigmoids.
      channels: "mean" or "sum" over the K channels before the mean over voxels.
    Source: MONAI losses/focal_loss.py. The BraTS-2D project's: alpha 0.5, gamma 2.5, form "elements", channels "sum",
      activation "softmax".
    """
    if form not in ("auto", "elements", "true_class") or channels not in ("mean", "sum"):
        raise ConfigError(
            f"got form={form!r}, channels={channels!r}; form is 'auto', 'elements' or 'true_class', channels 'mean' or 'sum'"
        )
    target = prepare(logits, labels, weight, activation, annotated)
    elements = form == "elements" or (form == "auto" and not target.softmax)
    margin, t = target.margins(), target.truth  # log p = log_sigmoid(m), log(1 - p) = log_sigmoid(-m)
    classes = logits.shape[-1]
    positive = -jnp.exp(gamma * jax.nn.log_sigmoid(-margin)) * jax.nn.log_sigmoid(margin)
    loss = _alpha(alpha, classes, elements) * t * positive
    if elements:
        negative = -jnp.exp(gamma * jax.nn.log_sigmoid(margin)) * jax.nn.log_sigmoid(-margin)
        loss = loss + (1.0 - alpha if isinstance(alpha, (int, float)) else 1.0) * (1.0 - t) * negative
    if target.softmax and not background:
        loss = loss[..., 1:]
    return average(target.mean(loss if channels == "mean" else loss.sum(-1)), target.weight)


def squared_error(
    logits: Array, labels: Array, *, weight: Array | None = None, annotated: Array | None = None
) -> tuple[Array, Array]:
    """Squared error (p - t)^2, mean over voxels and channels: the Brier score, or an autoencoder's loss on an image in 0..1."""
    target = prepare(logits, labels, weight, annotated=annotated)
    return average(target.mean(jnp.square(target.probabilities() - target.truth)), target.weight)


def per_class(value: float | Sequence[float], classes: int, name: str) -> Array:
    """One number, or one per class, as float32: a scalar or [K].

    Raises:
      ConfigError: another number of values, or a negative one.
    """
    factor = jnp.asarray(value, jnp.float32)
    if factor.ndim and factor.shape != (classes,):
        raise ConfigError(f"got {name} of shape {factor.shape}; must be one number, or one for each of the {classes} channels")
    if np.min(value) < 0:
        raise ConfigError(f"got {name}={value}; must not be negative")
    return factor


def mean(array: Array) -> Array:
    """Mean over all axes but the batch axis: [B]."""
    return array.mean(tuple(range(1, array.ndim)))


def _alpha(alpha: float | Sequence[float] | None, classes: int, elements: bool) -> Array | float:
    """Factors of the positive terms, by channel."""
    if alpha is None:
        return 1.0
    if isinstance(alpha, (int, float)) and not elements:
        return per_class((1.0 - alpha,) + (alpha,) * (classes - 1), classes, "alpha")
    return per_class(alpha, classes, "alpha")
