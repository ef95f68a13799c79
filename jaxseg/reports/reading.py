"""Read the files of a run from which its page is made."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxseg import checkpoint
from jaxseg.checkpoint.claims import EPOCHS
from jaxseg.evaluate import kept
from jaxseg.metrics.summarize import bootstrap
from jaxseg.reports import page
from jaxseg.reports.names import name_style
from jaxseg.types import ConfigError
from jaxseg.utils import guard

EXPERIMENT = "experiment.json"  # of a run: {key: [default, value]} of what its config changed


class Read(NamedTuple):
    """A run's files.

    Attributes:
      record: the content of run.json.
      found: the content of evaluation.json; {} if nothing was scored.
      folder: the folder of that evaluation, or None.
      cases, mistakes, epochs, calibration, thresholds, confusion: rows of the CSV files, with numbers converted.
      experiment: the keys that the config changed; {} if they were not recorded.
      show: converts names of cases and patients for display.
    """

    record: dict[str, Any]
    found: dict[str, Any]
    folder: Path | None
    cases: list[dict[str, Any]]
    mistakes: list[dict[str, Any]]
    epochs: list[dict[str, Any]]
    calibration: list[dict[str, Any]]
    thresholds: list[dict[str, Any]]
    confusion: list[dict[str, Any]]
    experiment: dict[str, Any]
    show: Callable[[str], str]

    @property
    def unit(self) -> str:
        """The unit of sizes: ml for volumes, pixels for slices and photographs."""
        return "ml" if self.cases and "truth_ml" in self.cases[0] else "pixels"

    def size(self, row: dict[str, Any], what: str) -> float:
        """Return the size of the "truth" or the "predicted" structure in a row of cases.csv."""
        if self.unit == "ml":
            return float(row[f"{what}_ml"])
        return float(row["tp"] + (row["fn"] if what == "truth" else row["fp"]))

    def interval(self, names: Sequence[str] = ()) -> tuple[float, float]:
        """Return the 95 % bootstrap interval over patients of the mean Dice of these classes or regions; None: the headline's."""
        names = tuple(names) or tuple(self.found["headline"])
        each: dict[tuple[str, Any], list[float]] = {}
        patients = {}
        for row in self.cases:
            key = (row["case"], row.get("slice", ""))
            if row["class"] in names and page.is_number(row["dice"]):
                each.setdefault(key, []).append(row["dice"])
                patients[key] = row["patient"]
        return bootstrap([float(np.mean(v)) for v in each.values()], groups=[str(patients[key]) for key in each])


def read_run(run: Path, name: str, names: str) -> Read:
    """Read the files of a run that a page needs."""
    record, folder = checkpoint.read_record(run), evaluation_folder(run, name)
    found = guard.read_json(folder / "evaluation.json") if folder else {}
    table = lambda file: _rows(folder / file) if folder else []
    changed = guard.read_json(run / EXPERIMENT) if (run / EXPERIMENT).is_file() else {}
    return Read(
        record,
        found,
        folder,
        table("cases.csv"),
        table(kept.TABLE),
        _rows(run / EPOCHS),
        table("calibration.csv"),
        table("thresholds.csv"),
        table("confusion.csv"),
        changed,
        name_style(names, record["data"]["digest"]),
    )


def evaluation_folder(run: Path, name: str) -> Path | None:
    """Return the folder of an evaluation."""
    folder = run / "evaluations"
    if name:
        there = sorted(folder.glob("*"))
        found = [path for path in there if path.name == name or path.name.rpartition("@")[0] == name]
        found.sort(key=lambda path: (path / "evaluation.json").stat().st_mtime if (path / "evaluation.json").is_file() else 0)
        if not found or not (found[-1] / "evaluation.json").is_file():
            known = ", ".join(path.name for path in there) or "none yet; jaxseg evaluate makes one"
            raise ConfigError(f"--name={name}: no such evaluation in {folder}; there are: {known}")
        return found[-1]
    if not (run / "evaluation.json").is_file():
        return None
    facts = guard.read_json(run / "evaluation.json")
    place = folder / f"test@{facts['weights']['step']}"  # it is always of the test split
    return place if (place / "evaluation.json").is_file() else None


def _rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a CSV file, with numbers converted; [] if it does not exist."""
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        return [{key: _cell(key, value) for key, value in row.items() if key} for row in csv.DictReader(file)]


def _cell(key: str, value: str) -> Any:
    if key in ("case", "patient", "class", "reason", "reasons", "truth") or value is None:
        return value or ""
    try:
        number = float(value)
    except ValueError:
        return value
    return int(number) if number.is_integer() and not set(value) & set(".eE") else number


def dice_in_words(facts: Mapping[str, Any]) -> str:
    """Return the Dice of an example as text."""
    return f"Dice {facts['dice']:.3f}" if page.is_number(facts["dice"]) else "no Dice"
