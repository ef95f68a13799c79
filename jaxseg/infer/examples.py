"""From a case's images to the examples that a network takes, and from its logits back to the case's own grid.

The one place of prediction where slices and volumes part: `Slices` cuts a case into upright slices [Z, Y, X], `Volumes` keeps it
whole as [X, Y, Z]. Everything after that is the same for both.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from jaxseg.data.formats import volumes
from jaxseg.data.geometry import Orientation, to_slices, to_volume
from jaxseg.data.prepare import canvas, channels
from jaxseg.data.prepare import examples as preprocess
from jaxseg.data.prepare.canvas import Placement
from jaxseg.data.prepare.resample import MONAI
from jaxseg.data.records import Recipe, Volume
from jaxseg.infer.labels import labels_of, logits_of, probabilities
from jaxseg.types import DataError
from jaxseg.utils.pictures import paint, sheet, to_rgb


class Examples(NamedTuple):
    """A case as a network sees it.

    Attributes:
      inputs: [N, *S, C], prepared.
      scan: the case on its own grid: slices [Z, Y, X(, C)], or the last modality of a volume [X, Y, Z].
      orientation: the way back into the file's axis order; its spacing is that of `scan`'s axes.
      chosen: which slices `inputs` holds, N indices of `scan`; None: all of them.
      place: of an example on the prepared grid.
    """

    inputs: np.ndarray
    scan: np.ndarray
    orientation: Orientation
    chosen: tuple[int, ...] | None
    place: Placement

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the case's own grid: (Z, Y, X) or (X, Y, Z)."""
        return self.scan.shape[:3]


class Preparation(Protocol):
    """What `Slices` and `Volumes` have in common."""

    recipe: Recipe

    def prepare(self, images: Sequence[Volume], chosen: Sequence[int] | None = None) -> Examples:
        """The examples of a case from its images, one for each modality."""

    def restore(self, examples: Examples, logits: np.ndarray, fill: Sequence[float]) -> np.ndarray:
        """Logits [N, *S, K] -> [*own grid, K]; `fill` is what the network was not shown."""

    def labels(self, examples: Examples, logits: np.ndarray, fill: Sequence[float], **rule) -> np.ndarray:
        """Labels of the case's own grid, those of `restore`; `rule` as `labels_of` takes it."""

    def overlay(self, examples: Examples, labels: np.ndarray) -> np.ndarray:
        """A sheet of slices with the labels painted on, uint8 [H, W, 3]."""


class Slices:
    """Upright slices, and photographs as a stack of one.

    Args:
      recipe: of the run, also for photographs: what training did is done here.
      generate: makes the trained channel of recipe.extra, see `channels.extend`.
      normalised: the images are z-scores already (`DataSet.normalised`).
    """

    def __init__(self, recipe: Recipe, generate: channels.Generate | None = None, *, normalised: bool = False):
        self.recipe, self._generate, self._normalised = recipe, generate, normalised

    def prepare(self, images: Sequence[Volume], chosen: Sequence[int] | None = None) -> Examples:
        """The slices of a case, or those of them that are `chosen` (indices of the upright stack).

        Raises:
          DataError: an image that this recipe cannot take, or modalities on different grids.
        """
        images = [images[0], *(volumes.paired(images[0], other) for other in images[1:])]
        if not (self._normalised and self.recipe.intensity == "brain"):
            images = [preprocess.whole(image, self.recipe) for image in images]
        found, (orientation, *_) = zip(*(to_slices(image, self.recipe.plane) for image in images))
        scan = np.concatenate([a if a.ndim == 4 else a[..., None] for a in found], -1) if len(found) > 1 else found[0]
        spacing = self._spacing(orientation)
        prepared = [preprocess.prepare(scan[z], self.recipe, spacing) for z in (range(len(scan)) if chosen is None else chosen)]
        inputs = channels.extend(np.stack(prepared), self.recipe.extra, self._generate)
        place = canvas.placement(scan.shape[1:3], self.recipe, spacing)
        return Examples(inputs, scan, orientation, None if chosen is None else tuple(chosen), place)

    def of_normalised(self) -> "Slices":
        """The same for images that are z-scores already."""
        return Slices(self.recipe, self._generate, normalised=True)

    def restore(self, examples: Examples, logits: np.ndarray, fill: Sequence[float]) -> np.ndarray:
        """Logits [N, h, w, K] -> [N, Y, X, K]."""
        return np.stack([self._restored(examples, one, fill) for one in logits])

    def labels(self, examples: Examples, logits: np.ndarray, fill: Sequence[float], **rule) -> np.ndarray:
        """Labels [N, Y, X], one slice's logits in memory at a time."""
        return np.stack([labels_of(self._restored(examples, one, fill), **rule) for one in logits])

    def overlay(self, examples: Examples, labels: np.ndarray) -> np.ndarray:
        """All slices, or those with most labels, of the last modality in the recipe's window."""
        scan = examples.scan
        shown = scan[..., -1] if self.recipe.modalities and scan.ndim == 4 else scan
        grey = lambda z: to_rgb(preprocess.window_8bit(shown[z], self.recipe))
        return sheet([paint(grey(z), labels[z]) for z in range(len(scan))], (labels > 0).sum((1, 2)))

    def _restored(self, examples: Examples, logits: np.ndarray, fill: Sequence[float]) -> np.ndarray:
        spacing = self._spacing(examples.orientation)
        return preprocess.restore(np.asarray(logits), examples.shape[1:], self.recipe, spacing, fill=fill, place=examples.place)

    @staticmethod
    def _spacing(orientation: Orientation) -> tuple[float, float] | None:
        return orientation.spacing[1:] if orientation.axes else None


class Volumes:
    """Whole volumes: one example a case.

    Args:
      recipe: of the run.
      sigmoid: each score is one for itself, of a region or of the one class. Where probabilities go back to the case's grid
        (MONAI's filters) and not logits, this says how they are made.
    """

    def __init__(self, recipe: Recipe, *, sigmoid: bool = False):
        self.recipe, self._sigmoid = recipe, sigmoid

    def prepare(self, images: Sequence[Volume], chosen: None = None) -> Examples:
        """The volume of a case.

        Raises:
          DataError: a photograph, an image that this recipe cannot take, or modalities on different grids.
        """
        if volumes.is_photo(images[0]) and self.recipe.orientation != "file":
            raise DataError(f"{images[0].path}: a photograph; this network takes volumes (NIfTI, DICOM series)", "DATA_IMAGE")
        scan, orientation = to_volume(images[-1], self.recipe.orientation)
        inputs = preprocess.prepare_scan(images, self.recipe)[None]
        place = preprocess.place_scan(images, self.recipe)
        return Examples(inputs, scan[..., 0] if scan.ndim == 4 else scan, orientation, None, place)

    def restore(self, examples: Examples, logits: np.ndarray, fill: Sequence[float]) -> np.ndarray:
        """Logits [1, X', Y', Z', K] -> [X, Y, Z, K]."""
        (one,) = logits
        if examples.place.keeps_grid:
            return np.asarray(one)
        restored = preprocess.restore(
            self._scores(one), examples.shape, self.recipe, examples.orientation.spacing, fill=fill, place=examples.place
        )
        return logits_of(restored, sigmoid=self._sigmoid) if self.recipe.filter in MONAI else restored

    def planes(self, examples: Examples, logits: np.ndarray, fill: Sequence[float]) -> Iterator[np.ndarray]:
        """What `restore` gives, one class [X, Y, Z] after the other."""
        (one,) = logits
        if examples.place.keeps_grid:
            yield from (one[..., k] for k in range(one.shape[-1]))
            return
        planes = preprocess.restored_planes(
            self._scores(one), examples.shape, self.recipe, examples.orientation.spacing, fill=fill, place=examples.place
        )
        for plane in planes:
            yield logits_of(plane, sigmoid=self._sigmoid) if self.recipe.filter in MONAI else plane

    def labels(self, examples: Examples, logits: np.ndarray, fill: Sequence[float], **rule) -> np.ndarray:
        """Labels [X, Y, Z]; of classes, one class's logits in memory at a time."""
        (one,) = logits
        if examples.place.keeps_grid or rule["order"] or one.shape[-1] <= 2:
            return labels_of(self.restore(examples, logits, fill), **rule)
        return preprocess.restore_labels(
            self._scores(one), examples.shape, self.recipe, examples.orientation.spacing, fill=fill, place=examples.place
        )

    def _scores(self, logits: np.ndarray) -> np.ndarray:
        """What is resampled to the case's grid: logits, or their probabilities."""
        logits = np.asarray(logits)
        return probabilities(logits, sigmoid=self._sigmoid) if self.recipe.filter in MONAI else logits

    def overlay(self, examples: Examples, labels: np.ndarray) -> np.ndarray:
        """Axial slices of the last modality, upright, between its 1st and 99.5th percentile."""
        scan = examples.scan
        low, high = np.percentile(scan[::2, ::2, ::2], (1, 99.5))
        grey = np.uint8(np.clip((scan - low) / max(high - low, 1e-6), 0, 1) * 255)
        return sheet([paint(to_rgb(grey[:, :, z].T), labels[:, :, z].T) for z in range(grey.shape[2])], (labels > 0).sum((0, 1)))
