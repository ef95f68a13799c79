"""From a scan's volumes to the network's input and from the network's scores back to the scan: intensities, voxel size.

Resampling is `preprocess.resize` with one axis more: linear with half-pixel centres (PyTorch's align_corners=False) where
an axis grows; where it shrinks, the triangle is widened to cover the source voxels (antialiased: differs from PyTorch).
"""

from collections.abc import Sequence

import numpy as np
import scipy.sparse

from jaxseg.data.formats.volumes import check_pair
from jaxseg.data.geometry import to_volume
from jaxseg.data.prepare import normalise
from jaxseg.data.records import Recipe, Volume
from jaxseg.types import ConfigError, DataError

LARGEST = 1 << 12  # voxels a side after resampling


def prepare_volume(images: Sequence[Volume | np.ndarray], recipe: Recipe, spacing: Sequence[float] | None = None) -> np.ndarray:
    """The network's input for one scan: each channel's intensities by `recipe.intensity`, resampled to `recipe.spacing`.

    Args:
      images: the modalities in their order, each [X, Y, Z] or [X, Y, Z, c]: volumes as they lie on disk, or arrays that are
        in the common order already (`geometry.to_volume`).
      recipe: what to make of them.
      spacing: (x, y, z) mm of arrays; volumes know their own.
    Returns:
      float32 [X', Y', Z', recipe.channels] in the common order.
    Raises:
      DataError: another number of channels, grids that differ, voxels that are not finite, a spacing needed and unknown.
      ConfigError: an intensity rule that these voxels cannot take.
    """
    scans = [image for image in images if isinstance(image, Volume)]
    for other in scans[1:]:
        check_pair(scans[0], other)
    arrays = []
    for image in images:
        if isinstance(image, Volume):
            image, orientation = to_volume(image)
            spacing = orientation.spacing
        arrays.append(image[..., None] if image.ndim == 3 else image)
    shapes = [a.shape[:-1] for a in arrays]
    channels = [a[..., c] for a in arrays for c in range(a.shape[-1])]
    if not arrays or len(set(shapes)) > 1 or len(shapes[0]) != 3 or 0 in shapes[0]:
        raise DataError(f"got images of shapes {[a.shape for a in arrays]}; the modalities of a scan are [X, Y, Z] or "
                        "[X, Y, Z, c] of one shape", "DATA_IMAGE")
    if len(channels) != recipe.channels:
        named = f" ({', '.join(recipe.modalities)})" if recipe.modalities else ""
        raise DataError(f"got {len(channels)} channels for data.channels={recipe.channels}{named}; give one file for each, in "
                        "this order", "DATA_CHANNELS")
    shape = resampled_shape(shapes[0], recipe, spacing)
    prepared = np.empty((*shape, len(channels)), np.float32)
    for c, channel in enumerate(channels):
        prepared[..., c] = resample(_intensity(channel, recipe), shape)
    return prepared


def prepare_volume_mask(mask: np.ndarray, recipe: Recipe, spacing: Sequence[float] | None, classes: int) -> np.ndarray:
    """The mask on the input's grid: each class's indicator is resampled like the image, and the largest share wins.

    A voxel belongs to the background unless a class has more than it; equal shares go to the background or the lower class.

    Args:
      mask: integer [X, Y, Z] in the common order, labels 0..classes.
      spacing: (x, y, z) mm; None where unknown.
      classes: number of foreground classes.
    Returns:
      uint8 [X', Y', Z'].
    Raises:
      DataError: labels outside, or a spacing needed and unknown.
    """
    whole = mask.ndim == 3 and mask.size and np.issubdtype(mask.dtype, np.integer)
    if not whole or mask.min() < 0 or mask.max() > classes:
        found = f" with labels {mask.min()}..{mask.max()}" if mask.size else ""
        raise DataError(f"got a mask {mask.dtype} {mask.shape}{found}; it must be integer [X, Y, Z] with labels 0..{classes}",
                        "DATA_LABEL")
    shape = resampled_shape(mask.shape, recipe, spacing)
    labels = mask.astype(np.uint8, order="C")
    if shape == mask.shape:
        return labels
    best, total, winner = np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    for k in np.flatnonzero(np.bincount(labels.reshape(-1), minlength=2)[1:]) + 1:
        share = resample((labels == k).astype(np.float32), shape)
        total += share
        winner[share > best] = k
        np.maximum(best, share, out=best)
    winner[best <= 1.0 - total + 1e-6] = 0
    return winner


def restore_scores(scores: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The inverse of `prepare_volume`'s geometry: scores on the input's grid -> scores on the scan's own grid.

    Args:
      scores: [X', Y', Z', K].
      shape: (X, Y, Z) of the scan in the common order.
    Returns:
      float32 [X, Y, Z, K]; `Orientation.restore` brings it into the file's order.
    """
    if scores.ndim != 4 or len(shape) != 3:
        raise ValueError(f"got scores of shape {scores.shape} for a scan of shape {tuple(shape)}; [X', Y', Z', K] for (X, Y, Z)")
    restored = np.empty((*shape, scores.shape[-1]), np.float32)
    for k in range(scores.shape[-1]):
        restored[..., k] = resample(scores[..., k], tuple(shape))
    return restored


def restore_labels(scores: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The class of the largest restored score, `restore_scores(scores, shape).argmax(-1)`, with one class in memory at a time.

    Args:
      scores: [X', Y', Z', K].
      shape: (X, Y, Z) of the scan in the common order.
    Returns:
      uint8 [X, Y, Z].
    """
    best, labels = resample(scores[..., 0], tuple(shape)), np.zeros(tuple(shape), np.uint8)
    for k in range(1, scores.shape[-1]):
        score = resample(scores[..., k], tuple(shape))
        labels[score > best] = k
        best = np.maximum(best, score)
    return labels


def resampled_shape(shape: Sequence[int], recipe: Recipe, spacing: Sequence[float] | None) -> tuple[int, int, int]:
    """(X', Y', Z') of a scan (X, Y, Z) at the recipe's spacing; its own shape where the recipe has none.

    Raises:
      DataError: the recipe has a spacing and the scan has none, or one that no scanner has.
    """
    if recipe.spacing is None:
        return tuple(shape)
    if len(recipe.spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in recipe.spacing):
        raise ConfigError(f"got data.spacing={tuple(recipe.spacing)}; volumes take (x, y, z) mm above 0; () keeps the voxels")
    if spacing is None or len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise DataError(f"got voxel spacing {spacing}; data.spacing={tuple(recipe.spacing)} needs (x, y, z) mm > 0; "
                        "set data.spacing=() to keep the voxels", "DATA_GEOMETRY")
    scaled = tuple(max(1, round(n * s / r)) for n, s, r in zip(shape, spacing, recipe.spacing))
    if max(scaled) > LARGEST:
        raise DataError(f"got voxel spacing {tuple(spacing)} and shape {tuple(shape)}: {scaled} voxels at "
                        f"data.spacing={tuple(recipe.spacing)}; at most {LARGEST} a side", "DATA_GEOMETRY")
    return scaled


def resample(values: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """float32 [X, Y, Z] -> [X', Y', Z'], linear with half-pixel centres, antialiased along an axis that shrinks."""
    values = np.asarray(values, np.float32)
    if values.shape == shape:
        return values
    along_x, along_y, along_z = (_weights(n, m) for n, m in zip(values.shape, shape))
    planes = np.empty((len(values), *shape[1:]), np.float32)
    for x, plane in enumerate(values):  # [Y, Z]: one plane at a time needs no transposed copy of the volume
        planes[x] = (along_z @ (along_y @ np.ascontiguousarray(plane)).T).T
    return (along_x @ planes.reshape(len(planes), -1)).reshape(shape)


def _weights(n: int, m: int) -> scipy.sparse.csr_array:
    """[m, n]: what each of n samples gives to each of m. The triangle is as wide as the coarser of the two grids."""
    scale = n / m
    width = max(scale, 1.0)
    centre = (np.arange(m) + 0.5) * scale
    columns = np.floor(centre - width).astype(np.int64)[:, None] + np.arange(int(np.ceil(2 * width)) + 2)  # [m, taps]
    weights = np.maximum(0.0, 1.0 - np.abs(columns + 0.5 - centre[:, None]) / width)
    weights *= (columns >= 0) & (columns < n)
    weights /= weights.sum(1, keepdims=True)
    kept = weights > 0
    rows = np.broadcast_to(np.arange(m)[:, None], columns.shape)
    return scipy.sparse.csr_array((weights[kept].astype(np.float32), (rows[kept], columns[kept])), shape=(m, n))


def _intensity(channel: np.ndarray, recipe: Recipe) -> np.ndarray:
    """float32 of the channel's shape, by the recipe's rule."""
    if recipe.intensity == "brain":
        return normalise.brain(channel)
    if recipe.intensity == "ct":
        return _ct(channel, recipe.window)
    if recipe.intensity == "grey":
        if channel.dtype != np.uint8 or recipe.window is not None:
            raise ConfigError(f"got {channel.dtype} voxels and data.window={recipe.window} for data.intensity='grey'; volumes "
                              "take it for 8-bit voxels without a window: set 'ct' with a window for CT, 'brain' for MRI")
        return channel.astype(np.float32) / np.float32(255)
    raise ConfigError(f"got data.intensity={recipe.intensity!r}; volumes take 'brain', 'ct' or 'grey'")


def _ct(channel: np.ndarray, window: tuple[float, float] | None) -> np.ndarray:
    """clip((v - L) / (W / 2), -1, 1)."""
    if window is None or not (np.isfinite(window[0]) and np.isfinite(window[1]) and window[1] > 0):
        raise ConfigError(f"got data.window={window} for data.intensity='ct'; it is (level, width) in HU with a width above 0, "
                          "for instance (40, 400) for the abdomen")
    values = channel.astype(np.float32)
    if not np.isfinite(values).all():
        raise DataError(f"{int((~np.isfinite(values)).sum())} of {values.size} voxels are NaN or infinite; repair the file or "
                        "leave the case out", "DATA_NONFINITE")
    values -= np.float32(window[0])
    values *= np.float32(2 / window[1])
    return np.clip(values, -1.0, 1.0, out=values)
