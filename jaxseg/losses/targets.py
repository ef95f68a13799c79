"""The common inputs of all loss terms (float32 logits and a target with a class axis), and the average over samples.

A term returns (sum, weight) over the samples of the batch, so that sums and weights of several batches, devices and hosts can be
added before the one division that gives the mean.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxseg.types import Array, ConfigError


class Target(NamedTuple):
    """Logits and truth in the same shape.

    Attributes:
      logits: float32 [B, *S, K].
      truth: float32 [B, *S, K], 1 where the voxel belongs to the class (any value in 0..1 for soft labels).
      weight: float32 [B] of the samples.
      softmax: True if the classes exclude each other (softmax over K); False if every channel has its own sigmoid.
      annotated: float32 [B, *S, 1], 1 where a voxel counts and 0 where nobody annotated it (logits and truth are 0 there); None:
        all voxels count.
    """

    logits: Array
    truth: Array
    weight: Array
    softmax: bool
    annotated: Array | None = None

    def probabilities(self) -> Array:
        """Softmax over the classes or a sigmoid per channel, [B, *S, K]; 0 where a voxel does not count, so that sums lack it."""
        p = jax.nn.softmax(self.logits, axis=-1) if self.softmax else jax.nn.sigmoid(self.logits)
        return p if self.annotated is None else p * self.annotated

    def mean(self, loss: Array) -> Array:
        """Mean of [B, *S] or [B, *S, C] over voxels and channels: [B].

        Where voxels do not count, the samples' weighted mean is the mean over all annotated voxels of the batch (as that of
        torch's ignore_index), 0 if there are none.
        """
        axes = tuple(range(1, loss.ndim))
        if self.annotated is None:
            return loss.mean(axes)
        there = self.annotated if loss.ndim == self.annotated.ndim else self.annotated[..., 0]
        total = jnp.sum(self.weight * there.mean(tuple(range(1, there.ndim))))
        return (loss * there).mean(axes) * jnp.where(total > 0, jnp.sum(self.weight) / jnp.where(total > 0, total, 1.0), 0.0)

    def margins(self) -> Array:
        """m [B, *S, K] with sigmoid(m) = probability, so that log p and log(1 - p) are log_sigmoid(m) and log_sigmoid(-m)."""
        return self.logits - log_sum_of_others(self.logits) if self.softmax else self.logits


def prepare(
    logits: Array, labels: Array, weight: Array | None, activation: str = "auto", annotated: Array | None = None
) -> Target:
    """Convert the arguments of a term to a Target.

    Args:
      logits: [B, *S, K] of any floating dtype; converted to float32.
      labels: integer or boolean [B, *S] (K = 1: foreground is label > 0; K > 1: a label outside 0..K-1 belongs to no class);
        or [B, *S, K]: one-hot labels, overlapping regions, or soft labels.
      weight: [B], or None for 1 each.
      activation: "softmax", "sigmoid", or "auto": sigmoid for K = 1 and for labels with a class axis, else softmax.
      annotated: boolean [B, *S]: where voxels count; None: everywhere.
    Raises:
      ValueError: the shapes do not fit.
      ConfigError: the activation is unknown, or softmax of one channel.
    """
    if activation not in ("auto", "softmax", "sigmoid"):
        raise ConfigError(f"got activation={activation!r}; must be 'auto', 'softmax' or 'sigmoid'")
    classes = logits.shape[-1]
    if activation == "softmax" and classes == 1:
        raise ConfigError("got activation='softmax' for one channel, where it is always 1; use 'sigmoid' or two classes")
    if labels.shape not in (logits.shape, logits.shape[:-1]):
        raise ValueError(
            f"got labels of shape {labels.shape} for logits {logits.shape}; must be {logits.shape[:-1]}, "
            f"or {logits.shape} with a class axis"
        )
    if weight is not None and weight.shape != logits.shape[:1]:
        raise ValueError(f"got weight of shape {weight.shape} for logits {logits.shape}; must be [{logits.shape[0]}]")
    with_classes = labels.ndim == logits.ndim
    if with_classes:
        truth = labels.astype(jnp.float32)
    elif classes == 1:
        truth = (labels > 0)[..., None].astype(jnp.float32)
    else:
        truth = (labels[..., None] == jnp.arange(classes)).astype(jnp.float32)
    softmax = activation == "softmax" or (activation == "auto" and classes > 1 and not with_classes)
    weight = jnp.ones(logits.shape[0], jnp.float32) if weight is None else weight.astype(jnp.float32)
    logits = logits.astype(jnp.float32)
    if annotated is None:
        return Target(logits, truth, weight, softmax)
    there = annotated[..., None]
    logits, truth = jnp.where(there, logits, 0.0), jnp.where(there, truth, 0.0)
    return Target(logits, truth, weight, softmax, there.astype(jnp.float32))


def spatial(array: Array) -> tuple[int, ...]:
    """The indices of the spatial axes of [B, *S, K]."""
    return tuple(range(1, array.ndim - 1))


def average(per_sample: Array, weight: Array) -> tuple[Array, Array]:
    """(sum of weight * per_sample, sum of weight) of [B] values; a sample of weight 0 adds nothing, even if it is NaN."""
    return jnp.sum(jnp.where(weight > 0, per_sample, 0.0) * weight), jnp.sum(weight)


def log_sum_of_others(logits: Array) -> Array:
    """log sum_{j != k} exp(z_j) for every class k of [..., K], K >= 2: running sums from both ends, nothing subtracted."""
    classes = logits.shape[-1]
    if classes > 16:  # a program whose size does not grow with the classes
        up, down = (jax.lax.cumlogsumexp(logits, axis=logits.ndim - 1, reverse=reverse) for reverse in (False, True))
        return jnp.concatenate([down[..., 1:2], jnp.logaddexp(up[..., :-2], down[..., 2:]), up[..., -2:-1]], axis=-1)
    z = [logits[..., k] for k in range(classes)]
    before, after = [z[0]], [z[-1]]
    for k in range(1, classes - 1):
        before.append(jnp.logaddexp(before[-1], z[k]))
        after.append(jnp.logaddexp(after[-1], z[classes - 1 - k]))
    after = after[::-1]  # before[k]: classes 0..k; after[k]: classes k+1..K-1
    middle = [jnp.logaddexp(before[k - 1], after[k]) for k in range(1, classes - 1)]
    return jnp.stack([after[0], *middle, before[-1]], axis=-1)
