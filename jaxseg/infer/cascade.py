"""Two networks for one volume: the first finds regions of interest (ROI) in the downsampled volume, the second segments crops
of the full volume around them.

  volume [X, Y, Z, C] + 3 coordinates --trilinear--> [64^3, C + 3] --ROI network--> mask --connected components--> centres
  a crop [96^3, C + 3] of the full volume around each centre --network--> logits, put back where the crop was cut out

The steps up to the centres are one compiled program, those from the centres to the merged volume a second one. Sizes on the
device are rounded up as in `window`, and the true size is a traced number, so that volumes of many sizes share both programs.
Only crops around found regions are computed. A crop may extend beyond the volume: it is zero there (coordinates too), and the
network's output there is discarded.

Source: the cascade of the BraTS 3-D project (utils/cascade_utils.py). Differs from it in:
  - a crop that starts before the volume is put back at its true origin (there: shifted by the overhang);
  - where crops overlap, the maximum is taken over the logits of the crops that cover the voxel, and a voxel that no crop covers
    is background with certainty (there: the maximum with a volume of zeros, which raises every negative logit to 0);
  - voxel c of the downsampled volume is mapped to (c + 1/2) * full / small - 1/2 of the full volume, which inverts the resizing
    (there: c * full / small, 1.4 voxels off at 240 / 64);
  - the second network gets the channels that it was trained with (there: 7 channels for networks with 2).

The centre of a voxel has integer coordinates. The crop around a centre c starts at floor(c + 1/2) - size // 2: the voxel
nearest to c (the later one of two equally near) has index size // 2 in the crop.

Time without the networks: 0.3 to 0.5 s, of which 0.03 to 0.04 s up to the centres (240 x 240 x 155 voxels, 4 channels, three
crops of 96^3, 1x1x1 networks, two shared CPU cores, 2026-11-21).
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.infer import tiles
from jaxseg.infer.tiles import GRAIN
from jaxseg.ops import coordinates, resize
from jaxseg.ops.components import api as components
from jaxseg.ops.resize.api import linear_matrix
from jaxseg.types import Array, ConfigError, NonFiniteError

NEVER = float(np.finfo(np.float32).min) / 2  # a logit whose softmax or sigmoid is exactly 0, and which may still be added to
MERGES = ("max", "probability")
ACTIVATIONS = ("softmax", "sigmoid")


class Result(NamedTuple):
    """The result of the cascade for one volume."""

    scores: Array  # float32 [X, Y, Z, K]: logits for merge="max", probabilities for "probability"
    covered: Array  # bool [X, Y, Z]: within some crop
    centres: np.ndarray  # float32 [n, 3], voxels of the full volume, largest region first
    found: int  # regions of at least min_size voxels; 0: the one centre is the whole mask's, or the volume's if that is empty


def segment(
    roi_forward: Callable[[Array], Array],
    forward: Callable[[Array], Array],
    volume: Array,
    *,
    num_classes: int,
    roi_size: int | Sequence[int] = 64,
    crop: int | Sequence[int] = 96,
    max_instances: int = 3,
    min_size: int = 50,
    connectivity: int = 1,
    roi_coordinates: bool = True,
    include_coordinates: bool = True,
    merge: str = "max",
    blend: str | None = None,
    activation: str = "softmax",
    batch: int = 1,
) -> Result:
    """Find the regions of interest of a volume and segment a crop around each.

    Args:
      roi_forward: float32 [1, *roi_size, C + 3] -> logits [1, *roi_size, K0]. A voxel is foreground if its logit is above 0
        (K0 = 1) or if its largest logit is not that of class 0. Compiled programs are reused if the same function, or
        `jax.tree_util.Partial(apply, params)` with the same `apply`, is passed again.
      forward: float32 [batch, *crop, C + 3] -> logits [batch, *crop, K].
      volume: floating point [X, Y, Z, C], prepared as for training.
      num_classes: K.
      roi_size: input size of the ROI network in voxels, an int or one per axis.
      crop: size of the crops in voxels, an int or one per axis; may be larger than the volume.
      max_instances: the largest number of regions that are segmented.
      min_size: smaller regions are dropped, in voxels of the downsampled volume. Equally large regions keep the order of their
        first voxels. If all regions are smaller, one crop is cut around the centroid of the whole mask; if the mask is empty,
        around the volume's centre.
      connectivity: voxels belong to one region if they share a face (1), at least an edge (2) or at least a corner (3).
      roi_coordinates, include_coordinates: whether the 3 coordinates follow the C channels, for the ROI network and for the
        second network.
      merge: how overlapping crops are joined: "max" takes the largest logit, "probability" the mean probability.
      blend: weights of that mean, see `tiles.weights`; None: "cosine". For "probability" only.
      activation: "softmax", or "sigmoid" for independent regions or K = 1. It converts logits to probabilities, and decides
        the logits of voxels outside all crops: class 0 with certainty (logits 0 and `NEVER`), or no class (all `NEVER`).
      batch: crops per call of the network; the last batch is padded.
    Returns:
      Scores, regions and crop positions, see `Result`.
    Raises:
      ConfigError: arguments or networks do not fit the volume or each other.
      NonFiniteError: a network returned NaN or Inf.
    """
    if volume.ndim != 4 or not jnp.issubdtype(volume.dtype, jnp.floating):
        raise ConfigError(
            f"got a volume {volume.dtype}{list(volume.shape)}; must be floating point [X, Y, Z, C], prepared as for training"
        )
    roi_size, crop = _triple(roi_size, "roi_size"), _triple(crop, "crop")
    if min(max_instances, min_size, batch, num_classes) < 1:
        raise ConfigError(
            f"got max_instances={max_instances}, min_size={min_size}, batch={batch}, num_classes={num_classes}; "
            "each must be at least 1"
        )
    if merge not in MERGES or activation not in ACTIVATIONS or (activation == "softmax" and num_classes == 1):
        raise ConfigError(
            f"got merge={merge!r}, activation={activation!r} for num_classes={num_classes}; merge must be one of {MERGES}, "
            f"activation one of {ACTIVATIONS}, and 'sigmoid' for one class"
        )
    if blend is not None and merge != "probability":
        raise ConfigError(
            f"got blend={blend!r} with merge={merge!r}; a maximum has no weights: leave blend out or set merge='probability'"
        )
    weights = tiles.weights(crop, (blend or "cosine") if merge == "probability" else "constant")
    size = volume.shape[:3]
    padded = _padded(jnp.asarray(volume), [max(c, -(-n // GRAIN[3]) * GRAIN[3]) for n, c in zip(size, crop)])
    lines, extent = _lines(size, padded.shape), np.array(size, np.int32)
    centres, found, finite = _locate(
        _partial(roi_forward),
        padded,
        _taps(size, roi_size),
        lines,
        extent,
        np.int32(min_size),
        max_instances=max_instances,
        connectivity=connectivity,
        include=roi_coordinates,
    )
    centres, found = np.asarray(centres), np.asarray(found)  # the second network may lie on other devices than the first
    scores, covered, sound = _segment(
        _partial(forward),
        padded,
        lines,
        extent,
        centres,
        found,
        weights,
        classes=num_classes,
        include=include_coordinates,
        merge=merge,
        activation=activation,
        batch=min(batch, max_instances),
    )
    if not (finite and sound):
        raise NonFiniteError(
            f"the {'second' if finite else 'ROI'} network of the cascade returned NaN or Inf; predict "
            "in float32 or use another checkpoint"
        )
    if padded.shape != volume.shape:
        scores, covered = _inside((scores, covered), size)
    return Result(scores, covered, centres[: max(int(found), 1)], int(found))


def roi_input(volume: Array, roi_size: int | Sequence[int] = 64, include_coordinates: bool = True) -> Array:
    """Return the ROI network's input for a volume [X, Y, Z, C]: float32 [*roi_size, C (+ 3)].

    The coordinates are those of the full volume, resized like the channels. Works under jit and vmap.
    """
    size, roi_size = volume.shape[:3], _triple(roi_size, "roi_size")
    return _shrunk(volume, _taps(size, roi_size), _lines(size, size), include_coordinates)


def roi_target(mask: Array, roi_size: int | Sequence[int] = 64) -> Array:
    """Return the ROI network's training target for a mask [X, Y, Z]: int32 [*roi_size], 1 where the nearest voxel is foreground.

    The nearest voxel is floor(i * in / out), as in PyTorch. Works under jit and vmap.
    """
    whole = jnp.asarray(mask > 0, jnp.int32)[None, ..., None]
    return resize(whole, _triple(roi_size, "roi_size"), "nearest")[0, ..., 0]


def crop_at(volume: Array, centre: Array, size: int | Sequence[int] = 96, include_coordinates: bool = True) -> Array:
    """Return the crop [*size, C (+ 3)] of a volume [X, Y, Z, C] around a centre [3] (in voxels); 0 outside the volume.

    This is the second network's input for a region, also in training. Works under jit and vmap over centres.
    """
    size, true = _triple(size, "size"), volume.shape[:3]
    padded = _padded(volume, [max(n, c) for n, c in zip(true, size)])
    return _cut(padded, _lines(true, padded.shape), np.array(true, np.int32), origin(centre, size), size, include_coordinates)


def origin(centre: Array, size: Sequence[int]) -> Array:
    """Return the first voxel of the crop of this size around a centre [..., 3], int32; negative where it starts outside."""
    return jnp.floor(jnp.asarray(centre) + 0.5).astype(jnp.int32) - jnp.array(size, jnp.int32) // 2


@functools.partial(jax.jit, static_argnames=("max_instances", "connectivity", "include"))
def _locate(
    forward, volume: Array, taps, lines, extent: Array, min_size: Array, *, max_instances: int, connectivity: int, include: bool
) -> tuple[Array, Array, Array]:
    """Return (centres [N, 3] in voxels of the full volume, NaN in unused rows; regions found; whether all logits are finite)."""
    shrunk = _shrunk(volume, taps, lines, include)
    logits = forward(shrunk[None])
    if logits.shape[:-1] != (1, *shrunk.shape[:-1]):
        raise ConfigError(
            f"the ROI network returns shape {logits.shape} for input {(1, *shrunk.shape)}; its logits must have the input's size"
        )
    mask = logits[0, ..., 0] > 0 if logits.shape[-1] == 1 else jnp.argmax(logits[0], -1) > 0
    labels = components.label(mask, connectivity)
    # components touch no other, so that at most every second voxel begins one
    counts = components.sizes(labels, max((labels.size + 1) // 2, max_instances))
    best, number = lax.top_k(jnp.where(counts >= min_size, counts, 0), max_instances)
    found = jnp.sum(best > 0)
    slots = jnp.arange(max_instances)
    chosen = jnp.where(best > 0, number + 1, -1)
    ranked = jnp.sum(jnp.where(labels[..., None] == chosen, slots + 1, 0), -1)
    centres = components.centroids(jnp.where(found > 0, ranked, mask), max_instances)
    centres = (centres + 0.5) * (extent / np.array(mask.shape, np.float32)) - 0.5
    nothing = jnp.where(slots[:, None] == 0, (extent - 1) / 2, jnp.nan)
    return jnp.where(jnp.any(mask), centres, nothing), found, jnp.all(jnp.isfinite(logits))


@functools.partial(jax.jit, static_argnames=("classes", "include", "merge", "activation", "batch"))
def _segment(
    forward,
    volume: Array,
    lines,
    extent: Array,
    centres: Array,
    found: Array,
    weights: Array,
    *,
    classes: int,
    include: bool,
    merge: str,
    activation: str,
    batch: int,
) -> tuple[Array, Array, Array]:
    """Segment crops around the centres in use: (scores [*P, K], covered [*P], all logits are finite); P is the padded size."""
    size, count = weights.shape, jnp.maximum(found, 1)
    slots = -(-len(centres) // batch) * batch
    starts = origin(jnp.pad(centres, ((0, slots - len(centres)), (0, 0)), mode="edge"), size)
    starts = jnp.where(jnp.arange(slots)[:, None] < count, starts, starts[0])  # a call is filled up with the first crop
    squash = {"softmax": jax.nn.softmax, "sigmoid": lambda logits, axis: jax.nn.sigmoid(logits)}[activation]

    def run(i, carry):
        at = lax.dynamic_slice_in_dim(starts, i * batch, batch)
        crops = lax.map(lambda start: _cut(volume, lines, extent, start, size, include), at)
        logits = forward(crops).astype(jnp.float32)
        if logits.shape != (batch, *size, classes):
            raise ConfigError(
                f"the network returns shape {logits.shape} for crops {crops.shape}; must be "
                f"{(batch, *size, classes)}: num_classes={classes} logits at the crop's size"
            )
        values = logits if merge == "max" else squash(logits, axis=-1) * weights[..., None]

        def put(j, carry):
            total, weight, finite = carry
            used = i * batch + j < count
            total, weight = _merge(total, weight, values[j], weights[..., None], merge, start=at[j], extent=extent, used=used)
            return total, weight, finite & (jnp.all(jnp.isfinite(logits[j])) | ~used)

        return lax.fori_loop(0, batch, put, carry)

    absent, present = (NEVER, 0.0) if merge == "max" else (0.0, 1.0)
    background = np.full(classes, absent, np.float32)
    background[0] = present if activation == "softmax" else absent
    shape = volume.shape[:3]
    total = jnp.broadcast_to(background if merge == "max" else 0.0, (*shape, classes))
    total, weight, finite = lax.fori_loop(0, -(-count // batch), run, (total, jnp.zeros((*shape, 1)), jnp.bool(True)))
    if merge == "probability":
        total = jnp.where(weight > 0, total / jnp.maximum(weight, 1e-30), background)
    return total, weight[..., 0] > 0, finite


@functools.partial(jax.jit, static_argnums=1)
def _inside(arrays: tuple[Array, ...], size: tuple[int, ...]) -> tuple[Array, ...]:
    return tuple(array[: size[0], : size[1], : size[2]] for array in arrays)


def _cut(volume: Array, lines, extent: Array, start: Array, size: tuple[int, ...], include: bool) -> Array:
    """Cut out the crop that begins at `start`, which may lie outside; `volume` is at least as large as the crop."""
    at = jnp.clip(start, 0, np.subtract(volume.shape[:3], size))
    rolled = _rolled(lax.dynamic_slice(volume, (*at, jnp.int32(0)), (*size, volume.shape[-1])), at - start)
    inside = _box(-start, extent - start, size)
    crop = rolled.astype(jnp.float32)
    if include:
        here = [jnp.take(line, s + jnp.arange(n), mode="clip") for line, s, n in zip(lines, start, size)]
        crop = jnp.concatenate([crop, coordinates.along(here)], -1)
    return jnp.where(inside, crop, 0)


def _merge(
    total: Array, weight: Array, values: Array, weights: Array, merge: str, *, start: Array, extent: Array, used: Array
) -> tuple[Array, Array]:
    """Merge a crop's values [*size, K] and weights [*size, 1] into the volume's [*P, K] and [*P, 1], at the crop's position.

    Only voxels inside the volume change, and only if `used`. For "max" the first crop over a voxel replaces the initial value.
    """
    size = values.shape[:3]
    at = jnp.clip(start, 0, np.subtract(total.shape[:3], size))
    here = _box(start - at, jnp.minimum(start + np.array(size), extent) - at, size) & used
    corner = (*at, jnp.int32(0))
    old, before = (lax.dynamic_slice(a, corner, (*size, a.shape[-1])) for a in (total, weight))
    new = _rolled(values, start - at)
    joined = jnp.where(before > 0, jnp.maximum(old, new), new) if merge == "max" else old + new
    after = before + _rolled(weights, start - at)
    return (
        lax.dynamic_update_slice(total, jnp.where(here, joined, old), corner),
        lax.dynamic_update_slice(weight, jnp.where(here, after, before), corner),
    )


def _rolled(block: Array, by: Array) -> Array:
    """Move a block [*size, C] by this many voxels along each axis; voxels that leave at one end come back at the other."""
    return lax.cond(jnp.any(by != 0), lambda b: jnp.roll(b, by, (0, 1, 2)), lambda b: b, block)


def _box(low: Array, high: Array, size: tuple[int, ...]) -> Array:
    """Return bool [*size, 1]: low <= index < high along each axis."""
    inside = [(jnp.arange(n) >= a) & (jnp.arange(n) < b) for a, b, n in zip(low, high, size)]
    return (inside[0][:, None, None] & inside[1][:, None] & inside[2])[..., None]


def _shrunk(volume: Array, taps, lines, include: bool) -> Array:
    """Resize trilinearly (align_corners=False) from two neighbours per axis: only these are read, never the padding."""

    def between(x: Array, axis: int, low: Array, high: Array, share: Array) -> Array:
        share = jnp.expand_dims(share, tuple(range(1, x.ndim - axis)))
        return jnp.take(x, low, axis, mode="clip") * (1 - share) + jnp.take(x, high, axis, mode="clip") * share

    x = volume
    for axis, (low, high, share) in enumerate(taps):
        x = between(x, axis, low, high, share)
    x = x.astype(jnp.float32)
    if not include:
        return x
    # a coordinate changes along its own axis alone, and so does its resized map
    here = [between(jnp.asarray(line), 0, *tap) for line, tap in zip(lines, taps)]
    return jnp.concatenate([x, coordinates.along(here)], -1)


def _taps(size: Sequence[int], roi_size: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return, per axis, (lower neighbour, upper neighbour, weight of the upper) of each position of the downsampled volume."""
    taps = []
    for n, m in zip(size, roi_size):
        matrix = linear_matrix(n, m, align_corners=False)
        low = (matrix > 0).argmax(1).astype(np.int32)
        high = np.minimum(low + 1, n - 1).astype(np.int32)
        taps.append((low, high, np.where(high > low, matrix[np.arange(m), high], 0).astype(np.float32)))
    return taps


def _lines(size: Sequence[int], padded: Sequence[int]) -> list[np.ndarray]:
    """Return the coordinates along each axis of the true size, followed by zeros up to the padded size."""
    return [np.pad(coordinates.line(n), (0, p - n)) for n, p in zip(size, padded)]


def _padded(volume: Array, size: Sequence[int]) -> Array:
    """Append zeros up to `size`; on the device, which is faster than in the host's memory."""
    return jnp.pad(volume, [*((0, p - n) for n, p in zip(volume.shape, size)), (0, 0)])


def _partial(forward: Callable) -> jax.tree_util.Partial:
    return forward if isinstance(forward, jax.tree_util.Partial) else jax.tree_util.Partial(forward)


def _triple(value: int | Sequence[int], name: str) -> tuple[int, int, int]:
    values = tuple(int(v) for v in value) if isinstance(value, Sequence) else (int(value),) * 3
    if len(values) != 3 or min(values) < 1:
        raise ConfigError(f"got {name}={value}; must be one size or three, in voxels, each at least 1")
    return values
