"""Scores of whole volumes by region (a union of classes, such as WT, TC and ET of BraTS) and by class.

Regions are ((name, classes), ...), for instance BRATS below, with classes in 1..K-1. The scores of empty masks are:

| masks | score | empty="one" | empty="nan" |
|---|---|---|---|
| truth and prediction empty | dice, iou, precision, recall / hd95 / nsd | 1 / 0 mm / 1 | NaN / NaN / NaN |
| one of them empty | dice, iou, precision, recall / hd95 / nsd | 0 / `missed` / 0 | 0 / `missed` / 0 |

`missed` is a length in mm; None: the diagonal of the volume's grid. BraTS 2023 uses 374 mm (`lesions.FAR`).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxseg.metrics import counts as _counts
from jaxseg.metrics import summarize
from jaxseg.metrics import surface as _surface
from jaxseg.metrics.counts import Counts, namespace
from jaxseg.types import LEFT_OUT, Array, ConfigError, Spacing
from jaxseg.utils.lookup import lookup

Regions = Sequence[tuple[str, Sequence[int]]]
BRATS: Regions = (("WT", (1, 2, 3)), ("TC", (1, 3)), ("ET", (3,)))  # classes: 1 necrosis, 2 oedema, 3 enhancing tumour
MOST_REGIONS = 12  # of one network: they have 4096 combinations

_OVERLAP = ("dice", "iou", "precision", "recall")
_DISTANCE = ("hd95", "nsd")
_SCORES = (*_OVERLAP, "specificity", *_DISTANCE)
_VOLUMES = ("predicted_ml", "truth_ml")


def region_masks(labels: Array, regions: Regions) -> Array:
    """Boolean masks [*S, R] of all regions from integer labels [*S]; a numpy array for numpy labels, a jax array for jax."""
    xp = namespace(labels)
    return xp.stack([xp.isin(labels, xp.asarray(classes)) for _, classes in regions], axis=-1)


def region_targets(labels: Array, regions: Regions) -> Array:
    """As `region_masks`, int32, with LEFT_OUT in all channels where the label is LEFT_OUT."""
    xp = namespace(labels)
    return xp.where((labels == LEFT_OUT)[..., None], LEFT_OUT, xp.asarray(region_masks(labels, regions), xp.int32))


def nested_order(regions: Regions) -> tuple[int, ...]:
    """The class that each region adds to the regions after it, (2, 1, 3) for BRATS; () if a region adds none or several."""
    own = [set(classes).difference(*(later for _, later in regions[i + 1 :])) for i, (_, classes) in enumerate(regions)]
    return tuple(k for classes in own for k in classes) if all(len(classes) == 1 for classes in own) else ()


def class_table(regions: Regions) -> tuple[int, ...]:
    """The class for every combination of R regions, 2**R numbers: entry c is for the regions whose bits are set in c.

    Where each region adds one class to the regions after it (nested regions), the last region that is present decides, whatever
    the others are (nnU-Net's rule: enhancing tumour before tumour core, tumour core before oedema). Otherwise a combination
    gives the class that lies in exactly these regions; if there is none, the class that lies in most of them and in no other.

    Raises:
      ConfigError: there are more than MOST_REGIONS, or two classes lie in the same regions, so that labels cannot be
        reconstructed from the regions.
    """
    if len(regions) > MOST_REGIONS:
        raise ConfigError(f"got {len(regions)} regions; must be at most {MOST_REGIONS}: name fewer in data.regions")
    order, codes = nested_order(regions), range(2 ** len(regions))
    if order:
        return tuple(max(((r, k) for r, k in enumerate(order) if code >> r & 1), default=(0, 0))[1] for code in codes)
    code_of = {k: sum(1 << r for r, (_, classes) in enumerate(regions) if k in classes) for _, named in regions for k in named}
    class_of: dict[int, int] = {0: 0}
    for k, code in sorted(code_of.items()):
        if code in class_of:
            inside = ", ".join(name for r, (name, _) in enumerate(regions) if code >> r & 1)
            raise ConfigError(
                f"classes {class_of[code]} and {k} lie in the same regions ({inside}), which therefore cannot tell them "
                "apart; add a region with only one of them to data.regions"
            )
        class_of[code] = k
    nearest = lambda code: max((c for c in class_of if c & ~code == 0), key=lambda c: (c.bit_count(), -class_of[c]))
    return tuple(class_of[nearest(code)] for code in codes)


def labels_from_regions(probabilities: Array, table: Sequence[int], threshold: float = 0.5) -> Array:
    """Labels from region probabilities: the class for the combination of regions whose probability exceeds the threshold.

    Args:
      probabilities: [*S, R], after the sigmoid.
      table: 2**R classes, see `class_table`.
      threshold: probability above which a region is present.
    Returns:
      uint8 [*S] (uint16 for classes above 255); a numpy array for numpy probabilities, a jax array for jax.
    Raises:
      ValueError: the table is for another number of regions.
    """
    count = probabilities.shape[-1]
    if len(table) != 2**count:
        raise ValueError(
            f"got a table of {len(table)} classes for {count} regions; must have {2**count}, one for each combination"
        )
    xp = namespace(probabilities)
    codes = xp.zeros(probabilities.shape[:-1], xp.uint16)
    for r in range(count):
        codes = codes | (xp.asarray(probabilities[..., r] > threshold, xp.uint16) << xp.uint16(r))
    return xp.asarray(table, xp.uint8 if max(table) < 256 else xp.uint16)[codes]


def region_counts(confusion: np.ndarray, regions: Regions) -> Counts:
    """Voxel counts [R] of every region, from a confusion matrix [K, K] of one or more volumes (rows are the truth)."""
    confusion = np.asarray(confusion, np.int64)
    columns = []
    for _, classes in regions:
        inside = np.isin(np.arange(len(confusion)), classes)
        columns.append(
            [
                int(confusion[np.ix_(t, p)].sum())
                for t, p in ((inside, inside), (~inside, inside), (inside, ~inside), (~inside, ~inside))
            ]
        )
    return Counts(*np.array(columns, np.int64).reshape(-1, 4).T)


def case_scores(
    prediction: np.ndarray,
    truth: np.ndarray,
    *,
    regions: Regions,
    classes: Sequence[str],
    spacing: Spacing,
    tolerance: float = 1.0,
    empty: str = "one",
    missed: float | None = None,
    surface: bool = True,
    subvoxel: bool = False,
    confusion: np.ndarray | None = None,
) -> dict[str, float]:
    """All scores of one volume as one flat row.

    Args:
      prediction, truth: integer labels [*S] in 0..K-1.
      regions: the regions, which come first in the row; () for none.
      classes: names of the classes 1..K-1. A region with the same name and voxels as a class is scored once.
      spacing: mm per voxel.
      tolerance: mm within which surfaces agree, for nsd.
      empty, missed: scores of empty masks, see above.
      surface: compute hd95 (mm) and nsd, which take most of the time.
      subvoxel: measure surfaces by area (deepmind, the BraTS 2023 tool) instead of by voxels (MONAI).
      confusion: the confusion matrix [K, K] of these labels, if the caller has it (`counts.confusion`).
    Returns:
      {f"{score}_{name}": value} for dice, iou, precision, recall, specificity, hd95, nsd, predicted_ml, truth_ml, tp, fp, fn
      of all regions and classes; and f"{score}_mean" over the regions (over the classes if there are no regions).
    Raises:
      ValueError: the shapes differ, or labels lie outside 0..K-1.
      ConfigError: a region has the name of a class but other voxels.
    """
    groups = _groups(regions, classes)
    lookup("empty policy", empty, _surface.EMPTY)
    if confusion is None:
        confusion = _counts.confusion(np.asarray(prediction)[None], np.asarray(truth)[None], len(classes) + 1)
    if confusion.sum() != truth.size:
        raise ValueError(
            f"{truth.size - confusion.sum()} voxels have labels outside 0..{len(classes)} in the truth or the "
            f"prediction; the classes are {', '.join(classes)}"
        )
    counts = region_counts(confusion, tuple(groups.items()))
    columns = {name: _counts.SCORES[name](counts, empty) for name in _OVERLAP} | {"specificity": _counts.specificity(counts)}
    if surface:
        box = _surface.bounding_box((prediction > 0) | (truth > 0))
        there = (counts.tp + counts.fp > 0) & (
            counts.tp + counts.fn > 0
        )  # the distance for an empty mask depends on the whole volume
        pairs = [
            _surfaces(
                prediction[box if both else ...],
                truth[box if both else ...],
                k,
                tolerance=tolerance,
                spacing=spacing,
                subvoxel=subvoxel,
                empty=empty,
                missed=missed,
            )
            for k, both in zip(groups.values(), there)
        ]
        columns |= dict(zip(_DISTANCE, zip(*pairs)))
    ml = math.prod(spacing) / 1000
    columns |= {"predicted_ml": (counts.tp + counts.fp) * ml, "truth_ml": (counts.tp + counts.fn) * ml}
    row = {f"{key}_{name}": float(column[i]) for i, name in enumerate(groups) for key, column in columns.items()}
    row |= {f"{key}_{name}": int(column[i]) for i, name in enumerate(groups) for key, column in zip(("tp", "fp", "fn"), counts)}
    averaged = len(regions) or len(classes)
    return row | {f"{key}_mean": _mean(column[:averaged]) for key, column in columns.items() if key in _SCORES}


def summarize_cases(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean, standard deviation and median over cases of every score in the rows of `case_scores`, f"{score}_mean" included.

    Returns:
      {key of a row: {"mean", "std" (population), "median", "n"}}; undefined scores (NaN) are left out of all four.
    """
    keys = [key for key in rows[0] if key.startswith(tuple(f"{score}_" for score in (*_SCORES, *_VOLUMES)))] if rows else []
    summary = {}
    for key, figures in summarize.means(rows, keys).items():
        if key in keys:
            values = np.array([row[key] for row in rows], float)
            values = values[~np.isnan(values)]
            summary[key] = figures | {"median": float(np.median(values)) if values.size else math.nan}
    return summary


def _groups(regions: Regions, classes: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """{name: classes} of regions and classes, regions first."""
    groups = {name: tuple(members) for name, members in regions}
    for k, name in enumerate(classes, start=1):
        if set(groups.get(name, (k,))) != {k}:
            raise ConfigError(
                f"region {name} has the classes {groups[name]}, but class {k} has the same name; rename one of them"
            )
        groups.setdefault(name, (k,))
    return groups


def _surfaces(prediction, truth, classes, **policies) -> tuple[float, float]:
    return _surface.hd95_and_nsd(np.isin(prediction, classes), np.isin(truth, classes), **policies)


def _mean(values: Sequence[float]) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    there = [v for v in values if not math.isnan(v)]
    return float(np.mean(there)) if there else math.nan
