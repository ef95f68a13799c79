"""Overlap losses between the predicted and the true region: Dice, generalised Dice, Tversky, Lovasz.

All take logits [B, *S, K], labels [B, *S] (or [B, *S, K]), weight [B], annotated [B, *S] and return (sum, weight); see `targets`.
Common options:
  background: include class 0 (softmax over K > 1 classes; a single logit and regions have no background channel).
  batch: sum over all samples of the batch (with their weights) before dividing, instead of one value per sample.
  smooth_nr, smooth_dr: added to numerator and denominator; a class that is absent and not predicted then has loss 0.
"""

import jax
import jax.numpy as jnp

from jaxseg.losses.targets import Target, average, prepare, spatial
from jaxseg.types import Array, ConfigError


def dice(
    logits: Array,
    labels: Array,
    *,
    weight: Array | None = None,
    annotated: Array | None = None,
    background: bool = True,
    squared: bool = False,
    batch: bool = False,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    activation: str = "auto",
) -> tuple[Array, Array]:
    """Dice loss 1 - (2 sum(p t) + smooth_nr) / (sum(p) + sum(t) + smooth_dr) per sample and class, then the mean.

    Args:
      squared: use p^2 and t^2 in the denominator (V-Net).
    Source: MONAI losses/dice.py (DiceLoss); Milletari et al. 2016 for `squared`.
    """
    target = prepare(logits, labels, weight, activation, annotated)
    p, t = classes_of(target, background)
    score = dice_of(p, t, target.weight if batch else None, squared=squared, smooth_nr=smooth_nr, smooth_dr=smooth_dr)
    return weighted_mean(1.0 - score, target.weight)


def generalized_dice(
    logits: Array,
    labels: Array,
    *,
    weight: Array | None = None,
    annotated: Array | None = None,
    background: bool = True,
    batch: bool = False,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    activation: str = "auto",
) -> tuple[Array, Array]:
    """Generalised Dice loss 1 - (2 sum_k v_k sum(p t) + smooth_nr) / (sum_k v_k (sum p + sum t) + smooth_dr).

    The weight of class k is v_k = 1 / (sum t)^2; an absent class has the largest weight of the others (0 if all are absent).

    Source: Sudre et al. 2017; MONAI GeneralizedDiceLoss.
    """
    target = prepare(logits, labels, weight, activation, annotated)
    p, t = classes_of(target, background)
    w = target.weight if batch else None
    volume = sum_over_space(t, w)  # [B, K]
    v = jnp.where(volume > 0, 1.0 / jnp.square(jnp.where(volume > 0, volume, 1.0)), 0.0)
    v = jnp.where(volume > 0, v, v.max(-1, keepdims=True))
    overlap, size = (v * sum_over_space(p * t, w)).sum(-1), (v * sum_over_space(p + t, w)).sum(-1)
    return weighted_mean((1.0 - (2.0 * overlap + smooth_nr) / (size + smooth_dr))[:, None], target.weight)


def tversky(
    logits: Array,
    labels: Array,
    *,
    weight: Array | None = None,
    annotated: Array | None = None,
    alpha: float = 0.5,
    beta: float = 0.5,
    background: bool = True,
    batch: bool = False,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    activation: str = "auto",
) -> tuple[Array, Array]:
    """Tversky loss 1 - (TP + smooth_nr) / (TP + alpha FP + beta FN + smooth_dr); alpha = beta = 1/2 is Dice, 1 is Jaccard.

    Args:
      alpha, beta: weights of false positives sum p (1 - t) and of false negatives sum (1 - p) t.
    Source: Salehi et al. 2017; MONAI TverskyLoss.
    """
    target = prepare(logits, labels, weight, activation, annotated)
    p, t = classes_of(target, background)
    w = target.weight if batch else None
    tp, fp, fn = sum_over_space(p * t, w), sum_over_space(p * (1.0 - t), w), sum_over_space((1.0 - p) * t, w)
    return weighted_mean(1.0 - (tp + smooth_nr) / (tp + alpha * fp + beta * fn + smooth_dr), target.weight)


def lovasz(
    logits: Array,
    labels: Array,
    *,
    weight: Array | None = None,
    annotated: Array | None = None,
    classes: str = "present",
    background: bool = True,
    activation: str = "auto",
) -> tuple[Array, Array]:
    """Lovasz loss (the Lovasz extension of the Jaccard loss) per sample: hinge errors for sigmoids, |t - p| for softmax.

    With the errors e sorted from the largest: sum_i e_i (J_i - J_{i-1}), J_i the Jaccard loss of a prediction that is
    wrong exactly on the first i voxels. Errors: max(0, 1 - z (2 t - 1)) (hinge), |t - p| (softmax).

    Args:
      classes: softmax only: mean over the classes "present" in the sample's truth, or over "all".
    Source: Berman et al. 2018, algorithm 1; bermanmaxim/LovaszSoftmax with per_image=True.
    """
    if classes not in ("present", "all"):
        raise ConfigError(f"got classes={classes!r}; must be 'present' or 'all'")
    target = prepare(logits, labels, weight, activation, annotated)
    if target.softmax:
        p, t = classes_of(target, background)
        errors = jnp.abs(t - p)
    else:
        t = target.truth
        errors = 1.0 - target.logits * (2.0 * t - 1.0)
        if target.annotated is not None:
            errors = errors * target.annotated  # of two voxels without error neither changes the loss
    flat = lambda a: jnp.moveaxis(a, -1, 1).reshape(a.shape[0], a.shape[-1], -1)  # [B, K, N]
    keys, truth = jax.lax.sort((-flat(errors), flat((t > 0.5).astype(jnp.int32))), dimension=-1, num_keys=1)
    hits = jnp.cumsum(truth, axis=-1)
    positive = hits[..., -1:]
    union = positive + jnp.cumsum(1 - truth, axis=-1)
    jaccard = 1.0 - (positive - hits) / union  # [B, K, N]; union > 0
    steps = jnp.diff(jaccard, axis=-1, prepend=0.0)
    loss = (jax.nn.relu(-keys) * steps).sum(-1)  # [B, K]
    if not target.softmax or classes == "all":
        return weighted_mean(loss, target.weight)
    present = (positive[..., 0] > 0).astype(jnp.float32)
    return average((loss * present).sum(-1) / jnp.maximum(present.sum(-1), 1.0), target.weight)


def classes_of(target: Target, background: bool) -> tuple[Array, Array]:
    """Probabilities and truth [B, *S, K] of the classes that the loss includes."""
    first = 0 if background or not target.softmax else 1
    return target.probabilities()[..., first:], target.truth[..., first:]


def sum_over_space(array: Array, weight: Array | None) -> Array:
    """Sum over space of [B, *S, K]: [B, K]; with the samples' weights also over the batch: [1, K]."""
    per_sample = array.sum(spatial(array))
    return per_sample if weight is None else jnp.sum(per_sample * weight[:, None], axis=0, keepdims=True)


def dice_of(
    p: Array, t: Array, weight: Array | None, *, squared: bool = False, smooth_nr: float = 1e-5, smooth_dr: float = 1e-5
) -> Array:
    """Dice coefficient [B, K] of probabilities and truth [B, *S, K]; [1, K] over the batch when weights are given."""
    size = sum_over_space(p * p + t * t if squared else p + t, weight)
    return (2.0 * sum_over_space(p * t, weight) + smooth_nr) / (size + smooth_dr)


def weighted_mean(loss: Array, weight: Array) -> tuple[Array, Array]:
    """(sum, weight) of losses [B, K] per sample, or of losses [1, K] of the whole batch (the loss times the sum of weights)."""
    return average(jnp.broadcast_to(loss.mean(-1), weight.shape), weight)
