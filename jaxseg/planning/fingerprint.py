"""Measure a data set one case at a time: sizes and spacings of the images, foreground intensities, sizes of the classes.

Source: MIC-DKFZ/nnUNet, nnunetv2/experiment_planning/dataset_fingerprint/fingerprint_extractor.py.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from jaxseg.data.formats import volumes
from jaxseg.data.geometry import cut
from jaxseg.data.prepare import canvas, statistics
from jaxseg.data.prepare.labels import as_background
from jaxseg.data.records import Case, DataSet, Volume
from jaxseg.data.store import base
from jaxseg.types import DataError

REPORTED = 10**6  # voxels of a channel: enough where their values only inform


class ClassSize(NamedTuple):
    """The size of a class: its name, the number of cases that have it, and its voxels (or pixels) in all of them together."""

    name: str
    cases: int
    voxels: int


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """Measurements of N training cases.

    Attributes:
      shapes: int [N, R], sizes of the boxes around the non-zero voxels. Axes of volumes are the file's in reverse order, as in
        nnU-Net (z, y, x); those of pictures are (height, width).
      spacings: float [N, R] in mm, in the same order; 1 for pictures.
      kept: float [N], the fraction of the voxels inside that box.
      channels: number of channels of an image.
      intensities: statistics of each channel's foreground.
      classes: sizes of the classes 1, 2, ...
      pictures: whether the images are 2-D pictures.
    """

    shapes: np.ndarray
    spacings: np.ndarray
    kept: np.ndarray
    channels: int
    intensities: tuple[statistics.ChannelValues, ...]
    classes: tuple[ClassSize, ...]
    pictures: bool

    def __len__(self) -> int:
        return len(self.shapes)


class _Scan(NamedTuple):
    """The measurements of one case: `Fingerprint`'s shape, spacing and kept, and its voxels of the classes 0, 1, ..., K."""

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    kept: float
    channels: int
    counts: np.ndarray


def training_cases(dataset: DataSet) -> tuple[Case, ...]:
    """Return the labelled cases that do not belong to the test split."""
    test = {patient for patient, part in (dataset.fixed_split or {}).items() if part == "test"} | dataset.held_out
    return tuple(case for case in dataset.cases if case.mask is not None and case.patient not in test)


def measure(dataset: DataSet, *, samples: int | None = REPORTED) -> Fingerprint:
    """Read every training case once.

    Args:
      dataset: the data set.
      samples: number of foreground values to draw per channel, over all cases; None: as many as nnU-Net draws.
    Raises:
      DataError: a file cannot be used (the message names its case), the cases differ in their axes or channels, or there is no
        training case.
    """
    cases = training_cases(dataset)
    if not cases:
        raise DataError(
            f"{dataset.root}: no case outside the test split has a mask ({len(dataset.cases)} cases in all); add masks",
            "DATA_EMPTY",
        )
    drawn = statistics.Foreground(len(cases), samples)
    scans = [_look(dataset, case, drawn) for case in cases]
    for case, scan in zip(cases, scans):
        if (len(scan.shape), scan.channels) != (len(scans[0].shape), scans[0].channels):
            raise DataError(
                f"case {case.id} has {len(scan.shape)} axes and {scan.channels} channels, case {cases[0].id} "
                f"{len(scans[0].shape)} and {scans[0].channels}; all cases must have the same: move the others away",
                "DATA_IMAGE",
            )
    counts = np.stack([scan.counts for scan in scans])
    return Fingerprint(
        shapes=np.array([scan.shape for scan in scans]),
        spacings=np.array([scan.spacing for scan in scans]),
        kept=np.array([scan.kept for scan in scans]),
        channels=scans[0].channels,
        intensities=drawn.summary(),
        classes=tuple(
            ClassSize(name, int(np.count_nonzero(counts[:, k])), int(counts[:, k].sum()))
            for k, name in enumerate(dataset.labels, 1)
        ),
        pictures=len(scans[0].shape) == 2,
    )


def _look(dataset: DataSet, case: Case, drawn: statistics.Foreground) -> _Scan:
    """Measure a case, and draw values from its foreground."""
    read, truth = base.read_files(dataset, case)
    read, mask = [cut(volume, case.slab) for volume in read], as_background(cut(truth, case.slab).array, len(dataset.labels))
    axes = 2 if volumes.is_photo(read[0]) else 3
    image = np.concatenate([_with_channels(volume, axes) for volume in read], -1)
    if not np.isfinite(image).all():
        raise DataError(f"case {case.id}: holds values that are NaN or Inf; repair the file or remove the case", "DATA_NONFINITE")
    mask = mask.reshape(image.shape[:-1])
    try:
        box = canvas.nonzero_box(canvas.nonzero(np.moveaxis(image, -1, 0)))
    except DataError as error:
        raise DataError(f"case {case.id}: {error}", error.code) from error
    inside = mask[box]
    drawn.add(image[box], inside)
    order = slice(None) if axes == 2 else slice(None, None, -1)
    counts = np.bincount(mask.ravel(), minlength=len(dataset.labels) + 1)
    return _Scan(inside.shape[order], read[0].spacing[:axes][order], inside.size / mask.size, image.shape[-1], counts)


def _with_channels(volume: Volume, axes: int) -> np.ndarray:
    """Return [*S] or [*S, C] as [*S, C]; a volume [X, Y] gets an axis for its only slice."""
    array = volume.array
    array = array[:, :, None] if array.ndim < axes else array
    return array if array.ndim > axes else array[..., None]
