"""From a file's axis order to slices in one common order, and back without changing a bit.

Common order is LPS: slices run from the feet to the head, rows from the front to the back, columns from the patient's
right to the left, so that a slice shown as an image is upright with the patient's right on the image's left.
"""

import dataclasses
import itertools

import numpy as np

from jaxseg.data.records import Volume

_TARGET = np.array([[0, 0, 1], [0, -1, 0], [-1, 0, 0]], np.float64)  # Z, Y, X as directions in RAS


@dataclasses.dataclass(frozen=True)
class Photo:
    """The `Volume.header` of a photograph: an image without a position in space.

    Attributes:
      kind: "PNG", "JPEG" or "TIFF".
    """

    kind: str


@dataclasses.dataclass(frozen=True)
class Orientation:
    """How the axes of a file became Z, Y, X.

    Attributes:
      axes: for each of Z, Y, X the file's axis; () for a photograph.
      flips: for each of Z, Y, X whether the file runs the other way.
      shape: the file's spatial shape, [X, Y, Z] or [H, W].
      spacing: (slice, row, column) distance in mm; (1, 1, 1) for a photograph.
    """

    axes: tuple[int, ...]
    flips: tuple[bool, ...]
    shape: tuple[int, ...]
    spacing: tuple[float, float, float]

    def restore(self, slices: np.ndarray) -> np.ndarray:
        """[Z, Y, X(, K)] in the common order -> the file's own order [X, Y, Z(, K)] or [H, W(, K)] (a view)."""
        expected = tuple(self.shape[a] for a in self.axes) if self.axes else (1, *self.shape)
        if slices.shape[:3] != expected or slices.ndim > 4:
            raise ValueError(f"got slices of shape {slices.shape}; this orientation takes {expected} and an optional last axis")
        if not self.axes:
            return slices[0]
        flipped = slices[tuple(slice(None, None, -1 if f else 1) for f in self.flips)]
        return flipped.transpose(*np.argsort(self.axes), *range(3, slices.ndim))

    def file_index(self, index: int) -> int:
        """The index of slice `index` along the axis of the file that became Z (`axes[0]`; 0 for a photograph)."""
        if not self.axes:
            return 0
        return self.shape[self.axes[0]] - 1 - index if self.flips[0] else index


def to_slices(volume: Volume) -> tuple[np.ndarray, Orientation]:
    """The volume as slices in the common order, and the way back.

    An oblique volume keeps its own axes: each goes to the direction of the body that it is nearest to, no two to one.

    Args:
      volume: array [X, Y, Z] or [X, Y, Z, C]; for photographs [H, W] or [H, W, C].
    Returns:
      (a view [Z, Y, X] or [Z, Y, X, C]; [1, H, W] or [1, H, W, C] for photographs, Orientation).
    """
    array = volume.array
    if isinstance(volume.header, Photo) or array.ndim == 2:
        return array[None], Orientation((), (), array.shape[:2], (1.0, 1.0, 1.0))
    if array.ndim not in (3, 4):
        raise ValueError(f"got a volume of shape {array.shape}; must be [X, Y, Z] or [X, Y, Z, C]")
    axes, flips, spacing = nearest_axes(volume.affine)
    moved = array.transpose(*axes, *range(3, array.ndim))
    slices = moved[tuple(slice(None, None, -1 if f else 1) for f in flips)]
    return slices, Orientation(axes, flips, array.shape[:3], spacing)


def nearest_axes(affine: np.ndarray) -> tuple[tuple[int, ...], tuple[bool, ...], tuple[float, float, float]]:
    """For Z, Y, X: (axis of the file, whether it runs the other way, its spacing in mm).

    Of the six assignments the one with the largest sum of squared cosines is taken; the first of equals.
    """
    columns = np.asarray(affine, np.float64)[:3, :3]
    lengths = np.linalg.norm(columns, axis=0)
    cosines = _TARGET @ (columns / lengths)  # [target Z Y X, axis of the file]
    fit = lambda order: round(sum(cosines[t, a] ** 2 for t, a in enumerate(order)), 9)
    axes = max(itertools.permutations(range(3)), key=fit)
    flips = tuple(bool(cosines[t, a] < 0) for t, a in enumerate(axes))
    return axes, flips, tuple(float(lengths[a]) for a in axes)
