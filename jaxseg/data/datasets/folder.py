"""Your own pictures or volumes: a folder `images` and a folder `masks`, paired by file name.

    <root>/images/anna_01.png    any format that the library reads, in sub-folders if you like, a file for each channel or for
                                 all of them, or DICOM series: see `own.pairing`
    <root>/masks/anna_01.png     the same stem, its own suffix; one class: 0/1, 0/255, black and white; several: class
                                 numbers 0, 1, 2, ...; `mask_values` names other values or colours (prepare/masks.py)
    <root>/masks/liver/anna_01.png    or a mask of one class for each structure: masks/anna_01_liver.png
    <root>/masks/anna_01.nii.gz       or a channel of 0 and 1 for each structure, [X, Y, Z, K]; of pictures .npy [H, W, K]
    <root>/train/images, <root>/train/masks, <root>/test/...    or such a pair of folders for each split
    <root>/anna/ct.nii.gz, <root>/anna/mask.nii.gz    or a folder for each case: see `pairing`
    <root>/anna_01.png, <root>/anna_01_mask.png    or both side by side, also in sub-folders or a folder for each split: see
                                 `pairing.WORDS`; anna_01_mask_1.png is a further part of it

IMAGES and MASKS list other accepted names of the folders, in small or capital letters. Every file counts as a separate patient,
or every sub-folder, unless data.patient finds the patient in the file names. The phantom's pictures are bright discs in uneven
light.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
from PIL import Image

from jaxseg.data.datasets.own import overlap, pairing, patients, unmasked
from jaxseg.data.datasets.structures import count_structures
from jaxseg.data.formats import nifti, photos, volumes
from jaxseg.data.formats.discover import files_and_folders, has_suffix
from jaxseg.data.formats.refusal import refusal
from jaxseg.data.prepare import jpeg_masks, masks
from jaxseg.data.prepare import mask_values as values_and_classes
from jaxseg.data.records import Case, DataSet, Volume
from jaxseg.types import ConfigError, DataError
from jaxseg.utils.files import build_folder, cache_root
from jaxseg.utils.lookup import lookup

VERSION = 1  # of the rules below: raise it when they would read a file otherwise, so that stores are built anew

IMAGES = ("images", "image", "imgs", "img", "scans", "volumes")  # names of the folder of images
MASKS = ("masks", "mask", "labels", "label", "annotations", "segmentations", "groundtruth", "ground_truth", "gt")
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
LABELS = (pairing.ONE,)
JPEG = (".jpg", ".jpeg")
KINDS = {"default": 60, "quick": 16}  # pictures
PHANTOM_VERSION = 1


class Places(NamedTuple):
    """The folders of images and of masks of one split; `split` is "" where the data set has one pair of folders."""

    images: Path
    masks: Path
    split: str = ""


def recognised(root: Path) -> bool:
    """Return whether a folder has this layout."""
    return bool(_places(root))


def in_two_folders(root: Path) -> bool:
    """Return whether images and masks lie in folders of their own."""
    return any(place.images != place.masks for place in _places(root))


def _places(root: Path) -> list[Places]:
    """Return the folders of images and masks in a folder, or in its folders train, val and test."""
    below = files_and_folders(root)[1] if root.is_dir() else []
    if alone := _pair(below):
        return [Places(*alone)]
    parts = [(entry, SPLITS[entry.name.lower()]) for entry in below if entry.name.lower() in SPLITS]
    found = [(_pair(files_and_folders(entry)[1]) or _beside(entry), split) for entry, split in parts]
    splits = [split for both, split in found if both]
    if "train" in splits and len(set(splits)) == len(splits):
        return [Places(*both, split) for both, split in found if both]
    return [Places(*both)] if (both := _beside(root)) else []


def _beside(folder: Path) -> tuple[Path, Path] | None:
    """Return the folder twice, where it holds masks beside their images."""
    return (folder, folder) if pairing.side_by_side(folder) else None


def _pair(folders: Sequence[Path]) -> tuple[Path, Path] | None:
    """Return the folder of images and that of masks, where there is one of each."""
    named = [[folder for folder in folders if folder.name.lower() in names] for names in (IMAGES, MASKS)]
    return (named[0][0], named[1][0]) if all(len(found) == 1 for found in named) else None


def _found(root: Path, **options: Any) -> tuple[Path, pairing.Paired, dict[str, str]]:
    """Return (the data set's folder, its cases, the split of each case where splits are folders); options: `pairing.paired`'s."""
    places = _places(root)
    if not places:
        below = {folder: _places(folder) for folder in (files_and_folders(root)[1] if root.is_dir() else ())}
        holders = [folder for folder, found in below.items() if found]
        if len(holders) != 1:
            what = f"{len(holders)} folders with images and masks" if root.is_dir() else "no such folder"
            rule = "a folder data set holds images and masks"
            raise refusal("DATA_MISSING", root, what, rule, "give the folder that was unpacked")
        root, places = holders[0], below[holders[0]]
    each = [(place.split, pairing.paired(place.images, place.masks, **options)) for place in places]
    if len(each) == 1:
        return root, each[0][1], dict.fromkeys(each[0][1].images, each[0][0]) if each[0][0] else {}
    kinds = {(found.structures, found.channels, found.suffixes) for _, found in each}
    if len(kinds) > 1:
        raise refusal(
            "DATA_PATH", root, "splits whose masks or channels are named differently", "all splits have one form", "rename"
        )
    join = lambda part: {f"{split}/{name}": files for split, found in each for name, files in getattr(found, part).items()}
    joined = pairing.Paired(join("images"), join("masks"), *next(iter(kinds)))
    return root, joined, {name: name.partition("/")[0] for name in joined.images}


def load(
    root: str | Path,
    *,
    structures: Sequence[str] | None = None,
    modalities: Sequence[str] | None = None,
    patient: str | None = None,
    suffixes: Sequence[str] | None = None,
    overlapping: bool = False,
    mask_values: Sequence = (),
    missing_masks: str | None = None,
) -> DataSet:
    """List the pairs of images and masks in a folder.

    Args:
      root: the folder with images and masks, or the one that holds it.
      structures: names of the classes 1, 2, ..., of the channels of a mask in their order, or of the structures that have masks
        of their own; None: foreground, or whichever structures have masks.
      modalities: names of the channels; None: after their files' endings.
      patient: see `patients.named_by`.
      suffixes: what the names of a case's channels end in, see `pairing.paired`.
      overlapping: structures may overlap: every combination of them is a class, and they are regions.
      mask_values: ((value or "#rrggbb", class), ...) of masks that hold the classes; () where they need no table.
      missing_masks: see `unmasked.apply`; None: an image without a mask is refused.
    Raises:
      ConfigError: names that are not a sequence of distinct names, or a table that cannot be read.
      DataError: DATA_MISSING for a missing folder, image or mask, DATA_PATH for two files with the same stem, DATA_LABEL for JPEG
        masks of several classes.
    """
    if structures is not None:
        label_count(structures)
    root, found, splits = _found(Path(root), suffixes=suffixes, without_masks=missing_masks is not None)
    if found.structures:
        names = tuple(structures or found.structures)
        if found.structures == LABELS and len(names) == 1:  # numbered parts of one structure
            found = found._replace(structures=names, masks={c: dict(zip(names, m.values())) for c, m in found.masks.items()})
        unknown = [name for name in found.structures if name not in names]
        if unknown:
            raise refusal("DATA_LABEL", root, f"masks of {unknown[0]}", f"data.structures names {', '.join(names)}", "add it")
    else:
        names = tuple(structures or LABELS)
    stacked = 0 if found.structures else _channels_of(*_first(found), structures)
    several = bool(found.structures or stacked)
    table = values_and_classes.table_of(mask_values, len(names))
    for path in () if several else (files[0] for parts in found.masks.values() for files in parts.values()):
        if has_suffix(path, JPEG):
            jpeg_masks.check_classes(path, len(names), table)
    if several and table:
        raise ConfigError("data.mask_values is for masks that hold the classes; here each structure has a mask: leave it out")
    joined = several and overlapping
    labels = overlap.combinations(names) if joined else names
    whose, notes = _patients(found, patient, bool(splits))
    cases = tuple(_case(name, whose(name), files, found) for name, files in found.images.items())
    if several:
        read = functools.partial(read_structures, names, joined, stacked - len(names) if stacked else 0)
    else:
        read = functools.partial(masks.read_mask, len(names), table)
    dataset = DataSet(
        "folder",
        root,
        cases,
        labels,
        functools.partial(masks.map_mask, len(labels)),
        synthetic=(root / "SYNTHETIC.txt").is_file(),
        read_mask=read,
        modalities=_modalities(modalities, found.channels),
        regions=overlap.regions(names) if joined else (),
        combined=joined,
        values=() if several else values_and_classes.values_of(table, len(names)),
        notes=notes,
        suffixes=found.suffixes,
        **_prescribed(root, splits, whose),
    )
    return unmasked.apply(dataset, missing_masks)


def _case(name: str, patient: str, images: tuple[Path, ...], found: pairing.Paired) -> Case:
    files = [(structure, path) for structure, paths in found.masks[name].items() for path in paths]
    meta = {"structures": [structure for structure, _ in files]} if found.structures else {}
    paths = [path for _, path in files]
    return Case(name, patient, images, paths[0] if paths else None, meta, tuple(paths[1:]))


def _first(found: pairing.Paired) -> tuple[Path, Path]:
    """Return an image and the mask of the first case that has one."""
    name = next(name for name, parts in found.masks.items() if parts)
    return found.images[name][0], found.masks[name][""][0]


def _channels_of(image: Path, mask: Path, structures: Sequence[str] | None) -> int:
    """Return the number of channels of a mask with one for each structure (and the background's, if any); 0 for class masks."""
    axes = 2 if has_suffix(image, photos.SUFFIXES) else 3
    try:
        if has_suffix(mask, (".npy",)):
            shape = np.load(mask, mmap_mode="r").shape
        else:
            shape = nibabel.load(mask).shape if has_suffix(mask, nifti.SUFFIXES) else ()  # of the header
    except Exception:  # reading the case says what is wrong with it
        return 0
    if len(shape) != axes + 1 or shape[-1] == 1:
        return 0
    if structures is None or shape[-1] - len(structures) not in (0, 1):
        names = f"data.structures names {len(structures)}" if structures is not None else "data.structures names none"
        raise refusal(
            "DATA_LABEL",
            mask,
            f"{shape[-1]} channels",
            f"a mask of several channels has one for each structure, with the background or without; {names}",
            "give --config.data.structures=\"('a','b')\" with a name for each channel, without the background",
        )
    return shape[-1]


def _patients(found: pairing.Paired, pattern: str | None, divided: bool) -> tuple[Callable[[str], str], tuple[str, ...]]:
    """Return (case -> patient, log lines about it): by the pattern, else the sub-folder, else the case.

    Args:
      divided: the names of cases begin with their split, which says nothing about the patient.
    """
    below = (lambda name: name.partition("/")[2]) if divided else (lambda name: name)
    folders = {below(name).rpartition("/")[0] for name in found.images} - {""}
    if pattern is not None:
        named = patients.named_by(pattern)
        return lambda name: named(below(name)), ()
    if not folders:
        return patients.named_by(None), ()
    note = (
        f"images lie in {len(folders)} sub-folders: each counts as one patient, whose images stay together; for another rule "
        "give config.data.patient, for instance '(.+)' for every image by itself"
    )
    return (lambda case: below(case).rpartition("/")[0] or case), (note,)


def _prescribed(root: Path, splits: dict[str, str], whose: Callable[[str], str]) -> dict[str, Any]:
    """Return fixed_split and held_out of a data set with folders for its splits.

    Raises:
      DataError: DATA_LEAK for a patient in two of them.
    """
    parts: dict[str, str] = {}
    for name, split in splits.items():
        if parts.setdefault(whose(name), split) != split:
            raise DataError(
                f"{root}: patient {whose(name)} is in {parts[whose(name)]} and in {split}; a patient belongs to one split",
                "DATA_LEAK",
            )
    if {"train", "val"} <= set(parts.values()):
        return {"fixed_split": parts}
    return {"held_out": frozenset(patient for patient, split in parts.items() if split == "test")}


def _modalities(given: Sequence[str] | None, channels: tuple[str, ...]) -> tuple[str, ...]:
    if given is None:
        return channels
    if isinstance(given, str) or len(set(given)) < len(given) or channels and len(given) != len(channels):
        raise ConfigError(f"got data.modalities={given!r}; must be distinct names for {', '.join(channels) or 'the channels'}")
    return tuple(given)


def read_structures(structures: tuple[str, ...], overlapping: bool, background: int, case: Case, image: Volume) -> Volume:
    """The masks of a case, one for each structure in files or channels, as one map of classes (`own.overlap`).

    Args:
      background: 1 where the first channel is the background's.
    Raises:
      DataError: as `volumes.read_volume`; DATA_LABEL, DATA_MISMATCH.
    """
    files = (case.mask, *case.parts)
    if "structures" in case.meta:
        read = [masks.read(path, 1) for path in files]
        for volume in read:
            volumes.check_pair(image, volume)
        found = [_union([v.array for n, v in zip(case.meta["structures"], read) if n == name]) for name in structures]
    else:
        read = [volumes.read_volume(case.mask)]
        axes = 2 if volumes.is_photo(image) else 3
        if read[0].array.ndim != axes + 1 or read[0].array.shape[-1] != len(structures) + background:
            raise refusal(
                "DATA_LABEL",
                case.mask,
                f"shape {read[0].array.shape}",
                f"[{'X, Y, Z' if axes == 3 else 'H, W'}, {len(structures) + background}], a channel for each structure, as the "
                "first mask has",
                "export it again",
            )
        volumes.check_labels(read[0].array, (0, 1), case.mask)
        found = [read[0].array[..., background + k] for k in range(len(structures))]
    return dataclasses.replace(read[0], array=overlap.joined(found, structures, overlapping=overlapping), meaning=())


def _union(parts: Sequence[np.ndarray]) -> np.ndarray | None:
    """Return what is inside any part of a structure; None where the case has no part of it."""
    return np.any(parts, 0) if parts else None


def label_count(structures: Sequence[str] = LABELS) -> int:
    """Return the number of foreground classes; raises a ConfigError unless `structures` is a sequence of distinct names."""
    return count_structures(structures, LABELS)


def phantom(kind: str = "default") -> Path:
    """Return the folder of the generated pictures, with masks of one class."""
    count = lookup("phantom", kind, KINDS)
    return build_folder(cache_root() / f"phantom-folder-{PHANTOM_VERSION}-{kind}", lambda folder: _write(folder, count))


def _write(root: Path, count: int, side: int = 96) -> None:
    """Draw one or two shaded discs per picture, with noise and uneven light; always the same bytes."""
    (root / "SYNTHETIC.txt").write_text("Generated from formulas by jaxseg.data.datasets.folder; shows no patient.\n")
    for part in ("images", "masks"):
        (root / part).mkdir()
    rng = np.random.default_rng(13)
    y, x = np.mgrid[:side, :side] / side
    for i in range(count):
        places = rng.uniform((0.2, 0.2, 0.1), (0.8, 0.8, 0.2), (1 + i % 2, 3))  # row, column, radius
        height = np.max([1 - ((y - row) ** 2 + (x - column) ** 2) / radius**2 for row, column, radius in places], 0)
        ball = np.where(height > 0, 0.15 + 0.2 * np.sqrt(np.clip(height, 0, 1)), 0)
        light = 0.35 + 0.6 * (x - 0.5) * rng.choice((-1, 1)) + ball + rng.normal(0, 0.05, (side, side))
        Image.fromarray((255 * np.clip(light, 0, 1)).astype(np.uint8)).save(root / "images" / f"{i + 1:02d}.png")
        Image.fromarray((height > 0).astype(np.uint8)).save(root / "masks" / f"{i + 1:02d}.png")
