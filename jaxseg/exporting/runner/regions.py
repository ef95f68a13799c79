"""A cascade around regions of interest: one network finds them in the downsampled volume, one segments a crop around each.

It follows `infer.cascade` of jaxseg, whose docstrings say what each setting means; this is numpy, on the host.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from jaxseg.exporting.runner.windows import window_weights

_ABSENT = float(np.finfo(np.float32).min) / 2  # a logit whose probability is exactly 0


def with_places(volume: np.ndarray) -> np.ndarray:
    """Append each voxel's position, 0..1 along every axis, to the channels of a volume [*S, C]: float32."""
    lines = [np.linspace(0, 1, n).astype(np.float32) for n in volume.shape[:-1]]
    return np.concatenate([volume.astype(np.float32), np.stack(np.meshgrid(*lines, indexing="ij"), -1)], -1)


def shrink(volume: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Downsample a volume [X, Y, Z, C] linearly, from the two nearest voxels along each axis: [*size, C]."""
    for axis, m in enumerate(size):
        n = volume.shape[axis]
        source = np.maximum((np.arange(m) + 0.5) * n / m - 0.5, 0.0)
        low = np.minimum(np.floor(source).astype(int), n - 1)
        high = np.minimum(low + 1, n - 1)
        share = np.where(high > low, source - low, 0).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(4)])
        volume = volume.take(low, axis) * (1 - share) + volume.take(high, axis) * share
    return volume.astype(np.float32)


def region_centres(mask: np.ndarray, size: Sequence[int], most: int, least: int) -> np.ndarray:
    """Return the centres [n, 3] of the largest regions of a downsampled mask, in voxels of the full volume of `size`.

    Without a region of at least `least` voxels: the centroid of the whole mask, or the volume's middle if that is empty.
    """
    if not mask.any():
        return (np.array([size], np.float32) - 1) / 2
    flat, where = ndimage.label(mask)[0].ravel(), np.indices(mask.shape).reshape(3, -1)
    numbers, first, sizes = np.unique(flat, return_index=True, return_counts=True)
    large = [(-size, at, number) for number, at, size in zip(numbers, first, sizes) if number and size >= least]
    groups = [flat == number for *_, number in sorted(large)[:most]] or [flat > 0]
    centres = np.stack([where[:, group].mean(1) for group in groups]).astype(np.float32)
    return (centres + np.float32(0.5)) * (np.array(size, np.float32) / np.array(mask.shape, np.float32)) - np.float32(0.5)


def segment_regions(
    find: Callable[[np.ndarray], np.ndarray],
    segment: Callable[[np.ndarray], np.ndarray],
    volume: np.ndarray,
    how: dict,
    classes: int,
) -> np.ndarray:
    """Compute logits float32 [X, Y, Z, K] of one prepared volume [X, Y, Z, C].

    Args:
      find: the first network, [1, *size, C'] -> [1, *size, K'].
      segment: the second network, [batch, *crop, C''] -> logits [batch, *crop, K].
      how: "application" of model.json, with "batch", "coordinates" and "regions".
      classes: K.
    """
    rule, extent = how["regions"], np.array(volume.shape[:3])
    crop, sigmoid, largest = np.array(rule["crop"]), rule["activation"] == "sigmoid", rule["merge"] == "max"
    placed = with_places(volume)
    plain = np.asarray(volume, np.float32)
    logits = find(shrink(placed if rule["roi_coordinates"] else plain, rule["roi_size"])[None])[0]
    mask = logits[..., 0] > 0 if logits.shape[-1] == 1 else logits.argmax(-1) > 0
    centres = region_centres(mask, tuple(extent), rule["max_instances"], rule["min_size"])
    starts = np.floor(centres + np.float32(0.5)).astype(int) - crop // 2
    background = np.full(classes, _ABSENT if largest else 0.0, np.float32)
    background[0] = background[0] if sigmoid else 0.0 if largest else 1.0
    weights = np.ones((*crop, 1), np.float32) if largest else window_weights(rule["crop"], "cosine")[..., None]
    total = np.zeros((*extent, classes), np.float32)
    weight = np.zeros((*extent, 1), np.float32)
    source = placed if how["coordinates"] else plain
    for start in starts:
        low, high = np.maximum(start, 0), np.minimum(start + crop, extent)
        if (high <= low).any():
            continue
        there = tuple(slice(a, b) for a, b in zip(low, high))
        here = tuple(slice(a, b) for a, b in zip(low - start, high - start))
        cut = np.zeros((how["batch"], *crop, source.shape[-1]), np.float32)
        cut[(slice(None), *here)] = source[there]
        values = segment(cut)[0]
        if largest:
            total[there] = np.where(weight[there] > 0, np.maximum(total[there], values[here]), values[here])
        else:
            total[there] += (_soft(values, sigmoid) * weights)[here]
        weight[there] += weights[here]
    if largest:
        return np.where(weight > 0, total, background)
    p = np.maximum(np.where(weight > 0, total / np.maximum(weight, 1e-30), background), 1e-30)
    return np.log(p) - np.log(np.maximum(1 - p, 1e-7)) if sigmoid else np.log(p)


def _soft(logits: np.ndarray, sigmoid: bool) -> np.ndarray:
    if sigmoid:
        return 0.5 * (np.tanh(0.5 * logits) + 1)
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)
