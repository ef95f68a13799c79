"""Runs that were scored without a network: drawn heads and slices with structures, and predictions with one mistake each."""

import dataclasses
from pathlib import Path

import numpy as np
from scipy import ndimage

from configs.brats_unet3d import get_config
from jaxseg import checkpoint
from jaxseg.config import as_dict, resolve
from jaxseg.data.records import Recipe
from jaxseg.evaluate import kept, report, scoring
from jaxseg.metrics.calibration import Histogram
from jaxseg.metrics.summarize import write_csv
from jaxseg.utils import files

RULES = scoring.Rules(("NCR", "ED", "ET"), (("WT", (1, 2, 3)), ("TC", (1, 3)), ("ET", (3,))))
MISTAKES = ("boundary", "missed", "wrong class", "fragment", "none", "shifted")
NAMES = ('case </script><img src="x">', "case_b", "case_c", "case_d", "case_e", "case_f")


class Drawn:
    """Images of drawn cases, in place of a data set's."""

    def __init__(self, images: dict[str, np.ndarray], spacing: list[float], letters: str):
        self._images, self._spacing, self._letters = images, spacing, letters

    def of(self, case, index, truth, labels):
        arrays = {"image": self._images[case], "truth": truth, "prediction": labels}
        return kept._thinned(arrays, self._spacing, self._letters)


def head(shape, random) -> tuple[np.ndarray, np.ndarray]:
    """(image, truth) with nested structures right of the middle, towards the front."""
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    radius = np.sqrt(sum((g / s) ** 2 for g, s in zip(grid, (0.75, 0.9, 0.85))))
    centre = random.uniform(-0.15, 0.15, len(shape)) + np.array([-0.3, -0.25, 0.1][: len(shape)])
    tumour = np.sqrt(sum((g - c) ** 2 for g, c in zip(grid, centre))) + 0.04 * np.sin(9 * grid[0]) * np.cos(8 * grid[1])
    size = random.uniform(0.2, 0.42)
    truth = np.select([tumour < 0.4 * size, tumour < 0.65 * size, tumour < size], [1, 3, 2], 0).astype(np.uint8)
    noise = ndimage.gaussian_filter(random.normal(size=shape), 1) * 60 + random.normal(size=shape) * 9
    image = np.where(radius < 1, 105 + 30 * (radius > 0.9) + np.array([0, -50, 45, 80])[truth] + noise, 0)
    return np.clip(image, 0, 255).astype(np.uint8), truth


def predicted(truth: np.ndarray, mistake: str) -> np.ndarray:
    """The truth with one mistake."""
    labels = truth.copy()
    if mistake == "boundary":
        grown = ndimage.maximum_filter(truth, 5)
        labels = np.where((truth == 0) & (grown > 0), 2, truth).astype(np.uint8)
    elif mistake == "missed":
        labels[:] = 0
    elif mistake == "wrong class":
        labels[truth == 3] = 1
    elif mistake == "fragment":
        corner = tuple(slice(3 * n // 4, 3 * n // 4 + max(2, n // 12)) for n in truth.shape)
        labels[corner] = 2
    elif mistake == "shifted":
        labels = np.roll(truth, truth.shape[0] // 20, 0)
    return labels


def run(
    folder: Path, shape=(24, 26, 18), spacing=(1.0, 1.0, 2.0), count: int = 6, keep: int = 3, epochs: int = 6, turn: int = 0
) -> Path:
    """A run folder with its record, curves and the evaluation of drawn cases; slices where the shape has two axes.

    Args:
      turn: another network, which makes other mistakes on the same cases.
    """
    random = np.random.default_rng(0)
    images, examples = {}, {}
    for i in range(count):
        image, truth = head(shape, random)
        name = NAMES[i % len(NAMES)] + ("" if i < len(NAMES) else str(i))
        labels = predicted(truth, MISTAKES[(i + turn) % len(MISTAKES)])
        if len(shape) == 2:
            image, truth, labels = image.T, truth.T, labels.T
        images[name] = image
        about = {"case": name, "patient": name} | ({"slice": 0} if len(shape) == 2 else {})
        examples[name] = scoring.Example(about, labels, truth, spacing)
    place = folder / "evaluations" / "test@9"
    place.mkdir(parents=True)
    keeper, counted = kept.Keeper(RULES, keep), Histogram(RULES.classes)
    scored = scoring.score(list(examples), lambda name: iter([examples[name]]), RULES, watch=keeper.add)
    for example in examples.values():
        for k in (1, 2, 3):
            p = np.clip(0.85 * (example.labels == k) + random.beta(0.3, 3, example.labels.shape), 0, 1)
            counted.add(k - 1, p, example.truth == k)
    letters = "RLAPIS" if len(shape) == 3 else "RLAP"
    facts = {"split": "test", "weights": {"step": "9", "digest": "0" * 32}, "options": {}, "headline": list(RULES.headline)}
    facts |= {"model": "unet3d_s", "synthetic": True, "params": 1234567, "macs": 9876543210}
    table = report.table_of(scored, RULES, "the cases' own grid")
    report.report(table, None, head=[], details=[], facts=facts, folder=place, calibration=counted)
    keeper.write(place, Drawn(images, list(spacing), letters))
    (folder / "evaluation.json").write_text((place / "evaluation.json").read_text())
    config = resolve(get_config("quick"), name="drawn")
    record = {
        "config": {**as_dict(config), "name": "drawn"},
        "recipe": dataclasses.asdict(Recipe((32, 32, 32), None, None, 4, RULES.classes, "brain", ("t1", "t1ce", "t2", "flair"))),
        "labels": list(RULES.classes),
        "values": [1, 2, 4],
        "regions": [],
        "model": {"name": "unet3d_s", "parameters": 1234567, "in_channels": 4, "num_classes": 4, "options": {}, "rank": 3},
        "dataset": "brats",
        "synthetic": True,
        "made_by": "",
        "code": {},
        "history": [],
        "data": {"digest": "d" * 32, "examples": 40, "left_out": ["bad"]},
        "surroundings": {"platform": "cpu", "jaxlib": "0.10.2"},
        "splits": {"train": ["p"], "val": ["q"], "test": list(examples)},
    }
    record["config"]["data"] = {**record["config"]["data"], "root": "/secret/place/brats"}
    checkpoint.write_record(folder, record)
    files.write_json(folder / "experiment.json", {"optim.lr": [0.0001, 0.01], "data.root": ["", "/secret/place/brats"]})
    value = lambda e, top: round(top * (1 - 0.6**e), 4)
    write_csv(
        folder / "epochs.csv",
        [
            {"epoch": e, "step": 9 * e, "train_loss": 1 - value(e, 0.8), "val_loss": 1 - value(e, 0.7), "val_dice": value(e, 0.8)}
            | {"val_wt": value(e, 0.9), "val_tc": value(e, 0.75), "val_et": value(e, 0.7)}
            for e in range(1, epochs + 1)
        ],
    )
    return folder
