"""Open a trained run: one function maps a case's images to its labels, for every rank and every way of applying the network.

Everything comes from the run's record: network, preparation, labels and their values. Validation during training, evaluation
and prediction differ only in how they use the result.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit

from jaxseg import checkpoint
from jaxseg.data import layout
from jaxseg.data.formats import own
from jaxseg.data.records import Recipe, Volume
from jaxseg.data.store import base
from jaxseg.infer import channel_run
from jaxseg.infer import network as networks
from jaxseg.infer.examples import Examples, Preparation
from jaxseg.infer.labels import background, entropy_of, probabilities_of, variance_of
from jaxseg.metrics import regions
from jaxseg.programs.kept import Kept
from jaxseg.types import MismatchError, NonFiniteError
from jaxseg.utils import files

AT_ONCE = 2**29  # logits on a case's own grid, 2 GiB, that are held together; more are resampled twice
CASCADE = ("max_instances", "min_size", "merge")  # settings of the cascade
WINDOW = ("overlap", "blend", "positions", "sums", "accumulator", "whole")  # settings of the sliding window


class Segmentation(NamedTuple):
    """The segmentation of one case.

    Attributes:
      labels: [*S] on the case's own grid, the axes of `examples.scan`.
      logits: [N, *S', K] on the prepared grid, float32 or float16 (config.infer.sums).
      examples: the network's input.
    """

    labels: np.ndarray
    logits: np.ndarray
    examples: Examples


@dataclasses.dataclass(frozen=True)
class Run:
    """An opened run that can segment cases.

    Attributes:
      record: the run's record.
      recipe: how images are prepared.
      preparation: converts images to examples, and logits back to the images' grid.
      application: converts examples to logits.
      weights: the run's own, and those of other runs in an ensemble; their logits are averaged.
      order: the class of every combination of regions; () for classes.
      threshold: probability threshold for a single class and for regions.
      digest: of all weights in use and of the records' entries about the networks.
    """

    record: dict[str, Any]
    recipe: Recipe
    preparation: Preparation
    application: networks.Application
    weights: tuple[tuple[dict, dict], ...]
    order: tuple[int, ...]
    threshold: float
    digest: str

    def logits(self, examples: np.ndarray) -> np.ndarray:
        """Compute logits [N, *S, K] of prepared examples [N, *S, C].

        Raises:
          NonFiniteError: the network returned NaN or Inf.
        """
        logits = self.application(self.weights, examples)
        logits = logits if isinstance(logits, np.ndarray) else np.asarray(logits)
        wrong = sum(int((~np.isfinite(plane)).sum()) for one in logits for plane in one)
        if wrong:
            rounded = logits.dtype == np.float16  # whose largest number is 65504
            remedy = "give --config.infer.sums=float32, or" if rounded else "predict in float32 or"
            raise NonFiniteError(
                f"the network returned {wrong} values that are NaN or Inf, so nothing is written; {remedy} use another checkpoint"
            )
        return logits

    def segment(self, images: Sequence[Volume], chosen: Sequence[int] | None = None) -> Segmentation:
        """Segment a case on its own grid; labels are class numbers, before any post-processing.

        Args:
          images: the case's volumes, or its photograph, one for each modality.
          chosen: indices in the upright stack of the slices to segment; None: all slices.
        Raises:
          DataError: the recipe does not fit an image.
          NonFiniteError: the network returned NaN or Inf.
        """
        examples = self.preparation.prepare(images, chosen)
        logits = self.logits(examples.inputs)
        labels = self.preparation.labels(examples, logits, self._fill(logits), order=self.order, threshold=self.threshold)
        return Segmentation(labels, logits, examples)

    def classes(self, images: Sequence[Volume]) -> np.ndarray:
        """Segment a case as the previous stage of a cascade: classes [X, Y, Z] in the file's order, without post-processing."""
        found = self.segment(images)
        return found.examples.orientation.restore(found.labels)

    def probabilities(self, found: Segmentation) -> np.ndarray:
        """Return probabilities float32 [*S, K'] on the case's own grid: of regions, of one class or of all foreground classes."""
        return probabilities_of(self._restored(found.examples, found.logits), regions=bool(self.order))

    def probability_maps(self, found: Segmentation, position: int | None = None) -> Iterator[np.ndarray]:
        """Yield the same maps, float32 [*S], one region or class at a time to save memory; `position`: of one slice only."""
        fill, regional = self._fill(found.logits), bool(self.order)
        if position is not None:
            (one,) = self.preparation.restore(found.examples, found.logits[position : position + 1], fill)
            yield from np.moveaxis(probabilities_of(one, regions=regional), -1, 0)
            return
        again = lambda: self.preparation.planes(found.examples, found.logits, fill)
        if math.prod(found.examples.shape) * len(fill) <= AT_ONCE:
            planes = list(again())
            again = lambda: iter(planes)
        if regional or len(fill) == 1:
            yield from (expit(plane) for plane in again())
            return
        total = functools.reduce(np.logaddexp, again())
        yield from (np.exp(plane - total) for plane in itertools.islice(again(), 1, None))

    def uncertainty(self, found: Segmentation, kind: str) -> np.ndarray:
        """Uncertainty maps float32 [*S, M] on the case's own grid, see `labels.entropy_of` and `labels.variance_of`.

        Args:
          kind: "entropy", or "variance" over the sets of weights, which are then applied one by one.
        """
        if kind == "entropy":
            return entropy_of(self._restored(found.examples, found.logits), regions=bool(self.order))
        alone = [dataclasses.replace(self, weights=(one,)) for one in self.weights]
        members = (run._restored(found.examples, run.logits(found.examples.inputs)) for run in alone)
        return variance_of(members, regions=bool(self.order))

    def _restored(self, examples: Examples, logits: np.ndarray) -> np.ndarray:
        return self.preparation.restore(examples, logits, self._fill(logits))

    def _fill(self, logits: np.ndarray) -> tuple[float, ...]:
        return background(logits.shape[-1], regions=bool(self.order))


def open_run(
    run: Path, settings: Mapping[str, Any], *, threshold: float | None = None, space: int = 1, keep: bool = False
) -> Run:
    """Open a run folder, or a checkpoint folder inside one, and the other runs that the settings name.

    Args:
      run: the folder.
      settings: the config's infer group. "roi" names a region-of-interest run (configs/brats_roi.py) and turns on the cascade;
        "ensemble" names further runs (folds, seeds) of the same network, whose logits are averaged with this one's.
      threshold: config.eval.threshold; None: the value in the run's record.
      space: config.mesh.space, devices that compute each image together; a cascade's first network keeps to one.
      keep: read the network's compiled programs that an earlier command kept, and keep those of this one.
    Raises:
      ConfigError: the devices of this process are no multiple of `space`.
      CheckpointError: the folder holds no run record or no usable checkpoint.
      MismatchError: a checkpoint does not fit its recorded network, or the runs do not fit each other.
    """
    record = checkpoint.find_record(run)
    m, data = record["model"], record["config"]["data"]
    own.register(tuple(map(tuple, data["readers"])))
    recipe = base.recipe_from(record)
    kept = _kept(record, recipe, settings, space).begin() if keep else None
    network, weights, digest = channel_run.read_network(run, record)
    if data["whole"]:  # the recorded channels include the coordinates, which come after the shrinking
        recipe = dataclasses.replace(recipe, channels=data["channels"])
    forward = networks.Forward(
        network,
        num_classes=m["num_classes"],
        mirror=settings["mirror"],
        mean=recipe.mean,
        std=recipe.std,
        batch=batch_of(settings, recipe, shrunk=data["whole"]),
        dtype="auto",
        space=space,
        kept=kept,
    )  # this machine's own: a run of a GPU predicts on a CPU in float32
    application = application_of(forward, recipe, whole=data["whole"], coordinates=data["coordinates"], settings=settings)
    named = tuple((name, tuple(classes)) for name, classes in record["regions"])
    generate, sigmoid = channel_run.of(run, record, recipe), bool(named) or m["num_classes"] == 1
    previous, stage = _previous(run, record)
    digest = files.digest(digest, stage) if stage else digest
    threshold = float(record["config"]["eval"]["threshold"] if threshold is None else threshold)
    opened = Run(
        record,
        recipe,
        Preparation(layout.of(recipe), generate, sigmoid, previous),
        application,
        (forward.place(*weights),),
        regions.class_table(named) if named else (),
        threshold,
        digest,
    )
    opened = averaged(opened, [Path(other) for other in settings["ensemble"]])
    return cascaded(open_run(Path(settings["roi"]), alone(settings)), opened, settings) if settings["roi"] else opened


def _kept(record: Mapping[str, Any], recipe: Recipe, settings: Mapping[str, Any], space: int) -> Kept:
    """Where the programs of a run's network are kept."""
    about = {"what": "logits", "model": record["model"], "mean": recipe.mean, "std": recipe.std, "fit": recipe.fit}
    return Kept(about | {"whole": record["config"]["data"]["whole"], "mirror": tuple(settings["mirror"]), "space": space})


def batch_of(settings: Mapping[str, Any], recipe: Recipe, *, shrunk: bool) -> int:
    """Return the images or windows per forward pass; `shrunk`: the network sees downsampled volumes."""
    if shrunk or recipe.fit == "patches" and settings["whole"]:
        return 1
    return settings["windows"] if recipe.fit == "patches" else settings["batch_size"]


def _previous(run: Path, record: Mapping[str, Any]) -> tuple[Callable[[Sequence[Volume]], np.ndarray] | None, str]:
    """Return (the previous stage of a cascade: images -> classes [X, Y, Z] in the file's order, its digest); (None, "") if none.

    Raises: as `stage_of` and `open_run`.
    """
    found = stage_of(run, record)
    if found is None:
        return None, ""
    stage = open_run(*found)
    if record["made_by"] not in ("", stage.digest):
        raise MismatchError(
            f"{found[0]}: the previous stage has the digest {stage.digest}, but {run} was trained with that of the digest "
            f"{record['made_by']}; restore the copy that training made"
        )
    return stage.classes, stage.digest


def stage_of(run: Path, record: Mapping[str, Any]) -> tuple[Path, dict[str, Any]] | None:
    """Return the run of the previous stage of a cascade, and the settings to open it with; None if the run has no such stage.

    Args:
      run: the folder of the second stage.
      record: its record.
    Raises:
      CheckpointError: the runs of the previous stage are not where the record says.
      MismatchError: they segment other classes.
    """
    runs = checkpoint.stages_of(run, record)
    if not runs:
        return None
    first, *others = runs
    about = checkpoint.find_record(first)
    if about["labels"] != record["labels"]:
        raise MismatchError(
            f"config.data.previous: {first} segments {', '.join(about['labels'])}, but this run takes "
            f"{', '.join(record['labels'])}; restore the runs that were imported with it"
        )
    return first, {**about["config"]["infer"], "ensemble": tuple(map(str, others)), "postprocess": False}


def alone(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings without other runs: no cascade, no ensemble."""
    return {**settings, "roi": "", "ensemble": ()}


def application_of(
    forward: networks.Forward, recipe: Recipe, *, whole: bool, coordinates: bool, settings: Mapping[str, Any]
) -> networks.Application:
    """Choose how a network is applied: by windows to images of any size, to downsampled volumes, or to images of its input size.

    Args:
      forward: the network.
      recipe: the run's recipe; its size is the network's input size, its fit decides whether images keep their own sizes.
      whole, coordinates: data.whole and data.coordinates of the run.
      settings: the config's infer group, or at least its keys in WINDOW.
    """
    if whole:
        return networks.Shrunk(forward, recipe.size, coordinates=coordinates)
    if recipe.fit != "patches":
        return networks.WholeImages(forward)
    return networks.Windows(forward, recipe.size, coordinates=coordinates, **{key: settings[key] for key in WINDOW})


def averaged(run: Run, others: Sequence[Path]) -> Run:
    """Return the run with the weights of further runs (folds, seeds) of the same network added: their logits are averaged.

    Raises:
      MismatchError: a run has another network, or was prepared for other inputs or labels.
    """
    weights, digests = list(run.weights), [run.digest]
    for other in others:
        record = checkpoint.find_record(other)
        for what in ("model", "recipe", "regions"):
            if record[what] != run.record[what]:
                changed = (
                    sorted(k for k in record[what] if record[what][k] != run.record[what].get(k))
                    if isinstance(record[what], dict)
                    else [what]
                )
                raise MismatchError(
                    f"config.infer.ensemble: {other} has a different {what} ({', '.join(changed)}); all runs "
                    "of an ensemble must have the same network and preparation: leave this one out"
                )
        _, (params, state), digest = channel_run.read_network(other, record)
        weights.append(run.application.forward.place(params, state))
        digests.append(digest)
    return dataclasses.replace(run, weights=tuple(weights), digest=files.digest(*digests)) if others else run


def check_cascade(roi: Mapping[str, Any], recipe: Recipe) -> None:
    """Refuse a run that cannot be the first network of a cascade.

    Args:
      roi: the record of the first network's run.
      recipe: the recipe of the second network.
    Raises:
      MismatchError: the run is no region-of-interest network, or its inputs are prepared differently.
    """
    if not roi["config"]["data"]["whole"]:  # networks of slices among them
        raise MismatchError(
            f"config.infer.roi: {roi['model']['name']} (rank {roi['model']['rank']}) was not trained on whole "
            "volumes; give a run that was trained with configs/brats_roi.py (data.whole=True)"
        )
    first = base.recipe_from(roi)
    for key in ("modalities", "intensity", "window", "spacing"):
        if getattr(first, key) != getattr(recipe, key):
            raise MismatchError(
                f"config.infer.roi: its data.{key} is {getattr(first, key)}, that of the second network "
                f"{getattr(recipe, key)}; train both networks with the same value"
            )


def cascaded(first: Run, second: Run, settings: Mapping[str, Any]) -> Run:
    """Return the second run, applied to crops around the regions that the first run finds.

    Args:
      first, second: the runs.
      settings: the config's infer group, or at least its keys in CASCADE.

    Raises:
      MismatchError: the runs do not fit each other.
    """
    check_cascade(first.record, second.recipe)
    activation = "sigmoid" if second.order or second.application.forward.num_classes == 1 else "softmax"
    options = {key: settings[key] for key in CASCADE}
    application = networks.Cascade(
        first.application, first.weights, second.application, second.recipe.size, activation, **options
    )
    return dataclasses.replace(second, application=application, digest=files.digest(first.digest, second.digest))
