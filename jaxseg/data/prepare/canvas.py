"""The position of an example on the network's grid: order of the axes, crop box, size at the recipe's spacing, and canvas (the
network's grid, which the resampled box is cropped or padded to).
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import ndimage

from jaxseg.data.prepare.resample import MONAI
from jaxseg.data.records import Recipe
from jaxseg.types import ConfigError, DataError
from jaxseg.utils.lookup import lookup

VERSION = 2  # raise it when examples would lie elsewhere
ANISOTROPIC = 3.0  # ratio of the coarsest to the finest spacing above which nnU-Net resamples the coarsest axis apart

CLOSE = 1e-3  # mm: spacings that differ by less are one to MONAI

LARGEST = {2: 1 << 15, 3: 1 << 12}  # pixels or voxels a side after resampling
AXES = {2: "(row mm, column mm)", 3: "(x, y, z) mm"}
VOXELS = {2: "pixels", 3: "voxels"}
FITS = ("stretch", "centre", "patches")
SCAN, GRID = "scan", "grid"  # where `Recipe.above` finds its box

Box = tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class Placement:
    """The position of an example on the network's grid.

    Attributes:
      axes: the example's axes in the network's order; all other attributes are in this order.
      box: the part of the example that is used.
      scaled: size of the box after resampling.
      canvas: size of the network's grid.
      corner: start of the resampled box on the canvas; negative if the canvas crops it.
      apart: the axis that is resampled separately (only for the filter "nnunet").
      apart_back: the same when scores are resampled back from the network's grid.
      steps: distance between two samples of the network's grid in samples of the box, for each axis (only for MONAI's filters).
    """

    axes: tuple[int, ...]
    box: Box
    scaled: tuple[int, ...]
    canvas: tuple[int, ...]
    corner: tuple[int, ...]
    apart: int | None = None
    apart_back: int | None = None
    steps: tuple[float, ...] | None = None

    @property
    def keeps_grid(self) -> bool:
        """Whether the network's grid is the example's own grid."""
        return (
            self.steps is None
            and self.axes == tuple(range(len(self.axes)))
            and self.boxed == self.scaled == self.canvas
            and all(b.start == 0 for b in self.box)
        )

    def spacing(self, spacing: Sequence[float]) -> tuple[float, ...]:
        """Return the spacing (mm) of the network's grid for an example with this spacing."""
        if self.steps is not None:
            return tuple(float(spacing[a] * step) for a, step in zip(self.axes, self.steps))
        return tuple(float(spacing[a] * n / m) for a, n, m in zip(self.axes, self.boxed, self.scaled))

    def after_cut(self) -> "Placement":
        """The placement for an array that `cut` returned."""
        whole = tuple(slice(0, n) for n in self.boxed)
        return dataclasses.replace(self, axes=tuple(range(len(whole))), box=whole)

    def after_resampling(self) -> "Placement":
        """The placement for an array that was cropped, resampled and cropped to the canvas already."""
        whole, n = tuple(slice(0, n) for n in self.canvas), len(self.canvas)
        return dataclasses.replace(self, axes=tuple(range(n)), box=whole, scaled=self.canvas, corner=(0,) * n, steps=None)

    def cropped(self, box: Box) -> "Placement":
        """The placement whose canvas is a box of this one's resampled box."""
        return dataclasses.replace(self, canvas=tuple(b.stop - b.start for b in box), corner=tuple(-b.start for b in box))

    def cut(self, array: np.ndarray) -> np.ndarray:
        """Return the used part of an example [*S] in the network's order of axes, as a view."""
        return array.transpose(self.axes)[self.box]

    def put(self, whole: np.ndarray, part: np.ndarray) -> None:
        """Write an array like that of `cut` to its place in an array of the example's shape."""
        whole.transpose(self.axes)[self.box] = part

    @property
    def boxed(self) -> tuple[int, ...]:
        """The size of the box."""
        return tuple(b.stop - b.start for b in self.box)

    def overlap(self) -> tuple[Box, Box]:
        """The common part of canvas and resampled box: (slices of the canvas, slices of the resampled box)."""
        there = tuple(slice(max(c, 0), min(c + s, n)) for c, s, n in zip(self.corner, self.scaled, self.canvas))
        here = tuple(slice(t.start - c, t.stop - c) for t, c in zip(there, self.corner))
        return there, here


def placement(shape: Sequence[int], recipe: Recipe, spacing: Sequence[float] | None, *, box: Box | None = None) -> Placement:
    """Return the placement by `recipe.fit`: stretched to recipe.size, centred on it, or on a grid of its own size ("patches").

    Args:
      shape: (H, W) or (X, Y, Z) of the example.
      recipe: how images are prepared.
      spacing: mm along the same axes; None if unknown.
      box: for a recipe with `nonzero` or `above` on the scan's own grid, the result of `nonzero_box` or `box_above`.
    Raises:
      DataError: the recipe has a spacing but the example has none or an impossible one, or the example is smaller than the crop.
      ConfigError: the recipe's spacing is for another number of axes, or its fit is not possible for the example or spacing.
    """
    rank = len(shape)
    _check_fit(recipe, rank)
    if rank == 2 and (recipe.axes or recipe.nonzero or recipe.above):
        raise ConfigError(
            f"got axes={recipe.axes}, nonzero={recipe.nonzero}, above={recipe.above} for slices; they are for volumes only: "
            "leave them out"
        )
    axes = axes_of(recipe, rank)
    shape = tuple(shape[a] for a in axes)
    if spacing is not None and len(spacing) == rank:
        spacing = tuple(spacing[a] for a in axes)
    boxes = recipe.nonzero or recipe.above[:1] == (SCAN,)
    if boxes != (box is not None) or boxes and recipe.crop:
        raise ValueError(
            f"got the box {box} for nonzero={recipe.nonzero}, above={recipe.above}, crop={recipe.crop}; a recipe with nonzero or "
            "above needs a box from `nonzero_box` or `box_above`, and must have no crop"
        )
    box = box or crop_box(shape, recipe.crop)
    boxed = tuple(b.stop - b.start for b in box)
    scaled = spaced(boxed, recipe, spacing)
    if recipe.fit == "patches":
        apart = back = None
        if rank == 3 and recipe.filter == "nnunet" and recipe.spacing:
            wanted = [r or s for r, s in zip(recipe.spacing, spacing)]
            apart, back = coarse_axis(spacing, wanted), coarse_axis(wanted, spacing)
        steps = None
        if recipe.filter in MONAI and recipe.spacing and any(r and abs(r - s) > CLOSE for r, s in zip(recipe.spacing, spacing)):
            steps = tuple((r or s) / s for r, s in zip(recipe.spacing, spacing))
        return Placement(axes, box, scaled, scaled, (0,) * rank, apart, back, steps)
    canvas = tuple(int(n) for n in recipe.size)
    if recipe.fit == "stretch":
        return Placement(axes, box, canvas, canvas, (0,) * rank)
    return Placement(axes, box, scaled, canvas, tuple((n - s) // 2 for n, s in zip(canvas, scaled)))


def _check_fit(recipe: Recipe, rank: int) -> None:
    lookup("value of data.fit", recipe.fit, dict.fromkeys(FITS))
    if rank == 3 and recipe.fit != "patches":
        raise ConfigError(f"got data.fit={recipe.fit!r} for a volume; must be 'patches': set data.fit='patches'")
    if recipe.fit != "patches" and (recipe.fit == "centre") != (recipe.spacing is not None):
        raise ConfigError(
            f"got data.fit={recipe.fit!r} with data.spacing={recipe.spacing}; 'centre' needs a spacing, 'stretch' has none: "
            f"set data.fit={'stretch' if recipe.spacing is None else 'centre'!r}"
        )


def spaced(shape: Sequence[int], recipe: Recipe, spacing: Sequence[float] | None) -> tuple[int, ...]:
    """Return the size of an example at the recipe's spacing; its own size if the recipe has no spacing. Raises as `placement`."""
    rank, wanted = len(shape), recipe.spacing
    if wanted is None:
        return tuple(shape)
    if len(wanted) != rank or not all(np.isfinite(s) and (s > 0 or s == 0 and rank == 3) for s in wanted):
        raise ConfigError(
            f"got data.spacing={tuple(wanted)}; for {'slices' if rank == 2 else 'volumes'} must be {AXES[rank]} above 0"
            + ("; 0 leaves an axis unchanged" if rank == 3 else "")
        )
    if spacing is None or len(spacing) != rank or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise DataError(
            f"got a spacing of {spacing}; data.spacing={tuple(wanted)} needs {AXES[rank]} > 0; set "
            + (
                f"data.spacing=() to keep the {VOXELS[rank]}"
                if recipe.fit == "patches"
                else "data.fit='stretch' and data.spacing=()"
            ),
            "DATA_GEOMETRY",
        )
    samples = (lambda n, s, r: s / r * n) if recipe.filter == "nnunet" else (lambda n, s, r: n * s / r)  # differ at halves
    if recipe.filter in MONAI:  # the centres of the first and the last voxel stay
        samples = lambda n, s, r: (n - 1) * s / r + 1 if abs(r - s) > CLOSE else n
    scaled = tuple(max(1, round(samples(n, s, r))) if r else n for n, s, r in zip(shape, spacing, wanted))
    if max(scaled) > LARGEST[rank]:
        raise DataError(
            f"got a spacing of {tuple(spacing)} and shape {tuple(shape)}: {scaled} samples at data.spacing="
            f"{tuple(wanted)}; at most {LARGEST[rank]} a side",
            "DATA_GEOMETRY",
        )
    return scaled


def axes_of(recipe: Recipe, rank: int) -> tuple[int, ...]:
    """Return the order in which the network takes an example's axes.

    Raises:
      ConfigError: recipe.axes is not a permutation of the axes.
    """
    if recipe.axes and sorted(recipe.axes) != list(range(rank)):
        raise ConfigError(f"got axes={recipe.axes}; must be a permutation of {tuple(range(rank))}")
    return tuple(recipe.axes) or tuple(range(rank))


def coarse_axis(spacing: Sequence[float], wanted: Sequence[float]) -> int | None:
    """Return the axis of an anisotropic scan that nnU-Net resamples separately, by nearest neighbour; None if there is none.

    It is the coarsest axis of the scan if its spacing exceeds 3 times the finest one; else the coarsest axis of the target
    spacing, by the same rule. If two axes are equally coarse, no axis is resampled separately.

    Source: MIC-DKFZ/nnUNet, nnunetv2/preprocessing/resampling/default_resampling.py.
    """
    for each in (spacing, wanted):
        if max(each) / min(each) > ANISOTROPIC:
            coarsest = [axis for axis, s in enumerate(each) if s == max(each)]
            return coarsest[0] if len(coarsest) == 1 else None
    return None


def nonzero(channels: Iterable[np.ndarray]) -> np.ndarray:
    """Return where any channel is not 0, with holes filled: bool [*S].

    Source: MIC-DKFZ/nnUNet, nnunetv2/preprocessing/cropping/cropping.py.
    """
    inside = None
    for channel in channels:
        inside = channel != 0 if inside is None else inside | (channel != 0)
    return ndimage.binary_fill_holes(inside)


def nonzero_box(inside: np.ndarray) -> Box:
    """Return the smallest box around the voxels that `nonzero` found.

    Raises:
      DataError: there are none (DATA_EMPTY).
    """
    if not inside.any():
        raise DataError("every voxel is 0, so data.nonzero=True has nothing to crop to; check the file", "DATA_EMPTY")
    return ndimage.find_objects(inside.astype(np.uint8))[0]


def box_above(channels: Sequence[np.ndarray], value: float, margin: int) -> Box:
    """Return the smallest box around the voxels that are above `value` in some channel, wider by `margin` where there is room.

    Source: MONAI, monai/transforms/croppad/array.py: CropForeground.

    Raises:
      DataError: there are none (DATA_EMPTY).
    """
    inside = functools.reduce(np.logical_or, (channel > value for channel in channels))
    if not inside.any():
        raise DataError(
            f"no voxel is above {value:g}, so there is no foreground to crop to; check the file, or leave the case out",
            "DATA_EMPTY",
        )
    found = ndimage.find_objects(inside.astype(np.uint8))[0]
    return tuple(slice(max(b.start - margin, 0), min(b.stop + margin, n)) for b, n in zip(found, inside.shape))


def crop_box(shape: Sequence[int], crop: tuple[int, ...]) -> Box:
    """Return the recipe's crop box in the middle of an example; the whole example if the recipe has no crop.

    Raises:
      DataError: the example is smaller than the box (DATA_GEOMETRY).
    """
    if not crop:
        return tuple(slice(0, n) for n in shape)
    if len(crop) != len(shape) or any(c > n for c, n in zip(crop, shape)):
        raise DataError(
            f"got an image of {tuple(shape)} pixels, smaller than data.crop={tuple(crop)}; set a smaller crop, "
            "or () for the whole image",
            "DATA_GEOMETRY",
        )
    starts = [(n - c) // 2 for n, c in zip(shape, crop)]
    return tuple(slice(start, start + c) for start, c in zip(starts, crop))


def fitting_patch(patch: Sequence[int], largest: Sequence[int]) -> tuple[int, ...]:
    """Return a patch, at most `patch`, that images of `largest` voxels fill by more than half, where possible in steps of 16."""
    rounded = [-(-n // 16) * 16 for n in largest]
    return tuple(int(min(p, up if up < 2 * n else n // 8 * 8 or n)) for p, n, up in zip(patch, largest, rounded))
