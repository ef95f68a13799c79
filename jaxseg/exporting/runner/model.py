"""An exported model, opened: from the images of a case to labels and probabilities."""

import functools
import importlib.util
import itertools
import json
import math
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import ndimage

from jaxseg.exporting.runner.images import CaseImage, Refused, image_of, read_image
from jaxseg.exporting.runner.preparation import NetworkInputs, prepare, prepare_classes, restore, to_volume
from jaxseg.exporting.runner.regions import segment_regions, with_places
from jaxseg.exporting.runner.windows import slide

FORMAT = 2  # of model.json
_NEVER = float(np.finfo(np.float32).min) / 2  # a logit whose probability is exactly 0


class Found(NamedTuple):
    """The segmentation of a case.

    Attributes:
      labels: in the axis order of the first image; 0 is background, the others are `values` of model.json.
      probabilities: float32, as labels with a last axis for `maps`.
      maps: names of the probability maps: the classes, or the regions that the network was trained on.
      structures: name -> boolean mask, if structures may overlap; else empty.
      image: the first image.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    maps: tuple[str, ...]
    structures: dict[str, np.ndarray]
    image: CaseImage


class Model:
    """An exported model.

    Args:
      path: the file that `jaxseg export` wrote.
    Attributes:
      about: model.json as a dict.
      first: of a cascade: its first network, whose classes are further input channels, or which finds regions; else None.
    """

    def __init__(self, path: str | Path):
        with zipfile.ZipFile(path) as file:
            about: dict[str, Any] = json.loads(file.read("model.json"))
            if about["format"] != FORMAT:
                raise Refused(f"{path} has format {about['format']}; this runner reads {FORMAT}: use the one inside the file")
            if importlib.util.find_spec("flatbuffers") is None:  # jax reads the program with it; the file brings it along
                sys.path.append(str(path))
            self._open(file, about, "")

    def _open(self, file: zipfile.ZipFile, about: dict[str, Any], folder: str) -> None:
        """Read the network of a folder of the file, and the stage before it."""
        self.about, self.first = about, None
        self._program = jax.export.deserialize(bytearray(file.read(f"{folder}forward.bin")))
        self._weights = [
            [np.load(file.open(f"{folder}weights/{number}/{name}.npy")) for name in about["program"]["weights"]]
            for number in range(about["program"]["sets"])
        ]
        if "first" in about:
            self.first = Model.__new__(Model)
            self.first._open(file, about["first"], f"{folder}first/")

    @functools.cached_property
    def _placed(self) -> list:
        return [jax.device_put(weights) for weights in self._weights]

    @functools.cached_property
    def _call(self):
        return jax.jit(self._program.call)

    def _forward(self, images: np.ndarray, sets: slice = slice(None)) -> np.ndarray:
        """Mean logits over the flips and the sets of weights, or some of these."""
        axes, placed, total = [axis + 1 for axis in self.about["application"]["mirror"]], self._placed[sets], None
        flips = [some for n in range(len(axes) + 1) for some in itertools.combinations(axes, n)]
        for flipped in flips:
            turned = np.ascontiguousarray(np.flip(images, flipped))
            for weights in placed:
                logits = np.flip(np.asarray(self._call(weights, turned)), flipped)
                total = logits if total is None else total + logits
        return total / np.float32(len(flips) * len(placed))

    def _by_windows(self, example: np.ndarray, batch: int) -> np.ndarray:
        """[*S, K] of one example; with sums in 16 bits, each set of weights is summed by itself, as in nnU-Net."""
        how, classes = self.about["application"], self.about["program"]["outputs"]
        if how["sums"] == "float32":
            return slide(self._forward, example, how, batch, classes)
        total = np.zeros((), np.float16)
        for i in range(len(self._placed)):
            total = total + slide(lambda images, i=i: self._forward(images, slice(i, i + 1)), example, how, batch, classes)
        return total / np.float16(len(self._placed))

    def segment(self, case: Any | Sequence[Any], *, spacing=None, affine=None) -> Found:
        """Segment one case.

        Args:
          case: a file, an array or a `CaseImage`; for several modalities a list of them, in the order of about["modalities"].
          spacing: for a scan as arrays: mm along its axes, which then run to the patient's right, to the front and to the head.
          affine: instead of spacing: 4 x 4, voxel index -> mm in RAS+.
        Raises:
          Refused: this model cannot use an image.
        """
        many = list(case) if isinstance(case, list | tuple) and not isinstance(case, CaseImage) else [case]
        names = self.about["modalities"] or [""]
        if len(many) != len(names):
            raise Refused(
                f"got {len(many)} images; this model takes {len(names)}: {', '.join(names) or 'one image'}, in this order"
            )
        images = [self._image(one, spacing, affine) for one in many]
        examples, restored = self._applied(images)
        labels = self._labels(restored)
        labels = postprocess(labels, self.about["postprocess"], examples.orientation.spacing)
        values = np.array([0, *self.about["values"]])
        back = examples.orientation.restore
        own = np.ascontiguousarray(back(values.astype(np.uint8 if values.max() < 256 else np.uint16)[labels]))
        soft = self._probabilities(restored)
        maps = np.stack([back(soft[..., k]) for k in range(soft.shape[-1])], -1)
        structures = {name: np.isin(back(labels), classes) for name, classes in self.about["structures"]}
        return Found(own, maps, tuple(self.about["maps"]), structures, images[0])

    def _applied(self, images: list[CaseImage]) -> tuple[NetworkInputs, np.ndarray]:
        """Return (the prepared case, its logits on its own grid)."""
        recipe = self.about["preparation"]
        examples = prepare(images, recipe, self.about["rank"])
        inputs = examples.inputs
        if self.first is not None and "regions" not in self.about["application"]:
            before, logits = self.first._applied(images)
            found = before.orientation.restore(self.first._labels(logits))
            classes, _ = to_volume(images[0]._replace(array=found), recipe["orientation"])
            placed = prepare_classes(classes, recipe["filter"], examples.place)
            numbers = np.arange(1, len(self.about["labels"]) + 1)
            inputs = np.concatenate([inputs, (placed[None, ..., None] == numbers).astype(np.float32)], -1)
        logits = self._logits(inputs)
        if not np.isfinite(logits).all():
            raise Refused("the network returned values that are not finite")
        return examples, self._restored(examples, logits)

    def _image(self, one, spacing, affine) -> CaseImage:
        if isinstance(one, CaseImage):
            return one
        if isinstance(one, str | Path):
            return read_image(one, spacing, affine)
        return image_of(one, spacing, affine)

    def _logits(self, inputs: np.ndarray) -> np.ndarray:
        """[N, *S, K] of prepared examples [N, *S, C]."""
        how, program = self.about["application"], self.about["program"]
        batch = program["batch"] or how["batch"]
        if "regions" in how:
            rule = how | {"batch": program["batch"] or 1}
            return np.stack(
                [segment_regions(self.first._forward, self._forward, one, rule, program["outputs"]) for one in inputs]
            )
        if how["coordinates"]:
            inputs = np.stack([with_places(one) for one in inputs])
        if how["windows"]:
            return np.stack([self._by_windows(one, batch) for one in inputs])
        batch, found = program["batch"] or min(how["batch"], len(inputs)), []
        for first in range(0, len(inputs), batch):
            part = inputs[first : first + batch]
            found.append(self._forward(np.concatenate([part, np.repeat(part[-1:], batch - len(part), 0)]))[: len(part)])
        return np.concatenate(found)

    def _restored(self, examples: NetworkInputs, logits: np.ndarray) -> np.ndarray:
        """Logits on the case's own grid: [Z, Y, X, K] or [X, Y, Z, K]."""
        recipe, k = self.about["preparation"], logits.shape[-1]
        fill = (_NEVER,) * k if self.about["order"] or k == 1 else (0.0, *(_NEVER,) * (k - 1))
        if self.about["rank"] == 3 and recipe["filter"] in ("monai", "monai_last") and not examples.place.keeps_grid:
            sigmoid = bool(self.about["order"]) or k == 1  # MONAI resamples probabilities
            one = logits[0].astype(np.float32)
            soft = np.asarray(jax.nn.sigmoid(one) if sigmoid else jax.nn.softmax(one, -1))
            p = np.maximum(restore(soft, examples.shape, recipe, examples.place, fill), 1e-30)
            return np.log(p) - np.log(np.maximum(1 - p, 1e-7)) if sigmoid else np.log(p)
        if self.about["rank"] == 3:
            return restore(logits[0], examples.shape, recipe, examples.place, fill)
        return np.stack([restore(one, examples.shape[1:], recipe, examples.place, fill) for one in logits])

    def _labels(self, logits: np.ndarray) -> np.ndarray:
        """Classes [*S] of logits [*S, K]."""
        threshold = self.about["threshold"]
        cut, k = math.log(threshold / (1 - threshold)), logits.shape[-1]
        if self.about["order"]:
            codes = sum((logits[..., r] > cut).astype(np.uint16) << np.uint16(r) for r in range(k))
            return np.asarray(self.about["order"], np.uint16)[codes]
        if k == 1:
            return (logits[..., 0] >= cut).astype(np.uint16)
        if k == 2:
            return (logits[..., 1] - logits[..., 0] > cut).astype(np.uint16)
        return logits.argmax(-1).astype(np.uint16)

    def _probabilities(self, logits: np.ndarray) -> np.ndarray:
        """float32 [*S, K'] of the regions, the one class, or the foreground classes."""
        if self.about["order"] or logits.shape[-1] == 1:
            return np.asarray(jax.nn.sigmoid(logits))
        return np.asarray(jax.nn.softmax(logits, -1))[..., 1:]


def postprocess(labels: np.ndarray, steps: Sequence[dict], spacing: Sequence[float]) -> np.ndarray:
    """Apply the steps of model.json one after the other; see `infer.postprocess` of jaxseg."""
    for step in steps:
        options = dict(step["options"])
        labels = _STEPS[step["step"]](labels, math.prod(spacing), **options)
    return labels


def _components(labels: np.ndarray, mask: np.ndarray, connectivity: int | None, keep) -> np.ndarray:
    """Set the components of a mask for which keep(sizes [n]) is false to 0."""
    structure = ndimage.generate_binary_structure(labels.ndim, labels.ndim if connectivity is None else connectivity)
    numbers, count = ndimage.label(np.ascontiguousarray(mask), structure)
    if not count:
        return labels
    dropped = np.concatenate([[False], ~keep(np.bincount(numbers.ravel())[1:])])
    return np.where(dropped[numbers], np.asarray(0, labels.dtype), labels)


def _of_classes(labels: np.ndarray, classes) -> np.ndarray:
    return labels != 0 if classes is None else np.isin(labels, [c for c in classes if c != 0])


def _keep_largest(labels, voxel, classes=None, connectivity=None, ties="first"):
    keep = lambda sizes: sizes == sizes.max() if ties == "all" else np.arange(len(sizes)) == sizes.argmax()
    return _components(labels, _of_classes(labels, classes), connectivity, keep)


def _remove_small(labels, voxel, min_voxels=None, min_mm3=None, classes=None, connectivity=None):
    least = (min_voxels if min_mm3 is None else min_mm3 / voxel) * (1 - 1e-9)
    return _components(labels, _of_classes(labels, classes), connectivity, lambda sizes: sizes >= least)


def _fill_holes(labels, voxel, classes=None):
    holes, count = ndimage.label(ndimage.binary_fill_holes(_of_classes(labels, classes)) & (labels == 0))
    if not count:
        return labels
    votes = np.zeros((count + 1, int(labels.max()) + 1), np.int64)
    for axis in range(labels.ndim):
        for here, there in ((slice(None, -1), slice(1, None)), (slice(1, None), slice(None, -1))):
            at = (slice(None),) * axis
            hole, neighbour = holes[(*at, here)], labels[(*at, there)]
            np.add.at(votes, (hole[hole > 0], neighbour[hole > 0]), 1)
    votes[:, 0] = 0
    found = votes.argmax(1).astype(labels.dtype)
    found[0] = 0
    return np.where(holes > 0, found[holes], labels)


def _relabel_small(labels, voxel, from_class, to, below):
    few = np.count_nonzero(labels == from_class) < below
    return np.where(labels == from_class, np.asarray(to, labels.dtype), labels) if few else labels


_STEPS = {
    "keep_largest": _keep_largest,
    "remove_small": _remove_small,
    "fill_holes": _fill_holes,
    "relabel_small": _relabel_small,
}
