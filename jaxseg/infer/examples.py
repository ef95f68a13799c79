"""Convert a case's images to the network's examples, and the network's logits back to the case's own grid.

This is the only place in prediction where slices and volumes are treated differently: `Slices` cuts a case into upright slices
[Z, Y, X], `Volumes` keeps it whole as [X, Y, Z]. Everything after that is the same for both.
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
    """The network inputs made from a case.

    Attributes:
      inputs: [N, *S, C], prepared.
      scan: the case on its own grid: slices [Z, Y, X(, C)], or the last modality of a volume [X, Y, Z].
      orientation: restores the file's axis order; its spacing (mm) is that of `scan`'s axes.
      chosen: indices in `scan` of the N slices in `inputs`; None: all slices.
      place: position of an example on the prepared grid.
    """

    inputs: np.ndarray
    scan: np.ndarray
    orientation: Orientation
    chosen: tuple[int, ...] | None
    place: Placement

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the case's own grid: (Z, Y, X) or (X, Y, Z)."""
        return self.scan.shape[:3]


class Preparation(Protocol):
    """The interface that `Slices` and `Volumes` share."""

    recipe: Recipe

    def prepare(self, images: Sequence[Volume], chosen: Sequence[int] | None = None) -> Examples:
        """Make the examples of a case from its images, one image for each modality."""

    def restore(self, examples: Examples, logits: np.ndarray, fill: Sequence[float]) -> np.ndarray:
        """Resample logits [N, *S, K] to [*own grid, K]; voxels that the network did not see get the logits `fill` [K]."""

    def labels(self, examples: Examples, logits: np.ndarray, fill: Sequence[float], **rule) -> np.ndarray:
        """Return the labels on the case's own grid, those of the logits from `restore`; `rule` holds arguments of `labels_of`."""

    def overlay(self, examples: Examples, labels: np.ndarray) -> np.ndarray:
        """Draw a sheet of slices with the labels in colour, uint8 [H, W, 3]."""


class Slices:
    """Prepare upright slices; a photograph is a stack of one slice.

    Args:
      recipe: the run's recipe, also for photographs: images are prepared as in training.
      generate: generates the trained channel of recipe.extra, see `channels.extend`.
      normalised: the images are already z-scores (`DataSet.normalised`).
    """

    def __init__(self, recipe: Recipe, generate: channels.Generate | None = None, *, normalised: bool = False):
        self.recipe, self._generate, self._normalised = recipe, generate, normalised

    def prepare(self, images: Sequence[Volume], chosen: Sequence[int] | None = None) -> Examples:
        """Prepare the slices of a case, or only those whose indices in the upright stack are `chosen`.

        Raises:
          DataError: the recipe does not fit an image, or the modalities have different grids.
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
        """Return the same preparation for images that are already z-scores."""
        return Slices(self.recipe, self._generate, normalised=True)

    def restore(self, examples: Examples, logits: np.ndarray, fill: Sequence[float]) -> np.ndarray:
        """Resample logits [N, h, w, K] to [N, Y, X, K]."""
        return np.stack([self._restored(examples, one, fill) for one in logits])

    def labels(self, examples: Examples, logits: np.ndarray, fill: Sequence[float], **rule) -> np.ndarray:
        """Return labels [N, Y, X]; only one slice's logits are in memory at a time."""
        return np.stack([labels_of(self._restored(examples, one, fill), **rule) for one in logits])

    def overlay(self, examples: Examples, labels: np.ndarray) -> np.ndarray:
        """Draw all slices, or those with the most labels, of the last modality in the recipe's window."""
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
    """Prepare whole volumes: one example per case.

    Args:
      recipe: the run's recipe.
      sigmoid: each logit is converted to a probability by itself (regions, or one class), not by a softmax. Used where
        probabilities instead of logits are resampled to the case's grid (MONAI's filters).
    """

    def __init__(self, recipe: Recipe, *, sigmoid: bool = False):
        self.recipe, self._sigmoid = recipe, sigmoid

    def prepare(self, images: Sequence[Volume], chosen: None = None) -> Examples:
        """Prepare the volume of a case.

        Raises:
          DataError: a photograph, an image that the recipe does not fit, or modalities on different grids.
        """
        if volumes.is_photo(images[0]) and self.recipe.orientation != "file":
            raise DataError(
                f"{images[0].path}: is a photograph; this network needs volumes (NIfTI files or DICOM series)", "DATA_IMAGE"
            )
        scan, orientation = to_volume(images[-1], self.recipe.orientation)
        inputs = preprocess.prepare_scan(images, self.recipe)[None]
        place = preprocess.place_scan(images, self.recipe)
        return Examples(inputs, scan[..., 0] if scan.ndim == 4 else scan, orientation, None, place)

    def restore(self, examples: Examples, logits: np.ndarray, fill: Sequence[float]) -> np.ndarray:
        """Resample logits [1, X', Y', Z', K] to [X, Y, Z, K]."""
        (one,) = logits
        if examples.place.keeps_grid:
            return np.asarray(one)
        restored = preprocess.restore(
            self._scores(one), examples.shape, self.recipe, examples.orientation.spacing, fill=fill, place=examples.place
        )
        return logits_of(restored, sigmoid=self._sigmoid) if self.recipe.filter in MONAI else restored

    def planes(self, examples: Examples, logits: np.ndarray, fill: Sequence[float]) -> Iterator[np.ndarray]:
        """Yield the logits of `restore` one class [X, Y, Z] at a time."""
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
        """Return labels [X, Y, Z]; with classes, only one class's logits are in memory at a time."""
        (one,) = logits
        if examples.place.keeps_grid or rule["order"] or one.shape[-1] <= 2:
            return labels_of(self.restore(examples, logits, fill), **rule)
        return preprocess.restore_labels(
            self._scores(one), examples.shape, self.recipe, examples.orientation.spacing, fill=fill, place=examples.place
        )

    def _scores(self, logits: np.ndarray) -> np.ndarray:
        """Return the values that are resampled to the case's grid: the logits, or their probabilities."""
        logits = np.asarray(logits)
        return probabilities(logits, sigmoid=self._sigmoid) if self.recipe.filter in MONAI else logits

    def overlay(self, examples: Examples, labels: np.ndarray) -> np.ndarray:
        """Draw upright axial slices of the last modality, scaled from its 1st to its 99.5th percentile."""
        scan = examples.scan
        low, high = np.percentile(scan[::2, ::2, ::2], (1, 99.5))
        grey = np.uint8(np.clip((scan - low) / max(high - low, 1e-6), 0, 1) * 255)
        return sheet([paint(to_rgb(grey[:, :, z].T), labels[:, :, z].T) for z in range(grey.shape[2])], (labels > 0).sum((0, 1)))
