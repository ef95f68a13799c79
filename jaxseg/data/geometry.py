"""Convert a file's axis order to slices or volumes in a common order, and back without changing any value.

Common order is LPS: slices run from the feet to the head, rows from the front to the back, columns from the patient's
right to the left, so that a slice shown as an image is upright with the patient's right on the image's left. Volumes have
the same three directions in the order columns, rows, slices: X, Y, Z. Slices can also be coronal or sagittal (PLANES). Networks
that were trained on volumes in another order (nnU-Net uses the file's own) name it in `Recipe.orientation` (ORIENTATIONS).
"""

import dataclasses
import functools
import itertools

import numpy as np

from jaxseg.data.records import Photo, Volume
from jaxseg.types import DataError
from jaxseg.utils.lookup import lookup

ORIENTATIONS = ("lps", "ras", "file")  # of a volume's axes: LPS, the same axes with the first two reversed, as stored
PLANES = {  # of slices: what follows from slice to slice, row to row, column to column, as directions in RAS
    "axial": np.array([[0, 0, 1], [0, -1, 0], [-1, 0, 0]], np.float64),  # Z, Y, X: feet to head, front to back, right to left
    "coronal": np.array([[0, -1, 0], [0, 0, -1], [-1, 0, 0]], np.float64),  # front to back, head to feet, right to left
    "sagittal": np.array([[-1, 0, 0], [0, 0, -1], [0, -1, 0]], np.float64),  # right to left, head to feet, front to back
}
_THIN = 8  # times fewer voxels along an axis than along the others: no axis of a picture
_COARSE = 2.0  # times larger voxels along an axis: the one along which slices were acquired


@dataclasses.dataclass(frozen=True)
class Orientation:
    """The mapping from a file's axes to slices, rows and columns (`to_slices`; axial: Z, Y, X) or to X, Y, Z (`to_volume`).

    Attributes:
      axes: the file's axis for each axis of the common order; () for a photograph.
      flips: for each axis of the common order, whether the file's axis runs in the opposite direction.
      shape: the file's spatial shape, [X, Y, Z] or [H, W] (a photograph as a volume has a third axis of 1).
      spacing: distance in mm along each axis of the common order; (1, 1, 1) for a photograph.
    """

    axes: tuple[int, ...]
    flips: tuple[bool, ...]
    shape: tuple[int, ...]
    spacing: tuple[float, float, float]

    def restore(self, array: np.ndarray) -> np.ndarray:
        """Return a view of three axes in the common order (and K) in the file's order, [X, Y, Z(, K)] or [H, W(, K)]."""
        whole = (*self.shape, 1)[:3]
        expected = tuple(whole[a] for a in self.axes) if self.axes else (1, *self.shape)
        if array.shape[:3] != expected or array.ndim > 4:
            raise ValueError(f"got an array of shape {array.shape}; this orientation takes {expected} and an optional last axis")
        if not self.axes:
            return array[0]
        flipped = array[tuple(slice(None, None, -1 if f else 1) for f in self.flips)]
        restored = flipped.transpose(*np.argsort(self.axes), *range(3, array.ndim))
        return restored if len(self.shape) == 3 else restored[:, :, 0]

    def file_index(self, index: int) -> int:
        """Return the index of slice `index` along the file's axis that became the first (`axes[0]`; 0 for a photograph)."""
        if not self.axes:
            return 0
        return self.shape[self.axes[0]] - 1 - index if self.flips[0] else index


def to_slices(volume: Volume, plane: str = "axial") -> tuple[np.ndarray, Orientation]:
    """Return the volume as slices in the common order, and the orientation that restores the file's order.

    An oblique volume is not resampled: each of its axes is assigned to the nearest direction of the body, all different.

    Args:
      volume: array [X, Y, Z] or [X, Y, Z, C]; for photographs [H, W] or [H, W, C].
      plane: one of PLANES; "" means axial, but refuses volumes that are too thin for axial slices.
    Returns:
      (a view [Z, Y, X] or [Z, Y, X, C], or in another plane [slices, rows, columns(, C)] as PLANES says; [1, H, W] or
      [1, H, W, C] for photographs, Orientation).
    Raises:
      DataError: DATA_PLANE for a volume that is thin in its axial plane, DATA_IMAGE for a photograph in a plane.
    """
    array = volume.array
    if isinstance(volume.header, Photo) or array.ndim == 2:
        if plane not in ("", "axial"):
            raise DataError(f"{volume.path}: a picture has no {plane} plane; leave data.plane at ''", "DATA_IMAGE")
        return array[None], Orientation((), (), array.shape[:2], (1.0, 1.0, 1.0))
    if array.ndim not in (3, 4):
        raise ValueError(f"got a volume of shape {array.shape}; must be [X, Y, Z] or [X, Y, Z, C]")
    axes, flips, spacing = nearest_axes(volume.affine, plane or "axial")
    moved = array.transpose(*axes, *range(3, array.ndim))
    slices = moved[tuple(slice(None, None, -1 if f else 1) for f in flips)]
    better = "" if plane else _acquired(slices.shape[:3], spacing)
    if better:
        raise DataError(
            f"{volume.path}: its axial slices have {slices.shape[1]} x {slices.shape[2]} pixels of {spacing[1]:.3g} x "
            f"{spacing[2]:.3g} mm, because it was acquired in {better} slices; set data.plane={better!r}, or data.plane='axial' "
            "to use axial slices anyway",
            "DATA_PLANE",
        )
    return slices, Orientation(axes, flips, array.shape[:3], spacing)


def _acquired(shape: tuple[int, ...], spacing: tuple[float, ...]) -> str:
    """Return the plane in which a volume was acquired if its axial slices [Z, Y, X] are too thin, else ""."""
    for axis, plane in ((1, "coronal"), (2, "sagittal")):
        others = [a for a in range(3) if a != axis]
        fewer = min(shape[a] for a in others) / shape[axis]
        coarser = spacing[axis] / max(spacing[a] for a in others)
        if fewer >= _THIN or fewer > 1 and coarser >= _COARSE:
            return plane
    return ""


def to_volume(volume: Volume, orientation: str = "lps") -> tuple[np.ndarray, Orientation]:
    """Return the volume in the common order, and the orientation that restores the file's order.

    Args:
      volume: array [X, Y, Z] or [X, Y, Z, C] with an affine.
      orientation: one of ORIENTATIONS. "ras": the first two axes run in the opposite direction. "file": the file's own axes; a
        photograph is then [W, H, 1] with pixels of 1 mm and a thickness of 999 mm, as in nnU-Net.
    Returns:
      (a view [X, Y, Z] or [X, Y, Z, C]: from the patient's right to the left, front to back, feet to head; Orientation).
    Raises:
      DataError: the volume is a photograph, and the orientation is not "file" (DATA_IMAGE).
      ConfigError: an unknown orientation.
    """
    lookup("value of data.orientation", orientation, dict.fromkeys(ORIENTATIONS))
    slices, turned = to_slices(volume)
    if not turned.axes and orientation == "file":
        return np.swapaxes(slices[0], 0, 1)[:, :, None], Orientation((1, 0, 2), (False,) * 3, turned.shape, (1.0, 1.0, 999.0))
    if not turned.axes:
        raise DataError(
            f"{volume.path}: is a picture of shape {volume.array.shape}; a network of rank 3 needs volumes (NIfTI files or DICOM "
            "series), for pictures choose a config with data.rank=2",
            "DATA_IMAGE",
        )
    axes, flips, spacing = turned.axes[::-1], turned.flips[::-1], turned.spacing[::-1]
    if orientation == "file":
        x, y, z = (spacing[axes.index(a)] for a in range(3))
        return volume.array, Orientation((0, 1, 2), (False,) * 3, turned.shape, (x, y, z))
    moved = slices.transpose(2, 1, 0, *range(3, slices.ndim))
    if orientation == "ras":
        moved, flips = moved[::-1, ::-1], (not flips[0], not flips[1], flips[2])
    return moved, Orientation(axes, flips, turned.shape, (spacing[0], spacing[1], spacing[2]))


def cut(volume: Volume, slab: tuple[int, ...]) -> Volume:
    """Return the part (first, end) of a volume along the file's third axis, at its position in space; () is the whole volume."""
    if not slab:
        return volume
    first, end = slab
    affine = volume.affine.copy()
    affine[:3, 3] += first * affine[:3, 2]
    return dataclasses.replace(volume, array=volume.array[:, :, first:end], affine=affine)


def nearest_axes(
    affine: np.ndarray, plane: str = "axial"
) -> tuple[tuple[int, ...], tuple[bool, ...], tuple[float, float, float]]:
    """For slices, rows and columns of a plane (axial: Z, Y, X): the file's axes, whether each is reversed, and spacings (mm).

    Of the six possible assignments the one with the largest sum of squared cosines is chosen; the first of equal ones.
    """
    return _nearest_axes(np.asarray(affine, np.float64)[:3, :3].tobytes(), plane)


@functools.lru_cache(256)  # the images of a case, and often all cases, have one
def _nearest_axes(content: bytes, plane: str):
    columns = np.frombuffer(content).reshape(3, 3)
    lengths = np.linalg.norm(columns, axis=0)
    cosines = PLANES[plane] @ (columns / lengths)  # [target, axis of the file]
    fit = lambda order: round(sum(cosines[t, a] ** 2 for t, a in enumerate(order)), 9)
    axes = max(itertools.permutations(range(3)), key=fit)
    flips = tuple(bool(cosines[t, a] < 0) for t, a in enumerate(axes))
    z, y, x = (float(lengths[a]) for a in axes)
    return axes, flips, (z, y, x)
