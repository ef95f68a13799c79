"""Why a segmentation is wrong: every wrong voxel of an example is put down to one cause.

The pieces of truth and of prediction are the connected components of all their foreground together, with diagonal neighbours.
The causes, and which wrong voxels they take:

- wrong class: foreground in both, of different classes;
- missed: of a piece of truth that no prediction touches;
- false alarm: of a piece of prediction that touches no truth, in an example where no piece does;
- fragment: the same, where another piece does touch the truth;
- boundary: all others, which lie at the edge of what was found.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from jaxseg.metrics import surface

CAUSES = ("missed", "false alarm", "fragment", "boundary", "wrong class")
SHARE = 0.2  # of the wrong voxels that makes a cause worth naming beside the main one


class Mistakes(NamedTuple):
    """The wrong voxels of an example by cause.

    Attributes:
      voxels: by cause, in the order of CAUSES.
      border: of how many of them the piece, truth and prediction together, reaches the edge of the image.
    """

    voxels: tuple[int, ...]
    border: int

    @property
    def wrong(self) -> int:
        """How many voxels are wrong."""
        return sum(self.voxels)

    @property
    def main(self) -> str:
        """The cause of most wrong voxels; "" where none is wrong."""
        return CAUSES[int(np.argmax(self.voxels))] if self.wrong else ""

    @property
    def named(self) -> tuple[str, ...]:
        """The main cause, then the others with a share of at least SHARE, and whether the edge of the image takes part."""
        least = SHARE * self.wrong
        ordered = sorted(range(len(CAUSES)), key=lambda i: -self.voxels[i])
        causes = tuple(CAUSES[i] for i in ordered if self.voxels[i] and self.voxels[i] >= least)
        return causes + (("touching the border",) if self.border and self.border >= least else ())

    def record(self) -> dict[str, Any]:
        """As columns of a table."""
        columns = {name.replace(" ", "_"): count for name, count in zip(CAUSES, self.voxels)}
        return {"reason": self.main, "wrong": self.wrong, **columns, "at_border": self.border}


def mistakes(labels: np.ndarray, truth: np.ndarray) -> Mistakes:
    """The wrong voxels of one example.

    Args:
      labels, truth: integer classes [*S], 0 is background.
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
            if reaches and truth.shape[axis] > 1:  # a single slice has no edge across itself
                at_edge[np.unique(np.take(pieces, index, axis))] = True
    at_edge[0] = False
    return Mistakes(tuple(int(n) for n in found), int(np.count_nonzero(wrong & at_edge[pieces])))


def _pieces_without(mask: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The components of a mask in which `other` has no voxel."""
    pieces, count = _components(mask)
    touched = np.zeros(count + 1, bool)
    touched[np.unique(pieces[other])] = True
    touched[0] = True
    return ~touched[pieces]


def _components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    return ndimage.label(mask, np.ones((3,) * mask.ndim))
