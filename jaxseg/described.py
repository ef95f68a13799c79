"""Fill in from the user's own data the keys that a config leaves open, before anything is built.

Layout (data.dataset="auto"), channels, classes, intensity and split become fixed values, which the run's record keeps: no later
step looks at the files for them again. Each choice is reported in one line; keys that the user gives are never changed.
"""

from collections.abc import Sequence, Set
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from jaxseg.config import resolve
from jaxseg.data import datasets
from jaxseg.data.datasets.own.description import LEAVE_OUT
from jaxseg.data.formats import dicom, own, volumes
from jaxseg.data.records import DataSet, Volume
from jaxseg.train import setup
from jaxseg.types import ConfigError, DataError
from jaxseg.utils.lookup import is_path

SEEN = 3  # number of cases whose images are read
AIR, BONE = -800, 200  # HU: images with values below AIR and above BONE are taken for CT
WINDOW = (40.0, 400.0)  # (level, width) in HU of the soft-tissue window, for CT without data.window
EMPTY = 0.25  # a scan with at least this fraction of zero voxels is taken for one whose background was masked out


class Filled(NamedTuple):
    """A complete config, its data set, and the choices that were made.

    Attributes:
      config: the resolved config; the one passed in if nothing was left open.
      dataset: the data set, for the user's own data; None for named data sets, whose classes are known without their files.
      lines: log lines that say what was recognised and chosen.
    """

    config: ConfigDict
    dataset: DataSet | None = None
    lines: tuple[str, ...] = ()


def fill(config: ConfigDict) -> Filled:
    """Fill in the keys of a config that are left open.

    Args:
      config: a resolved config.
    Raises:
      ConfigError: the data contradict a key that the user gave.
      DataError: the folder has no known layout, or its images cannot be read.
    """
    if config.data.dataset != datasets.AUTO and not datasets.is_own(config.data.dataset):
        return Filled(config)
    own.register(config.data.readers)
    config, name = config.copy_and_resolve_references().unlock(), config.name
    d, lines = config.data, []
    if d.dataset == datasets.AUTO:
        d.dataset, place = datasets.recognise(d.root) if d.root else ("folder", "")
        d.root = str(place)
    for key in setup.DATASET_OPTIONS if is_path(d.dataset) else ():
        if d[key] is not None and key not in datasets.options_of(d.dataset):
            raise ConfigError(f"config.data.{key}: the data set {d.dataset!r} does not take it; leave it out")
    dataset = setup.open_dataset(config)
    lines.append(describe(dataset))
    if dataset.left_out and d.ignore is None:
        d.ignore = LEAVE_OUT
        lines.append(
            "ignore: voxels with dataset.json's ignore label are not annotated: no loss and no score counts them; set "
            "config.data.ignore=background to count them as background"
        )
    d.structures, d.modalities, d.suffixes = _structures(dataset), dataset.modalities or None, dataset.suffixes or d.suffixes
    if d.split == datasets.AUTO:
        d.split = "fixed" if dataset.fixed_split else "patient"
        lines += [f"split: {_splits(dataset)}"] if dataset.fixed_split else []
    if d.channels is None or d.intensity == datasets.AUTO:
        images = _samples(dataset)
        read = [volume for scan in images for volume in scan]
        if d.rank == 3 and any(map(volumes.is_photo, read)):
            raise ConfigError(
                f"config.data.rank=3 is for volumes, but {read[0].path} is a 2-D picture; leave out volumes or data.rank"
            )
        if any(volume.header is None for volume in read):
            lines.append(
                "voxel sizes: .npy files have none; 1 mm along every axis is assumed unless a table has a column spacing"
            )
        if d.channels is None:
            d.channels = max(_channels(scan) for scan in images)
        if d.intensity == datasets.AUTO:
            made_by = {dicom.modality(volume.path) for volume in read if not volumes.is_photo(volume)}
            d.intensity, d.window, why = intensity_of(
                images, dataset.modalities, rank=d.rank, window=tuple(d.window), made_by=made_by - {""}
            )
            lines.append(f"intensity: {why}; set config.data.intensity to choose another")
    if d.mean and (d.intensity != "grey" or len(d.mean) != d.channels):
        there = "1 channel" if d.channels == 1 else f"{d.channels} channels"
        lines.append(
            f"config.data.mean and std are for {len(d.mean)} channels in 0..1 and are not used: the data have {there}, "
            f"prepared as {d.intensity!r}"
        )
        d.mean, d.std = (), ()
    return Filled(resolve(config, name=name), dataset, tuple(lines))


def describe(dataset: DataSet) -> str:
    """Return one line that says what a data folder holds."""
    unlabelled = sum(case.mask is None for case in dataset.cases)
    patients = {case.patient for case in dataset.cases}
    values = dataset.values or range(1, len(dataset.labels) + 1)
    parts = [
        f"{len(dataset.cases)} cases" + (f" of {len(patients)} patients" if len(patients) < len(dataset.cases) else ""),
        f"{len(dataset.held_out)} patients in the data set's own test split" if dataset.held_out else "",
        f"{unlabelled} without a mask" if unlabelled else "",
        f"channels {', '.join(dataset.modalities)}" if dataset.modalities else "",
        f"classes {', '.join(f'{name} ({value})' for name, value in zip(dataset.labels[:12], values))}"
        + (f" and {len(dataset.labels) - 12} more" if len(dataset.labels) > 12 else ""),
        f"regions {', '.join(name for name, _ in dataset.regions)}" if dataset.regions else "",
    ]
    return f"recognised {dataset.name} in {dataset.root}: {', '.join(filter(None, parts))}"


def intensity_of(
    images: Sequence[Sequence[Volume]],
    names: Sequence[str],
    *,
    rank: int,
    window: tuple[float, ...],
    made_by: Set[str] = frozenset(),
) -> tuple[str, tuple[float, ...], str]:
    """Choose the intensity preparation for images.

    Images are CT if their channels are named CT, if DICOM says so, or if their values reach from air to bone in HU and DICOM says
    nothing else; CT values are clipped to a window. 8-bit values stay as they are. All other images are normalised one by one,
    because MRI values have no unit and 16-bit pictures rarely use the same part of their range.

    Args:
      images: for each of a few cases, its image files.
      names: channel names.
      rank: data.rank.
      window: data.window, (level, width); () if not given.
      made_by: DICOM's modalities of the images.
    Returns:
      (data.intensity, data.window, the reason in words).
    """
    arrays = [volume.array for scan in images for volume in scan]
    low, high = min(float(a.min()) for a in arrays), max(float(a.max()) for a in arrays)
    span = f"values {low:g} to {high:g}"
    windowed = "ct" if rank == 3 else "grey"
    named = bool(names) and all(name.upper().split()[0] == "CT" for name in names) or made_by == {"CT"}
    if window:
        return windowed, window, f"{windowed!r} in the given window (level, width) = {window}, {span}"
    if all(a.dtype == np.uint8 for a in arrays):
        return "grey", (), "'grey', 8-bit values are kept as they are"
    photos = any(map(volumes.is_photo, (v for scan in images for v in scan)))
    if named or not made_by and not photos and low < AIR and high > BONE:
        why = "taken for CT: from air to bone in HU"
        if named:
            why = "DICOM says CT" if made_by else "the channels are called CT"
        return windowed, WINDOW, f"{windowed!r} in a soft-tissue window (level, width) = {WINDOW}, {span} ({why})"
    empty = min(float(np.mean(a == 0)) for a in arrays)
    if low >= 0 and empty >= EMPTY and rank == 3:
        return "brain", (), f"'brain', z-score of each channel over its voxels above 0, {span}, {empty:.0%} of voxels are 0"
    return "zscore", (), f"'zscore' of each channel of a scan, {span}, not CT"


def _structures(dataset: DataSet) -> tuple[str, ...]:
    """The value of data.structures: names of the structures, not of their combinations."""
    return tuple(name for name, _ in dataset.regions) if dataset.combined else dataset.labels


def _splits(dataset: DataSet) -> str:
    count = lambda part: sum(where == part for where in dataset.fixed_split.values())
    return ", ".join(f"{part} {count(part)}" for part in ("train", "val", "test")) + " patients, as the data set prescribes"


def _samples(dataset: DataSet) -> list[list[Volume]]:
    """Read the images of SEEN cases, evenly spaced over the data set; cases that cannot be read are skipped."""
    order = np.unique(np.linspace(0, len(dataset.cases) - 1, min(SEEN, len(dataset.cases))).astype(int)).tolist()
    order += [i for i in range(len(dataset.cases)) if i not in order]
    reader, found, first = dataset.read_image or volumes.read_volume, [], None
    for i in order:
        try:
            found.append([reader(path) for path in dataset.cases[i].images])
        except DataError as error:
            first = first or error
        if len(found) == SEEN:
            break
    if not found:
        raise first or ConfigError(
            f"config.data.root={dataset.root}: the folder holds no case; give the folder that holds the images"
        )
    return found


def _channels(scan: Sequence[Volume]) -> int:
    """Return the number of channels that the files of one case have together."""
    rank = lambda volume: 2 if volumes.is_photo(volume) else 3
    return sum(v.array.shape[-1] if v.array.ndim > rank(v) else 1 for v in scan)
