"""Segment files with nothing but a run folder and the input: network, preprocessing and labels come from the run's record.

A channel that another run's network makes comes from the copy of that run inside the run folder.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxseg import checkpoint
from jaxseg.data import geometry
from jaxseg.data.formats import volumes
from jaxseg.data.prepare import channels
from jaxseg.data.prepare import examples as preprocess
from jaxseg.data.records import Recipe, Volume
from jaxseg.infer.cases import find_cases, map_names, open_output, segment_each, values_of, write_maps, write_overlay
from jaxseg.infer.slices import MADE_BY, SliceNetwork, maker_of
from jaxseg.metrics import regions
from jaxseg.types import MismatchError, NonFiniteError
from jaxseg.utils.pictures import paint, sheet, to_rgb


class Predictor:
    """A trained network ready for volumes.

    Args:
      run: a run folder, or a checkpoint folder inside one.
      batch_size: slices per forward pass.
    Raises:
      CheckpointError: no run record or no usable checkpoint there.
      MismatchError: the checkpoint does not fit the recorded network.
    """

    def __init__(self, run: Path, *, batch_size: int = 8):
        self._network = SliceNetwork(run, batch_size=batch_size)
        self.record, self.recipe = self._network.record, self._network.recipe
        self.threshold = float(self.record["config"]["eval"]["threshold"])
        self.synthetic = self.record["synthetic"]
        self.order = self._network.order
        self._make = None
        if channels.trained(self.recipe.extra):
            copy = checkpoint.run_folder(run) / MADE_BY
            self._make, digest = maker_of(copy, self.recipe)
            if digest != self.record["made_by"]:
                raise MismatchError(f"{copy} has the digest {digest}, and {run} was trained with channels of "
                                    f"{self.record['made_by']}; put the copy back that training made")

    def probabilities(self, *images: Volume) -> tuple[np.ndarray, np.ndarray, geometry.Orientation]:
        """Class probabilities of one case.

        Args:
          images: its volumes or photograph, one for each modality.
        Returns:
          (float32 [Z, Y, X, K'] over the foreground classes, or the regions, slices [Z, Y, X(, C)] they belong to, orientation).
        Raises:
          DataError: an image this recipe cannot take.
          NonFiniteError: the network returned NaN or Inf.
        """
        for other in images[1:]:
            volumes.check_pair(images[0], other)
        found, (orientation, *_) = zip(*(geometry.to_slices(preprocess.whole(image, self.recipe)) for image in images))
        slices = np.concatenate([a if a.ndim == 4 else a[..., None] for a in found], -1) if len(found) > 1 else found[0]
        recipe, spacing = self.recipe_for(orientation), orientation.spacing[1:] if orientation.axes else None
        scores = self._network(self.inputs(slices, recipe, spacing))
        if not np.isfinite(scores).all():
            raise NonFiniteError(f"{images[0].path.name}: the network returned {int((~np.isfinite(scores)).sum())} values that "
                                 "are not finite; nothing is written. Predict in float32 or use another checkpoint")
        fill = (0.0,) * len(self.order) or None
        scores = np.stack([preprocess.restore(s, slices.shape[1:3], recipe, spacing, fill=fill) for s in scores])
        return (scores if scores.shape[-1] == 1 or self.order else scores[..., 1:]), slices, orientation

    def inputs(self, slices: np.ndarray, recipe: Recipe, spacing: tuple[float, float] | None) -> np.ndarray:
        """What the network sees of slices [Z, Y, X(, C)], extra channels included: [Z, h, w, C]."""
        return channels.extend(np.stack([preprocess.prepare(s, recipe, spacing) for s in slices]), recipe.extra, self._make)

    def recipe_for(self, orientation: geometry.Orientation) -> Recipe:
        """The run's recipe; for photographs without its window: 8-bit pictures of CT are windowed already."""
        return self.recipe if orientation.axes else dataclasses.replace(self.recipe, window=None)

    def labels(self, probabilities: np.ndarray) -> np.ndarray:
        """uint8 class labels from what `probabilities` gave (softmax: the largest, background included)."""
        if self.order:
            return np.asarray(regions.labels_from_regions(probabilities, self.order, self.threshold), np.uint8)
        if probabilities.shape[-1] == 1 and len(self.recipe.labels) == 1:
            return (probabilities[..., 0] >= self.threshold).astype(np.uint8)
        background = 1 - probabilities.sum(-1, keepdims=True)
        return np.concatenate([background, probabilities], -1).argmax(-1).astype(np.uint8)


def predict(run: Path, source: Path, output: Path, *, batch_size: int = 8, probabilities: bool = False, overlay: bool = True,
            say: Callable[[str], None] = print) -> int:
    """Segment every input below `source` into `output`.

    Volumes become <name>.nii.gz with the input's shape, affine and header codes; photographs become <name>.png (pictures of
    CT are taken as windowed already); both in the values of the masks that the run learnt from. A bad input is named and
    skipped, the others are written.

    Args:
      run: run or checkpoint folder.
      source: file, folder, or for several modalities a folder in the layout of the run's data set.
      output: folder, made if absent.
      batch_size: slices per forward pass.
      probabilities: write probability maps too (`cases.write_maps`), one per class, or per region where those were learnt.
      overlay: write <name>_overlay.png, the slices with the prediction painted on.
      say: told one line per input.
    Returns:
      0, or 65 if some inputs could not be used.
    Raises:
      DataError: no input found.
    """
    open_output(output)
    predictor = Predictor(run, batch_size=batch_size)
    cases = find_cases(source, predictor.recipe, predictor.record)
    segment = lambda images, name: _one(predictor, images, output, name, probabilities, overlay)
    return segment_each(cases, segment, output, synthetic=predictor.synthetic, say=say)


def _one(predictor: Predictor, images: list[Volume], output: Path, name: str, probabilities: bool, overlay: bool) -> str:
    scores, slices, orientation = predictor.probabilities(*images)
    labels, volume = predictor.labels(scores), images[0]
    suffix = ".png" if volumes.is_photo(volume) else ".nii.gz"
    volumes.write_like(output / f"{name}{suffix}", orientation.restore(values_of(predictor.record)[labels]), volume)
    written = ""
    if probabilities:
        maps = np.stack([orientation.restore(scores[..., k]) for k in range(scores.shape[-1])], -1)
        written = write_maps(output, name, maps, map_names(predictor.record), volume)
    if overlay:
        write_overlay(output, name, _sheet(predictor, slices, labels, orientation))
    voxels = [int((labels == k + 1).sum()) for k in range(len(predictor.recipe.labels))]
    return ", ".join(f"{label} {n} voxels" for label, n in zip(predictor.recipe.labels, voxels)) + written


def _sheet(predictor: Predictor, slices: np.ndarray, labels: np.ndarray, orientation) -> np.ndarray:
    """Slices with the labels painted on, as one picture: uint8 [H, W, 3]."""
    recipe = predictor.recipe_for(orientation)
    shown = slices[..., -1] if recipe.modalities and slices.ndim == 4 else slices  # the last modality
    grey = lambda z: preprocess.window_8bit(shown[z], recipe)
    return sheet([paint(to_rgb(grey(z)), labels[z]) for z in range(len(slices))], (labels > 0).sum((1, 2)))
