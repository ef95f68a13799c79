"""Losses that weigh errors by their distance to the true boundary: boundary loss, Hausdorff loss by distance transforms.

Both read one map per sample, phi = `signed_distance` of its labels: distance to the region outside it, minus the distance
to the outside within it, by the exact transform of `ops.distance` on the device. A batch may bring phi as "distance_maps".
"""

import jax
import jax.numpy as jnp

from jaxseg.losses.overlap import classes_of
from jaxseg.losses.pointwise import mean
from jaxseg.losses.targets import average, prepare
from jaxseg.ops.distance import api as distances
from jaxseg.types import Array, ConfigError, Spacing


def signed_distance(labels: Array, num_classes: int, spacing: Spacing | None = None) -> Array:
    """phi of every class, for the batch's "distance_maps".

    Args:
      labels: integer [B, *S].
      num_classes: K; K = 1: one map of label > 0.
      spacing: mm per voxel of each spatial axis; None: distances in voxels.
    Returns:
      float32 [B, *S, K]: EDT(outside) - EDT(inside), 0 where a class is absent or fills the image.
    """
    labels = jnp.asarray(labels)
    regions = (labels > 0)[..., None] if num_classes == 1 else labels[..., None] == jnp.arange(num_classes)
    return region_distance(regions, spacing)


def region_distance(regions: Array, spacing: Spacing | None = None) -> Array:
    """phi of boolean regions [B, *S, K], see `signed_distance`."""
    apart = jnp.moveaxis(regions, -1, 1)  # [B, K, *S]
    phi = distances.signed_distance(apart.reshape(-1, *apart.shape[2:]), spacing)
    phi = jnp.where(jnp.isfinite(phi), phi, 0.0).reshape(apart.shape)
    return jnp.moveaxis(phi, 1, -1)


def boundary(
    logits: Array,
    labels: Array,
    *,
    weight: Array | None = None,
    distance_maps: Array | None = None,
    variant: str = "kervadec",
    background: bool = False,
    activation: str = "auto",
) -> tuple[Array, Array]:
    """Mean over classes and voxels of p psi, where psi is made of phi by `variant`. May be negative.

    Args:
      distance_maps: phi [B, *S, K] of the labels; None: computed here.
      variant: "kervadec": psi = phi outside, phi + 1 inside (0 on the innermost ring). "segloss": phi, 0 on voxels of the
        region that touch the outside (the lung project, after SegLoss). "plain": phi.
      background: count class 0 of a softmax.
    Source: Kervadec et al. 2019 (LIVIAETS/boundary-loss, utils.py); variant "segloss": JunMa11/SegLoss, boundary_loss.py.
    """
    if variant not in ("kervadec", "segloss", "plain"):
        raise ConfigError(f"got variant={variant!r}; it is 'kervadec', 'segloss' or 'plain'")
    target = prepare(logits, labels, weight, activation)
    phi = _phi_of(target.truth) if distance_maps is None else _checked(distance_maps, logits)
    if variant == "kervadec":
        phi = jnp.where(phi < 0, phi + 1.0, phi)
    elif variant == "segloss":
        phi = jnp.where(_rim(phi < 0), 0.0, phi)
    p, _ = classes_of(target, background)
    return average(mean(p * phi[..., -p.shape[-1] :]), target.weight)


def hausdorff(
    logits: Array,
    labels: Array,
    *,
    weight: Array | None = None,
    distance_maps: Array | None = None,
    alpha: float = 2.0,
    field: str = "both",
    background: bool = False,
    activation: str = "auto",
) -> tuple[Array, Array]:
    """Mean over classes and voxels of (p - t)^2 (d_p^alpha + d_t^alpha), d the distance fields of prediction and truth.

    The prediction's field is that of p > 1/2; no gradient passes through either field.

    Args:
      distance_maps: phi [B, *S, K] of the labels, in voxels, as the prediction's field is; None: computed here.
      alpha: the exponent.
      field: "both": distance to the boundary on either side, |phi| (MONAI, SegLossOdyssey). "foreground": inside only (the
        lung project).
      background: count class 0 of a softmax.
    Source: Karimi and Salcudean 2019; MONAI HausdorffDTLoss.
    """
    if field not in ("both", "foreground"):
        raise ConfigError(f"got field={field!r}; it is 'both' or 'foreground'")
    target = prepare(logits, labels, weight, activation)
    p, t = classes_of(target, background)
    last = slice(-p.shape[-1], None)
    distance = jnp.abs if field == "both" else lambda phi: jnp.maximum(-phi, 0.0)
    d_t = distance(_phi_of(t) if distance_maps is None else _checked(distance_maps, logits)[..., last])
    d_p = distance(_phi_of(p))
    return average(mean(jnp.square(p - t) * (d_p**alpha + d_t**alpha)), target.weight)


def _phi_of(regions: Array) -> Array:
    """phi of values > 1/2, [B, *S, K]; without gradient."""
    return region_distance(jax.lax.stop_gradient(regions) > 0.5)


def _rim(inside: Array) -> Array:
    """Voxels of a boolean region [B, *S, K] with a face neighbour outside it (beyond the image's edge nothing is outside)."""
    touched = jnp.zeros_like(inside)
    for axis in range(1, inside.ndim - 1):
        edge = [(0, 0)] * inside.ndim
        edge[axis] = (1, 1)
        padded = jnp.pad(inside, edge, mode="edge")
        n = inside.shape[axis]
        touched |= ~jax.lax.slice_in_dim(padded, 0, n, axis=axis) | ~jax.lax.slice_in_dim(padded, 2, n + 2, axis=axis)
    return inside & touched


def _checked(distance_maps: Array, logits: Array) -> Array:
    if distance_maps.shape != logits.shape:
        raise ValueError(
            f"got distance maps of shape {distance_maps.shape} for logits {logits.shape}; they must be the same "
            "(see losses.boundary.signed_distance)"
        )
    return distance_maps.astype(jnp.float32)
