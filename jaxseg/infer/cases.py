"""What lies under --input: the cases that a run's network can take, and under which names and in which values their results
are written.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxseg.data import datasets
from jaxseg.data.formats import photos, volumes
from jaxseg.data.formats.discover import SUFFIXES, has_suffix, holds_dicom
from jaxseg.data.prepare.labels import dtype_for
from jaxseg.data.records import Recipe, Volume
from jaxseg.types import ConfigError, DataError
from jaxseg.utils.files import file_digest, make_folder, write_atomic

LONGEST_FIRST = sorted(SUFFIXES, key=len, reverse=True)
OVERLAYS, MAPS = "overlays", "probabilities"  # folders in that of the results


class Input(NamedTuple):
    """A case to segment: its name, which its results have, its files or DICOM folders, and the function that reads its images."""

    name: str
    paths: tuple[Path, ...]
    read: Callable[[], list[Volume]]


def find_cases(origin: Path, recipe: Recipe, record: Mapping[str, Any]) -> list[Input]:
    """Every case under a path; every name once.

    Networks of one modality take any file or DICOM folder; those of several a folder in the layout of their data set, which
    says what is what.

    Args:
      origin: file or folder.
      recipe: of the run.
      record: of the run.
    Raises:
      DataError: nothing there, not what the network takes, or two cases whose results would have one name.
    """
    cases = _listed(origin, recipe, record)
    taken = [case.name for case in cases]
    twice = sorted({name for name in taken if taken.count(name) > 1})
    if twice:
        raise DataError(
            f"--input={origin}: {taken.count(twice[0])} inputs would be written as {twice[0]!r}"
            + (f", and so for {len(twice) - 1} more names" if twice[1:] else "")
            + "; each name must be there once: rename or move one of them",
            "DATA_PATH",
        )
    return cases


def _listed(origin: Path, recipe: Recipe, record: Mapping[str, Any]) -> list[Input]:
    several = len(recipe.modalities) > 1
    if origin.is_file() and several:
        raise DataError(
            f"--input={origin}: is one file; this network takes {', '.join(recipe.modalities)}: give the folder of "
            "the case, or of all cases",
            "DATA_CHANNELS",
        )
    if not recipe.modalities or not several and (origin.is_file() or origin.is_dir() and holds_dicom(origin)):
        found = volumes.find_inputs(origin)
        return [Input(name, (path,), lambda path=path: [volumes.read_volume(path)]) for name, path in zip(names_of(found), found)]
    if record["dataset"] == "brats_arrays":
        raise DataError(
            f"--input={origin}: this network learnt slices of arrays, whose rows and columns lie otherwise than "
            "those of upright slices; train on slices cut from volumes (configs/brats2d.py:slices)",
            "DATA_GEOMETRY",
        )
    dataset = datasets.load(record["dataset"], origin, modalities=recipe.modalities, release=record["config"]["data"]["release"])
    reader = dataset.read_image or volumes.read_volume
    return [
        Input(case.id.replace("/", "_"), tuple(case.images), lambda case=case: [reader(path) for path in case.images])
        for case in dataset.cases
    ]


def names_of(inputs: list[Path]) -> list[str]:
    """Output names of inputs: without suffix, in any case of letters."""
    return [
        p.name if p.is_dir() else next((p.name[: -len(end)] for end in LONGEST_FIRST if has_suffix(p, (end,))), p.stem)
        for p in inputs
    ]


def digests(case: Input) -> list[str]:
    """Of the bytes of every file of a case, those in its DICOM folders among them.

    Raises:
      DataError: a file that cannot be read.
    """
    found = []
    for path in case.paths:
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            try:
                found.append(file_digest(file))
            except OSError as error:
                raise DataError(
                    f"{file}: cannot be read ({error.strerror}); check the path and its permissions", "DATA_PATH"
                ) from error
    return found


def check_apart(cases: Sequence[Input], output: Path) -> None:
    """Refuse a folder for the results that holds an input, or lies in a DICOM folder: a result could replace an input.

    Raises:
      ConfigError.
    """
    place = output.resolve()
    for path in (path for case in cases for path in case.paths):
        folder = path.resolve() if path.is_dir() else path.resolve().parent
        if place == folder or path.is_dir() and place.is_relative_to(folder):
            what = "is or lies in the input" if path.is_dir() else "holds the input"
            raise ConfigError(f"--output={output}: {what} {path.name}, which a result could replace; give another folder")


def values_of(record: Mapping[str, Any]) -> np.ndarray:
    """What is written for background and the classes 1..K: [K + 1], the values of the masks that the run learnt from.

    The class numbers where masks are thresholded pictures, and in records that do not say.
    """
    values = record["values"]
    return np.array([0, *values], dtype_for(max(values, default=0)))


def open_output(output: Path) -> None:
    """Make the folder of the results, if absent, and remove what a killed process left half written in it.

    Raises:
      ConfigError: it is a file.
      StorageError: it cannot be made or written.
    """
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output={output}: is a file; give a folder")
    make_folder(output, f"--output={output}")
    for folder in (output, output / OVERLAYS, output / MAPS):
        for left in folder.glob(".*.tmp"):
            left.unlink(missing_ok=True)


def map_names(record: Mapping[str, Any]) -> list[str]:
    """What a run's probability maps are of, in their order: the regions it learnt, else its classes; whole volumes: anything."""
    if record["config"]["data"]["whole"]:
        return ["any foreground"]
    return [name for name, _ in record["regions"]] or list(record["labels"])


def write_labels(output: Path, name: str, labels: np.ndarray, image: Volume) -> str:
    """<name>.nii.gz, of a picture <name>.png, with labels in the image's own axis order; returns the file's name."""
    file = f"{name}{'.png' if volumes.is_photo(image) else '.nii.gz'}"
    volumes.write_like(output / file, labels, image)
    return file


def write_maps(output: Path, name: str, maps: np.ndarray, names: Sequence[str], image: Volume) -> list[str]:
    """Probability maps: probabilities/<name>.nii.gz, of a picture probabilities/<name>/<what>.png (0..255) for each.

    Args:
      maps: in the image's own axis order, a last axis for `names`.
      names: what each map is of (`map_names`).
      image: the input.
    Returns:
      The files, relative to `output`.
    """
    if not volumes.is_photo(image):
        make_folder(output / MAPS, f"--output={output}")
        volumes.write_like(output / MAPS / f"{name}.nii.gz", maps.astype(np.float32), image)
        return [f"{MAPS}/{name}.nii.gz"]
    make_folder(output / MAPS / name, f"--output={output}")
    written = [f"{MAPS}/{name}/{what.replace('/', '_')}.png" for what in names]
    for k, file in enumerate(written):
        volumes.write_like(output / file, np.round(maps[..., k] * 255).astype(np.uint8), image)
    return written


def write_overlay(output: Path, name: str, picture: np.ndarray) -> str:
    """overlays/<name>.png from uint8 [H, W, 3]; returns the file, relative to `output`."""
    make_folder(output / OVERLAYS, f"--output={output}")
    path = output / OVERLAYS / f"{name}.png"
    write_atomic(path, photos.encode_png(picture, path))
    return f"{OVERLAYS}/{name}.png"
