"""How a case becomes examples: a stack of slices (a picture is a stack of one) or one volume.

This is the only place where pictures, slices and volumes part ways, by the number of axes in the recipe (`of`). Stores, the check
of data, evaluation and prediction all open a case through a layout, and treat what they get alike.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxseg.data.formats import volumes
from jaxseg.data.geometry import Orientation, cut, to_slices, to_volume
from jaxseg.data.prepare import examples
from jaxseg.data.prepare.canvas import Placement, placement
from jaxseg.data.records import Case, Recipe, Volume


class Arranged(NamedTuple):
    """The images of a case, arranged as examples.

    Attributes:
      shape: (N, H, W) of a stack of slices, (X, Y, Z) of a volume: the axes in which labels are given.
      orientation: restores the file's axis order.
      spacing: mm along the axes of one example; None for photographs.
      image: i -> [*S, C], example i with the channels of all files, after the part of the intensity preparation that comes before
        a volume is cut into slices.
      raw: i -> [*S, C], the same as it was read.
      prepare: i -> [*s, C], example i as the network's input, see `prepare.examples.prepare`.
      place: () -> the position of an example on the network's grid; all examples of a case have the same one.
      shown: [*shape(, C)] of the last modality, or of all channels of slices: what overlays show.
    """

    shape: tuple[int, ...]
    orientation: Orientation
    spacing: tuple[float, ...] | None
    image: Callable[[int], np.ndarray]
    raw: Callable[[int], np.ndarray]
    prepare: Callable[[int], np.ndarray]
    place: Callable[[], Placement]
    shown: np.ndarray


class CaseLayout(Protocol):
    """The interface that `Slices` and `Volumes` share.

    Attributes:
      recipe: how images are prepared.
      stacked: whether a case is a stack of N examples, not one.
    """

    recipe: Recipe
    stacked: bool

    def part(self, volume: Volume, case: Case) -> Volume:
        """Return the part of a file that is the case."""

    def arrange(self, volume: Volume) -> tuple[np.ndarray, Orientation]:
        """Return an image or a mask in the axes of labels, as a view, and the orientation that restores the file's order."""

    def open(self, images: Sequence[Volume]) -> Arranged:
        """Arrange the images of a case, one for each modality.

        Raises:
          DataError: the recipe does not fit an image, or the modalities have different grids.
        """

    def upright(self, array: np.ndarray) -> np.ndarray:
        """Return an array in the axes of labels as upright pictures [N, H, W(, C)], a view."""

    def grey(self, shown: np.ndarray) -> np.ndarray:
        """Convert `Arranged.shown` to 8 bits for an overlay."""


def of(recipe: Recipe, **options: Any) -> CaseLayout:
    """Return the layout of a recipe: `Volumes` for a size with three axes, else `Slices` with the options."""
    return Volumes(recipe) if len(recipe.size) == 3 else Slices(recipe, **options)


@dataclasses.dataclass(frozen=True)
class Slices:
    """Upright slices along the recipe's plane, feet to head.

    Attributes:
      recipe: how images are prepared.
      normalised: the images are already z-scores (`DataSet.normalised`).
    """

    recipe: Recipe
    normalised: bool = False
    stacked = True

    def part(self, volume: Volume, case: Case) -> Volume:
        return volume

    def arrange(self, volume: Volume) -> tuple[np.ndarray, Orientation]:
        return to_slices(volume, self.recipe.plane)

    def open(self, images: Sequence[Volume]) -> Arranged:
        images = [images[0], *(volumes.paired(images[0], other) for other in images[1:])]
        scaled = images
        if not (self.normalised and self.recipe.intensity == "brain"):
            scaled = [examples.normalise_volume(image, self.recipe) for image in images]
        found, (orientation, *_) = zip(*(self.arrange(image) for image in scaled))
        spacing = orientation.spacing[1:] if orientation.axes else None
        image, raw = _channels(found), _channels([self.arrange(image)[0] for image in images])
        return Arranged(
            found[0].shape[:3],
            orientation,
            spacing,
            image,
            raw,
            lambda i: examples.prepare(image(i), self.recipe, spacing),
            lambda: placement(found[0].shape[1:3], self.recipe, spacing),
            image(slice(None)) if len(found) > 1 else found[0],
        )

    def upright(self, array: np.ndarray) -> np.ndarray:
        return array

    def grey(self, shown: np.ndarray) -> np.ndarray:
        one = shown[..., -1] if self.recipe.modalities and shown.ndim == 4 else shown
        return np.stack([examples.window_8bit(image, self.recipe) for image in one])


@dataclasses.dataclass(frozen=True)
class Volumes:
    """Whole volumes in the recipe's orientation, one example per case.

    Attributes:
      recipe: how images are prepared.
    """

    recipe: Recipe
    stacked = False

    def part(self, volume: Volume, case: Case) -> Volume:
        return cut(volume, case.slab)

    def arrange(self, volume: Volume) -> tuple[np.ndarray, Orientation]:
        return to_volume(volume, self.recipe.orientation)

    def open(self, images: Sequence[Volume]) -> Arranged:
        scan, orientation = self.arrange(images[-1])
        raw = lambda _: _channels([self.arrange(image)[0] for image in images])(slice(None))
        whole = examples.Scan(images, self.recipe)
        return Arranged(
            scan.shape[:3],
            orientation,
            orientation.spacing,
            raw,
            raw,
            lambda _: whole.prepare(),
            whole.place,
            scan[..., 0] if scan.ndim == 4 else scan,
        )

    def upright(self, array: np.ndarray) -> np.ndarray:
        return array.transpose(2, 1, 0, *range(3, array.ndim))

    def grey(self, shown: np.ndarray) -> np.ndarray:
        low, high = np.percentile(shown[::2, ::2, ::2], (1, 99.5))
        return np.uint8(np.clip((shown - low) / max(high - low, 1e-6), 0, 1) * 255)


def _channels(arrays: Sequence[np.ndarray]) -> Callable[..., np.ndarray]:
    """Return a function from an index or a slice of the first axis to [..., C], with the channels of arrays [D, H, W(, c)]."""
    arrays = [a if a.ndim == 4 else a[..., None] for a in arrays]
    return lambda i: np.concatenate([a[i] for a in arrays], -1) if len(arrays) > 1 else arrays[0][i]
