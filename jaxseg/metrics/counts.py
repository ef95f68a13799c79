"""True and false positives and negatives per image and class, and the scores that are functions of them.

numpy arrays give numpy results (scores in float64), jax arrays give jax results (float32), also under jit. All cases of 0/0 are
defined here:

| image | dice, iou, f1, precision, recall | specificity |
|---|---|---|
| truth and prediction empty | the policy `empty`: "one" 1, "zero" 0, "nan" left out of means | TN / (TN + FP) = 1 |
| truth empty, prediction not (a false alarm) | 0; recall too, which would be 0/0 | TN / (TN + FP) |
| prediction empty, truth not (a miss) | 0; precision too, which would be 0/0 | 1 |
| truth fills the image | as computed | 1: no false alarm is possible |
| no voxel counted (weight 0) | NaN, whatever the policy | NaN |
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.types import LEFT_OUT, Array
from jaxseg.utils.lookup import lookup

FEW = 4  # classes that are compared one by one: fused passes; beyond, histograms compile and run faster
TOGETHER = 1 << 22  # voxels whose pairs of classes are counted at once by numpy
_EMPTY = {"one": 1.0, "zero": 0.0, "nan": float("nan")}


class Counts(NamedTuple):
    """Voxel counts, int32 [B, K'] over the foreground classes (scores accept any shape)."""

    tp: Array
    fp: Array
    fn: Array
    tn: Array


def count(prediction: Array, labels: Array, num_classes: int, weight: Array | None = None, *, left_out: bool = False) -> Counts:
    """Voxel counts of each image and foreground class.

    Args:
      prediction, labels: boolean or integer [B, *S].
      num_classes: K of the network. K = 1: one foreground class, every value > 0. K > 1: classes 1..K-1.
      weight: [B]; images of weight 0 (padding) have counts of 0 and scores of NaN.
      left_out: voxels whose label is LEFT_OUT are not counted; the others are.
    Returns:
      Counts, int32 [B, max(K - 1, 1)].
    Raises:
      ValueError: the shapes differ.
    """
    xp = namespace(prediction, labels)
    _check(prediction, labels)
    if left_out:
        there = annotated(labels)
        whole = count(xp.where(there, prediction, 0), xp.where(there, labels, 0), num_classes, weight)
        return without(whole, there if weight is None else there | (weight <= 0).reshape(-1, *[1] * (there.ndim - 1)))
    if num_classes == 1:
        counts = _compared(xp, [(prediction > 0, labels > 0)])
    elif num_classes <= FEW:
        counts = _compared(xp, [(prediction == k, labels == k) for k in range(1, num_classes)])
    else:
        counts = _binned(xp, prediction, labels, num_classes)
    if weight is None:
        return counts
    keep = (weight > 0)[:, None]
    return Counts(*(xp.where(keep, c, 0) for c in counts))


def annotated(labels: Array) -> Array:
    """Where voxels count, boolean [B, *S]: everywhere but at LEFT_OUT."""
    return labels != LEFT_OUT


def without(counts: Counts, there: Array) -> Counts:
    """Counts [B, K'] without the voxels that are not `there` (boolean [B, *S]) and were counted as true negatives."""
    xp = namespace(counts.tn)
    return counts._replace(tn=counts.tn - xp.sum(~there, axis=tuple(range(1, there.ndim)), dtype=xp.int32)[:, None])


def confusion(prediction: Array, labels: Array, num_classes: int, weight: Array | None = None) -> Array:
    """Confusion matrix [K, K] of all voxels of the batch: rows are the truth, columns the prediction.

    Args:
      prediction, labels: integer [B, *S] in 0..K-1; voxels with other values, such as LEFT_OUT, are left out.
      num_classes: K (2 for one logit).
      weight: [B]; images of weight 0 are left out.
    Returns:
      int64 for numpy, int32 for jax.
    """
    xp = namespace(prediction, labels)
    _check(prediction, labels)
    cells = num_classes * num_classes

    def index(guess: Array, truth: Array) -> Array:
        guess, truth = xp.asarray(guess, dtype=xp.int32), xp.asarray(truth, dtype=xp.int32)
        inside = (truth >= 0) & (truth < num_classes) & (guess >= 0) & (guess < num_classes)
        return xp.where(inside, truth * num_classes + guess, cells)

    if xp is jnp:
        found = index(prediction, labels)
        if weight is not None:
            found = jnp.where((weight > 0).reshape(-1, *[1] * (found.ndim - 1)), found, cells)
        return jnp.bincount(found.reshape(-1), length=cells + 1)[:cells].reshape(num_classes, num_classes)
    total = np.zeros(cells + 1, np.int64)
    for n, pair in enumerate(zip(prediction, labels)):
        guess, truth = (a.reshape(-1) for a in pair)
        for start in range(0, truth.size if weight is None or weight[n] > 0 else 0, TOGETHER):
            part = slice(start, start + TOGETHER)
            total += np.bincount(index(guess[part], truth[part]), minlength=cells + 1)
    return total[:cells].reshape(num_classes, num_classes)


def from_confusion(matrix: Array) -> Counts:
    """Counts [K] of every class, background included, from a confusion matrix [K, K] (rows truth, columns prediction)."""
    xp = namespace(matrix)
    tp = xp.diagonal(matrix)
    fp, fn = matrix.sum(0) - tp, matrix.sum(1) - tp
    return Counts(tp, fp, fn, matrix.sum() - tp - fp - fn)


def pool(counts: Counts) -> Counts:
    """Sum the counts over all images, numpy int64 [K'], for pooled ("micro") scores."""
    return Counts(*(np.asarray(c).sum(axis=0, dtype=np.int64) for c in counts))


def join(parts: list[Counts]) -> Counts:
    """Concatenate the counts of several batches, as numpy arrays."""
    return Counts(*(np.concatenate([np.asarray(c) for c in column]) for column in zip(*parts)))


def dice(counts: Counts, empty: str = "one") -> Array:
    """2 TP / (2 TP + FP + FN)."""
    tp, fp, fn, _ = _floats(counts)
    return _score(counts, 2 * tp, 2 * tp + fp + fn, empty)


def iou(counts: Counts, empty: str = "one") -> Array:
    """TP / (TP + FP + FN)."""
    tp, fp, fn, _ = _floats(counts)
    return _score(counts, tp, tp + fp + fn, empty)


def precision(counts: Counts, empty: str = "one") -> Array:
    """TP / (TP + FP); 0 for a miss."""
    tp, fp, _, _ = _floats(counts)
    return _score(counts, tp, tp + fp, empty)


def recall(counts: Counts, empty: str = "one") -> Array:
    """TP / (TP + FN), the sensitivity; 0 for a false alarm."""
    tp, _, fn, _ = _floats(counts)
    return _score(counts, tp, tp + fn, empty)


def f1(counts: Counts, empty: str = "one") -> Array:
    """2 P R / (P + R) with precision P and recall R, which equals Dice."""
    return dice(counts, empty)


def specificity(counts: Counts) -> Array:
    """TN / (TN + FP); 1 where the truth fills the image."""
    xp = namespace(counts.tp)
    _, fp, _, tn = _floats(counts)
    value = xp.where(tn + fp > 0, tn / xp.maximum(tn + fp, 1), 1.0)
    return xp.where(_voxels(counts) > 0, value, xp.nan)


SCORES = {"dice": dice, "iou": iou, "precision": precision, "recall": recall, "f1": f1}


def namespace(*arrays: Array):
    """jax.numpy if any of them is a jax array (traced or not), else numpy."""
    return jnp if any(isinstance(array, jax.Array) for array in arrays) else np


def empty_value(empty: str) -> float:
    """The score of an image with empty truth and empty prediction under the policy `empty`.

    Raises:
      ConfigError: the policy is not "one", "zero" or "nan".
    """
    return lookup("empty policy", empty, _EMPTY)


def _score(counts: Counts, numerator: Array, denominator: Array, empty: str) -> Array:
    xp = namespace(numerator)
    value = numerator / xp.maximum(denominator, 1)  # 0 where the denominator is 0: a miss or a false alarm
    value = xp.where(counts.tp + counts.fp + counts.fn > 0, value, empty_value(empty))
    return xp.where(_voxels(counts) > 0, value, xp.nan)


def _compared(xp, pairs: list[tuple[Array, Array]]) -> Counts:
    """Counts of (predicted, true) masks [B, *S], a pass each."""
    add = lambda mask: xp.sum(mask, axis=tuple(range(1, mask.ndim)), dtype=xp.int32)
    columns = [(add(p & t), add(p & ~t), add(~p & t), add(~p & ~t)) for p, t in pairs]
    return Counts(*(xp.stack(column, axis=-1) for column in zip(*columns)))


def _binned(xp, prediction: Array, labels: Array, num_classes: int) -> Counts:
    """Counts of the classes from three histograms: a program of one size, however many classes there are."""
    batch, image = len(prediction), xp.arange(len(prediction), dtype=xp.int32)[:, None]

    def histogram(values, where=True):
        values = xp.asarray(values.reshape(batch, -1), dtype=xp.int32)
        values = xp.where(where & (values > 0) & (values < num_classes), values, 0)  # 0 takes what is not counted
        cells = batch * num_classes
        index = (image * num_classes + values).reshape(-1)
        flat = np.bincount(index, minlength=cells) if xp is np else jnp.bincount(index, length=cells)
        return xp.asarray(flat.reshape(batch, num_classes)[:, 1:], dtype=xp.int32)

    same = (prediction == labels).reshape(batch, -1)
    tp, predicted, true = histogram(labels, same), histogram(prediction), histogram(labels)
    return Counts(tp, predicted - tp, true - tp, math.prod(labels.shape[1:]) - predicted - true + tp)


def _voxels(counts: Counts) -> Array:
    return counts.tp + counts.fp + counts.fn + counts.tn


def _floats(counts: Counts) -> tuple[Array, ...]:
    xp = namespace(counts.tp)
    return tuple(xp.asarray(c, dtype=xp.float32 if xp is jnp else xp.float64) for c in counts)


def _check(prediction: Array, labels: Array) -> None:
    if prediction.shape != labels.shape:
        raise ValueError(f"got a prediction of shape {prediction.shape} for labels {labels.shape}; the shapes must be equal")
