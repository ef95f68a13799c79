"""Convert a case's images to the network's examples, and the network's logits back to the case's own grid.

How slices and volumes differ is the layout's affair (`data/layout.py`); everything here is the same for both.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxseg.data import layout
from jaxseg.data.geometry import Orientation
from jaxseg.data.prepare import channels
from jaxseg.data.prepare import examples as preprocess
from jaxseg.data.prepare.canvas import Placement
from jaxseg.data.prepare.resample import MONAI
from jaxseg.data.records import Recipe, Volume
from jaxseg.infer.labels import labels_of, logits_of, probabilities
from jaxseg.utils.pictures import paint, sheet, to_rgb


class Examples(NamedTuple):
    """The network inputs made from a case.

    Attributes:
      inputs: [N, *S, C], prepared.
      scan: the case on its own grid: slices [Z, Y, X(, C)], or the last modality of a volume [X, Y, Z].
      orientation: restores the file's axis order; its spacing (mm) is that of `scan`'s axes.
      chosen: indices in `scan` of the N slices in `inputs`; None: all slices.
      place: position of an example on the prepared grid.
      spacing: mm along the axes of one example; None for photographs.
      stacked: whether `scan` is a stack of slices.
    """

    inputs: np.ndarray
    scan: np.ndarray
    orientation: Orientation
    chosen: tuple[int, ...] | None
    place: Placement
    spacing: tuple[float, ...] | None
    stacked: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the case's own grid: (Z, Y, X) or (X, Y, Z)."""
        return self.scan.shape[:3]

    @property
    def grid(self) -> tuple[int, ...]:
        """Shape of one example's own grid: (Y, X) or (X, Y, Z)."""
        return self.shape[1:] if self.stacked else self.shape

    def joined(self, found: Sequence[np.ndarray]) -> np.ndarray:
        """Join one array [*grid, ...] for each example: a stack of slices, or the volume's own."""
        return np.stack(found) if self.stacked else found[0]


@dataclasses.dataclass(frozen=True)
class Preparation:
    """Prepares cases as in training, and restores what the network returns.

    Attributes:
      layout: how a case becomes examples.
      generate: generates the trained channel of recipe.extra, see `channels.extend`.
      sigmoid: each logit is converted to a probability by itself (regions, or one class), not by a softmax. Used where
        probabilities instead of logits are resampled to the case's grid (MONAI's filters).
      previous: segments a case (images -> classes [X, Y, Z] in the file's order) for a network that takes the result as further
        channels, one for each class (nnU-Net's cascade).
    """

    layout: layout.CaseLayout
    generate: channels.Generate | None = None
    sigmoid: bool = False
    previous: Callable[[Sequence[Volume]], np.ndarray] | None = None

    @property
    def recipe(self) -> Recipe:
        """The run's recipe, also for photographs: images are prepared as in training."""
        return self.layout.recipe

    def prepare(self, images: Sequence[Volume], chosen: Sequence[int] | None = None) -> Examples:
        """Prepare a case from its images, one for each modality; of slices, only those whose indices in the stack are `chosen`.

        Raises:
          DataError: the recipe does not fit an image, or the modalities have different grids.
        """
        found = self.layout.open(images)
        number = found.shape[0] if self.layout.stacked else 1
        prepared = [found.prepare(i) for i in (range(number) if chosen is None else chosen)]
        inputs = channels.extend(np.stack(prepared) if len(prepared) > 1 else prepared[0][None], self.recipe.extra, self.generate)
        if self.previous is not None:
            classes = dataclasses.replace(images[0], array=self.previous(images))
            placed = preprocess.prepare_stage(classes, self.recipe, found.place())[None].astype(np.float32)
            inputs = preprocess.one_hot(np.concatenate([inputs, placed], -1), len(self.recipe.labels))
        picked = None if chosen is None else tuple(chosen)
        return Examples(inputs, found.shown, found.orientation, picked, found.place(), found.spacing, self.layout.stacked)

    def restore(self, examples: Examples, logits: np.ndarray, fill: Sequence[float]) -> np.ndarray:
        """Resample logits [N, *S, K] to [*own grid, K]; voxels that the network did not see get the logits `fill` [K]."""
        return examples.joined([self._restored(examples, one, fill) for one in logits])

    def planes(self, examples: Examples, logits: np.ndarray, fill: Sequence[float]) -> Iterator[np.ndarray]:
        """Yield the logits of `restore` one class [*own grid] at a time, resampling no more than that of a single example."""
        if examples.stacked:
            yield from np.moveaxis(self.restore(examples, logits, fill), -1, 0)
            return
        (one,) = logits
        if examples.place.keeps_grid:
            yield from (np.asarray(one[..., k], np.float32) for k in range(one.shape[-1]))
            return
        for plane in self._back(preprocess.restored_planes, examples, one, fill):
            yield logits_of(plane, sigmoid=self.sigmoid) if self.recipe.filter in MONAI else plane

    def labels(self, examples: Examples, logits: np.ndarray, fill: Sequence[float], **rule) -> np.ndarray:
        """Return the labels on the case's own grid, those of the logits from `restore`; `rule` holds arguments of `labels_of`.

        Only one example's logits are in memory at a time; with several classes, only one class's.
        """
        whole = examples.place.keeps_grid or rule["order"] or logits.shape[-1] <= 2
        one_by_one = lambda one: labels_of(self._restored(examples, one, fill), **rule)
        by_class = lambda one: self._back(preprocess.restore_labels, examples, one, fill)
        return examples.joined([(one_by_one if whole else by_class)(one) for one in logits])

    def overlay(self, examples: Examples, labels: np.ndarray) -> np.ndarray:
        """Draw a sheet of upright slices with the labels in colour, uint8 [H, W, 3]: all, or those with the most labels."""
        grey, labels = self.layout.upright(self.layout.grey(examples.scan)), self.layout.upright(labels)
        return sheet([paint(to_rgb(one), found) for one, found in zip(grey, labels)], (labels > 0).sum((1, 2)))

    def _restored(self, examples: Examples, logits: np.ndarray, fill: Sequence[float]) -> np.ndarray:
        """Resample the logits [*S, K] of one example to its own grid."""
        if examples.place.keeps_grid:
            return np.asarray(logits, np.float32)
        restored = self._back(preprocess.restore, examples, logits, fill)
        return logits_of(restored, sigmoid=self.sigmoid) if self.recipe.filter in MONAI else restored

    def _back(self, resampled: Callable, examples: Examples, logits: np.ndarray, fill: Sequence[float]):
        """Call a function of `prepare.examples` with the values that are resampled: the logits, or their probabilities."""
        scores = np.asarray(logits)
        scores = probabilities(scores, sigmoid=self.sigmoid) if self.recipe.filter in MONAI else scores
        return resampled(scores, examples.grid, self.recipe, examples.spacing, fill=fill, place=examples.place)
