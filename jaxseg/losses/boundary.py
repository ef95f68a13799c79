"""Losses that weight errors by their distance to the true boundary: boundary loss and Hausdorff distance-transform loss.

Both use a signed distance map phi of each sample's labels (`signed_distance`): outside a region it is the distance to the
region, inside it is minus the distance to the outside. It is computed on the device by the exact transform of `ops.distance`,
or given in the batch as "distance_maps".
"""

import jax
import jax.numpy as jnp

from jaxseg.losses.overlap import classes_of
from jaxseg.losses.pointwise import mean
from jaxseg.losses.targets import average, prepare
from jaxseg.ops.distance import api as distances
from jaxseg.types import Array, ConfigError, Spacing


def signed_distance(labels: Array, num_classes: int, spacing: Spacing | None = None) -> Array:
    """Signed distance map phi of every class, which a batch may hold as "distance_maps".

    Args:
      labels: integer [B, *S].
      num_classes: K; for K = 1 the map of label > 0.
      spacing: mm per voxel of each spatial axis; None: distances in voxels.
    Returns:
      float32 [B, *S, K]: EDT(outside) - EDT(inside), 0 where a class is absent or fills the image.
    """
    labels = jnp.asarray(labels)
    regions = (labels > 0)[..., None] if num_classes == 1 else labels[..., None] == jnp.arange(num_classes)
    return region_distance(regions, spacing)


def region_distance(regions: Array, spacing: Spacing | None = None) -> Array:
    """Signed distance map of boolean regions [B, *S, K], see `signed_distance`."""
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
    """Boundary loss: mean over classes and voxels of p psi, with psi a variant of the distance map phi. It may be negative.

    Args:
      distance_maps: phi [B, *S, K] of the labels; None: computed here.
      variant: "kervadec": psi = phi outside, phi + 1 inside (0 on the region's outermost voxels). "segloss": psi = phi, but 0
        on voxels of the region that touch the outside (the lung project, after SegLoss). "plain": psi = phi.
      background: include class 0 of a softmax.
    Source: Kervadec et al. 2019 (LIVIAETS/boundary-loss, utils.py); variant "segloss": JunMa11/SegLoss, boundary_loss.py.
    """
    if variant not in ("kervadec", "segloss", "plain"):
        raise ConfigError(f"got variant={variant!r}; must be 'kervadec', 'segloss' or 'plain'")
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
    """Hausdorff loss: mean over classes and voxels of (p - t)^2 (d_p^alpha + d_t^alpha).

    d_p and d_t are the distances to the boundaries of the prediction (p > 1/2) and of the truth t; no gradient flows through
    them.

    Args:
      distance_maps: phi [B, *S, K] of the labels, in voxels (as d_p is); None: computed here.
      alpha: the exponent.
      field: "both": distances on both sides of the boundary, |phi| (MONAI, SegLossOdyssey). "foreground": inside only (the
        lung project).
      background: include class 0 of a softmax.
    Source: Karimi and Salcudean 2019; MONAI HausdorffDTLoss.
    """
    if field not in ("both", "foreground"):
        raise ConfigError(f"got field={field!r}; must be 'both' or 'foreground'")
    target = prepare(logits, labels, weight, activation)
    p, t = classes_of(target, background)
    last = slice(-p.shape[-1], None)
    distance = jnp.abs if field == "both" else lambda phi: jnp.maximum(-phi, 0.0)
    d_t = distance(_phi_of(t) if distance_maps is None else _checked(distance_maps, logits)[..., last])
    d_p = distance(_phi_of(p))
    return average(mean(jnp.square(p - t) * (d_p**alpha + d_t**alpha)), target.weight)


def _phi_of(regions: Array) -> Array:
    """Signed distance map of values > 1/2, [B, *S, K], without gradient."""
    return region_distance(jax.lax.stop_gradient(regions) > 0.5)


def _rim(inside: Array) -> Array:
    """Voxels of a boolean region [B, *S, K] with a face neighbour outside it (the border of the image does not count)."""
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
            f"got distance maps of shape {distance_maps.shape} for logits {logits.shape}; the shapes must be equal "
            "(losses.boundary.signed_distance computes such maps)"
        )
    return distance_maps.astype(jnp.float32)
