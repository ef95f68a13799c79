"""Causes of segmentation errors: every wrong voxel of an example is assigned to one cause.

The foreground (all classes together) of the truth and of the prediction is divided into connected components, with diagonal
neighbours. The causes of wrong voxels are:

- wrong class: the voxel is foreground in truth and prediction, but of different classes;
- missed: it belongs to a component of the truth that overlaps no prediction;
- false alarm: it belongs to a component of the prediction that overlaps no truth, and no other component of the prediction does;
- fragment: it belongs to a component of the prediction that overlaps no truth, but another component does;
- boundary: all others, which lie at the boundary of a structure that was found.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from jaxseg.metrics import surface

CAUSES = ("missed", "false alarm", "fragment", "boundary", "wrong class")
SHARE = 0.2  # fraction of the wrong voxels from which a cause is named beside the main one


class Mistakes(NamedTuple):
    """The wrong voxels of an example by cause.

    Attributes:
      voxels: number of wrong voxels for each of CAUSES.
      border: number of wrong voxels whose component (of truth and prediction together) touches the border of the image.
    """

    voxels: tuple[int, ...]
    border: int

    @property
    def wrong(self) -> int:
        """Number of wrong voxels."""
        return sum(self.voxels)

    @property
    def main(self) -> str:
        """The most frequent cause; "" if no voxel is wrong."""
        return CAUSES[int(np.argmax(self.voxels))] if self.wrong else ""

    @property
    def named(self) -> tuple[str, ...]:
        """The main cause, the others with a fraction of at least SHARE, and "touching the border" if that fraction does."""
        least = SHARE * self.wrong
        ordered = sorted(range(len(CAUSES)), key=lambda i: -self.voxels[i])
        causes = tuple(CAUSES[i] for i in ordered if self.voxels[i] and self.voxels[i] >= least)
        return causes + (("touching the border",) if self.border and self.border >= least else ())

    def record(self) -> dict[str, Any]:
        """The counts and causes as columns of a table."""
        columns = {name.replace(" ", "_"): count for name, count in zip(CAUSES, self.voxels)}
        return {"reason": self.main, "wrong": self.wrong, **columns, "at_border": self.border}


def mistakes(labels: np.ndarray, truth: np.ndarray) -> Mistakes:
    """Count the wrong voxels of one example by cause.

    Args:
      labels, truth: integer classes [*S], 0 is background; `labels` is the prediction.
    """
    if not (labels != truth).any():
        return Mistakes((0,) * len(CAUSES), 0)
    box = surface.bounding_box((labels > 0) | (truth > 0))
    ends = [(part.start == 0, part.stop == size) for part, size in zip(box, truth.shape)]
    labels, truth = labels[box], truth[box]
    predicted, there, wrong = labels > 0, truth > 0, labels != truth
    found = np.zeros(len(CAUSES), np.int64)
    found[4] = np.count_nonzero(wrong & predicted & there)
    untouched = _pieces_without(there, predicted)
    stray = _pieces_without(predicted, there)
    found[0] = np.count_nonzero(untouched)
    found[2 if (predicted & there).any() else 1] = np.count_nonzero(stray)
    found[3] = np.count_nonzero(wrong) - found.sum()
    pieces, count = _components(predicted | there)
    at_edge = np.zeros(count + 1, bool)
    for axis, (first, last) in enumerate(ends):
        for reaches, index in ((first, 0), (last, -1)):
            if reaches and truth.shape[axis] > 1:  # the slice axis of a single slice has no border
                at_edge[np.unique(np.take(pieces, index, axis))] = True
    at_edge[0] = False
    return Mistakes(tuple(int(n) for n in found), int(np.count_nonzero(wrong & at_edge[pieces])))


def _pieces_without(mask: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The components of a mask that do not overlap `other`."""
    pieces, count = _components(mask)
    touched = np.zeros(count + 1, bool)
    touched[np.unique(pieces[other])] = True
    touched[0] = True
    return ~touched[pieces]


def _components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    return ndimage.label(mask, np.ones((3,) * mask.ndim))
