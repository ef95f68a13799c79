"""Where an example lies on the network's grid: the box that is cut out of it, its size at the recipe's spacing, the canvas."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxseg.data.records import Recipe
from jaxseg.types import ConfigError, DataError

LARGEST = {2: 1 << 15, 3: 1 << 12}  # pixels or voxels a side after resampling
AXES = {2: "(row mm, column mm)", 3: "(x, y, z) mm"}

Box = tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where an example lies on the network's grid.

    Attributes:
      box: the part of the example that is used.
      scaled: its size after resampling.
      canvas: size of the network's grid.
      corner: where the resampled box begins on the canvas; negative where the canvas cuts it.
    """

    box: Box
    scaled: tuple[int, ...]
    canvas: tuple[int, ...]
    corner: tuple[int, ...]

    @property
    def boxed(self) -> tuple[int, ...]:
        """Size of the box."""
        return tuple(b.stop - b.start for b in self.box)

    def overlap(self) -> tuple[Box, Box]:
        """(part of the canvas, part of the resampled box) that both have."""
        there = tuple(slice(max(c, 0), min(c + s, n)) for c, s, n in zip(self.corner, self.scaled, self.canvas))
        here = tuple(slice(t.start - c, t.stop - c) for t, c in zip(there, self.corner))
        return there, here


def placement(shape: Sequence[int], recipe: Recipe, spacing: Sequence[float] | None) -> Placement:
    """Slices are stretched to recipe.size or, if the recipe has a spacing, resampled to it and centred on recipe.size.

    Volumes are resampled to the recipe's spacing, if it has one, and keep what size they then have: patches are cut from them.

    Args:
      shape: (H, W) or (X, Y, Z) of the example.
      spacing: mm along the same axes; None where unknown.
    Raises:
      DataError: the recipe has a spacing and the example has none, or one that no scanner has; an example smaller than the crop.
      ConfigError: a spacing for another number of axes.
    """
    rank = len(shape)
    box = crop_box(shape, recipe.crop)
    boxed = tuple(b.stop - b.start for b in box)
    scaled = spaced(boxed, recipe, spacing)
    if rank == 3:
        return Placement(box, scaled, scaled, (0,) * rank)
    canvas = tuple(int(n) for n in recipe.size)
    if recipe.spacing is None:
        return Placement(box, canvas, canvas, (0,) * rank)
    return Placement(box, scaled, canvas, tuple((n - s) // 2 for n, s in zip(canvas, scaled)))


def spaced(shape: Sequence[int], recipe: Recipe, spacing: Sequence[float] | None) -> tuple[int, ...]:
    """The size of an example at the recipe's spacing; its own where the recipe has none. Raises as `placement`."""
    rank, wanted = len(shape), recipe.spacing
    if wanted is None:
        return tuple(shape)
    if len(wanted) != rank or not all(np.isfinite(s) and s > 0 for s in wanted):
        raise ConfigError(f"got data.spacing={tuple(wanted)}; {'slices' if rank == 2 else 'volumes'} take {AXES[rank]} above 0; "
                          "() keeps them as they are")
    if spacing is None or len(spacing) != rank or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise DataError(f"got a spacing of {spacing}; data.spacing={tuple(wanted)} needs {AXES[rank]} > 0; set "
                        f"data.spacing=() to {'stretch the image' if rank == 2 else 'keep the voxels'}", "DATA_GEOMETRY")
    scaled = tuple(max(1, round(n * s / r)) for n, s, r in zip(shape, spacing, wanted))
    if max(scaled) > LARGEST[rank]:
        raise DataError(f"got a spacing of {tuple(spacing)} and shape {tuple(shape)}: {scaled} samples at data.spacing="
                        f"{tuple(wanted)}; at most {LARGEST[rank]} a side", "DATA_GEOMETRY")
    return scaled


def crop_box(shape: Sequence[int], crop: tuple[int, ...]) -> Box:
    """The recipe's box in the middle of an example; all of it without one.

    Raises:
      DataError: DATA_GEOMETRY for an example smaller than the box.
    """
    if not crop:
        return tuple(slice(0, n) for n in shape)
    if len(crop) != len(shape) or any(c > n for c, n in zip(crop, shape)):
        raise DataError(f"got an image of {tuple(shape)} pixels; data.crop={tuple(crop)} is cut out of it: take a smaller one, "
                        "or () for the whole image", "DATA_GEOMETRY")
    starts = [(n - c) // 2 for n, c in zip(shape, crop)]
    return tuple(slice(start, start + c) for start, c in zip(starts, crop))
