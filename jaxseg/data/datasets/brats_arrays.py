"""Slices of BraTS as numpy arrays, the layout of the BraTS 2-D project (`Masterjun12/brain_tumor_segmentation`).

    <root>/train_images.npy   [N, 240, 240, 4], channels T1, T1ce, T2, FLAIR; the project's N are 3906, 1302 and 1302
    <root>/train_labels.npy   [N, 240, 240], 0 background, 1 NCR, 2 ED, 3 or 4 ET
    <root>/val_*.npy, test_*.npy

The split is given by the folder. The arrays do not state the patient of a slice: every slice counts as a separate patient, so
figures per patient are figures per slice, and slices of one patient may be in several splits, which makes all scores
optimistically biased. For figures about patients, cut slices from the volumes (data set "brats").

Slices keep the arrays' own rows and columns (the project's come from nibabel's [x, y]). The project's normalisation is not
public: integers become z-scores of the slice's own brain, channel by channel; floats count as normalised.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxseg.data.datasets import brats_files, selection
from jaxseg.data.datasets.brats import LABELS, REGIONS
from jaxseg.data.datasets.brats_files import MODALITIES
from jaxseg.data.formats import volumes
from jaxseg.data.formats.refusal import refusal
from jaxseg.data.prepare import intensity
from jaxseg.data.records import Case, DataSet, Photo, Volume
from jaxseg.types import ConfigError
from jaxseg.utils import npy
from jaxseg.utils.lookup import lookup

VERSION = 1  # of the rules below: raise it when they would read a file otherwise, so that stores are built anew

SPLITS = ("train", "val", "test")
NORMALISE = ("auto", "brain", "given")
HIGHEST = 50.0  # no z-score of a brain is as large: floats above are scanner values
NOTE = (
    "the arrays do not say which slice is whose: every slice counts as a patient of its own, slices of one patient may lie "
    "on both sides of the split, and scores are optimistically biased by an unknown amount"
)
_EXPORT = "write the arrays again with numpy.save"


def load(
    root: str | Path,
    *,
    modalities: Sequence[str] = MODALITIES,
    normalise: str = "auto",
    min_area: int | None = None,
    sample: float = 1.0,
    sample_seed: int = 42,
) -> DataSet:
    """List the slices of the six arrays; their headers are read, but no pixels.

    Args:
      root: the folder with the arrays.
      modalities: names of the channels that are used, in their order.
      normalise: "brain": z-scores of each channel over the slice's own values above 0; "given": as they are; "auto":
        integers as by "brain", floats as they are, but refused if they are clearly not z-scores.
      min_area, sample, sample_seed: which slices, see `selection.rule`.
    Raises:
      ConfigError: unknown modality or normalisation, or an invalid selection rule.
      DataError: DATA_MISSING for a missing array, DATA_HEADER and DATA_TRUNCATED for one that cannot be opened,
        DATA_IMAGE, DATA_LABEL or DATA_MISMATCH for a shape or dtype that does not fit.
    """
    lookup("value of data.normalise", normalise, dict.fromkeys(NORMALISE))
    wanted = () if isinstance(modalities, str) else tuple(brats_files.modality(name) for name in modalities)
    if not wanted or len(set(wanted)) < len(wanted):
        raise ConfigError(f"got modalities={modalities!r}; must be a non-empty tuple of distinct names, such as {MODALITIES}")
    root, cases = Path(root), []
    for split in SPLITS:
        images, labels = (root / f"{split}_{what}.npy" for what in ("images", "labels"))
        for i in range(_count(images, labels)):
            name = f"{split}_{i:05d}"
            cases.append(
                Case(
                    name,
                    name,
                    (images / f"{i:05d}",),
                    labels / f"{i:05d}",
                    {"split": split, "patient": "unknown"},
                    (images, labels),
                )
            )
    return DataSet(
        "brats_arrays",
        root,
        tuple(sorted(cases, key=lambda case: case.id)),
        LABELS,
        map_mask,
        keep_slice=selection.rule(min_area, sample, sample_seed),
        synthetic=(root / "SYNTHETIC.txt").is_file(),
        fixed_split={case.patient: case.meta["split"] for case in cases},
        read_mask=read_mask,
        modalities=wanted,
        regions=REGIONS,
        read_image=functools.partial(read_image, tuple(MODALITIES.index(name) for name in wanted), normalise),
        normalised=True,
        notes=(NOTE,),
    )


def label_count() -> int:
    """Return the number of foreground classes."""
    return len(LABELS)


def map_mask(raw: np.ndarray) -> np.ndarray:
    """Values 0, 1, 2 and 3 or 4 -> uint8 classes 0..3. Predictions are written as classes: ET as 3, whatever the arrays held.

    Raises:
      DataError: DATA_LABEL for other values, and for 3 and 4 in one slice.
    """
    volumes.check_labels(raw, (0, 1, 2, 3, 4), "labels")
    if (raw == 3).any() and (raw == 4).any():
        raise refusal(
            "DATA_LABEL",
            "labels",
            f"3 in {np.count_nonzero(raw == 3)} and 4 in {np.count_nonzero(raw == 4)} pixels of one slice",
            "the enhancing tumour is 3 or 4",
            "map the labels to 0, 1, 2, 3 first",
        )
    return np.minimum(raw, 3).astype(np.uint8)


def read_image(channels: tuple[int, ...], normalising: str, path: Path) -> Volume:
    """Slice `path.name` of the array `path.parent`: float32 z-scores [H, W, len(channels)].

    A channel without a value above 0 stays 0 where values are normalised here.

    Raises:
      DataError: DATA_NONFINITE, or DATA_IMAGE for floats that are no z-scores.
    """
    values = np.asarray(_open(path.parent)[int(path.name)][..., list(channels)])
    if normalising == "brain" or normalising == "auto" and values.dtype.kind in "iu":
        scores = np.zeros(values.shape, np.float32)
        there = (values > 0).any((0, 1))
        if there.any():
            scores[..., there] = intensity.brain(values[:, :, None, there])[:, :, 0]
        return Volume(scores, np.eye(4), Photo("NPY"), path)
    if normalising == "auto" and np.abs(values).max() > HIGHEST:
        raise refusal(
            "DATA_IMAGE",
            path,
            f"values up to {np.abs(values).max():g} as {values.dtype}",
            f"floats count as z-scores, which stay below {HIGHEST:g}",
            "set data.normalise='brain' for a scanner's values, or 'given' to take them as they are",
        )
    return Volume(values.astype(np.float32), np.eye(4), Photo("NPY"), path)


def read_mask(case: Case, image: Volume) -> Volume:
    """Read slice `case.mask.name` of the array `case.mask.parent`, [H, W]."""
    return Volume(np.asarray(_open(case.mask.parent)[int(case.mask.name)]), np.eye(4), Photo("NPY"), case.mask)


def _count(images: Path, labels: Path) -> int:
    """Return the number of slices in two arrays after checking both."""
    image, label = _open(images), _open(labels)
    if image.ndim != 4 or image.shape[-1] != len(MODALITIES) or image.dtype.kind not in "iuf" or 0 in image.shape:
        raise refusal(
            "DATA_IMAGE",
            images,
            f"{image.dtype} {image.shape}",
            f"numbers [N, H, W, {len(MODALITIES)}] with {', '.join(MODALITIES)}",
            _EXPORT,
        )
    if label.ndim != 3 or label.dtype.kind not in "iuf":
        raise refusal(
            "DATA_LABEL",
            labels,
            f"{label.dtype} {label.shape}",
            "class numbers [N, H, W]",
            "take numpy.argmax over the last axis of one-hot labels, or write the arrays again",
        )
    if label.shape != image.shape[:3]:
        raise refusal(
            "DATA_MISMATCH",
            labels,
            f"shape {label.shape}, but {images.name} has {image.shape}",
            "labels have the shape of the images without channels",
            _EXPORT,
        )
    return len(image)


def _open(path: Path) -> np.ndarray:
    """Open the array as a memory map."""
    if not path.is_file():
        raise refusal(
            "DATA_MISSING",
            path,
            "not there",
            f"the folder holds {', '.join(SPLITS)}_images.npy and _labels.npy",
            "check data.root",
        )
    return npy.open_npy(path)


__all__ = ["LABELS", "MODALITIES", "REGIONS", "label_count", "load", "map_mask", "read_image", "read_mask"]
