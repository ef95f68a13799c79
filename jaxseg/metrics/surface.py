"""Distances between the surfaces of two masks, in mm: Hausdorff, its 95th percentile, mean, normalised surface Dice.

They are computed on the host, for boolean masks [*S] of one object (2-D or 3-D). The surface of a mask consists of its voxels
with a face neighbour outside the mask (voxels at the image's border included) or, with `subvoxel`, of the elements of `surfels`,
weighted by their area.

If both masks are empty, `empty` decides: "one": distance 0 and nsd 1; "nan": both NaN. If one mask is empty, nsd is 0 and the
distance is `missed` (mm); None: the diagonal of the masks' grid, the largest possible distance. BraTS 2023 uses "one" and
374 mm, MONAI "nan" and infinity (its HD95 of one empty mask is NaN: inf - inf inside torch.quantile).
"""

import math

import numpy as np
from scipy import ndimage

from jaxseg.metrics import surfels
from jaxseg.types import Spacing
from jaxseg.utils.lookup import lookup

EMPTY = {"one": (0.0, 1.0), "nan": (math.nan, math.nan)}  # policy -> distance and nsd of two empty masks


def surface_distances(prediction: np.ndarray, truth: np.ndarray, spacing: Spacing | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Distance (mm) of every surface voxel of the prediction to the truth's surface, and vice versa.

    Args:
      prediction, truth: boolean (or 0/1) [*S].
      spacing: mm per voxel of each axis; None: 1.
    Returns:
      Two float64 arrays; infinite if the other mask is empty.
    Raises:
      ValueError: the shapes differ, or the spacing has another length.
    """
    (to_truth, _), (to_prediction, _) = _directed(prediction, truth, spacing, subvoxel=False)
    return to_truth, to_prediction


def hd(
    prediction: np.ndarray,
    truth: np.ndarray,
    spacing: Spacing | None = None,
    *,
    percentile: float = 100.0,
    pooled: bool = False,
    subvoxel: bool = False,
    empty: str = "one",
    missed: float | None = None,
) -> float:
    """Hausdorff distance (mm): the larger of the two directed percentiles.

    Args:
      percentile: 100 for the maximum.
      pooled: take one percentile of the distances of both directions together (seg-metrics, the BraTS 3-D project).
      subvoxel: take the smallest distance within which `percentile` % of a surface's area lie (deepmind, the BraTS 2023 tool),
        instead of the interpolated percentile of its voxels.
      empty, missed: results for empty masks, see above.
    """
    fallback = _of_empty(prediction, truth, spacing, empty, missed)
    if fallback is not None:
        return fallback
    both = _directed(prediction, truth, spacing, subvoxel)
    if pooled:
        both = (tuple(np.concatenate(parts) for parts in zip(*both)),)
    return _largest_percentile(both, percentile, subvoxel)


def hd95(
    prediction: np.ndarray,
    truth: np.ndarray,
    spacing: Spacing | None = None,
    *,
    pooled: bool = False,
    subvoxel: bool = False,
    empty: str = "one",
    missed: float | None = None,
) -> float:
    """`hd` at the 95th percentile."""
    return hd(prediction, truth, spacing, percentile=95.0, pooled=pooled, subvoxel=subvoxel, empty=empty, missed=missed)


def hd95_and_nsd(
    prediction: np.ndarray,
    truth: np.ndarray,
    tolerance: float,
    spacing: Spacing | None = None,
    *,
    subvoxel: bool = False,
    empty: str = "one",
    missed: float | None = None,
) -> tuple[float, float]:
    """`hd95` and `nsd` of the same masks, with distances computed only once."""
    fallback = _of_empty(prediction, truth, spacing, empty, missed)
    if fallback is not None:
        return fallback, nsd(prediction, truth, tolerance, spacing, subvoxel=subvoxel, empty=empty)
    both = _directed(prediction, truth, spacing, subvoxel)
    return _largest_percentile(both, 95.0, subvoxel), _share_within(both, tolerance)


def directed_means(
    prediction: np.ndarray,
    truth: np.ndarray,
    spacing: Spacing | None = None,
    *,
    subvoxel: bool = False,
    empty: str = "one",
    missed: float | None = None,
) -> tuple[float, float]:
    """Mean distances (mm) from prediction to truth and from truth to prediction, weighted by area with `subvoxel`."""
    fallback = _of_empty(prediction, truth, spacing, empty, missed)
    if fallback is not None:
        return fallback, fallback
    first, second = _directed(prediction, truth, spacing, subvoxel)
    there, back = (float(np.average(d, weights=area)) for d, area in (first, second))
    return there, back


def assd(
    prediction: np.ndarray, truth: np.ndarray, spacing: Spacing | None = None, *, empty: str = "one", missed: float | None = None
) -> float:
    """Average symmetric surface distance (mm): the mean over the surface voxels of both masks."""
    fallback = _of_empty(prediction, truth, spacing, empty, missed)
    return float(np.concatenate(surface_distances(prediction, truth, spacing)).mean()) if fallback is None else fallback


def nsd(
    prediction: np.ndarray,
    truth: np.ndarray,
    tolerance: float,
    spacing: Spacing | None = None,
    *,
    subvoxel: bool = False,
    empty: str = "one",
) -> float:
    """Normalised surface Dice: the fraction of both surfaces that lies within `tolerance` mm of the other one.

    Args:
      subvoxel: measure surfaces by area (length in 2-D) instead of by counting voxels.
    """
    nothing = lookup("empty policy", empty, EMPTY)[1]
    if not (np.any(prediction) or np.any(truth)):
        return nothing
    return _share_within(_directed(prediction, truth, spacing, subvoxel), tolerance)


def bounding_box(mask: np.ndarray, margin: int = 0) -> tuple[slice, ...]:
    """The bounding box of a boolean mask, enlarged by `margin` voxels within the image; an empty box for an empty mask."""
    found = ndimage.find_objects(mask.astype(np.uint8)) or [(slice(0, 0),) * mask.ndim]
    return tuple(slice(max(s.start - margin, 0), s.stop + margin) if s.stop else s for s in found[0])


def _largest_percentile(both, percentile: float, by_area: bool) -> float:
    if not by_area:
        return max(float(np.percentile(d, percentile)) for d, _ in both)
    found = []
    for distances, areas in both:
        order = np.argsort(distances)
        reached = np.cumsum(areas[order]) / areas.sum()
        found.append(float(distances[order][min(np.searchsorted(reached, percentile / 100), len(order) - 1)]))
    return max(found)


def _share_within(both, tolerance: float) -> float:
    return float(sum(area[d <= tolerance].sum() for d, area in both) / sum(area.sum() for _, area in both))


def _directed(prediction, truth, spacing, subvoxel: bool):
    """(distances, areas) of the prediction's surface elements to the truth's, and the same from truth to prediction."""
    prediction, truth, spacing = _checked(prediction, truth, spacing)
    box = bounding_box(prediction | truth)
    points = surfels.elements if subvoxel else _edge_voxels
    (p, area_p), (t, area_t) = (points(mask[box], spacing) for mask in (prediction, truth))
    return (_nearest(p, t), area_p), (_nearest(t, p), area_t)


def _edge_voxels(mask: np.ndarray, spacing: Spacing) -> tuple[np.ndarray, np.ndarray]:
    """Positions (mm) [N, rank] of the surface voxels, and 1 for each."""
    where = np.argwhere(mask & ~ndimage.binary_erosion(mask))
    return where * np.asarray(spacing, float), np.ones(len(where))


def _nearest(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    if not len(others) or not len(points):
        return np.full(len(points), math.inf)
    from scipy.spatial import cKDTree  # a quarter of a second, which every command would wait for

    return cKDTree(others).query(points)[0]


def _checked(prediction, truth, spacing) -> tuple[np.ndarray, np.ndarray, Spacing]:
    prediction, truth = np.asarray(prediction, bool), np.asarray(truth, bool)
    if prediction.shape != truth.shape or prediction.ndim not in (2, 3):
        raise ValueError(f"got masks of shapes {prediction.shape} and {truth.shape}; the shapes must be equal, with 2 or 3 axes")
    spacing = (1.0,) * truth.ndim if spacing is None else tuple(float(s) for s in spacing)
    if len(spacing) != truth.ndim or not all(0 < s < math.inf for s in spacing):
        raise ValueError(f"got spacing={spacing} for masks of shape {truth.shape}; must be {truth.ndim} positive numbers (mm)")
    return prediction, truth, spacing


def _of_empty(prediction, truth, spacing, empty: str, missed: float | None) -> float | None:
    """The distance if a mask is empty; None if neither is."""
    both = lookup("empty policy", empty, EMPTY)[0]
    prediction, truth, spacing = _checked(prediction, truth, spacing)
    there = bool(prediction.any()), bool(truth.any())
    if all(there):
        return None
    if not any(there):
        return both
    return math.hypot(*(n * s for n, s in zip(truth.shape, spacing))) if missed is None else float(missed)
