"""Compound losses of published projects, whose parts differ in details from the plain terms."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxseg.losses.overlap import classes_of, dice_of, sum_over_space, weighted_mean
from jaxseg.losses.pointwise import bce, cross_entropy
from jaxseg.losses.targets import Target, average, prepare
from jaxseg.ops import larger
from jaxseg.types import Array, ConfigError


def bce_dice(
    logits: Array,
    labels: Array,
    *,
    weight: Array | None = None,
    annotated: Array | None = None,
    alpha: float = 0.2,
    smooth: float = 1e-6,
    activation: str = "auto",
) -> tuple[Array, Array]:
    """alpha BCE + (1 - alpha) Dice on softmax probabilities, background included: the BraTS 2-D project's "Ell loss".

    BCE is the mean of the binary cross-entropies of all channels and voxels. Dice sums over batch, voxels and channels before
    the division: 1 - (2 sum t p + smooth) / (sum t + sum p + smooth). Twice the loss with alpha 1/2 is its "Bce_Dice".

    Differs from the source in not clipping probabilities at 1e-7 (where Keras loses the gradient).
    """
    target = prepare(logits, labels, weight, activation, annotated)
    m, t, p = target.margins(), target.truth, target.probabilities()
    cross = -(t * jax.nn.log_sigmoid(m) + (1.0 - t) * jax.nn.log_sigmoid(-m))
    overlap, size = sum_over_space(t * p, target.weight).sum(), sum_over_space(t + p, target.weight).sum()
    dice = 1.0 - (2.0 * overlap + smooth) / (size + smooth)
    return average(alpha * target.mean(cross) + (1.0 - alpha) * dice, target.weight)


def exp_log(
    logits: Array,
    labels: Array,
    *,
    weight: Array | None = None,
    annotated: Array | None = None,
    gamma: float = 0.3,
    dice_weight: float = 0.8,
    cross_weight: float = 0.2,
    frequencies: Sequence[float] | None = None,
    smooth: float = 1.0,
    background: bool = True,
    activation: str = "auto",
) -> tuple[Array, Array]:
    """Exponential logarithmic loss dice_weight mean_k (-ln Dice_k)^gamma + cross_weight mean_v w_l (-ln p_l)^gamma.

    k are the classes, v the voxels, l the true class of voxel v. Below u = 1e-6 the function u^gamma is replaced by a straight
    line to 0, because its slope at 0 is infinite.

    Args:
      frequencies: f, the frequency of each class, K numbers (for one logit: background, foreground), which gives
        w_l = (sum f / f_l)^(1/2). None: w_l = 1.
      smooth: added to numerator and denominator of Dice (the paper's pseudocount 1).
    Source: Wong et al. 2018 (arXiv 1809.00076), equations 1 to 4.
    """
    target = prepare(logits, labels, weight, activation, annotated)
    p, t = classes_of(target, background)
    score = dice_of(p, t, None, smooth_nr=smooth, smooth_dr=smooth)  # [B, K]
    dice = _root(-jnp.log(score), gamma).mean(-1)
    w = _root_frequencies(target, frequencies)
    if target.softmax:
        likelihood = -(target.truth * jax.nn.log_softmax(target.logits, axis=-1)).sum(-1)
        factor = (target.truth * w).sum(-1)
    else:
        z, t = target.logits, target.truth
        likelihood = -(t * jax.nn.log_sigmoid(z) + (1.0 - t) * jax.nn.log_sigmoid(-z))
        factor = t * w[1] + (1.0 - t) * w[0]
    return average(dice_weight * dice + cross_weight * target.mean(factor * _root(likelihood, gamma)), target.weight)


def brats3d_standard(
    logits: Array, labels: Array, *, weight: Array | None = None, annotated: Array | None = None
) -> tuple[Array, Array]:
    """0.5 cross-entropy + 0.5 Dice of all classes, background included, smooth 1e-5: "standard" of the BraTS 3-D project."""
    return _cross_entropy_and(logits, labels, weight, annotated, 0.5, 0.5, lambda p: p)


def brats3d_squared(
    logits: Array, labels: Array, *, weight: Array | None = None, annotated: Array | None = None
) -> tuple[Array, Array]:
    """0.3 cross-entropy + 0.7 Dice with p^2 instead of p: the "nnU-Net style" loss of the BraTS 3-D project.

    Dice_k = (2 sum p^2 t + 1e-5) / (sum p^2 + sum t + 1e-5). This is not nnU-Net's own loss, which is the term `nnunet`.
    """
    return _cross_entropy_and(logits, labels, weight, annotated, 0.3, 0.7, jnp.square)


def nnunet(
    logits: Array, labels: Array, *, weight: Array | None = None, annotated: Array | None = None, batch: bool = True
) -> tuple[Array, Array]:
    """nnU-Net's loss: cross-entropy + Dice without background; for one logit and for regions BCE + Dice of every channel.

    Where voxels do not count, BCE is the sum over the channels instead of their mean, as in nnU-Net.

    Args:
      batch: Dice over the whole batch (nnU-Net's batch_dice, which its plans choose) instead of per sample.
    Differs from the source in adding 1: nnU-Net's Dice loss is -Dice, which gives the same gradient.
    Source: nnunetv2/training/loss/compound_losses.py.
    """
    target = prepare(logits, labels, weight, annotated=annotated)
    p, t = classes_of(target, background=False)
    overlap, count = weighted_mean(1.0 - dice_of(p, t, target.weight if batch else None), target.weight)
    cross, _ = (cross_entropy if target.softmax else bce)(logits, labels, weight=weight, annotated=annotated)
    if annotated is not None and not target.softmax:
        cross = cross * logits.shape[-1]
    return overlap + cross, count


def _cross_entropy_and(logits, labels, weight, annotated, a: float, b: float, power) -> tuple[Array, Array]:
    """a times the cross-entropy plus b times the Dice loss of power(p)."""
    target = prepare(logits, labels, weight, annotated=annotated)
    dice = 1.0 - dice_of(power(target.probabilities()), target.truth, None).mean(-1)
    cross, count = (cross_entropy if target.softmax else bce)(logits, labels, weight=weight, annotated=annotated)
    return a * cross + b * average(dice, target.weight)[0], count


def _root(u: Array, gamma: float, near: float = 1e-6) -> Array:
    """u^gamma for u >= 0, replaced by a straight line below `near`, so that the gradient at 0 is finite."""
    u = larger(u, 0.0)  # rounding may make a logarithm slightly negative
    return jnp.where(u > near, larger(u, near) ** gamma, u * near ** (gamma - 1.0))


def _root_frequencies(target: Target, frequencies: Sequence[float] | None) -> Array:
    count = target.logits.shape[-1] if target.softmax else 2
    if frequencies is None:
        return jnp.ones(count, jnp.float32)
    if len(frequencies) != count or min(frequencies) <= 0:
        raise ConfigError(f"got frequencies={tuple(frequencies)}; must be {count} positive numbers, background first")
    return jnp.sqrt(sum(frequencies) / jnp.asarray(frequencies, jnp.float32))
