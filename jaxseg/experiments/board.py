"""Write an evaluation for TensorBoard: the kept pictures, and hyperparameters and final scores in its HParams tab."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxseg.reports.cases import pictures
from jaxseg.reports.names import without_paths
from jaxseg.train.log import Log
from jaxseg.utils import guard

ALWAYS = ("model.name", "optim.lr", "train.batch_size", "train.epochs", "seed")  # listed even where they are the defaults
MEASURES = ("dice", "iou", "precision", "recall", "hd95")


def write(log: Log, folder: Path, step: int, tree: Mapping[str, Any], difference: Mapping[str, Any], *, final: bool) -> None:
    """Write the pictures of an evaluation to the run's event file; of the run's final one also hyperparameters and scores.

    Args:
      log: the run's log.
      folder: the folder of the evaluation.
      step: the step of its weights.
      tree: the run's config, flat.
      difference: dict whose keys are those that the config changes.
      final: whether it is the evaluation of the best checkpoint on the test split.
    """
    split = folder.name.rpartition("@")[0]
    index, classes = pictures.read(folder)
    for number, facts in enumerate(index, 1):
        case = pictures.Shown(facts, facts["case"], "", pictures.arrays_of(folder, facts))
        dice = f"_Dice_{facts['dice']:.3f}" if facts["dice"] is not None and not math.isnan(facts["dice"]) else ""
        log.panel(step, _tag(f"{split}_{facts['chosen']}/{number:02d}_{case.title}{dice}"), pictures.row(case, classes))
    if final:
        keys = dict.fromkeys((*ALWAYS, *difference))
        log.results(
            step,
            {key: without_paths(tree[key], hashed=tree["report.names"] == "hash") for key in keys if key in tree},
            scores_of(folder),
        )


def scores_of(folder: Path) -> dict[str, float]:
    """Return the final scores of an evaluation by their names in TensorBoard."""
    found = guard.read_json(folder / "evaluation.json")
    scores = {"test/mean_dice": found["mean_dice"], "test/pooled_dice": found["pooled_dice"]}
    for name, mine in found["scores"].items():
        scores |= {_tag(f"test/{measure}_{name}"): mine[measure]["mean"] for measure in MEASURES if measure in mine}
    return {name: float(value) for name, value in scores.items() if value is not None and not math.isnan(value)}


def _tag(name: str) -> str:
    """Return TensorBoard's tag for a name; the HParams tab finds a score only under exactly this tag."""
    return re.sub(r"[^-/\w.]", "_", name)
