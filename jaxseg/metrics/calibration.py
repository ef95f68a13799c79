"""Calibration of probabilities, and scores at other thresholds, from histograms of the predicted probability.

One histogram with BINS bins gives the expected calibration error (Guo 2017, Naeini 2015), the reliability diagram, and the Dice
at every threshold that is an edge of a bin. Classes (or regions) are treated separately: p is the probability of the class, and
a voxel is positive where the truth has this class.

Nearly all voxels of a medical image are clearly background, so that the error over all voxels is always small. The error over
the voxels with a probability of at least SURE is therefore given too.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

BINS = 100
SUMS = ("voxels", "positives", "total", "dice", "scored")  # arrays of a histogram
SURE = 0.01  # voxels with a lower probability are clearly background; must be an edge of a bin


class Histogram:
    """Histogram of voxels over the predicted probability.

    Args:
      names: names of the K' classes or regions.

    Attributes:
      voxels, positives: int64 [K', BINS], the number of all voxels and of positive voxels.
      total: float64 [K', BINS], the sum of the probabilities.
      dice: float64 [K', BINS], the sum over the examples of the Dice at threshold i / BINS.
      scored: int64 [K', BINS], the number of examples in `dice`.
    """

    def __init__(self, names: Sequence[str]):
        self.names = tuple(names)
        self.voxels, self.positives, self.scored = (np.zeros((len(names), BINS), np.int64) for _ in range(3))
        self.total, self.dice = (np.zeros((len(names), BINS)) for _ in range(2))

    def add(self, k: int, probabilities: np.ndarray, positive: np.ndarray, *, empty: float = 1.0) -> None:
        """Add one example of class `k`.

        Args:
          k: index of the class.
          probabilities: float [*S].
          positive: boolean [*S], the truth.
          empty: Dice of an empty prediction of an empty truth; NaN leaves the example out.
        """
        p, y = np.ravel(probabilities), np.ravel(positive)
        likely = p >= SURE  # the others, nearly all, need no binning
        voxels, positives, total = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64), np.zeros(BINS)
        some, there = p[likely].astype(np.float64), y[likely]
        index = np.minimum((some * BINS + 1e-6).astype(np.int64), BINS - 1)  # 1e-6: 0.07 in float32 must not fall below the edge
        voxels += np.bincount(index, minlength=BINS)
        positives += np.bincount(index[there], minlength=BINS)
        total += np.bincount(index, some, BINS)
        voxels[0] += p.size - some.size
        positives[0] += int(np.count_nonzero(y)) - int(np.count_nonzero(there))
        total[0] += float(p.sum(dtype=np.float64)) - float(some.sum())
        self.voxels[k] += voxels
        self.positives[k] += positives
        self.total[k] += total
        dice = _dice(voxels, positives)
        dice = np.where(np.isnan(dice), empty, dice)
        self.dice[k] += np.nan_to_num(dice)
        self.scored[k] += ~np.isnan(dice)

    def state(self) -> dict[str, Any]:
        """The sums in a JSON-able form, which `of` adds over several processes."""
        return {name: getattr(self, name).tolist() for name in SUMS}

    @classmethod
    def of(cls, names: Sequence[str], states: Sequence[dict[str, Any]]) -> "Histogram":
        """The sum of the histograms of several processes, from their `state`."""
        whole = cls(names)
        for name in SUMS:
            setattr(whole, name, np.sum([np.asarray(state[name]) for state in states], 0))
        return whole

    def error(self, k: int, *, bins: int = 10, sure: bool = False) -> float:
        """Expected calibration error of class `k`.

        This is the sum over bins of the fraction of voxels in the bin times |mean p - fraction of positives|.

        Args:
          k: index of the class.
          bins: number of bins of equal width; a divisor of BINS.
          sure: use only voxels with a probability of at least SURE.
        """
        first = 1 if sure else 0
        columns = [column[k].copy() for column in (self.voxels, self.positives, self.total)]
        for column in columns:
            column[:first] = 0
        voxels, positives, total = (column.reshape(bins, -1).sum(1) for column in columns)
        return float(np.abs(total - positives).sum() / voxels.sum()) if voxels.sum() else math.nan

    def reliability(self, k: int, *, bins: int = 10) -> list[dict[str, Any]]:
        """A row for each bin that has voxels: low, high, voxels, mean probability, fraction of positives."""
        voxels, positives, total = (c[k].reshape(bins, -1).sum(1) for c in (self.voxels, self.positives, self.total))
        return [
            {
                "class": self.names[k],
                "low": i / bins,
                "high": (i + 1) / bins,
                "voxels": int(voxels[i]),
                "probability": float(total[i] / voxels[i]),
                "positives": float(positives[i] / voxels[i]),
            }
            for i in range(bins)
            if voxels[i]
        ]

    def sweep(self, k: int) -> list[dict[str, Any]]:
        """A row for each threshold i / BINS: tp, fp, fn, the Dice of all voxels together, and its mean over the examples."""
        tp, reached = (np.cumsum(c[k][::-1])[::-1] for c in (self.positives, self.voxels))
        pooled, there = _dice(self.voxels[k], self.positives[k]), self.positives[k].sum()
        return [
            {
                "class": self.names[k],
                "threshold": i / BINS,
                "tp": int(tp[i]),
                "fp": int(reached[i] - tp[i]),
                "fn": int(there - tp[i]),
                "pooled_dice": float(pooled[i]),
                "mean_dice": float(self.dice[k, i] / self.scored[k, i]) if self.scored[k, i] else math.nan,
            }
            for i in range(1, BINS)
        ]

    def figures(self) -> dict[str, dict[str, float]]:
        """For each class both calibration errors, and the threshold with the largest pooled Dice (of all voxels together)."""
        found = {}
        for k, name in enumerate(self.names):
            rows = self.sweep(k)
            known = [row for row in rows if not math.isnan(row["pooled_dice"])]
            best = max(known, key=lambda row: row["pooled_dice"], default=None)
            found[name] = {"ece": self.error(k), "ece_of_likely": self.error(k, sure=True)}
            found[name] |= {f"best_{key}": best[key] if best else math.nan for key in ("threshold", "pooled_dice")}
        return found


def _dice(voxels: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """Dice with the lower edge of every bin as threshold; NaN where truth and prediction are empty."""
    tp, reached = (np.cumsum(c[::-1])[::-1] for c in (positives, voxels))
    both = reached + positives.sum()
    return np.divide(2.0 * tp, both, out=np.full(len(both), math.nan), where=both > 0)
