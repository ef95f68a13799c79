"""From a slice to the network's input and from the network's scores back to the slice: window, resize, canvas.

The resize is bilinear with half-pixel centres (PyTorch's align_corners=False, OpenCV's INTER_LINEAR) when it enlarges;
when it shrinks, the triangle is widened to cover the source pixels (antialiased: differs from both).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image

from jaxseg.data.records import Recipe
from jaxseg.types import ConfigError, DataError

LUMA = (0.299, 0.587, 0.114)  # red, green, blue shares of grey: ITU-R BT.601


def prepare(image: np.ndarray, recipe: Recipe, spacing: tuple[float, float] | None) -> np.ndarray:
    """The network's input for one slice: clip((v - (L - W/2)) / W * 255, 0, 255), resized, rounded to uint8.

    Args:
      image: [H, W] or [H, W, C], HU or any scale when the recipe has a window (L, W); else uint8.
      recipe: what to make of it.
      spacing: (row mm, column mm) of the image; None where unknown.
    Returns:
      uint8 [h, w, recipe.channels]. Padding holds 0, the window's lower end.
    Raises:
      DataError: wrong dtype or channels, voxels that are not finite, spacing needed and unknown.
      ConfigError: a window without width.
    """
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise DataError(f"got an image of shape {image.shape}; a slice is [H, W] or [H, W, C]", "DATA_IMAGE")
    values = _channels(_window(image if image.ndim == 3 else image[..., None], recipe.window), recipe.channels)
    place = placement(image.shape[:2], recipe, spacing)
    canvas = np.zeros((*recipe.size, recipe.channels), np.uint8)
    there, here = place.overlap()
    canvas[there] = np.rint(resize(values, place.scaled))[here]
    return canvas


def prepare_mask(mask: np.ndarray, recipe: Recipe, spacing: tuple[float, float] | None, classes: int) -> np.ndarray:
    """The mask on the input's grid: each class's indicator is resized like the image, and the largest share wins.

    A pixel belongs to the background unless a class has more than it: with one class, share > 1/2, which is the seed's
    "resize 0..255, then > 128".

    Args:
      mask: integer [H, W], labels 0..classes.
      classes: number of foreground classes.
    Returns:
      uint8 [h, w].
    Raises:
      DataError: labels outside, or spacing needed and unknown.
    """
    present = np.unique(mask)
    if mask.ndim != 2 or not np.issubdtype(mask.dtype, np.integer) or present[0] < 0 or present[-1] > classes:
        raise DataError(f"got a mask {mask.dtype} {mask.shape} with labels {present[:10].tolist()}; "
                        f"it must be integer [H, W] with labels 0..{classes}", "DATA_LABEL")
    place = placement(mask.shape, recipe, spacing)
    canvas = np.zeros(recipe.size, np.uint8)
    found = present[present > 0]
    if found.size:
        share = resize(np.stack([mask == k for k in found], -1).astype(np.float32), place.scaled)  # [h', w', found]
        wins = share.max(-1) > 1.0 - share.sum(-1) + 1e-6  # equal shares go to the background, whatever the rounding
        there, here = place.overlap()
        canvas[there] = np.where(wins, found[share.argmax(-1)], 0)[here]
    return canvas


def restore(scores: np.ndarray, shape: tuple[int, int], recipe: Recipe, spacing: tuple[float, float] | None, *,
            fill: Sequence[float] | None = None) -> np.ndarray:
    """The inverse of `prepare`'s geometry: scores on the input's grid -> scores on the slice's own grid.

    Args:
      scores: float32 [h, w, K] with (h, w) = recipe.size.
      shape: (H, W) of the slice.
      spacing: of the slice, as given to `prepare`.
      fill: [K] scores of what the canvas cut away. None: background read as a probability, that is 0 for one class, and
        (1, 0, ..., 0) for K > 1; logits need their own.
    Returns:
      float32 [H, W, K].
    """
    if scores.shape[:2] != tuple(recipe.size):
        raise ValueError(f"got scores of shape {scores.shape}; the recipe's input is {recipe.size}")
    k = scores.shape[-1]
    background = ([0.0] if k == 1 else [1.0] + [0.0] * (k - 1)) if fill is None else fill
    place = placement(shape, recipe, spacing)
    there, here = place.overlap()
    scaled = np.empty((*place.scaled, k), np.float32)
    scaled[:] = np.asarray(background, np.float32)
    scaled[here] = scores[there]
    return resize(scaled, tuple(shape))


def window_8bit(image: np.ndarray, recipe: Recipe) -> np.ndarray:
    """The recipe's window alone, on the image's own grid, for pictures: uint8 of image's shape. Raises as `prepare`."""
    return np.rint(_window(image, recipe.window)).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a slice lies on the canvas: its size after resizing, the canvas, and the corner's position (may be negative)."""

    scaled: tuple[int, int]
    canvas: tuple[int, int]
    corner: tuple[int, int]

    def overlap(self) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """(slices of the canvas, slices of the resized image) of the part that both have."""
        there = tuple(slice(max(c, 0), min(c + s, n)) for c, s, n in zip(self.corner, self.scaled, self.canvas))
        here = tuple(slice(t.start - c, t.stop - c) for t, c in zip(there, self.corner))
        return there, here


def placement(shape: tuple[int, int], recipe: Recipe, spacing: tuple[float, float] | None) -> Placement:
    """Stretched to recipe.size, or, if the recipe has a spacing, resampled to it and centred on recipe.size.

    Raises:
      DataError: the recipe has a spacing and the image has none, or one that no scanner has.
    """
    canvas = tuple(int(n) for n in recipe.size)
    if recipe.spacing is None:
        return Placement(canvas, canvas, (0, 0))
    if spacing is None or len(spacing) != 2 or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise DataError(f"got pixel spacing {spacing}; data.spacing={tuple(recipe.spacing)} needs (row mm, column mm) > 0; "
                        "set data.spacing=() to stretch the image", "DATA_GEOMETRY")
    scaled = tuple(max(1, round(n * s / r)) for n, s, r in zip(shape, spacing, recipe.spacing))
    if max(scaled) > 1 << 15:
        raise DataError(f"got pixel spacing {spacing} and shape {tuple(shape)}: {scaled} pixels at "
                        f"data.spacing={tuple(recipe.spacing)}; at most {1 << 15} a side", "DATA_GEOMETRY")
    return Placement(scaled, canvas, tuple((n - s) // 2 for n, s in zip(canvas, scaled)))


def resize(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """float32 [H, W, C] -> [h, w, C], linear with half-pixel centres, antialiased along an axis that shrinks."""
    values = np.asarray(values, np.float32)
    if values.shape[:2] == tuple(size):
        return values
    planes = [Image.fromarray(np.ascontiguousarray(values[..., c])) for c in range(values.shape[-1])]
    return np.stack([np.asarray(p.resize((size[1], size[0]), Image.Resampling.BILINEAR)) for p in planes], -1)


def _window(image: np.ndarray, window: tuple[float, float] | None) -> np.ndarray:
    if window is None:
        if image.dtype != np.uint8:
            raise DataError(f"got {image.dtype} values and no window; only 8-bit images go without: set data.window to "
                            "(level, width), for instance (40, 120) for a CT of the head", "DATA_IMAGE")
        return image.astype(np.float32)
    level, width = window
    if not (np.isfinite(level) and np.isfinite(width) and width > 0):
        raise ConfigError(f"got data.window={tuple(window)}; it is (level, width) with a width above 0")
    values = image.astype(np.float32)
    if not np.isfinite(values).all():
        raise DataError(f"{int((~np.isfinite(values)).sum())} of {values.size} voxels are NaN or infinite; repair the file or "
                        "leave the case out", "DATA_NONFINITE")
    return np.clip((values - (level - width / 2)) * (255.0 / width), 0.0, 255.0)


def _channels(values: np.ndarray, channels: int) -> np.ndarray:
    """[H, W, c] -> [H, W, channels]: grey repeated, colour weighted by LUMA, or as it is."""
    c = values.shape[-1]
    if c == channels:
        return values
    if c == 1:
        return np.repeat(values, channels, -1)
    if c == 3 and channels == 1:
        return (values @ np.asarray(LUMA, np.float32))[..., None]
    raise DataError(f"got {c} channels for data.channels={channels}; one channel is repeated and three (red, green, blue) can "
                    f"become one; set data.channels={c}", "DATA_CHANNELS")
