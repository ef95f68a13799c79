"""BraTS: brain tumours in four MRI sequences, releases 2017 to 2024 and Task01 of the Medical Segmentation Decathlon.

Layouts and their naming are in `brats_files`. Volumes are skull-stripped and co-registered, 1 mm isotropic, 240 x 240 x 155
voxels (182 x 218 x 182 in 2024), background exactly 0; they are kept in the file's own orientation. Whatever the release,
the classes are 1 NCR (necrotic and non-enhancing core), 2 ED (oedema), 3 ET (enhancing tumour), and 4 RC (resection
cavity) in 2024 alone; WT, TC and ET are the unions that the challenge scores. Predictions go back to the release's own values.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxseg.data.datasets import brats_files, selection
from jaxseg.data.datasets.brats_files import MODALITIES
from jaxseg.data.datasets.own.channels import read_chosen
from jaxseg.data.formats import volumes
from jaxseg.data.formats.refusal import refusal
from jaxseg.data.phantom import brain_tumour
from jaxseg.data.records import Case, DataSet, Volume
from jaxseg.types import ConfigError
from jaxseg.utils import guard
from jaxseg.utils.lookup import lookup

VERSION = 1  # of the rules below: raise it when they would read a file otherwise, so that stores are built anew

LABELS = ("NCR", "ED", "ET")
REGIONS = (("WT", (1, 2, 3)), ("TC", (1, 3)), ("ET", (3,)))
VALUES = {  # release: {value in the file: class}
    **dict.fromkeys(("2017", "2018", "2019", "2020", "2021"), {0: 0, 1: 1, 2: 2, 4: 3}),
    "2023": {0: 0, 1: 1, 2: 2, 3: 3},
    "2024": {0: 0, 1: 1, 2: 2, 3: 3, 4: 4},
    "msd": {0: 0, 1: 2, 2: 1, 3: 3},
}  # 1 oedema, 2 non-enhancing, 3 enhancing
MSD_CHANNELS = ("flair", "t1", "t1ce", "t2")

phantom = brain_tumour.phantom


def load(
    root: str | Path,
    *,
    modalities: Sequence[str] = MODALITIES,
    release: str | None = None,
    min_area: int | None = None,
    sample: float = 1.0,
    sample_seed: int = 42,
) -> DataSet:
    """List the cases of the release that is in a folder; cases without a mask (validation sets) have mask None.

    Args:
      root: the folder that was unpacked, or the one that holds its cases.
      modalities: names of the channels, in their order: t1, t1ce, t2, flair, or what the releases call them (t1n, t1c, t1gd,
        t2w, t2f ...). The two-channel networks take ("t1ce", "flair").
      release: one of `brats_files.RELEASES`. The names decide; needed only if data of 2024 have the names of 2023, or the
        reverse.
      min_area, sample, sample_seed: which slices are examples of a network that takes slices, see `selection.rule`.
    Returns:
      DataSet; a case's meta is {"release": ..., "grade": "HGG", "LGG" or ""}, and the grade is its stratum.
    Raises:
      ConfigError: modalities that are not a sequence of distinct names, a release that is unknown or contradicted by the names.
      DataError: DATA_MISSING for no layout, several, or a modality that a case lacks; DATA_PATH for duplicate files.
    """
    if isinstance(modalities, str) or not modalities:
        raise ConfigError(f"got modalities={modalities!r}; must be a non-empty tuple of names, such as {MODALITIES}")
    wanted = tuple(brats_files.modality(name) for name in modalities)
    if len(set(wanted)) < len(wanted):
        raise ConfigError(f"got modalities={tuple(modalities)}, which are {', '.join(wanted)}: each name must occur only once")
    root = Path(root)
    release, found = brats_files.find(root, release)
    channels = ("all",) if release == "msd" else wanted
    cases = tuple(
        Case(f.id, f.patient, brats_files.images(f, channels), f.files.get("seg"), {"release": release, "grade": f.grade})
        for f in found
    )
    above = {root, *(folder for f in found for folder in f.folder.parents[:2])}
    return DataSet(
        "brats",
        root,
        cases,
        labels_of(release),
        functools.partial(map_mask, release),
        keep_slice=selection.rule(min_area, sample, sample_seed),
        stratum=stratum,
        synthetic=any((folder / "SYNTHETIC.txt").is_file() for folder in above),
        modalities=wanted,
        regions=REGIONS,
        read_image=functools.partial(read_decathlon, wanted) if release == "msd" else None,
        values=values_of(release),
    )


def label_count(release: str | None = None) -> int:
    """Return the number of foreground classes."""
    return len(labels_of(release or "2023"))


def labels_of(release: str) -> tuple[str, ...]:
    """Return the names of the classes 1, 2, ... of a release.

    Raises:
      ConfigError: unknown release.
    """
    return LABELS + ("RC",) * (max(lookup("release", release, VALUES).values()) - len(LABELS))


def values_of(release: str) -> tuple[int, ...]:
    """Return the values of the classes 1, 2, ... in the masks of a release; each value is a class of its own.

    (1, 2, 4) until 2021, (1, 2, 3) in 2023, (2, 1, 3) in Task01.

    Raises:
      ConfigError: unknown release.
    """
    value_of = {k: value for value, k in lookup("release", release, VALUES).items()}
    return tuple(value_of[k] for k in range(1, len(value_of)))


def map_mask(release: str, raw: np.ndarray) -> np.ndarray:
    """Values of a release's masks -> uint8 classes 1 NCR, 2 ED, 3 ET (4 RC).

    Raises:
      DataError: DATA_LABEL for other values; for a 4 in masks read as those of 2023 the remedy names the option.
    """
    values = VALUES[release]
    if release == "2023" and (raw == 4).any():
        raise refusal(
            "DATA_LABEL",
            "mask",
            f"label 4 in {np.count_nonzero(raw == 4)} of {raw.size} voxels",
            "masks of 2023 hold 0, 1, 2, 3; 4 is the resection cavity of 2024, whose cases bear the same names",
            "give release='2024' if this is that set",
        )
    volumes.check_labels(raw, values, "mask")
    classes = np.zeros(max(values) + 1, np.uint8)
    classes[list(values)] = list(values.values())
    return classes[raw.astype(np.uint8)]


def stratum(case: Case) -> str:
    """Return "HGG", "LGG", or "" if the release does not state the grade."""
    return case.meta["grade"]


def read_decathlon(modalities: tuple[str, ...], path: Path) -> Volume:
    """Channels of a file of Task01, chosen by name: dataset.json says which is which, else FLAIR, T1w, T1gd, T2w.

    Returns:
      Volume [X, Y, Z, len(modalities)].
    Raises:
      DataError: as `volumes.read_volume`; DATA_IMAGE for another number of channels, DATA_TABLE for an unreadable list.
    """
    return read_chosen(_channels(Path(path).parent.parent / "dataset.json"), modalities, path)


def _channels(path: Path) -> tuple[str, ...]:
    """Return the usual names of the channels in their order, from {"modality": {"0": "FLAIR", ...}}."""
    if not path.is_file():
        return MSD_CHANNELS
    try:
        listed = guard.read_json(path)["modality"]
        return tuple(brats_files.modality(listed[str(i)]) for i in range(len(listed)))
    except (ValueError, LookupError, TypeError) as error:
        raise refusal(
            "DATA_TABLE",
            path,
            f"cannot be read ({type(error).__name__}: {error})",
            'must hold {"modality": {"0": "FLAIR", ...}}',
            "unpack Task01_BrainTumour again",
        ) from error
