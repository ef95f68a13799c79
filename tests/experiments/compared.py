"""A comparison whose runs are written, not trained: what its tests share."""

import csv
import json
from pathlib import Path

import numpy as np

from configs._base import base
from jaxseg import checkpoint
from jaxseg.checkpoint.claims import InUse
from jaxseg.config import resolve
from jaxseg.experiments import compare
from jaxseg.types import DataError
from tests.records import RECORD


def config(**changes):
    tree = base()
    tree.model.name = "unet_test"
    tree.data.dataset, tree.data.window, tree.eval.tables, tree.data.protocol = "folder", (), (), None
    tree.compare.models, tree.compare.seeds = ("unet_test", "segnext_test"), (1, 2)
    for key, value in changes.items():
        tree.compare[key] = value
    return resolve(tree, name="test")


class Trainer:
    """In the place of training: writes what a finished run leaves; segnext is better by 0.1 in every case."""

    def __init__(self, fail=(), held=()):
        self.started, self.fail, self.held = [], set(fail), set(held)

    def __call__(self, config, folder: Path):
        name = f"{folder.parent.name}/{folder.name}"
        self.started.append(name)
        if name in self.held:
            raise InUse(folder, "process 7 on elsewhere")
        if name in self.fail:
            raise DataError("a case is damaged; mend it", "DATA_X")
        finish(folder, config, 0.1 if "segnext" in config.model.name else 0.0)


def finish(folder: Path, config, gain: float) -> None:
    test = folder / "evaluations" / "test@9"
    test.mkdir(parents=True)
    checkpoint.write_record(folder, RECORD | {"dataset": "folder"})
    (folder / "state.json").write_text("{}")
    (folder / "epochs.csv").write_text(
        "epoch,step,train_loss,val_loss,val_dice\n1,4,0.9,0.8,0.31\n2,9,0.5,0.6,0.52\n3,13,0.4,0.7,0.51\n"
    )
    random = np.random.default_rng(config.seed)
    rows, dices = [], []
    for case in range(8):
        tp = int(100 * (0.5 + gain)) + int(random.integers(0, 3)) + case
        rows.append({"case": f"c{case}", "patient": f"p{case}", "class": "lesion", "tp": tp, "fp": 100 - tp, "fn": 100 - tp})
        dices.append(tp / 100)
    with open(test / "cases.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    score = {measure: {"mean": float(np.mean(dices))} for measure in ("dice", "precision", "recall")}
    found = {
        "mean_dice": float(np.mean(dices)), "pooled_dice": float(np.mean(dices)), "grid": "the cases' own grid: 8 x 8",
        "weights": {"step": "9"}, "headline": ["lesion"], "scores": {"lesion": score}, "params": 1234, "macs": 5678,
        "options": {"eval.empty": "one"},
    }  # fmt: skip
    (folder / "evaluation.json").write_text(json.dumps(found))


def cost(folder: Path) -> dict:
    return {"pam_train": 3000, "pam_inference": 1000, "inference_latency_ms": 2.5}


def run(folder, trainer, same=None, **changes):
    said = []
    code = compare.compare(
        config(**changes), folder, trainer, lambda config: None, cost, same or (lambda config, folder: None), said.append
    )
    return code, said
