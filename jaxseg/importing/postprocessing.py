"""Convert the post-processing that nnU-Net chose for a model into steps of `infer.postprocess`.

`nnUNetv2_find_best_configuration` writes postprocessing.pkl and postprocessing.json: names of functions, and their arguments.
nnU-Net has one such function: it keeps only the largest connected component of given labels. The files are read, never run.
Source: MIC-DKFZ/nnUNet, nnunetv2/postprocessing/remove_connected_components.py.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxseg.types import DataError, MismatchError
from jaxseg.utils import guard
from jaxseg.utils.guard import shown
from jaxseg.weights import torch_pickle

PICKLE, JSON = "postprocessing.pkl", "postprocessing.json"
LARGEST = "remove_all_but_largest_component_from_segmentation"
_GLOBAL = f"nnunetv2.postprocessing.remove_connected_components.{LARGEST}"
MAX_BYTES = 1 << 20


def find(folder: Path) -> Path | None:
    """The post-processing file of a model folder or of its cross-validation folder; None if there is none.

    Raises:
      MismatchError: there are several, and none of them lies in the model folder itself.
    """
    for places in ([folder], sorted(folder.glob("crossval_results_folds_*"))):
        found = [path for place in places for path in (place / PICKLE, place / JSON) if path.is_file()]
        if len({path.parent for path in found}) > 1:
            listed = " and ".join(str(p.relative_to(folder)) for p in found)
            raise MismatchError(f"{folder} has several post-processing files, {listed}; copy the right one beside plans.json")
        if found:
            return found[0]
    return None


def read(path: Path, values: Sequence[int], absent: Sequence[int] = ()) -> list[dict[str, Any]]:
    """Read the steps of a file.

    Args:
      path: a file that `find` returned.
      values: values of the classes 1, 2, ... in nnU-Net's masks.
      absent: further labels of these masks, which no prediction has (`Description.merged`).
    Raises:
      DataError: the file cannot be read, or would run code.
      MismatchError: the file has an unsupported function, or a label that the model does not have.
    """
    names, arguments = _json(path) if path.name == JSON else _pickle(path)
    steps = []
    for name, given in zip(names, arguments, strict=True):
        if name != LARGEST or not isinstance(given, dict) or not set(given) <= {"labels_or_regions", "background_label"}:
            raise MismatchError(
                f"{path}: the step {shown(name)} with {shown(given)} is not supported (only {LARGEST} is); remove the file "
                "to import the model without post-processing"
            )
        labels = sorted(set(_numbers(given["labels_or_regions"])) - set(absent))
        if given.get("background_label", 0) != 0 or not set(labels) <= set(values):
            raise MismatchError(
                f"{path}: labels {labels}, background {given.get('background_label', 0)}; the model's labels are {values}"
            )
        steps.append({"step": "keep_largest", "options": {"classes": [values.index(v) + 1 for v in labels], "ties": "all"}})
    return steps


def _numbers(value) -> list[int]:
    """The labels in a value that is a label, a region (several labels), or a list of these."""
    if isinstance(value, list | tuple):
        return [number for one in value for number in _numbers(one)]
    if not isinstance(value, int):
        raise DataError(f"got the label {shown(value)}; must be a whole number", "DATA_TABLE")
    return [value]


def _json(path: Path) -> tuple[list, list]:
    content = guard.read_json(path)
    try:
        return list(content["postprocessing_fns"]), list(content["postprocessing_kwargs"])
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: has no postprocessing_fns or postprocessing_kwargs", "DATA_TABLE") from error


def _pickle(path: Path) -> tuple[list, list]:
    with guard.reading(path, "file"):
        content = torch_pickle.interpret(io.BytesIO(guard.read_bytes(path, MAX_BYTES)), names=(_GLOBAL,))
    if not isinstance(content, tuple) or len(content) != 2 or not all(isinstance(part, list) for part in content):
        raise DataError(
            f"{path}: holds {shown(content)}; must be a pair of functions and arguments, as nnU-Net writes it", "DATA_TABLE"
        )
    functions, arguments = content
    return [getattr(f, "name", str(f)).rpartition(".")[2] for f in functions], arguments
