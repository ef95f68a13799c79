"""Scores exactly as four published projects define them, for comparison with their tables; computed from numpy counts."""

from collections.abc import Sequence

import numpy as np

from jaxseg.metrics import counts as _counts
from jaxseg.metrics.counts import Counts, from_confusion, pool
from jaxseg.types import Array


def ich_per_image(counts: Counts) -> dict[str, np.ndarray]:
    """The haemorrhage project's IoU, Dice, precision and recall of each image, with TP = 0 replaced by 1e-6.

    If truth and prediction are empty, all four are therefore 1; a miss has precision 1 and recall ~ 0, a false alarm has
    precision ~ 0 and recall 1.
    """
    tp, fp, fn, _ = (np.asarray(c, np.float64) for c in counts)
    tp = np.where(tp == 0, 1e-6, tp)
    return {
        "iou": tp / (tp + fp + fn),
        "dice": 2 * tp / (2 * tp + fp + fn),
        "precision": tp / (tp + fp),
        "recall": tp / (tp + fn),
    }


def ich_scores(counts: Counts) -> dict[str, float]:
    """Means of `ich_per_image` over all images and classes, as in the haemorrhage project's tables."""
    return {name: float(values.mean()) for name, values in ich_per_image(counts).items()}


def effisegnet_scores(counts: Counts) -> dict[str, float]:
    """EffiSegNet's scores from the counts of one class, [B, 1].

    Dice and IoU are means over the images whose truth is not empty (false alarms in other images are ignored). Precision and
    recall are pooled over all pixels. F1 is 2 P R / (P + R) of these two.
    """
    counts = Counts(*(np.asarray(c) for c in counts))
    there = counts.tp + counts.fn > 0
    mean = lambda values: float(values[there].mean()) if there.any() else float("nan")
    pooled = pool(Counts(*(c.reshape(-1) for c in counts)))
    p, r = float(_counts.precision(pooled, "zero")), float(_counts.recall(pooled, "zero"))
    return {
        "dice": mean(_counts.dice(counts)),
        "iou": mean(_counts.iou(counts)),
        "precision": p,
        "recall": r,
        "f1": 2 * p * r / (p + r) if p + r else 0.0,
    }


def class_table(confusion: Array, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """The BraTS 2-D project's table: recall, specificity, F1 and precision of every class, background included.

    Args:
      confusion: [K, K] of all test pixels, rows truth, columns prediction.
      names: K names, background first.
    Returns:
      {name: {"recall", "specificity", "f1", "precision"}} rounded to 4 digits, and "Col Ave": the mean of the unrounded
      columns over all K classes, rounded. A class that is absent and not predicted has scores of 0.
    """
    counts = from_confusion(np.asarray(confusion))
    columns = {
        "recall": _counts.recall(counts, "zero"),
        "specificity": _counts.specificity(counts),
        "f1": _counts.f1(counts, "zero"),
        "precision": _counts.precision(counts, "zero"),
    }
    table = {name: {key: round(float(column[k]), 4) for key, column in columns.items()} for k, name in enumerate(names)}
    return table | {"Col Ave": {key: round(float(column.mean()), 4) for key, column in columns.items()}}


def left_right_scores(counts: Counts) -> dict[str, float]:
    """The lung project's Dice, 2 TP / (2 TP + FP + FN + 1e-6), from the counts [B, 2] of classes 1 (image-left) and 2.

    It is 1 where truth and prediction are empty; the mean over images of each class is taken, then the mean of the two classes.
    """
    tp, fp, fn, _ = (np.asarray(c, np.float64) for c in counts)
    values = np.where(tp + fp + fn == 0, 1.0, 2 * tp / (2 * tp + fp + fn + 1e-6)).mean(0)
    return {"left": float(values[0]), "right": float(values[1]), "mean": float(values.mean())}
