"""From a fingerprint to nnU-Net's configurations: spacing, normalisation, patch, batch and network, by its rules.

Planned are 3d_fullres and 2d. Whether nnU-Net would add 3d_lowres, the first of its cascade, is found out, because it decides the
Dice of 3d_fullres; it is not planned. Sizes are in the order of the network's axes, which is the fingerprint's with the coarsest
axis first.

Source: MIC-DKFZ/nnUNet, nnunetv2/experiment_planning/experiment_planners/default_experiment_planner.py.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxseg.data.prepare import canvas
from jaxseg.planning import topology as shapes
from jaxseg.planning.fingerprint import Fingerprint
from jaxseg.types import ConfigError, DataError

FIRST_WIDTH = 32
MOST_WIDTH = {2: 512, 3: 320}  # by the number of axes
LARGEST_PATCH = {2: 2048**2, 3: 256**3}  # pixels, voxels: where the search begins
REFERENCE = {2: (85e6, 12), 3: (560e6, 2)}  # feature values and batch that fit REFERENCE_GB
REFERENCE_GB = 8.0
SMALLEST_BATCH = 2
BATCH_SHARE = 0.05  # of the data set's voxels, at most, in a batch
MASKED = 3 / 4  # z-scores are those of what is not 0, where the median scan has less than this share of it
LOWRES = 0.25  # share of the median volume that a patch covers, below which a coarser configuration is looked for
STEP = 1.03  # by which its spacing grows


class Network(NamedTuple):
    """One configuration.

    Attributes:
      spacing: mm.
      median: voxels of the median case at that spacing.
      patch: voxels.
      batch: patches.
      widths: channels of the stages; their strides and kernels.
      batch_dice: whether the Dice loss is that of the whole batch.
      shrunk: whether the patch had to be made smaller for the memory.
    """

    spacing: tuple[float, ...]
    median: tuple[float, ...]
    patch: tuple[int, ...]
    batch: int
    widths: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    batch_dice: bool
    shrunk: bool


class DataPlan(NamedTuple):
    """What nnU-Net would do.

    Attributes:
      forward: the fingerprint's axes in the network's order.
      coarse: whether the coarsest axis has the 10th percentile of its spacings instead of the median.
      rules: data.intensity of each channel, now with the scan's zeros left out where they are many.
      median_kept: median share of a scan that is not 0.
      volumes: 3d_fullres; None for pictures and volumes of one slice.
      planes: 2d.
      lowres: patch of 3d_lowres; None where nnU-Net has none.
    """

    forward: tuple[int, ...]
    coarse: bool
    rules: tuple[str, ...]
    median_kept: float
    volumes: Network | None
    planes: Network
    lowres: tuple[int, ...] | None


def make(found: Fingerprint, *, rules: Sequence[str], outputs: int, memory_gb: float = REFERENCE_GB) -> DataPlan:
    """Plan for a data set.

    Args:
      rules: data.intensity of each channel, by its name (`intensity.rule_by_name`).
      outputs: of the network: classes with background, or regions and one more.
      memory_gb: GPU memory that training may take, in nnU-Net's estimate.
    Raises:
      ConfigError: no patch is small enough for the memory.
      DataError: images that are too small for a U-Net.
    """
    if found.pictures:
        wanted, coarse, forward = np.ones(2), False, (0, 1)
    else:
        wanted, coarse = target_spacing(found)
        coarsest = int(np.argmax(wanted))
        forward = (coarsest, *(axis for axis in range(3) if axis != coarsest))
    resampled = np.array([_resampled(shape, spacing, wanted) for shape, spacing in zip(found.shapes, found.spacings)])
    median, spacing = np.median(resampled, 0)[list(forward)], wanted[list(forward)]
    one = functools.partial(_network, outputs=outputs, memory_gb=memory_gb)
    total = float(np.prod(median)) * len(found)
    flat = one(spacing[-2:], median[-2:], total)._replace(batch_dice=True)
    volumes = lowres = None
    if not found.pictures and median[0] != 1:
        volumes = one(spacing, median, total)
        lowres = _lowres(volumes, len(found), one)
        volumes = volumes._replace(batch_dice=lowres is not None)
    kept = float(np.median(found.kept))
    if kept < MASKED and not found.pictures:
        rules = [rule + "_nonzero" * (rule == "zscore") for rule in rules]
    return DataPlan(forward, coarse, tuple(rules), kept, volumes, flat, lowres)


def target_spacing(found: Fingerprint) -> tuple[np.ndarray, bool]:
    """(mm along the fingerprint's axes, whether the coarsest axis has not its median).

    It is the median. Where one axis is more than 3 times as coarse as the others and has fewer than a third of their voxels, it
    gets its 10th percentile, but nothing finer than the others: coarse scans are interpolated rather than fine ones thinned out.
    """
    wanted, size = np.percentile(found.spacings, 50, 0), np.percentile(found.shapes, 50, 0)
    axis, ratio = int(np.argmax(wanted)), canvas.ANISOTROPIC
    others = [a for a in range(len(wanted)) if a != axis]
    coarsest_other = max(wanted[others])
    if not (wanted[axis] > ratio * coarsest_other and size[axis] * ratio < min(size[others])):
        return wanted, False
    low = np.percentile(found.spacings[:, axis], 10)
    wanted[axis] = low if low >= coarsest_other else coarsest_other + 1e-5
    return wanted, True


def _resampled(shape: Sequence[int], spacing: Sequence[float], wanted: Sequence[float]) -> list[int]:
    return [round(s / w * n) for s, w, n in zip(spacing, wanted, shape)]


def _network(spacing: np.ndarray, median: np.ndarray, total: float, *, outputs: int, memory_gb: float) -> Network:
    """The largest patch that fits, and the batch that then fits.

    Args:
      spacing, median: of the axes that the network sees.
      total: voxels of the data set.
    """
    axes = len(spacing)
    reference, batch = REFERENCE[axes]
    reference *= memory_gb / REFERENCE_GB
    fine = 1 / np.asarray(spacing)
    largest = [round(n) for n in fine * (LARGEST_PATCH[axes] / np.prod(fine)) ** (1 / axes)]
    now, shrunk = shapes.topology(spacing, [min(n, m) for n, m in zip(largest, median)]), False
    values = lambda now: shapes.feature_values(now, _widths(now), outputs)
    while len(now.strides) > 1 and values(now) / batch * 2 > reference:
        relative = [n / m for n, m in zip(now.patch, median)]
        axis = int(np.argsort(relative, kind="stable")[-1])
        shrunk, smaller = True, list(now.patch)
        # Less by what the shorter patch has to be a multiple of: 256 with 6 halvings becomes 224, which 5 allow, and not 192
        smaller[axis] -= now.multiples[axis]
        step = shapes.topology(spacing, smaller).multiples[axis]
        smaller[axis] += now.multiples[axis] - step
        now = shapes.topology(spacing, smaller)
    if len(now.strides) == 1:
        if shrunk:
            raise ConfigError(f"config.plan.memory_gb={memory_gb}: no patch of two stages fits; give more")
        raise DataError(
            f"the median image has {' x '.join(str(round(n)) for n in median)} voxels; a U-Net needs "
            f"{3 * shapes.SMALLEST} along an axis, or {2 * shapes.SMALLEST} along two of like spacing",
            "DATA_GEOMETRY",
        )
    fits = round(reference / values(now) * batch)
    most = round(total * BATCH_SHARE / math.prod(now.patch))
    plain = lambda numbers: tuple(map(float, numbers))
    return Network(
        plain(spacing),
        plain(median),
        now.patch,
        max(min(fits, most), SMALLEST_BATCH),
        _widths(now),
        now.strides,
        now.kernels,
        batch_dice=False,
        shrunk=shrunk,
    )


def _widths(now: shapes.Topology) -> tuple[int, ...]:
    return tuple(min(FIRST_WIDTH * 2**i, MOST_WIDTH[len(now.patch)]) for i in range(len(now.strides)))


def _lowres(full: Network, cases: int, one) -> tuple[int, ...] | None:
    """The patch of 3d_lowres: the spacing grows, first along the finer axes, until a patch covers a quarter of the median volume.
    None where it covers that at full resolution, or where the coarser volume is not half as large.
    """
    spacing, median, patch = np.array(full.spacing), np.array(full.median), full.patch
    voxels = whole = float(np.prod(median))
    while math.prod(patch) / voxels < LOWRES:
        fine = max(spacing) / spacing > shapes.NEAR
        spacing = spacing * np.where(fine | ~fine.any(), STEP, 1.0)
        coarser = np.array(full.spacing) / spacing * median
        voxels = float(np.prod(coarser))
        patch = one(spacing, np.round(coarser), voxels * cases).patch
    return patch if whole / voxels >= 2 else None
