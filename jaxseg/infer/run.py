"""A trained run, opened: one function from a case's images to its labels, whatever the rank and however the network is applied.

Everything comes from the run's record: network, preparation, labels and their values. Training's validation, evaluation and
prediction differ in what they do with the result alone.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit

from jaxseg import checkpoint
from jaxseg.data.formats import own
from jaxseg.data.records import Recipe, Volume
from jaxseg.data.store import base
from jaxseg.infer import channel_run
from jaxseg.infer import network as networks
from jaxseg.infer.examples import Examples, Preparation, Slices, Volumes
from jaxseg.infer.labels import background, entropy_of, probabilities_of, variance_of
from jaxseg.metrics import regions
from jaxseg.types import MismatchError, NonFiniteError
from jaxseg.utils import files

AT_ONCE = 2**29  # logits on a case's own grid, 2 GiB, that are held together; more are resampled twice
WINDOW = ("overlap", "blend", "positions", "accumulator")  # settings of the sliding window


class Segmentation(NamedTuple):
    """What a run makes of a case.

    Attributes:
      labels: [*S] on the case's own grid, the axes of `examples.scan`.
      logits: [N, *S', K] on the prepared grid.
      examples: what the network saw.
    """

    labels: np.ndarray
    logits: np.ndarray
    examples: Examples


@dataclasses.dataclass(frozen=True)
class Run:
    """A run, ready to be used.

    Attributes:
      record: of the run.
      recipe: how its images are prepared.
      preparation: from images to examples, and back.
      application: from examples to logits, chosen once.
      weights: of the run, and of further ones whose logits are averaged with its.
      order: the class of every combination of regions; () for classes.
      threshold: of one logit and of regions.
      digest: of all weights that take part and of what the records say about the networks.
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
        """Logits [N, *S, K] of prepared examples [N, *S, C].

        Raises:
          NonFiniteError: the network returned NaN or Inf.
        """
        logits = self.application(self.weights, examples)
        logits = logits if isinstance(logits, np.ndarray) else np.asarray(logits)
        wrong = sum(int((~np.isfinite(plane)).sum()) for one in logits for plane in one)
        if wrong:
            raise NonFiniteError(
                f"the network returned {wrong} values that are not finite; nothing is written. Predict in "
                "float32 or use another checkpoint"
            )
        return logits

    def segment(self, images: Sequence[Volume], chosen: Sequence[int] | None = None) -> Segmentation:
        """Labels of a case on its own grid, in class numbers, before any post-processing.

        Args:
          images: its volumes or its photograph, one for each modality.
          chosen: slices to segment, indices of the upright stack; None: all.
        Raises:
          DataError: an image this recipe cannot take.
          NonFiniteError: the network returned NaN or Inf.
        """
        examples = self.preparation.prepare(images, chosen)
        logits = self.logits(examples.inputs)
        labels = self.preparation.labels(examples, logits, self._fill(logits), order=self.order, threshold=self.threshold)
        return Segmentation(labels, logits, examples)

    def probabilities(self, found: Segmentation) -> np.ndarray:
        """Probability maps float32 [*S, K'] on the case's own grid, over the regions, the one class or the foreground classes."""
        return probabilities_of(self._restored(found.examples, found.logits), regions=bool(self.order))

    def probability_maps(self, found: Segmentation, position: int | None = None) -> Iterator[np.ndarray]:
        """The same float32 [*S], one region or class after the other, for volumes of any size; of one slice with `position`."""
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
        members = [run._restored(found.examples, run.logits(found.examples.inputs)) for run in alone]
        return variance_of(members, regions=bool(self.order))

    def _restored(self, examples: Examples, logits: np.ndarray) -> np.ndarray:
        return self.preparation.restore(examples, logits, self._fill(logits))

    def _fill(self, logits: np.ndarray) -> tuple[float, ...]:
        return background(logits.shape[-1], regions=bool(self.order))


def open_run(run: Path, settings: Mapping[str, Any], *, threshold: float | None = None) -> Run:
    """Read a run folder, or a checkpoint folder inside one, and those that the settings name.

    Args:
      settings: the config's infer group. "roi" names a run of configs/brats_roi.py: the cascade is used then. "ensemble" names
        further runs (folds, seeds) of one network whose logits are averaged with this one's.
      threshold: config.eval.threshold; None: the record's.
    Raises:
      CheckpointError: no run record or no usable checkpoint there.
      MismatchError: a checkpoint that does not fit its recorded network, or runs that do not go together.
    """
    record = checkpoint.find_record(run)
    m, data = record["model"], record["config"]["data"]
    own.register(tuple(map(tuple, data["readers"])))
    recipe = base.recipe_from(record)
    network, weights, digest = channel_run.read_network(run, record)
    if data["whole"]:  # the recorded channels include the coordinates, which come after the shrinking
        recipe = dataclasses.replace(recipe, channels=data["channels"])
    forward = networks.Forward(
        network,
        num_classes=m["num_classes"],
        mirror=settings["mirror"],
        mean=recipe.mean,
        std=recipe.std,
        batch=settings["windows"] if recipe.fit == "patches" else 1 if data["whole"] else settings["batch_size"],
        dtype="auto",
    )  # this machine's own: a run of a GPU predicts on a CPU in float32
    application = application_of(forward, recipe, whole=data["whole"], coordinates=data["coordinates"], settings=settings)
    named = tuple((name, tuple(classes)) for name, classes in record["regions"])
    if m["rank"] == 3:
        preparation: Preparation = Volumes(recipe, sigmoid=bool(named) or m["num_classes"] == 1)
    else:
        preparation = Slices(recipe, channel_run.of(run, record, recipe))
    threshold = float(record["config"]["eval"]["threshold"] if threshold is None else threshold)
    opened = Run(
        record,
        recipe,
        preparation,
        application,
        (forward.place(*weights),),
        regions.class_table(named) if named else (),
        threshold,
        digest,
    )
    opened = averaged(opened, [Path(other) for other in settings["ensemble"]])
    return cascaded(open_run(Path(settings["roi"]), alone(settings)), opened) if settings["roi"] else opened


def alone(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without further runs: no cascade, no ensemble."""
    return {**settings, "roi": "", "ensemble": ()}


def application_of(
    forward: networks.Forward, recipe: Recipe, *, whole: bool, coordinates: bool, settings: Mapping[str, Any]
) -> networks.Application:
    """How a network is applied: by windows to images of their own sizes, shrunk to whole volumes, else to images of its own size.

    Args:
      forward: the network.
      recipe: its size is the network's input, its fit says which images have their own sizes.
      whole, coordinates: data.whole, data.coordinates of its run.
      settings: the config's infer group, or the part in WINDOW.
    """
    if whole:
        return networks.Shrunk(forward, recipe.size, coordinates=coordinates)
    if recipe.fit != "patches":
        return networks.WholeImages(forward)
    return networks.Windows(forward, recipe.size, coordinates=coordinates, **{key: settings[key] for key in WINDOW})


def averaged(run: Run, others: Sequence[Path]) -> Run:
    """The same network with the weights of further runs (folds, seeds): their logits are averaged.

    Raises:
      MismatchError: a run of another network, or prepared for other inputs or labels.
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
                    f"config.infer.ensemble: {other} differs in its {what} ({', '.join(changed)}); average "
                    "runs of one network and one recipe"
                )
        _, (params, state), digest = channel_run.read_network(other, record)
        weights.append(run.application.forward.place(params, state))
        digests.append(digest)
    return dataclasses.replace(run, weights=tuple(weights), digest=files.digest(*digests)) if others else run


def check_cascade(roi: Mapping[str, Any], recipe: Recipe) -> None:
    """Refuse a run as the first of a cascade.

    Args:
      roi: its record.
      recipe: of the second network.
    Raises:
      MismatchError: it is no region-of-interest network, or was prepared for other inputs.
    """
    if not roi["config"]["data"]["whole"]:  # networks of slices among them
        raise MismatchError(
            f"config.infer.roi: {roi['model']['name']} (rank {roi['model']['rank']}) was not trained on whole "
            "volumes; train the first network with configs/brats_roi.py (data.whole=True)"
        )
    first = base.recipe_from(roi)
    for key in ("modalities", "intensity", "window", "spacing"):
        if getattr(first, key) != getattr(recipe, key):
            raise MismatchError(
                f"config.infer.roi: its {key} is {getattr(first, key)}, that of the second network "
                f"{getattr(recipe, key)}; train both with the same"
            )


def cascaded(first: Run, second: Run) -> Run:
    """The second run on crops around the regions that the first one finds.

    Raises:
      MismatchError: they do not go together.
    """
    check_cascade(first.record, second.recipe)
    activation = "sigmoid" if second.order or second.application.forward.num_classes == 1 else "softmax"
    application = networks.Cascade(first.application, first.weights, second.application, second.recipe.size, activation)
    return dataclasses.replace(second, application=application, digest=files.digest(first.digest, second.digest))
