"""Choose nnU-Net's configurations for a fingerprint: spacing, normalisation, patch, batch and network, by nnU-Net's rules.

3d_fullres, 2d and, where a patch of 3d_fullres is a small part of a volume, 3d_lowres: the first stage of nnU-Net's cascade. Its
second stage is 3d_fullres beside the first one's labels. Sizes are in the order of the network's axes: the fingerprint's axes
with the coarsest first.

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
STAGE_AUGMENT = (("stage_morphology", 0.4, {}), ("stage_drop", 0.2, {}))  # of a cascade's second stage, after all others


class Network(NamedTuple):
    """One configuration of nnU-Net.

    Attributes:
      spacing: voxel size, mm.
      median: size of the median case at that spacing, voxels.
      patch: patch size, voxels.
      batch: number of patches in a batch.
      widths, strides, kernels: channels, strides and kernel sizes of the stages.
      batch_dice: whether the Dice loss is computed over the whole batch.
      shrunk: whether the patch was made smaller to fit into memory.
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
    """The plan that nnU-Net would make.

    Attributes:
      forward: the fingerprint's axes in the network's order.
      coarse: whether the coarsest axis gets the 10th percentile of its spacings instead of the median.
      rules: data.intensity of each channel; zeros are excluded if they are a large part of the scans.
      median_kept: median fraction of a scan inside the box around its non-zero voxels.
      volumes: 3d_fullres; None for pictures and volumes of one slice.
      planes: 2d.
      lowres: 3d_lowres; None if nnU-Net would not plan it.
    """

    forward: tuple[int, ...]
    coarse: bool
    rules: tuple[str, ...]
    median_kept: float
    volumes: Network | None
    planes: Network
    lowres: Network | None


def make(
    found: Fingerprint, *, rules: Sequence[str], outputs: int, memory_gb: float = REFERENCE_GB, width: int = FIRST_WIDTH
) -> DataPlan:
    """Make the plan for a data set.

    Args:
      found: the fingerprint.
      rules: data.intensity of each channel, chosen by its name (`intensity.rule_by_name`).
      outputs: number of the network's outputs: classes with background, or regions plus one.
      memory_gb: GPU memory that training may use, by nnU-Net's estimate.
      width: channels of the first stage.
    Raises:
      ConfigError: no patch is small enough for the memory.
      DataError: the images are too small for a U-Net.
    """
    if found.pictures:
        wanted, coarse, forward = np.ones(2), False, (0, 1)
    else:
        wanted, coarse = target_spacing(found)
        coarsest = int(np.argmax(wanted))
        forward = (coarsest, *(axis for axis in range(3) if axis != coarsest))
    resampled = np.array([_resampled(shape, spacing, wanted) for shape, spacing in zip(found.shapes, found.spacings)])
    median, spacing = np.median(resampled, 0)[list(forward)], wanted[list(forward)]
    one = functools.partial(_network, outputs=outputs, memory_gb=memory_gb, width=width)
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
    """Return (spacing in mm along the fingerprint's axes, whether the coarsest axis got another value than its median).

    The spacing is the median. But an axis that is more than 3 times as coarse as the others and has fewer than a third of their
    voxels gets its 10th percentile, or the coarsest spacing of the others if that is larger: rather interpolate coarse scans than
    lose detail of fine ones.
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


def _network(spacing: np.ndarray, median: np.ndarray, total: float, *, outputs: int, memory_gb: float, width: int) -> Network:
    """Find the largest patch that fits into memory, and then the largest batch.

    Args:
      spacing, median: spacing (mm) and median size (voxels) along the network's axes.
      total: number of voxels of the data set.
      outputs, memory_gb, width: as for `make`.
    """
    axes = len(spacing)
    reference, batch = REFERENCE[axes]
    reference *= memory_gb / REFERENCE_GB
    fine = 1 / np.asarray(spacing)
    largest = [round(n) for n in fine * (LARGEST_PATCH[axes] / np.prod(fine)) ** (1 / axes)]
    now, shrunk = shapes.topology(spacing, [min(n, m) for n, m in zip(largest, median)]), False
    values = lambda now: shapes.feature_values(now, _widths(now, width), outputs)
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
            raise ConfigError(f"config.plan.memory_gb={memory_gb}: too little for a U-Net of two stages; set a larger value")
        raise DataError(
            f"the median image has {' x '.join(str(round(n)) for n in median)} voxels; a U-Net needs at least "
            f"{3 * shapes.SMALLEST} along one axis, or {2 * shapes.SMALLEST} along two of similar spacing: use larger images",
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
        _widths(now, width),
        now.strides,
        now.kernels,
        batch_dice=False,
        shrunk=shrunk,
    )


def _widths(now: shapes.Topology, first: int) -> tuple[int, ...]:
    return tuple(min(first * 2**i, MOST_WIDTH[len(now.patch)]) for i in range(len(now.strides)))


def _lowres(full: Network, cases: int, one) -> Network | None:
    """Return 3d_lowres; None if nnU-Net would not plan it.

    The spacing is increased, first along the finer axes, until a patch covers a quarter of the median volume. There is no
    3d_lowres if a patch covers that at full resolution, or if the coarser volume is more than half as large.
    """
    found, spacing, median = full, np.array(full.spacing), np.array(full.median)
    voxels = whole = float(np.prod(median))
    while math.prod(found.patch) / voxels < LOWRES:
        fine = max(spacing) / spacing > shapes.NEAR
        spacing = spacing * np.where(fine | ~fine.any(), STEP, 1.0)
        coarser = np.array(full.spacing) / spacing * median
        voxels = float(np.prod(coarser))
        found = one(spacing, np.round(coarser), voxels * cases)
    return found if whole / voxels >= 2 else None
