"""Losses of overlap between the predicted and the true region: Dice, generalised Dice, Tversky, Lovasz.

All take logits [B, *S, K], labels [B, *S] (or [B, *S, K]), weight [B] and return (sum, weight); see `targets`.
Common options:
  background: count class 0 too (softmax over K > 1 classes; a single logit and regions have no background channel).
  batch: add the regions of all samples before dividing (a sample counts by its weight), instead of one value per sample.
  smooth_nr, smooth_dr: added to numerator and denominator; an empty class predicted empty then has loss 0.
"""

import jax.numpy as jnp

from jaxseg.losses.targets import Target, average, prepare, spatial
from jaxseg.types import Array


def dice(logits: Array, labels: Array, *, weight: Array | None = None, background: bool = True, squared: bool = False,
         batch: bool = False, smooth_nr: float = 1e-5, smooth_dr: float = 1e-5,
         activation: str = "auto") -> tuple[Array, Array]:
    """1 - (2 sum(p t) + smooth_nr) / (sum(p) + sum(t) + smooth_dr) per sample and class, then the mean.

    Args:
      squared: p^2 and t^2 in the denominator (V-Net).
    Source: MONAI losses/dice.py (DiceLoss); Milletari et al. 2016 for `squared`.
    """
    target = prepare(logits, labels, weight, activation)
    p, t = classes_of(target, background)
    loss = dice_of(p, t, target.weight if batch else None, squared=squared, smooth_nr=smooth_nr, smooth_dr=smooth_dr)
    return average(jnp.broadcast_to(loss.mean(-1), target.weight.shape), target.weight)


def classes_of(target: Target, background: bool) -> tuple[Array, Array]:
    """Probabilities and truth [B, *S, K] of the classes that count."""
    first = 0 if background or not target.softmax else 1
    return target.probabilities()[..., first:], target.truth[..., first:]


def add_up(array: Array, weight: Array | None) -> Array:
    """Sum over space of [B, *S, K]: [B, K]; with the samples' weights also over the batch: [1, K]."""
    per_sample = array.sum(spatial(array))
    return per_sample if weight is None else jnp.sum(per_sample * weight[:, None], axis=0, keepdims=True)


def dice_of(p: Array, t: Array, weight: Array | None, *, squared: bool = False, smooth_nr: float = 1e-5,
            smooth_dr: float = 1e-5) -> Array:
    """Dice loss [B, K] of probabilities and truth [B, *S, K]; [1, K] over the batch when weights are given."""
    size = add_up(p * p + t * t if squared else p + t, weight)
    return 1.0 - (2.0 * add_up(p * t, weight) + smooth_nr) / (size + smooth_dr)
