"""A task of several models, as in TotalSegmentator: their classes are merged into one label map.

    {
      "labels": {"spleen": 1, "kidney_right": 2, "rib_left_1": 92},
      "models": [{"run": "organs"}, {"run": "ribs", "classes": {"rib 1 (left)": "rib_left_1"}}],
      "crop": {"run": "body", "classes": ["body"], "margin": 20},
      "notes": ["rib weights: not for commercial use"]
    }

    labels  name of a class -> its value in the merged map, 1 to 65535
    models  run folders (`jaxseg import`), relative to the file; of each the names of its classes that are called otherwise in
            labels. Where classes of several models meet, the later model's is kept. A class that labels do not list is left out
            if it is named with null, else refused
    crop    optional: the box around classes of a run, with a margin in mm (rounded down to whole voxels, as TotalSegmentator
            does), which alone is segmented; a scan without them has no label
    notes   lines that are printed with every prediction: licences, conditions

Source: wasserth/TotalSegmentator, totalsegmentator/nnunet.py (parts merge by name, later ones win) and cropping.py.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from jaxseg import checkpoint
from jaxseg.data.prepare.labels import dtype_for
from jaxseg.data.records import Volume
from jaxseg.infer import postprocess
from jaxseg.infer.run import Run, open_run
from jaxseg.types import ConfigError, DataError
from jaxseg.utils import guard
from jaxseg.utils.guard import shown
from jaxseg.utils.lookup import lookup

LARGEST = 2**16 - 1  # value of a map


class TaskModel(NamedTuple):
    """One model of a task.

    Attributes:
      run: the opened run.
      steps: its post-processing steps.
      values: values of its classes 1, 2, ... in the merged map; 0 for classes that are left out.
    """

    run: Run
    steps: list[dict[str, Any]]
    values: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Task:
    """An opened task.

    Attributes:
      labels: name -> value in the merged map.
      parts: the models, in their order.
      crop: a model and the classes around which the scan is cut; None for the whole scan.
      margin: margin of the crop, mm.
      notes: lines to print with every prediction.
    """

    labels: dict[str, int]
    parts: tuple[TaskModel, ...]
    crop: TaskModel | None
    margin: float
    notes: tuple[str, ...]

    def segment(self, images: Sequence[Volume]) -> np.ndarray:
        """Segment a case: the merged map [X, Y, Z] in the axis order of its file, uint8, or uint16 for values above 255.

        Raises:
          DataError: as `Run.segment`.
        """
        shape = images[0].array.shape[:3]
        merged = np.zeros(shape, dtype_for(max(self.labels.values())))
        box = tuple(slice(0, n) for n in shape)
        if self.crop is not None:
            found = ndimage.find_objects((_labels(self.crop, images) > 0).astype(np.uint8))
            if not found:
                return merged
            extra = (self.margin / np.asarray(images[0].spacing, np.float32)).astype(int)  # whole voxels, rounded down
            box = tuple(slice(max(0, b.start - e), min(n, b.stop + e)) for b, e, n in zip(found[0], extra, shape))
            images = [cut(image, box) for image in images]
        inside = merged[box]
        for part in self.parts:
            values = _labels(part, images)
            np.copyto(inside, values.astype(merged.dtype), where=values > 0)
        return merged


def cut(image: Volume, box: Sequence[slice]) -> Volume:
    """Cut a box out of a volume; the affine keeps its position in space."""
    affine = np.array(image.affine, np.float64)
    affine[:3, 3] = affine[:3, :3] @ [b.start for b in box] + affine[:3, 3]
    return dataclasses.replace(image, array=image.array[tuple(box)], affine=affine)


def _labels(part: TaskModel, images: Sequence[Volume]) -> np.ndarray:
    """Return a model's labels with the values of the merged map, in the axis order of the file."""
    found = part.run.segment(images)
    labels = postprocess.apply(found.labels, part.steps, found.examples.orientation.spacing)
    return found.examples.orientation.restore(np.array((0, *part.values), np.int32)[labels])


def read(path: Path) -> Task:
    """Open a task's file and its runs.

    Raises:
      ConfigError: the file is not a task, or a model has a class that it does not list.
      DataError, CheckpointError: a file or a run that cannot be used.
    """
    content = guard.read_json(path)
    if not isinstance(content, Mapping) or not {"labels", "models"} <= set(content) <= {"labels", "models", "crop", "notes"}:
        raise ConfigError(f"--task={path}: holds {shown(content)}; a task has labels and models, and may have crop and notes")
    labels = content["labels"]
    if not isinstance(labels, Mapping) or not all(type(v) is int and 1 <= v <= LARGEST for v in labels.values()) or not labels:
        raise ConfigError(f"--task={path}: labels {shown(labels)}; names with whole numbers from 1 to {LARGEST}")
    try:
        parts = tuple(_part(path, model, labels) for model in content["models"])
        crop, margin = None, 0.0
        if content.get("crop"):
            wanted = {name: 1 for name in content["crop"]["classes"]}
            opened = _open(path, content["crop"]["run"])
            for name in wanted:
                lookup("class of the crop's run", name, dict.fromkeys(opened[0].recipe.labels))
            crop = TaskModel(*opened, tuple(wanted.get(name, 0) for name in opened[0].recipe.labels))
            margin = float(content["crop"].get("margin", 0))
        notes = tuple(map(str, content.get("notes", ())))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ConfigError | DataError):
            raise
        raise ConfigError(
            f"--task={path}: {type(error).__name__} {guard.one_line(str(error))[:80]}; see jaxseg.pretrained.task"
        ) from error
    if not parts:
        raise ConfigError(f"--task={path}: names no model")
    return Task(dict(labels), parts, crop, margin, notes)


def _part(path: Path, model: Mapping[str, Any], labels: Mapping[str, int]) -> TaskModel:
    run, steps = _open(path, model["run"])
    renamed = model.get("classes", {})
    for name in renamed:
        lookup(f"class of {model['run']}", name, dict.fromkeys(run.recipe.labels))
    values = []
    for name in run.recipe.labels:
        called = renamed.get(name, name)
        if called is not None and called not in labels:
            raise ConfigError(
                f"--task={path}: the class {name} of {model['run']} is not in labels; add it, or name it in classes with null"
            )
        values.append(0 if called is None else labels[called])
    return TaskModel(run, steps, tuple(values))


def _open(path: Path, name: str) -> tuple[Run, list[dict[str, Any]]]:
    """Open a run with the settings of its own record: (run, its post-processing steps)."""
    folder = path.parent / name
    settings = checkpoint.find_record(folder)["config"]["infer"]
    return open_run(folder, settings), postprocess.read_steps(folder) if settings["postprocess"] else []
