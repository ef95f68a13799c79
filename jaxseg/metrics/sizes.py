"""How much of each structure an image holds: voxels, volume or area, and the mean of the image's own values inside."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def measured(
    labels: np.ndarray, images: Mapping[str, np.ndarray], groups: Mapping[str, Sequence[int]], *, affine: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """A row for each group of labels.

    Args:
      labels: integers [*S], in the axis order of the image's file.
      images: channel -> values [*S], in the file's own unit (HU for CT).
      groups: name -> its labels, which count together.
      affine: 4 x 4, voxel index -> mm; None where the image has no millimetres (photographs).
    Returns:
      Rows {"structure", "voxels", "volume_ml", "area_mm2", "mean_intensity" (with several channels "mean_intensity_<channel>")}.
      The volume is of scans; the area of scans that are a single slice across their third axis; a mean over no voxel, and what
      cannot be known, is None.
    Raises:
      ValueError: arrays of other shapes.
    """
    for name, image in images.items():
        if image.shape != labels.shape:
            raise ValueError(f"got labels of shape {labels.shape} and channel {name!r} of {image.shape}; they must be equal")
    ml = mm2 = None
    if affine is not None:
        steps = np.asarray(affine, np.float64)[:3, :3]
        ml = abs(float(np.linalg.det(steps))) / 1000
        if labels.ndim == 3 and labels.shape[2] == 1:
            mm2 = float(np.linalg.norm(np.cross(steps[:, 0], steps[:, 1])))
    columns = {f"mean_intensity_{name}" if len(images) > 1 else "mean_intensity": image for name, image in images.items()}
    highest = max([int(labels.max(initial=0)), *(k for members in groups.values() for k in members)])
    flat = labels.ravel()
    counts = np.bincount(flat, minlength=highest + 1)
    sums = {column: np.bincount(flat, image.ravel(), highest + 1) for column, image in columns.items()}  # in float64
    rows = []
    for name, members in groups.items():
        chosen = sorted(set(members))
        voxels = int(counts[chosen].sum())
        rows.append(
            {
                "structure": name,
                "voxels": voxels,
                "volume_ml": None if ml is None else voxels * ml,
                "area_mm2": None if mm2 is None else voxels * mm2,
                **{column: float(total[chosen].sum()) / voxels if voxels else None for column, total in sums.items()},
            }
        )
    return rows
