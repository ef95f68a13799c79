"""Per class: the number of images that have it, its total size, and a histogram of its sizes."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np


class Classes:
    """Counts the classes 1..K over prepared masks.

    Args:
      labels: names of the classes.
      unit: "pixels", or "ml" for volumes.
    """

    def __init__(self, labels: Sequence[str], unit: str):
        self._labels, self._unit = labels, unit
        self._images, self._total = 0, np.zeros(len(labels))
        self._sizes: list[Counter] = [Counter() for _ in labels]  # lower end of a bin -> images whose amount lies in it

    def add(self, counts: np.ndarray, each: float = 1.0) -> None:
        """Add an image.

        Args:
          counts: [K], the number of pixels or voxels of each class.
          each: size of one pixel or voxel, in the unit.
        """
        self._images += 1
        self._total += counts * each
        for k in np.flatnonzero(counts):
            self._sizes[k][lower_end(float(counts[k]) * each)] += 1

    def merge(self, other: "Classes") -> None:
        """Add the images of another object for the same classes."""
        self._images, self._total = self._images + other._images, self._total + other._total
        for sizes, more in zip(self._sizes, other._sizes):
            sizes.update(more)

    def lines(self) -> list[str]:
        """Return a table: per class the images with and without it, its total, and how many images have 1 to 3, 3 to 10, ..."""
        ends = sorted(set().union(*self._sizes))
        steps = list(_between(ends[0], ends[-1])) if ends else []
        rows = [("class", "with", "without", self._unit, *(f"{'from ' * (i == 0)}{end:g}" for i, end in enumerate(steps)))]
        for name, sizes, total in zip(self._labels, self._sizes, self._total):
            n = sum(sizes.values())
            rows.append(
                (
                    name,
                    n,
                    self._images - n,
                    f"{total:.4g}" if self._unit == "ml" else round(total),
                    *(sizes[end] for end in steps),
                )
            )
        widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
        return [
            "  ".join([str(row[0]).ljust(widths[0]), *(str(v).rjust(w) for v, w in zip(row[1:], widths[1:]))]) for row in rows
        ]


def lower_end(amount: float) -> float:
    """Return the largest of ..., 0.3, 1, 3, 10, 30, ... that is not above an amount > 0."""
    decade = 10.0 ** math.floor(math.log10(amount) + 1e-12)
    return round(decade * (3 if amount >= 3 * decade * (1 - 1e-9) else 1), 12)


def _between(low: float, high: float):
    """Yield the lower ends from one to another."""
    while low <= high * (1 + 1e-9):
        yield low
        low = lower_end(low * 3.4)
