"""Tables from the counts of single images: rows, means with their n, patients, detection rates, thresholds.

A row is a dict for one image and one class: case, patient, class, tp, fp, fn, tn, the scores of `counts.SCORES`, specificity,
and three flags that help to interpret a mean: empty (truth and prediction are empty), missed (the truth is not empty, but no
voxel of it was found) and false_alarm (the truth is empty, the prediction is not).
"""

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxseg.metrics import counts as _counts
from jaxseg.metrics.counts import SCORES, Counts
from jaxseg.types import Array, ConfigError
from jaxseg.utils.files import write_atomic

Row = dict[str, Any]  # names, counts, scores and flags by column
_COUNTED = ("tp", "fp", "fn", "tn")
_SCORED = (*SCORES, "specificity")
_FLAGS = {"empty": "empty", "missed": "missed", "false_alarm": "false_alarms"}  # flag of a row -> its count in a summary


def rows_of(
    counts: Counts, cases: Sequence[str], classes: Sequence[str], *, patients: Sequence[str] | None = None, empty: str = "one"
) -> list[Row]:
    """One row per image and class.

    Args:
      counts: [B, K'].
      cases: B names of images.
      classes: K' names of the foreground classes.
      patients: B names of patients; None: the names of the cases.
      empty: policy for empty images, see `counts`.
    Raises:
      ValueError: the numbers of names do not fit the counts.
    """
    counts = Counts(*(np.asarray(c) for c in counts))
    patients = cases if patients is None else patients
    if counts.tp.shape != (len(cases), len(classes)) or len(patients) != len(cases):
        raise ValueError(
            f"got counts of shape {counts.tp.shape} for {len(cases)} cases, {len(patients)} patients and "
            f"{len(classes)} classes; counts must be [cases, classes]"
        )
    scores = {name: score(counts, empty) for name, score in SCORES.items()} | {"specificity": _counts.specificity(counts)}
    rows = []
    for i, case in enumerate(cases):
        for k, name in enumerate(classes):
            tp, fp, fn, tn = (int(c[i, k]) for c in counts)
            rows.append(
                {"case": case, "patient": patients[i], "class": name, "tp": tp, "fp": fp, "fn": fn, "tn": tn}
                | {score: float(value[i, k]) for score, value in scores.items()}
                | {"empty": tp + fp + fn == 0, "missed": fn > 0 and tp == 0, "false_alarm": fp > 0 and tp + fn == 0}
            )
    return rows


def means(rows: Sequence[Row], scores: Sequence[str] = _SCORED) -> dict[str, Any]:
    """Means of scores over rows, with the number of values in each mean.

    Args:
      rows: rows of one class (or of all classes, for a mean over images and classes).
      scores: keys to average; NaN (an empty image under the policy "nan") is left out, infinite values are not.
    Returns:
      {score: {"mean", "std" (population), "n"} for each score, "images": number of rows, "empty", "missed", "false_alarms":
      numbers of rows with this flag}. Without any value the mean is NaN and n = 0.
    """
    summary: dict[str, object] = {}
    for score in scores:
        values = np.array([row[score] for row in rows], float)
        values = values[~np.isnan(values)]
        summary[score] = {
            "mean": float(values.mean()) if values.size else math.nan,
            "std": float(values.std()) if values.size else math.nan,
            "n": int(values.size),
        }
    summary["images"] = len(rows)
    return summary | {name: sum(bool(row[flag]) for row in rows) for flag, name in _FLAGS.items() if rows and flag in rows[0]}


def by_class(rows: Sequence[Row], scores: Sequence[str] = _SCORED) -> dict[str, dict[str, object]]:
    """`means` of each class, in the order of appearance."""
    return {name: means(group, scores) for name, group in _groups(rows, "class").items()}


def by_patient(rows: Sequence[Row], empty: str = "one") -> list[Row]:
    """One row per patient and class: the counts of all images of a patient (the slices of a volume) are summed.

    The Dice of such a row is the Dice of the whole volume; its column `images` is the number of summed rows.
    """
    result = []
    for name, group in _groups(rows, "class").items():
        patients = _groups(group, "patient")
        total = [np.array([[sum(int(r[c]) for r in p)] for p in patients.values()], np.int64) for c in _COUNTED]
        merged = rows_of(Counts(*total), list(patients), [name], empty=empty)
        result += [row | {"images": len(p)} for row, p in zip(merged, patients.values())]
    return result


def detection(rows: Sequence[Row]) -> dict[str, float]:
    """Detection rates: in how many rows with a non-empty truth any voxel of it was found, and how many others are without alarm.

    Use rows of images for rates per image, rows of `by_patient` for rates per patient.

    Returns:
      {"sensitivity", "positives", "specificity", "negatives"}; a rate without rows is NaN.
    """
    positive = [row for row in rows if row["tp"] + row["fn"] > 0]
    negative = [row for row in rows if row["tp"] + row["fn"] == 0]
    rate = lambda hits, total: sum(hits) / total if total else math.nan
    return {
        "sensitivity": rate((row["tp"] > 0 for row in positive), len(positive)),
        "positives": len(positive),
        "specificity": rate((row["fp"] == 0 for row in negative), len(negative)),
        "negatives": len(negative),
    }


def sweep(probabilities: Array, labels: Array, thresholds: Sequence[float], *, left_out: bool = False) -> Counts:
    """Counts at many thresholds, from one pass over the probabilities; a voxel is predicted if probability >= threshold.

    Args:
      probabilities: [B, *S], of the foreground; NaN is below every threshold.
      labels: [B, *S]; foreground = label > 0.
      thresholds: T numbers, in any order.
      left_out: voxels whose label is LEFT_OUT are not counted.
    Returns:
      Counts, int32 [T, B]; numpy arrays for numpy input, jax arrays for jax input (also under jit).
    """
    xp = _counts.namespace(probabilities, labels)
    if left_out:
        there = _counts.annotated(labels)
        whole = sweep(xp.where(there, probabilities, xp.nan), xp.where(there, labels, 0), thresholds)
        unknown = xp.sum(~there, axis=tuple(range(1, there.ndim)), dtype=xp.int32)
        return whole._replace(tn=whole.tn - unknown)
    batch, order = probabilities.shape[0], np.argsort(thresholds)
    limits = np.asarray(thresholds, probabilities.dtype)[order]
    p = xp.where(xp.isnan(probabilities), -xp.inf, probabilities).reshape(batch, -1).astype(limits.dtype)
    truth = xp.asarray(labels > 0, dtype=xp.int32).reshape(batch, -1)
    steps = xp.searchsorted(xp.asarray(limits), p, side="right")  # number of thresholds that p reaches, 0..T
    bins = limits.size + 1
    index = (steps + bins * (truth + 2 * xp.arange(batch)[:, None])).reshape(-1)
    size = 2 * bins * batch
    flat = np.bincount(index, minlength=size) if xp is np else jnp.bincount(index, length=size)
    histogram = xp.asarray(flat, dtype=xp.int32).reshape(batch, 2, bins)  # [B, truth, steps]
    reached = xp.flip(xp.cumsum(xp.flip(histogram, axis=-1), axis=-1, dtype=xp.int32), axis=-1)
    negative, positive = reached[:, 0, 0], reached[:, 1, 0]  # [B] voxels of each kind
    fp, tp = (reached[:, kind, 1:].T[np.argsort(order)] for kind in (0, 1))  # [T, B], in the caller's order
    return Counts(tp, fp, positive - tp, negative - fp)


def bootstrap(
    values: Sequence[float],
    *,
    seed: int = 0,
    samples: int = 1000,
    level: float = 0.95,
    groups: Sequence[str] | None = None,
    statistic: Callable = np.mean,
) -> tuple[float, float]:
    """Bootstrap confidence interval (percentiles) of a statistic of `values`.

    Args:
      values: one number per image; NaN is left out.
      seed: random seed of the resampling.
      samples: number of bootstrap samples.
      level: confidence level, between 0 and 1.
      groups: one name per value (the patient): whole groups are resampled, because slices of one patient are not independent.
      statistic: function of an array of values.
    Returns:
      (low, high); NaN if there are no values.
    Raises:
      ConfigError: the level is not between 0 and 1, or there are no samples.
    """
    if not 0 < level < 1 or samples < 1:
        raise ConfigError(f"got level={level}, samples={samples}; level must lie between 0 and 1, samples must be at least 1")
    numbers = np.asarray(values, float)
    names = np.arange(numbers.size) if groups is None else np.asarray(groups)
    numbers, names = numbers[~np.isnan(numbers)], names[~np.isnan(numbers)]
    if not numbers.size:
        return math.nan, math.nan
    members = [numbers[names == name] for name in np.unique(names)]
    random = np.random.default_rng(seed)
    draws = [
        statistic(np.concatenate([members[i] for i in random.integers(len(members), size=len(members))])) for _ in range(samples)
    ]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def write_csv(path: str | Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows as a CSV file (atomically); the columns are the keys in order of first appearance."""
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())


def _groups(rows: Iterable[Row], key: str) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return groups
