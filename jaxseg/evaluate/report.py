"""The printed and written report of an evaluated split, for slices and volumes: one table of scores, its figures, its files.

Every figure names its grid: the cases' own grid, and where it differs also the prepared grid, which is the network's input.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxseg.evaluate.scoring import Rules, Scored
from jaxseg.metrics import counts as scores
from jaxseg.metrics.calibration import SURE, Histogram
from jaxseg.metrics.counts import Counts
from jaxseg.metrics.summarize import Row, by_patient, detection, means, write_csv
from jaxseg.utils.files import write_json

MEASURES = ("dice", "iou", "precision", "recall", "specificity", "hd95", "nsd")


class Table(NamedTuple):
    """The scores of a split on one grid.

    Attributes:
      grid: the name of the grid with its size, for people.
      rows: one for each example and class (or region).
      rules: the rules of the evaluation.
      loss, seconds, confusion, lesions: as in `Scored`; confusion is None if the rows of one class hold all its counts.
    """

    grid: str
    rows: list[Row]
    rules: Rules
    loss: float
    seconds: float
    confusion: np.ndarray | None
    lesions: Sequence[dict] = ()

    @property
    def names(self) -> list[str]:
        """Names of regions and classes, in the order of the rows."""
        return list(dict.fromkeys(row["class"] for row in self.rows))

    @property
    def examples(self) -> int:
        """The number of slices or volumes."""
        return len(self.rows) // max(len(self.names), 1)

    @property
    def measures(self) -> tuple[str, ...]:
        """The scores that its rows may have, the user's own last."""
        return (*MEASURES, *(metric.name for metric in self.rules.own))

    def of(self, *names: str) -> list[Row]:
        """Return the rows of these classes or regions."""
        return [row for row in self.rows if row["class"] in names]

    def mean(self, measure: str = "dice") -> float:
        """Return the mean over the examples of the mean over regions (or classes if there are none); NaN is left out."""
        n, rows = len(self.rules.headline), self.of(*self.rules.headline)
        each = [[v for row in rows[i : i + n] if not math.isnan(v := row[measure])] for i in range(0, len(rows), n)]
        values = [np.mean(v) for v in each if v]
        return float(np.mean(values)) if values else math.nan

    def pooled(self) -> Counts:
        """Return the voxel counts summed over all examples, [K] over the classes."""
        total = lambda key: np.array([sum(row[key] for row in self.of(name)) for name in self.rules.classes], np.int64)
        return Counts(*(total(key) for key in Counts._fields))

    def pooled_dice(self) -> float:
        """Return the mean over the classes of the Dice of the summed counts."""
        return float(np.mean(scores.dice(self.pooled())))


class Prepared(NamedTuple):
    """The result of scoring prepared examples: the table, text lines, and entries for evaluation.json."""

    table: Table
    lines: Sequence[str] = ()
    facts: Mapping[str, Any] = {}


def table_of(scored: Scored, rules: Rules, where: str) -> Table:
    """Return the table of an evaluation.

    Args:
      scored: the result of scoring.
      rules: the rules of the evaluation.
      where: the name of the grid, for people; the sizes of the examples are added.
    """
    return Table(
        f"{where}: {sizes(scored.shapes)}", scored.rows, rules, scored.loss, scored.seconds, scored.confusion, scored.lesions
    )


def sizes(shapes: Sequence[tuple[int, ...]]) -> str:
    """Return "512 x 512", or the smallest and the largest of several sizes."""
    text = lambda shape: " x ".join(map(str, shape))
    ordered = sorted(set(shapes), key=lambda shape: (math.prod(shape), shape))
    return text(ordered[0]) if len(ordered) == 1 else f"{text(ordered[0])} to {text(ordered[-1])}"


def figures(table: Table) -> dict[str, Any]:
    """Return the figures of a table, as evaluation.json holds them."""
    summary = {}
    for name in table.names:
        rows = table.of(name)
        measured = [m for m in (*table.measures, "predicted_ml", "truth_ml") if m in rows[0]]
        found = means(rows, measured)
        summary[name] = {m: found[m] | {"median": _median(rows, m)} for m in measured} | {
            key: found[key] for key in ("images", "empty", "missed", "false_alarms")
        }
    classes = [row for row in by_patient(table.of(*table.rules.classes), table.rules.policy.empty)]
    return {
        "grid": table.grid,
        "examples": table.examples,
        "mean_dice": table.mean(),
        "pooled_dice": table.pooled_dice(),
        "scores": summary,
        "patients": detection(classes),
    }


def lines(table: Table) -> list[str]:
    """Return the figures of a table as text lines."""
    found, width = figures(table), max(len(name) for name in table.names)
    said = [f"scores on {table.grid} ({table.examples} examples, {table.seconds:.1f} s without the first)"]
    for name in table.names:
        one = found["scores"][name]
        there = means([row for row in table.of(name) if row["tp"] + row["fn"]], ("dice",))["dice"]["mean"]
        said.append(
            f"{name:<{width}}  mean   "
            + "  ".join(f"{m} {one[m]['mean']:.4f} +- {one[m]['std']:.4f}" for m in table.measures if m in one)
            + f" over n={one['dice']['n']}"
        )
        said.append(
            f"{'':<{width}}  {one['empty']} of {one['images']} empty in truth and prediction (scored as "
            f"{table.rules.policy.empty!r}), {one['missed']} missed, {one['false_alarms']} false alarms; dice of examples "
            f"with this structure {there:.4f}"
        )
    pooled = table.pooled()
    for k, name in enumerate(table.rules.classes):
        each = Counts(*(c[k] for c in pooled))
        said.append(
            f"{name:<{width}}  pooled "
            + "  ".join(
                f"{m} {float(rule(each)):.4f}"
                for m, rule in (*((m, scores.SCORES[m]) for m in MEASURES[:4]), ("specificity", scores.specificity))
            )
        )
    patients = found["patients"]
    said.append(
        f"patients: sensitivity {patients['sensitivity']:.4f} of {patients['positives']}, specificity "
        f"{patients['specificity']:.4f} of {patients['negatives']} (positive: at least one voxel, per class)"
    )
    if "hd95" in table.rows[0]:
        missed = table.rules.policy.missed
        said.append(
            "hd95 of a missed structure, or of a false alarm: "
            + ("the diagonal of its case's grid" if missed is None else f"{missed:g} mm (BraTS)")
        )
    for region in dict.fromkeys(row["Labels"] for row in table.lesions):
        rows = [row for row in table.lesions if row["Labels"] == region]
        said.append(
            f"{region:<{width}}  lesion-wise dice {np.mean([r['LesionWise_Score_Dice'] for r in rows]):.4f}  "
            f"hd95 {np.mean([r['LesionWise_Score_HD95'] for r in rows]):.4f} mm  "
            + " ".join(f"{key} {sum(r[f'Num_{key}'] for r in rows)}" for key in ("TP", "FP", "FN"))
        )
    return said


def report(
    own: Table | None,
    prepared: Table | None,
    *,
    head: Sequence[str],
    details: Sequence[str],
    facts: Mapping[str, Any],
    folder: Path | None,
    steps: Sequence = (),
    cascaded: Table | None = None,
    calibration: Histogram | None = None,
    note: str = "",
    show: Callable[[str], str] = str,
) -> str:
    """Return the printed report of an evaluation; with `folder`, write its files there.

    Args:
      own: scores on the cases' own grid; None for training targets without such a grid.
      prepared: scores on the network's grid, if it is another one.
      head, details: lines before and after the scores.
      facts: further entries of evaluation.json.
      folder: for evaluation.json, cases.csv, patients.csv, confusion.csv, calibration.csv, thresholds.csv, lesions.csv and
        prepared_cases.csv; None: write nothing.
      steps: the post-processing that was applied.
      cascaded: scores of the cascade on the cases' own grid.
      calibration: of the probabilities on the cases' own grid.
      note: appended to the headline.
      show: converts names of cases and patients for display.
    """
    named = lambda rows: [row | {key: show(row[key]) for key in ("case", "patient") if key in row} for row in rows]
    first, second = (own, prepared) if own is not None else (prepared, None)
    text = [*head, *lines(first)]
    text += [
        f"post-processing: {step['step']} {step['options']}, validation Dice {step['dice'][0]:.4f} -> {step['dice'][1]:.4f}"
        for step in steps
    ]
    if cascaded is not None:
        text += [
            "through the cascade:",
            *lines(cascaded),
            f"cascade: mean Dice {cascaded.mean():.4f}, sliding window {first.mean():.4f}",
        ]
    if calibration is not None:
        text += calibration_lines(calibration)
    text += [*(lines(second) if second is not None else ()), *details]
    text += [
        f"mean Dice of {', '.join(t.rules.headline)}: {t.mean():.4f} of {t.examples} on {t.grid}{note}"
        for t in (second, first)
        if t is not None
    ]
    text += [f"pooled foreground Dice {t.pooled_dice():.4f} on {t.grid}{note}" for t in (second, first) if t is not None]
    if folder is None:
        return "\n".join(text)
    content = {
        **facts,
        **figures(first),
        "loss": first.loss if second is None else second.loss,
        "empty_masks": first.rules.policy.record(),
        "postprocessing": list(steps),
        "prepared": figures(second) if second is not None else None,
        "confusion": None if first.confusion is None else first.confusion.tolist(),
    }
    if cascaded is not None:
        content["cascade"] = figures(cascaded)
    if calibration is not None:
        content["calibration"] = calibration.figures()
        classes = range(len(calibration.names))
        write_csv(folder / "calibration.csv", [row for k in classes for row in calibration.reliability(k)])
        write_csv(folder / "thresholds.csv", [row for k in classes for row in calibration.sweep(k)])
    write_csv(folder / "cases.csv", named(first.rows))
    write_csv(folder / "patients.csv", named(by_patient(first.of(*first.rules.classes), first.rules.policy.empty)))
    for name, table in (("prepared_cases.csv", second), ("cascade_cases.csv", cascaded)):
        if table is not None:
            write_csv(folder / name, named(table.rows))
    if first.lesions:
        write_csv(folder / "lesions.csv", named(first.lesions))
    if first.confusion is not None:
        classes = ("background", *first.rules.classes)
        write_csv(
            folder / "confusion.csv",
            [{"truth": name, **dict(zip(classes, row))} for name, row in zip(classes, first.confusion.tolist())],
        )
    write_json(folder / "evaluation.json", content)
    return "\n".join([*text, f"per-case figures in {folder / 'cases.csv'}"])


def calibration_lines(calibration: Histogram) -> list[str]:
    """Return the calibration errors as text lines."""
    return [
        f"calibration  {name}: expected calibration error {found['ece']:.4f} over all voxels, "
        f"{found['ece_of_likely']:.4f} over those with a probability of at least {SURE:g}"
        for name, found in calibration.figures().items()
    ]


def _median(rows: Sequence[Row], measure: str) -> float:
    values = [row[measure] for row in rows if not math.isnan(row[measure])]
    return float(np.median(values)) if values else math.nan
