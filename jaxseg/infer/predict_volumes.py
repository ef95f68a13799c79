"""Segment volumes with nothing but a run folder and the input, by sliding window or by the cascade of two runs."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxseg import checkpoint
from jaxseg.data.formats import volumes
from jaxseg.data.geometry import to_volume
from jaxseg.data.prepare.examples import place_scan, prepare_scan, restore, restore_labels
from jaxseg.data.prepare.resample import resample_channels
from jaxseg.data.records import Recipe, Volume
from jaxseg.data.store import base
from jaxseg.infer import cascade, postprocess
from jaxseg.infer.cases import find_cases, map_names, open_output, segment_each, values_of, write_maps, write_overlay
from jaxseg.infer.volumes import VolumeNetwork, labels_of, probabilities_of
from jaxseg.metrics import regions
from jaxseg.models import create_model, functional
from jaxseg.types import ConfigError, DataError, MismatchError, NonFiniteError
from jaxseg.utils import guard
from jaxseg.utils.pictures import paint, sheet, to_rgb

CERTAIN = 30.0  # a logit of background, for voxels that the network does not see
WINDOW = ("overlap", "blend", "positions", "accumulator", "windows", "mirror")  # settings of the sliding window


class Trained(NamedTuple):
    """A run, ready to be used: its record, recipe, network and weights."""

    record: dict[str, Any]
    recipe: Recipe
    network: VolumeNetwork
    weights: tuple[dict, dict]
    order: tuple[int, ...]  # the class that each region writes; () for classes
    others: tuple[tuple[dict, dict], ...] = ()  # weights of further runs of the same network, averaged with these

    def forward(self) -> jax.tree_util.Partial:
        """Windows [n, *window, C] -> logits, for the cascade."""
        return self.network.partial(*self.weights, self.others)

    def logits(self, image: np.ndarray) -> np.ndarray:
        """Logits [X, Y, Z, K] of a prepared volume [X, Y, Z, C]: by sliding window, or at once for networks of whole volumes."""
        data = self.record["config"]["data"]
        if not data["whole"]:
            return np.asarray(self.network(*self.weights, image, self.others))
        small = cascade.roi_input(np.asarray(image, np.float32), self.recipe.size, data["coordinates"])
        return resample_channels(np.asarray(self.network(*self.weights, small, self.others)), image.shape[:3])


def open_run(run: Path, settings: Mapping[str, Any]) -> Trained:
    """Read a run (or checkpoint) folder of a network that takes volumes.

    Args:
      settings: the config's infer group, or the part in WINDOW.
    Raises:
      CheckpointError: no run record or no usable checkpoint there.
      MismatchError: the checkpoint does not fit the recorded network, or the network takes slices.
    """
    record = checkpoint.find_record(run)
    m, data = record["model"], record["config"]["data"]
    if m["rank"] != 3:
        raise MismatchError(f"{run} holds a network for slices ({m['name']}, rank {m['rank']}); a volume network is needed here")
    model = create_model(m["name"], in_channels=m["in_channels"], num_classes=m["num_classes"], rank=3, abstract=True,
                         **m["options"])
    network, _, _ = functional.split(model)
    params, state, _ = checkpoint.load_weights(run)
    network.check(params, state)
    recipe = base.recipe_from(record)
    if data["whole"]:  # the recorded channels include the coordinates, which come after the shrinking
        recipe = dataclasses.replace(recipe, channels=data["channels"])
    named = tuple((name, tuple(classes)) for name, classes in record["regions"])
    seen = VolumeNetwork(network, window=recipe.size, num_classes=m["num_classes"], dtype=record["config"]["train"]["dtype"],
                         coordinates=data["coordinates"] and not data["whole"], mean=recipe.mean, std=recipe.std,
                         **{key: settings[key] for key in WINDOW})
    return Trained(record, recipe, seen, seen.place(params, state), regions.class_order(named) if named else ())


def averaged(trained: Trained, runs: Sequence[Path]) -> Trained:
    """The same network with the weights of further runs (folds, seeds): their logits are averaged.

    Raises:
      MismatchError: a run of another network, or prepared for other inputs or labels.
    """
    others = []
    for run in runs:
        record = checkpoint.find_record(run)
        for what in ("model", "recipe", "regions"):
            if record[what] != trained.record[what]:
                changed = sorted(k for k in record[what] if record[what][k] != trained.record[what].get(k)) \
                    if isinstance(record[what], dict) else [what]
                raise MismatchError(f"config.infer.ensemble: {run} differs in its {what} ({', '.join(changed)}); average runs of "
                                    "one network and one recipe")
        params, state, _ = checkpoint.load_weights(run)
        others.append(trained.network.place(params, state))
    return trained._replace(others=tuple(others))


def check_cascade(roi: Mapping[str, Any], recipe: Recipe) -> None:
    """Refuse a run as the first of a cascade.

    Args:
      roi: its record.
      recipe: of the second network.
    Raises:
      MismatchError: it is no region-of-interest network, or was prepared for other inputs.
    """
    if not roi["config"]["data"]["whole"]:  # networks of slices among them
        raise MismatchError(f"config.infer.roi: {roi['model']['name']} (rank {roi['model']['rank']}) was not trained on whole "
                            "volumes; train the first network with configs/brats_roi.py (data.whole=True)")
    first = base.recipe_from(roi)
    for key in ("modalities", "intensity", "window", "spacing"):
        if getattr(first, key) != getattr(recipe, key):
            raise MismatchError(f"config.infer.roi: its {key} is {getattr(first, key)}, that of the second network "
                                f"{getattr(recipe, key)}; train both with the same")


def cascaded(roi: Trained, second: Trained, image: np.ndarray) -> np.ndarray:
    """Logits [X, Y, Z, K] of a prepared volume by the cascade; where no crop lies, background for certain.

    `check_cascade` says whether they go together.
    """
    activation = "sigmoid" if second.order or second.network.num_classes == 1 else "softmax"
    classes, first, then = second.network.num_classes, roi.record["config"]["data"], second.record["config"]["data"]
    found = cascade.segment(
        roi.forward(), second.forward(), np.asarray(image, np.float32), num_classes=classes, roi_size=roi.recipe.size,
        crop=second.recipe.size, activation=activation, min_size=roi_min_size(roi.recipe.size),
        roi_coordinates=first["coordinates"], include_coordinates=then["coordinates"])
    return np.asarray(found.scores)


def roi_min_size(size: tuple[int, ...]) -> int:
    """Voxels under which a region of interest is dropped: 50 at 64^3, the same share of other sizes."""
    return max(1, round(50 * float(np.prod(size)) / 64**3))


def predict(run: Path, origin: Path, output: Path, *, settings: Mapping[str, Any], say: Callable[[str], None] = print) -> int:
    """Segment every scan below `origin` into `output`: <case>.nii.gz in the geometry of the case's first file, in the values
    of the masks that the run learnt from (BraTS: ET is 4 until 2021).

    With several modalities, the files of a case are told apart as in training. A bad case is named and skipped.

    Args:
      run: run or checkpoint folder.
      origin: file, folder of scans, or folder in the layout of the run's data set.
      output: folder, made if absent.
      settings: the config's infer group. "roi" names a run of configs/brats_roi.py: the cascade is used then. "ensemble"
        names further runs (other folds or seeds) whose logits are averaged with this one's.
      say: told one line per case.
    Returns:
      0, or 65 if some cases could not be used.
    Raises:
      DataError: no input found.
    """
    open_output(output)
    trained = averaged(open_run(run, settings), [Path(other) for other in settings["ensemble"]])
    roi = open_run(Path(settings["roi"]), settings) if settings["roi"] else None
    if roi:
        check_cascade(roi.record, trained.recipe)
    steps = _steps(run) if settings["postprocess"] else []
    cases = find_cases(origin, trained.recipe, trained.record)
    segment = lambda images, name: _one(trained, roi, images, output, name, settings, steps)
    return segment_each(cases, segment, output, synthetic=trained.record["synthetic"], say=say)


def _one(trained: Trained, roi: Trained | None, images: list[Volume], output: Path, name: str, settings, steps) -> str:
    if volumes.is_photo(images[0]):
        raise DataError(f"{images[0].path}: a photograph; this network takes volumes (NIfTI, DICOM series)", "DATA_IMAGE")
    scan, orientation = to_volume(images[0])
    image, place = prepare_scan(images, trained.recipe), place_scan(images, trained.recipe)
    logits = cascaded(roi, trained, image) if roi else trained.logits(image)
    wrong = sum(int((~np.isfinite(plane)).sum()) for plane in logits)
    if wrong:
        raise NonFiniteError(f"the network returned {wrong} values that are not finite; nothing is written. Predict in float32 "
                             "or use another checkpoint")
    resampled, classes = not place.keeps_grid, not trained.order and logits.shape[-1] > 1
    fill = [CERTAIN] + [0.0] * (logits.shape[-1] - 1) if classes else [-CERTAIN] * logits.shape[-1]  # background outside
    if resampled and classes and not settings["probabilities"]:
        labels = restore_labels(logits, scan.shape[:3], trained.recipe, orientation.spacing, fill=fill, place=place)
    else:
        if resampled:
            logits = restore(logits, scan.shape[:3], trained.recipe, orientation.spacing, fill=fill, place=place)
        threshold = float(trained.record["config"]["eval"]["threshold"])
        labels = labels_of(logits, order=trained.order, threshold=threshold)
    labels = postprocess.apply(labels, steps, orientation.spacing)
    values = values_of(trained.record)
    volumes.write_like(output / f"{name}.nii.gz", orientation.restore(values[labels]), images[0])
    written = ""
    if settings["probabilities"]:
        maps = probabilities_of(logits, regions=bool(trained.order))
        whole = np.stack([orientation.restore(maps[..., k]) for k in range(maps.shape[-1])], -1)
        written = write_maps(output, name, whole, map_names(trained.record), images[0])
    if settings["overlay"]:
        write_overlay(output, name, _overlay(to_volume(images[-1])[0], labels))
    voxels = np.bincount(labels.ravel(), minlength=len(values))
    return ", ".join(f"{label} ({values[k]}) {voxels[k]} voxels" for k, label in enumerate(trained.recipe.labels, 1)) + written


def _overlay(scan: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """A sheet of axial slices of the last modality [X, Y, Z] with the labels painted on, upright."""
    scan = scan[..., 0] if scan.ndim == 4 else scan
    low, high = np.percentile(scan[::2, ::2, ::2], (1, 99.5))
    grey = np.uint8(np.clip((scan - low) / max(high - low, 1e-6), 0, 1) * 255)
    return sheet([paint(to_rgb(grey[:, :, z].T), labels[:, :, z].T) for z in range(grey.shape[2])], (labels > 0).sum((0, 1)))


def _steps(run: Path) -> list:
    path = next((p / "postprocess.json" for p in (run, *run.absolute().parents[:2]) if (p / "postprocess.json").is_file()), None)
    if path is None:
        raise ConfigError(f"config.infer.postprocess=True: {run} has no postprocess.json; evaluate the run with "
                          "--config.eval.postprocess=True first")
    return guard.read_json(path)
