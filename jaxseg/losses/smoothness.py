"""Losses that need no labels: they make neighbouring logits similar."""

import jax.numpy as jnp

from jaxseg.losses.targets import prepare
from jaxseg.types import Array


def near_pixel(
    logits: Array, labels: Array, *, weight: Array | None = None, scale: float = 1.0, distance: int = 4, times_batch: bool = True
) -> tuple[Array, Array]:
    """Smoothness loss scale B sum_d mean (z(u) - z(u + d))^2 for the displacements d = (0, n), (n, 0), (n, n), (n, -n).

    d is in (rows, columns). The mean is over the batch and all positions u where both pixels exist; z are logits, not
    probabilities; B is the number of samples (the sum of weights), as in the source. Labels are not used.

    Args:
      scale: factor (the source adds the term with 0.01).
      distance: n, pixels along the last two spatial axes. A displacement larger than the image adds nothing.
      times_batch: keep the factor B; False makes the loss independent of the batch size.
    Raises:
      ValueError: the logits have fewer than two spatial axes.
    Source: WannaBeSuperteur/AI_Projects 2025_05_22_Improve_EffiSegNet, revisions 7 and 8.
    """
    if logits.ndim < 4:
        raise ValueError(f"got logits of shape {logits.shape}; near_pixel needs [B, ..., H, W, K]")
    target = prepare(logits, labels, weight)
    z, n = target.logits, distance
    first, last = slice(None, -n), slice(n, None)
    pairs = (
        (z[..., :, first, :], z[..., :, last, :]),
        (z[..., first, :, :], z[..., last, :, :]),
        (z[..., first, first, :], z[..., last, last, :]),
        (z[..., first, last, :], z[..., last, first, :]),
    )
    axes = tuple(range(1, z.ndim))
    per_sample = sum(jnp.mean(jnp.square(a - b), axes) for a, b in pairs if a.size)  # [B], or 0
    count = jnp.sum(target.weight)
    total = jnp.sum(jnp.where(target.weight > 0, per_sample, 0.0) * target.weight)
    return scale * total * (count if times_batch else 1.0), count
