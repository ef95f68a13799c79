"""Lesion-wise Dice and HD95 of BraTS 2023: all lesions have the same weight, whatever their size, and so has every false alarm.

Lesions of the truth are its 26-connected components, joined where their dilations touch. A lesion is compared with the union of
all predicted components that overlap its dilation, by Dice and HD95. Lesions of at most `threshold` mm^3 are left out. Predicted
components that overlap no lesion's dilation are false alarms, whatever their size, with Dice 0 and HD95 374 mm. A score is the
mean over lesions and false alarms.

Source: rachitsaluja/BraTS-2023-Metrics, metrics.py. The source dilates every joined lesion again; here the components of the
dilated truth are used directly, with the same result, because the dilation of a union is the union of dilations. Differs from
the source in the specificity where the truth fills the volume: 1 here, 0 there.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from jaxseg.metrics import counts as _counts
from jaxseg.metrics import surface
from jaxseg.metrics.regions import BRATS, Regions, region_masks
from jaxseg.ops.components import api as components
from jaxseg.types import Spacing
from jaxseg.utils.lookup import lookup

FAR = 374.0  # mm, the HD95 of a lesion that was missed and of a false alarm


class Challenge(NamedTuple):
    """The parameters of a BraTS 2023 challenge for joining and leaving out lesions."""

    dilation: int  # steps of 18-neighbour dilation (isotropic in voxels)
    threshold: float  # mm^3; lesions of at most this volume are left out


CHALLENGES = {
    "GLI": Challenge(3, 50),  # adult glioma
    "SSA": Challenge(3, 50),  # Sub-Saharan Africa
    "MEN": Challenge(1, 50),  # meningioma
    "PED": Challenge(3, 50),  # paediatric
    "MET": Challenge(1, 2),  # metastases
}


class Lesion(NamedTuple):
    """One lesion of the truth."""

    volume: float  # mm^3
    predicted: tuple[int, ...]  # numbers of the predicted components that belong to it; (): it was missed
    dice: float
    hd95: float  # mm


def match(prediction: np.ndarray, truth: np.ndarray, *, spacing: Spacing, dilation: int) -> tuple[list[Lesion], int]:
    """All lesions of the truth, whatever their size, and the number of predicted components that belong to no lesion.

    Args:
      prediction, truth: boolean [X, Y, Z].
      spacing: mm per voxel.
      dilation: number of dilation steps, see `Challenge`.
    """
    prediction, truth = np.asarray(prediction, bool), np.asarray(truth, bool)
    if not (prediction.any() or truth.any()):
        return [], 0
    box = surface.bounding_box(prediction | truth, dilation)
    prediction, truth = prediction[box], truth[box]
    near = ndimage.generate_binary_structure(truth.ndim, min(2, truth.ndim))
    zones = components.label(ndimage.binary_dilation(truth, near, iterations=dilation) if dilation else truth, truth.ndim)
    parts = components.label(prediction, truth.ndim)
    count, found = int(zones.max()), int(parts.max())
    pairs = np.unique(zones[prediction].astype(np.int64) * (found + 1) + parts[prediction])
    zone_of, part_of = np.divmod(pairs, found + 1)
    boxes, part_boxes = ndimage.find_objects(zones), ndimage.find_objects(parts)
    lesions = []
    for zone in range(1, count + 1):
        members = part_of[zone_of == zone]
        box = _union([boxes[zone - 1], *(part_boxes[part - 1] for part in members)])
        lesion, guess = truth[box] & (zones[box] == zone), np.isin(parts[box], members)
        volume = int(lesion.sum())
        dice = 2 * int((lesion & guess).sum()) / (volume + int(guess.sum()))
        distance = surface.hd95(guess, lesion, spacing, subvoxel=True, missed=FAR)
        lesions.append(Lesion(volume * float(np.prod(spacing)), tuple(members.tolist()), dice, distance))
    matched = np.unique(part_of[zone_of > 0])
    return lesions, found - len(matched)


def lesion_scores(
    prediction: np.ndarray, truth: np.ndarray, *, spacing: Spacing, dilation: int, threshold: float
) -> dict[str, float]:
    """The row of the BraTS 2023 tool for one region.

    Args:
      prediction, truth: boolean [X, Y, Z].
      spacing: mm per voxel.
      dilation, threshold: see `Challenge`.
    Returns:
      The tool's columns in its order, without "Labels". "Legacy" scores are those of the whole region; volumes are in mm^3.
      Without any lesion or false alarm Dice is 1 and HD95 is 0.
    """
    prediction, truth = np.asarray(prediction, bool), np.asarray(truth, bool)
    lesions, alarms = match(prediction, truth, spacing=spacing, dilation=dilation)
    counted = [lesion for lesion in lesions if lesion.volume > threshold]
    hits = sum(bool(lesion.predicted) for lesion in counted)
    shares = len(counted) + alarms
    whole = _counts.count(prediction[None], truth[None], 1)
    return {
        "Num_TP": hits,
        "Num_FP": alarms,
        "Num_FN": len(counted) - hits,
        "Sensitivity": float(_counts.recall(whole).item()),
        "Specificity": float(_counts.specificity(whole).item()),
        "Legacy_Dice": float(_counts.dice(whole).item()),
        "Legacy_HD95": surface.hd95(prediction, truth, spacing, subvoxel=True, missed=FAR),
        "GT_Complete_Volume": int(truth.sum()) * float(np.prod(spacing)),
        "LesionWise_Score_Dice": sum(lesion.dice for lesion in counted) / shares if shares else 1.0,
        "LesionWise_Score_HD95": (sum(lesion.hd95 for lesion in counted) + FAR * alarms) / max(shares, 1),
    }


def lesion_rows(
    prediction: np.ndarray, truth: np.ndarray, *, spacing: Spacing, challenge: str = "GLI", regions: Regions = BRATS
) -> list[dict[str, object]]:
    """The table of the BraTS 2023 tool for one case: a row for each region, with the region's name as "Labels".

    Args:
      prediction, truth: integer labels [X, Y, Z].
      spacing: mm per voxel.
      challenge: a name in CHALLENGES.
    Raises:
      ConfigError: there is no such challenge.
    """
    rule = lookup("BraTS challenge", challenge, CHALLENGES)
    guess, there = (region_masks(np.asarray(labels), regions) for labels in (prediction, truth))
    return [
        {"Labels": name, **lesion_scores(guess[..., r], there[..., r], spacing=spacing, **rule._asdict())}
        for r, (name, _) in enumerate(regions)
    ]


def _union(boxes: Sequence[tuple[slice, ...]]) -> tuple[slice, ...]:
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes))
