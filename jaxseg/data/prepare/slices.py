"""From a slice to the network's input and from the network's scores back to the slice: crop, blur, window, resize, canvas.

The resize is bilinear with half-pixel centres (PyTorch's align_corners=False, OpenCV's INTER_LINEAR) when it enlarges;
when it shrinks, the triangle is widened to cover the source pixels (antialiased: differs from both). "lanczos" is Pillow's:
sinc windowed to 3 pixels a side, widened likewise. OpenCV's INTER_LANCZOS4, which the Kvasir project names, takes 4 a side
(8 taps) and never widens them: it differs at every size, and on shrinking ours does not alias. Masks and scores are always
resized linearly.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image

from jaxseg.data.geometry import Photo
from jaxseg.data.prepare import channels, normalise
from jaxseg.data.records import Recipe, Volume
from jaxseg.types import ConfigError, DataError
from jaxseg.utils.lookup import lookup
from jaxseg.utils.pictures import to_8bit

FILTERS = {"linear": Image.Resampling.BILINEAR, "lanczos": Image.Resampling.LANCZOS}
INTENSITIES = ("grey", "brain", "ct")
LUMA = (0.299, 0.587, 0.114)  # red, green, blue shares of grey: ITU-R BT.601


def whole(volume: Volume, recipe: Recipe) -> Volume:
    """What must happen to a volume before it is cut into slices: z-scores of each modality for "brain", else nothing.

    Raises:
      DataError: as `normalise.brain`. ConfigError: an unknown intensity.
    """
    lookup("value of data.intensity", recipe.intensity, dict.fromkeys(INTENSITIES))
    if recipe.intensity != "brain":
        return volume
    array = volume.array
    flat = isinstance(volume.header, Photo) or array.ndim == 2  # [H, W(, C)]: a volume of one slice
    return dataclasses.replace(volume, array=normalise.brain(array[:, :, None])[:, :, 0] if flat else normalise.brain(array))


def prepare(image: np.ndarray, recipe: Recipe, spacing: tuple[float, float] | None) -> np.ndarray:
    """The network's input for one slice, without the channels of `recipe.extra` (`channels.extend` adds those).

    "grey" with a window (L, W): clip((v - (L - W/2)) / W * 255, 0, 255), resized, rounded; "ct": the same, mapped to -1..1
    and not rounded; "brain": the z-scores as they are, resized.

    Args:
      image: [H, W] or [H, W, C]: HU or any scale when the recipe has a window, z-scores for "brain", else uint8.
      recipe: what to make of it.
      spacing: (row mm, column mm) of the image; None where unknown.
    Returns:
      [h, w, recipe.channels - those added], uint8 for "grey", else float32. Padding holds 0 (the window's lower end in
      "grey", the background of the brain), -1 in "ct".
    Raises:
      DataError: wrong dtype or channels, values that are not finite, a slice smaller than the crop, spacing needed and
        unknown.
      ConfigError: a window without width, "ct" without a window, an unknown intensity or filter.
    """
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise DataError(f"got an image of shape {image.shape}; a slice is [H, W] or [H, W, C]", "DATA_IMAGE")
    image = cropped(image if image.ndim == 3 else image[..., None], recipe.crop)
    values = _channels(_intensity(image, recipe), recipe)
    values = channels.blur(values, recipe.blur) if recipe.blur else values
    place = placement(image.shape[:2], recipe, spacing)
    scaled = resize(values, place.scaled, recipe.filter)
    if recipe.intensity == "grey":
        scaled = np.rint(np.clip(scaled, 0.0, 255.0)).astype(np.uint8)  # Lanczos overshoots
    canvas = np.full((*recipe.size, values.shape[-1]), -1.0 if recipe.intensity == "ct" else 0, scaled.dtype)
    there, here = place.overlap()
    canvas[there] = scaled[here]
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
    mask = cropped(mask, recipe.crop)
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
    box = tuple(b.stop - b.start for b in crop_box(shape, recipe.crop))
    place = placement(box, recipe, spacing)
    there, here = place.overlap()
    scaled = np.empty((*place.scaled, k), np.float32)
    scaled[:] = np.asarray(background, np.float32)
    scaled[here] = scores[there]
    inside = resize(scaled, box)
    if box == tuple(shape):
        return inside
    whole_slice = np.empty((*shape, k), np.float32)
    whole_slice[:] = np.asarray(background, np.float32)
    whole_slice[crop_box(shape, recipe.crop)] = inside
    return whole_slice


def window_8bit(image: np.ndarray, recipe: Recipe) -> np.ndarray:
    """The slice as a picture on its own grid: the recipe's window, or z-scores from the lowest to the highest.

    Returns:
      uint8 of image's shape. Raises as `prepare`.
    """
    if recipe.intensity == "brain":
        return to_8bit(image, float(image.min()), float(image.max()))
    return np.rint(_window(image, recipe.window)).astype(np.uint8)


def crop_box(shape: tuple[int, int], crop: tuple[int, ...]) -> tuple[slice, slice]:
    """The recipe's box in the middle of a slice (the whole slice without one), as slices of rows and columns.

    Raises:
      DataError: DATA_GEOMETRY for a slice smaller than the box.
    """
    if not crop:
        return slice(0, shape[0]), slice(0, shape[1])
    if len(crop) != 2 or any(c > n for c, n in zip(crop, shape)):
        raise DataError(f"got a slice of {tuple(shape)} pixels; data.crop={tuple(crop)} is cut out of it: take a smaller one, or "
                        "() for the whole slice", "DATA_GEOMETRY")
    starts = [(n - c) // 2 for n, c in zip(shape, crop)]
    return tuple(slice(start, start + c) for start, c in zip(starts, crop))


def cropped(array: np.ndarray, crop: tuple[int, ...]) -> np.ndarray:
    """The box of `crop_box` of an array [H, W(, C)], a view."""
    return array[crop_box(array.shape[:2], crop)] if crop else array


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


def resize(values: np.ndarray, size: tuple[int, int], filter: str = "linear") -> np.ndarray:
    """float32 [H, W, C] -> [h, w, C] by one of FILTERS, half-pixel centres, antialiased along an axis that shrinks."""
    values = np.asarray(values, np.float32)
    method = lookup("value of data.filter", filter, FILTERS)
    if values.shape[:2] == tuple(size):
        return values
    planes = [Image.fromarray(np.ascontiguousarray(values[..., c])) for c in range(values.shape[-1])]
    return np.stack([np.asarray(p.resize((size[1], size[0]), method)) for p in planes], -1)


def _intensity(image: np.ndarray, recipe: Recipe) -> np.ndarray:
    """float32 of image's shape: 0..255, z-scores or -1..1 as the recipe says."""
    lookup("value of data.intensity", recipe.intensity, dict.fromkeys(INTENSITIES))
    if recipe.intensity == "brain":
        values = image.astype(np.float32)
        _check_finite(values)
        return values
    if recipe.intensity == "ct":
        if recipe.window is None:
            raise ConfigError("data.intensity='ct' maps data.window=(level, width) to -1..1; give one, such as (40, 400)")
        return _window(image, recipe.window) / 127.5 - 1.0
    return _window(image, recipe.window)


def _window(image: np.ndarray, window: tuple[float, float] | None) -> np.ndarray:
    if window is None:
        if image.dtype != np.uint8:
            raise DataError(f"got {image.dtype} values and no window; only 8-bit images go without: set data.window to "
                            "(level, width), for instance (40, 120) for a CT of the head, or data.intensity='brain' for MRI",
                            "DATA_IMAGE")
        return image.astype(np.float32)
    level, width = window
    if not (np.isfinite(level) and np.isfinite(width) and width > 0):
        raise ConfigError(f"got data.window={tuple(window)}; it is (level, width) with a width above 0")
    values = image.astype(np.float32)
    _check_finite(values)
    return np.clip((values - (level - width / 2)) * (255.0 / width), 0.0, 255.0)


def _check_finite(values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise DataError(f"{int((~np.isfinite(values)).sum())} of {values.size} voxels are NaN or infinite; repair the file or "
                        "leave the case out", "DATA_NONFINITE")


def _channels(values: np.ndarray, recipe: Recipe) -> np.ndarray:
    """[H, W, c] -> the recipe's channels: grey repeated, colour weighted by LUMA, or as it is; modalities only as they are."""
    c, more = values.shape[-1], channels.added(recipe.extra)
    wanted = recipe.channels - more
    if c == wanted:
        return values
    if c == 1 and wanted > 0 and recipe.intensity != "brain":
        return np.repeat(values, wanted, -1)
    if c == 3 and wanted == 1 and recipe.intensity == "grey":
        return (values @ np.asarray(LUMA, np.float32))[..., None]
    rule = "every modality is a channel" if recipe.intensity == "brain" else \
        "one channel is repeated and three (red, green, blue) can become one"
    extra = f", {more} of them of data.extra" if more else ""
    raise DataError(f"got {c} channels for data.channels={recipe.channels}{extra}; {rule}; set data.channels={c + more}",
                    "DATA_CHANNELS")
