"""Convert an image to the network's input, and the network's scores back to the image's grid, for pictures, slices and volumes.

The order is: intensities on the image's own grid, the recipe's crop, one resampling, the canvas. With the filter "monai",
resampling comes before the intensities, and probabilities instead of logits are resampled back. With nnU-Net's options (axes,
nonzero), axes are transposed and the image is cropped first, so that intensity statistics are those of the cropped box.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage

from jaxseg.data.formats.volumes import check_pair
from jaxseg.data.geometry import to_volume
from jaxseg.data.prepare import canvas, channels, intensity, labels
from jaxseg.data.prepare.resample import for_scores, resample
from jaxseg.data.prepare.splines import by_nnunet, by_shares
from jaxseg.data.records import Photo, Recipe, Volume
from jaxseg.types import DataError
from jaxseg.utils.pictures import to_8bit

LUMA = (0.299, 0.587, 0.114)  # red, green, blue shares of grey: ITU-R BT.601


def normalise_volume(volume: Volume, recipe: Recipe) -> Volume:
    """Apply the volume-level part of the intensity preparation, which comes before the volume is cut into slices.

    Raises:
      DataError, ConfigError: as `intensity.of_scan`.
    """
    flat = isinstance(volume.header, Photo) or volume.array.ndim == 2  # [H, W(, C)]: a volume of one slice
    array = volume.array[:, :, None] if flat else volume.array
    scaled = intensity.of_scan(array, recipe)
    return volume if scaled is array else dataclasses.replace(volume, array=scaled[:, :, 0] if flat else scaled)


def prepare(image: np.ndarray, recipe: Recipe, spacing: Sequence[float] | None) -> np.ndarray:
    """Return the network's input for one slice, or for one scan after `normalise_volume`.

    The channels of `recipe.extra` are missing; `channels.extend` adds them.

    Args:
      image: [H, W] or [H, W, C] for a recipe with two axes, [X, Y, Z, C] for three; values as for `intensity.of_values`.
      recipe: how images are prepared.
      spacing: mm along the axes of the image; None if unknown.
    Returns:
      [*s, recipe.channels without those of recipe.extra]: uint8 for slices in "grey", else float32; volumes in "grey" are in
      0..1. The padding value is 0 (the lower end of the window in "grey", the background of the brain), or -1 in "ct".
    Raises:
      DataError: wrong dtype or number of channels, NaN or Inf, an image smaller than the crop, or a missing spacing.
      ConfigError: a window without width, "ct" without a window, or an unknown intensity or filter.
    """
    if image.ndim not in (2, 3, 4) or 0 in image.shape:
        raise DataError(
            f"got an image of shape {image.shape}; must be [H, W] or [H, W, C] for a slice, [X, Y, Z, C] for a volume",
            "DATA_IMAGE",
        )
    image = image if image.ndim > 2 else image[..., None]
    planes = [image[..., c] for c in range(image.shape[-1])]
    return _assemble(planes, recipe, *_place(planes, recipe, spacing), scanned=True)


class Scan:
    """A scan of several files, whose placement on the network's grid is computed once, when it is first asked for.

    Args:
      images: the modalities in their order, each [X, Y, Z] or [X, Y, Z, c]: volumes as read from files, or arrays that are
        already in the common order (`geometry.to_volume`).
      recipe: how images are prepared.
      spacing: (x, y, z) mm, for arrays only.
    """

    def __init__(self, images: Sequence[Volume | np.ndarray], recipe: Recipe, spacing: Sequence[float] | None = None):
        self._images, self._recipe, self._spacing = images, recipe, spacing

    @functools.cached_property
    def _planes(self) -> tuple[list[np.ndarray], Sequence[float] | None]:
        return _planes(self._images, self._recipe, self._spacing)

    @functools.cached_property
    def _placed(self) -> tuple[canvas.Placement, np.ndarray | None]:
        planes, spacing = self._planes
        return _place(planes, self._recipe, spacing)

    def place(self) -> canvas.Placement:
        """Return the placement, which `prepare_mask` and `restore` need for recipes with `nonzero`; errors as for `prepare`."""
        return self._placed[0]

    def prepare(self) -> np.ndarray:
        """Return the network's input: each channel by `recipe.intensity`, resampled to `recipe.spacing`.

        Returns:
          float32 [X', Y', Z', recipe.channels] in the common order.
        Raises:
          DataError, ConfigError: as the function `prepare`, and for grids that differ.
        """
        return _assemble(self._planes[0], self._recipe, *self._placed, scanned=False)


def _planes(images, recipe, spacing):
    """Return the channels of a scan, each [X, Y, Z] in the recipe's orientation, and its spacing."""
    scans = [image for image in images if isinstance(image, Volume)]
    for other in scans[1:]:
        check_pair(scans[0], other)
    arrays = []
    for image in images:
        if isinstance(image, Volume):
            image, orientation = to_volume(image, recipe.orientation)
            spacing = orientation.spacing
        arrays.append(image[..., None] if image.ndim == 3 else image)
    shapes = [a.shape[:-1] for a in arrays]
    if not arrays or len(set(shapes)) > 1 or len(shapes[0]) != 3 or 0 in shapes[0]:
        raise DataError(
            f"got images of shapes {[a.shape for a in arrays]}; all modalities of a scan must be [X, Y, Z] or "
            "[X, Y, Z, c] of one shape",
            "DATA_IMAGE",
        )
    return [a[..., c] for a in arrays for c in range(a.shape[-1])], spacing


def _place(planes, recipe, spacing):
    """Return (placement of an example with these channels, its non-zero voxels if the recipe needs them)."""
    inside = box = None
    axes, above = canvas.axes_of(recipe, planes[0].ndim), recipe.above
    if recipe.nonzero or "zscore_nonzero" in intensity.rules_of(recipe) and planes[0].ndim == 3:
        inside = canvas.nonzero(planes)
    if recipe.nonzero:
        box = canvas.nonzero_box(inside.transpose(axes))
    elif above and above[0] == canvas.SCAN:
        box = canvas.box_above([p.transpose(axes) for p in planes], *above[1:])
    place = canvas.placement(planes[0].shape, recipe, spacing, box=box)
    if above and above[0] == canvas.GRID:
        resampled = [resample(place.cut(p), place.scaled, recipe.filter, steps=place.steps) for p in planes]
        place = place.cropped(canvas.box_above(resampled, *above[1:]))
    return place, inside


def prepare_mask(
    mask: np.ndarray,
    recipe: Recipe,
    spacing: Sequence[float] | None,
    classes: int,
    *,
    place: canvas.Placement | None = None,
    left_out: bool = False,
) -> np.ndarray:
    """Resample a mask to the input's grid: each class is resampled linearly, the largest value wins (`splines.by_shares`).

    Args:
      mask: integer [H, W], or [X, Y, Z] in the common order, labels 0..classes.
      recipe: how images are prepared.
      spacing: mm along the mask's axes; None if unknown.
      classes: number of foreground classes.
      place: the placement of the scan (`Scan.place`); None: that of a recipe without `nonzero`.
      left_out: the mask may hold LEFT_OUT, which is resampled as a class is.
    Returns:
      uint8 [*s], or uint16 above 255 classes.
    Raises:
      DataError: labels outside of 0..classes, or a missing spacing.
    """
    found = labels.checked(mask, rank_of(recipe, mask.ndim), classes, left_out)
    place, filter = place or canvas.placement(found.shape, recipe, spacing), for_scores(recipe.filter)
    share_of = lambda indicator: resample(indicator, place.scaled, filter, apart=place.apart, steps=place.steps)
    if recipe.filter == "nnunet":
        scaled = by_nnunet(place.cut(found), place.scaled, place.apart)
    else:
        scaled = by_shares(place.cut(found), place.scaled, share_of)
    if place.scaled == place.canvas:
        return np.ascontiguousarray(scaled)
    there, here = place.overlap()
    prepared = np.zeros(place.canvas, found.dtype)
    prepared[there] = scaled[here]
    return prepared


def prepare_stage(found: Volume, recipe: Recipe, place: canvas.Placement) -> np.ndarray:
    """Return the classes of a previous stage on the network's grid, one channel [X', Y', Z', 1]; `one_hot` makes its inputs.

    Args:
      found: classes 0..K in the axes of the case's first image.
      recipe: how images are prepared; K is that of its labels.
      place: the placement of the scan (`Scan.place`).
    Raises:
      DataError: other classes (DATA_LABEL).
    """
    classes, orientation = to_volume(found, recipe.orientation)
    return prepare_mask(classes, recipe, orientation.spacing, len(recipe.labels), place=place)[..., None]


def one_hot(image: np.ndarray, classes: int) -> np.ndarray:
    """Replace the last channel of an image [..., C + 1], class numbers, by a channel of zeros and ones for each class 1..K.

    Returns:
      [..., C + K] of the image's dtype.
    """
    numbers = np.arange(1, classes + 1, dtype=image.dtype)
    return np.concatenate([image[..., :-1], (image[..., -1:] == numbers).astype(image.dtype)], -1)


def restore(
    scores: np.ndarray,
    shape: Sequence[int],
    recipe: Recipe,
    spacing: Sequence[float] | None,
    *,
    fill: Sequence[float] | None = None,
    place: canvas.Placement | None = None,
) -> np.ndarray:
    """Resample scores from the input's grid to the image's own grid: the inverse of `prepare`'s geometry.

    Args:
      scores: [*s, K], float32, or float16, to which the resampled scores are rounded then, as by nnU-Net.
      shape: (H, W) of the slice, or (X, Y, Z) of the scan in the common order (`Orientation.restore` restores the file's order).
      recipe: how images are prepared.
      spacing: spacing of the image, as given to `prepare`.
      fill: [K] scores of pixels outside canvas and crop. None: those of background as probabilities, 0 for one class and
        (1, 0, ..., 0) for K > 1; logits need other values.
      place: the placement of the scan (`Scan.place`); None: that of a recipe without `nonzero`.
    Returns:
      float32 [*shape, K].
    """
    k = scores.shape[-1]
    restored = np.empty((*shape, k), np.float32)
    for c, plane in enumerate(restored_planes(scores, shape, recipe, spacing, fill=fill, place=place)):
        restored[..., c] = plane
    return restored


def restored_planes(
    scores: np.ndarray,
    shape: Sequence[int],
    recipe: Recipe,
    spacing: Sequence[float] | None,
    *,
    fill: Sequence[float] | None = None,
    place: canvas.Placement | None = None,
) -> Iterator[np.ndarray]:
    """Yield the scores of `restore` one class float32 [*shape] at a time."""
    place, k = place or canvas.placement(tuple(shape), recipe, spacing), scores.shape[-1]
    if scores.shape[:-1] != place.canvas:
        raise ValueError(
            f"got scores of shape {scores.shape}; must have the network's size {place.canvas} for an image of {tuple(shape)}"
        )
    background = ([0.0] if k == 1 else [1.0] + [0.0] * (k - 1)) if fill is None else fill
    there, here = place.overlap()
    for c in range(k):
        scaled = scores[..., c]
        if place.scaled != place.canvas:
            scaled = np.full(place.scaled, background[c], np.float32)
            scaled[here] = scores[there][..., c]
        back = None if place.steps is None else [1 / step for step in place.steps]
        inside = resample(scaled, place.boxed, for_scores(recipe.filter), apart=place.apart_back, steps=back)
        inside = inside.astype(scores.dtype).astype(np.float32) if scores.dtype == np.float16 else inside
        if place.boxed == tuple(shape) and place.axes == tuple(range(len(shape))):
            yield inside
            continue
        whole_image = np.full(shape, background[c], np.float32)
        place.put(whole_image, inside)
        yield whole_image


def restore_labels(
    scores: np.ndarray,
    shape: Sequence[int],
    recipe: Recipe,
    spacing: Sequence[float] | None,
    *,
    fill: Sequence[float] | None = None,
    place: canvas.Placement | None = None,
) -> np.ndarray:
    """Return the class of the largest restored score, `restore(...).argmax(-1)`, with only one class in memory at a time.

    Returns:
      uint8 [*shape], or uint16 above 256 scores.
    """
    best, found = None, np.zeros(tuple(shape), labels.dtype_for(scores.shape[-1] - 1))
    for k, score in enumerate(restored_planes(scores, shape, recipe, spacing, fill=fill, place=place)):
        if best is None:
            best = score
            continue
        found[score > best] = k
        best = np.maximum(best, score)
    return found


def window_8bit(image: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Convert a slice to an 8-bit picture on its own grid, by the recipe's window, or z-scores from the lowest to the highest.

    Returns:
      uint8 of the image's shape.
    Raises:
      DataError, ConfigError: as `prepare`.
    """
    if not {"grey", "ct"} & set(intensity.rules_of(recipe)):
        return to_8bit(image, float(image.min()), float(image.max()))
    return np.rint(intensity.windowed(image, recipe.window)).astype(np.uint8)


def dtype_of(recipe: Recipe, rank: int) -> np.dtype:
    """Return the dtype of prepared images with this number of axes: uint8 for grey slices and colour pictures, else float32."""
    return np.dtype(np.uint8 if recipe.intensity == "grey" and rank == 2 else np.float32)


def rank_of(recipe: Recipe, axes: int) -> int:
    """Return the number of axes of an example: that of the recipe's size if it has one, else `axes`."""
    return len(recipe.size) or axes


def _assemble(
    planes: list[np.ndarray], recipe: Recipe, place: canvas.Placement, inside: np.ndarray | None, *, scanned: bool
) -> np.ndarray:
    """Return the channels of one example on the canvas, placed by `_place`; `scanned`: after `intensity.of_scan`."""
    rank = planes[0].ndim
    if recipe.nonzero or recipe.above[:1] == (canvas.SCAN,):  # intensities are those of the box
        inside = None if inside is None else place.cut(inside)
        planes, place = [place.cut(p) for p in planes], place.after_cut()
    if recipe.filter == "monai":  # intensities are those of the resampled volume
        planes = [resample(place.cut(p), place.scaled, recipe.filter, steps=place.steps) for p in planes]
        planes, place = [p[place.overlap()[1]] for p in planes], place.after_resampling()
        inside = None if inside is None else canvas.nonzero(planes)
    there, here = place.overlap()
    prepared = np.empty((*place.canvas, _wanted(len(planes), recipe)), dtype_of(recipe, rank))
    if place.scaled != place.canvas:
        prepared[:] = -1.0 if recipe.intensity == "ct" else 0
    scan = lambda plane, c: plane if scanned else intensity.of_scan(plane, recipe, inside, c)
    ready = (intensity.of_values(place.cut(scan(plane, c)), recipe, c) for c, plane in enumerate(planes))
    if len(planes) == 3 and prepared.shape[-1] == 1:
        ready = [(np.stack(list(ready), -1) @ np.asarray(LUMA, np.float32))]
    for c, values in enumerate(ready):
        values = ndimage.gaussian_filter(values, recipe.blur) if recipe.blur else values
        values = resample(values, place.scaled, recipe.filter, apart=place.apart, steps=place.steps)[here]
        if prepared.dtype == np.uint8:
            values = np.rint(np.clip(values, 0.0, 255.0))  # Lanczos overshoots
        elif recipe.intensity == "grey":
            values = values / np.float32(255)
        prepared[(*there, slice(None) if len(planes) == 1 else c)] = values[..., None] if len(planes) == 1 else values
    return prepared


def _wanted(c: int, recipe: Recipe) -> int:
    """Return the number of channels after conversion: grey is repeated, colour is converted to grey, modalities do not change.

    Raises:
      DataError: there is no conversion for this number of channels (DATA_CHANNELS).
    """
    more = channels.added(recipe.extra)
    scanned = intensity.steps_of(intensity.rules_of(recipe)[0])[0] in intensity.SCANS
    wanted, modalities = recipe.channels - more, scanned or len(recipe.modalities) > 1
    grey = c == 3 and wanted == 1 and recipe.intensity == "grey"
    if c == wanted or not modalities and (c == 1 and wanted > 0 or grey):
        return wanted
    named = f" ({', '.join(recipe.modalities)})" if recipe.modalities else ""
    rule = (
        "there must be one channel for each modality"
        if modalities
        else "only one channel can be repeated, and only three (red, green, blue) become one"
    )
    extra = f", {more} of them of data.extra" if more else ""
    raise DataError(
        f"got {c} channels for data.channels={recipe.channels}{named}{extra}; {rule}; set data.channels={c + more}",
        "DATA_CHANNELS",
    )
