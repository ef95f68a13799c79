"""Find the cases under --input that a run's network can segment, and write their results: file names, label values, maps."""

import collections
import functools
import json
import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxseg.data import datasets
from jaxseg.data.datasets.own import description, numbered, overlap, pairing
from jaxseg.data.datasets.pairs import stem
from jaxseg.data.formats import photos, volumes
from jaxseg.data.formats.discover import holds_dicom, listed_once
from jaxseg.data.prepare.labels import dtype_for
from jaxseg.data.records import DataSet, Recipe, Volume
from jaxseg.metrics import sizes
from jaxseg.metrics.summarize import write_csv
from jaxseg.types import ConfigError, DataError
from jaxseg.utils.files import file_digest, make_folder, write_atomic, write_json
from jaxseg.utils.lookup import is_path

OVERLAYS, MAPS, UNCERTAINTY, STATISTICS = "overlays", "probabilities", "uncertainty", "statistics"  # folders of the results
COLOURS = ("red", "green", "blue", "alpha")  # channels of a picture
DONE = "predictions.jsonl"  # the list of them; predictions.1.jsonl, ... those of further processes


class Input(NamedTuple):
    """A case to segment: its name (also that of its results), its files or DICOM folders, and the function that reads them."""

    name: str
    paths: tuple[Path, ...]
    read: Callable[[], list[Volume]]


def find_cases(origin: Path, recipe: Recipe, record: Mapping[str, Any]) -> list[Input]:
    """Find every case under a path. Names must differ in more than upper and lower case, which some file systems ignore.

    Networks of one modality take any file or DICOM folder; those of several modalities a folder in the layout of their data set,
    which tells the modalities apart; runs on the user's own data every layout that training takes.

    Args:
      origin: file or folder.
      recipe: the run's recipe.
      record: the run's record.
    Raises:
      DataError: the path holds no input, or none that fits the network, or the results of two cases would have the same name.
    """
    with listed_once():
        cases = _listed(origin, recipe, record)
    named: dict[str, list[str]] = {}
    for case in cases:
        named.setdefault(unicodedata.normalize("NFC", case.name).casefold(), []).append(case.name)
    twice = sorted(names for names in named.values() if len(names) > 1)
    if twice:
        found = " and ".join(map(repr, sorted(set(twice[0]))))
        raise DataError(
            f"--input={origin}: {len(twice[0])} inputs would write results under the same name, {found}"
            + (f" (the same for {len(twice) - 1} more names)" if twice[1:] else "")
            + "; names must differ in more than upper and lower case: rename or move one of them",
            "DATA_PATH",
        )
    return cases


def _listed(origin: Path, recipe: Recipe, record: Mapping[str, Any]) -> list[Input]:
    if record["dataset"] in datasets.OWN:
        return _own(origin, recipe, record)
    several = len(recipe.modalities) > 1
    if is_path(record["dataset"]) and origin.is_dir():
        try:
            return _cases_of(datasets.load(record["dataset"], origin))
        except DataError:
            if several:
                raise
            return _files(origin)  # scans without the data set's layout
    if origin.is_file() and several:
        raise DataError(
            f"--input={origin}: is one file, but this network needs {', '.join(recipe.modalities)}; give the folder of "
            "the case, or the folder of all cases",
            "DATA_CHANNELS",
        )
    if (
        not recipe.modalities
        or not several
        and (is_path(record["dataset"]) or origin.is_file() or origin.is_dir() and holds_dicom(origin))
    ):
        return _files(origin)
    if record["dataset"] == "brats_arrays":
        raise DataError(
            f"--input={origin}: this network was trained on the arrays of brats_arrays, whose slices are oriented differently "
            "from slices of volumes; train on slices of volumes (configs/brats2d.py:slices)",
            "DATA_GEOMETRY",
        )
    dataset = datasets.load(record["dataset"], origin, modalities=recipe.modalities, release=record["config"]["data"]["release"])
    return _cases_of(dataset)


def _own(origin: Path, recipe: Recipe, record: Mapping[str, Any]) -> list[Input]:
    """Find cases for runs on the user's own data: a folder in a known layout, or files (one per case, or one per channel).

    A file with all channels ([X, Y, Z, C], or in colour) is a case by itself.
    """
    folder, names, suffixes = (
        origin if origin.is_dir() else origin.parent,
        recipe.modalities,
        record["config"]["data"].get("suffixes"),
    )
    layout = next((name for name in datasets.OWN if datasets.MODULES[name].recognised(origin)), None)
    beside = layout == "folder" and not suffixes and not datasets.MODULES[layout].in_two_folders(origin)
    if layout and not beside:
        known = datasets.options_of(layout)
        options = {"suffixes": suffixes} if "suffixes" in known else {}
        if "ignore" in known and description.read(origin / description.FILE).ignored is not None:
            options["ignore"] = "background"  # no mask is read
        return _cases_of(datasets.load(layout, origin, modalities=names or None, **options))
    grouped: dict[str, tuple[Path, ...]] = {}
    if beside:
        grouped = dict(pairing.images_without_masks(origin))
    elif suffixes:
        grouped = pairing.images_by_suffix(folder, suffixes)
    elif folder.is_dir() and (found := pairing.images_by_folder(origin, max(1, len(names)))):
        grouped = found
    elif (len(names) > 1 or record["dataset"] == "nnunet_raw") and folder.is_dir() and numbered.is_numbered(folder):
        grouped = numbered.channel_files(folder, channels=names)
    if grouped:
        read = lambda files: [volumes.read_volume(path) for path in files]
        cases = [Input(name.replace("/", "_"), files, lambda files=files: read(files)) for name, files in grouped.items()]
        return [case for case in cases if origin.is_dir() or origin in case.paths]  # a file stands for its case
    return _files(origin)


def _files(origin: Path) -> list[Input]:
    """Return every image file and every DICOM folder as a case."""
    found = volumes.find_inputs(origin)
    return [Input(name, (path,), lambda path=path: [volumes.read_volume(path)]) for name, path in zip(names_of(found), found)]


def _cases_of(dataset: DataSet) -> list[Input]:
    reader = dataset.read_image or volumes.read_volume
    return [
        Input(case.id.replace("/", "_"), tuple(case.images), lambda case=case: [reader(path) for path in case.images])
        for case in dataset.cases
    ]


def names_of(inputs: list[Path]) -> list[str]:
    """Return the output names of inputs: without suffix, and unique regardless of upper and lower case."""
    return [p.name if p.is_dir() else stem(p) for p in inputs]


def digests(case: Input) -> list[str]:
    """Return a digest for every file of a case, including the files in its DICOM folders.

    Raises:
      DataError: a file cannot be read.
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


def check_apart(cases: Sequence[Input], output: Path, origin: Path) -> None:
    """Refuse an output folder in which a result could overwrite an input or an unrelated file, or be found as an input later.

    These are folders that hold an input, lie in a DICOM folder, are searched for inputs, or have files with the results' names
    that `predict` did not write.

    Args:
      cases: the cases to segment.
      output: the folder for the results.
      origin: the path under which the cases were found.
    Raises:
      ConfigError: the folder must not be used.
    """
    place, searched, resolved = output.resolve(), origin.resolve(), functools.cache(Path.resolve)
    for path in (path for case in cases for path in case.paths):
        whole = os.path.isdir(path)
        plain = not whole and not os.path.islink(path)  # its folder is resolved once: there may be hundreds of thousands in it
        folder = resolved(path.parent) if plain else path.resolve() if whole else path.resolve().parent
        if place == folder or whole and place.is_relative_to(folder):
            what = "is, or lies in, the input folder" if whole else "holds the input"
            raise ConfigError(f"--output={output}: {what} {path.name}, which a result could overwrite; give another folder")
    several = any(len(case.paths) > 1 for case in cases)  # their layouts have folders of cases
    if origin.is_dir() and (place == searched or several and place.is_relative_to(searched)):
        raise ConfigError(
            f"--output={output}: {'is' if place == searched else 'lies in'} the folder of --input; give another folder"
        )
    if (output / DONE).is_file():
        return
    held = set(os.listdir(output)) if output.is_dir() else set()
    there = [file for case in cases for file in (f"{case.name}.png", f"{case.name}.nii.gz") if file in held]
    if there:
        raise ConfigError(
            f"--output={output}: holds {there[0]}{f' and {len(there) - 1} more' if there[1:] else ''}, which predict did "
            f"not write (the folder has no {DONE}) and would overwrite; give another folder, or remove these files"
        )


def values_of(record: Mapping[str, Any]) -> np.ndarray:
    """Return the label values to write for background and the classes 1..K, shape [K + 1].

    They are the values that the run's data set states for its classes, else the class numbers (also where the data set's masks
    are pictures of 0 and 255).
    """
    values = record["values"]
    return np.array([0, *values], dtype_for(max(values, default=0)))


def open_output(output: Path) -> None:
    """Create the results folder if it does not exist, and remove unfinished files that a killed process left in it.

    Raises:
      ConfigError: the path is a file.
      StorageError: the folder cannot be created or written to.
    """
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output={output}: is a file, must be a folder; give another path")
    make_folder(output, f"--output={output}")
    for folder in (output, *(output / name for name in (OVERLAYS, MAPS, UNCERTAINTY, STATISTICS))):
        for left in folder.glob(".*.tmp"):
            left.unlink(missing_ok=True)


def map_names(record: Mapping[str, Any]) -> list[str]:
    """Return the names of a run's probability maps in their order: its regions, its classes, or for whole volumes "any"."""
    if record["config"]["data"]["whole"]:
        return ["any foreground"]
    return [name for name, _ in record["regions"]] or list(record["labels"])


def write_labels(output: Path, name: str, labels: np.ndarray, image: Volume) -> str:
    """Write labels in the image's own axis order as <name>.nii.gz, for a picture as <name>.png; returns the file's name."""
    file = f"{name}{'.png' if volumes.is_photo(image) else '.nii.gz'}"
    volumes.write_like(output / file, labels, image)
    return file


def structures_of(record: Mapping[str, Any]) -> list[tuple[str, list[int]]]:
    """Return (name, classes) of each structure if classes number the combinations of overlapping structures; else []."""
    found = [(name, list(classes)) for name, classes in record.get("regions", ())]
    names = [name for name, _ in found]
    return found if 0 < len(names) <= overlap.MOST and tuple(record["labels"]) == overlap.combinations(names) else []


def write_structures(
    output: Path, name: str, labels: np.ndarray, structures: Sequence[tuple[str, Sequence[int]]], image: Volume
) -> list[str]:
    """Write one mask per structure: <structure>/<name>.nii.gz with 0 and 1, for pictures <structure>/<name>.png with 0 and 255.

    A structure whose name is also a folder of other results (overlays, probabilities) gets an underscore after its name.

    Args:
      output: the results folder.
      name: the case's name.
      labels: classes, in the image's own axis order.
      structures: (name, classes) of each structure, from `structures_of`.
      image: the input image, whose geometry the files get.
    Returns:
      The files, relative to `output`.
    """
    written = []
    for structure, classes in structures:
        structure = structure.replace("/", "_") + "_" * (structure in (OVERLAYS, MAPS))
        make_folder(output / structure, f"--output={output}")
        inside = np.isin(labels, classes) * np.uint8(255 if volumes.is_photo(image) else 1)
        written.append(f"{structure}/{write_labels(output / structure, name, inside, image)}")
    return written


def write_maps(output: Path, name: str, maps: np.ndarray, names: Sequence[str], image: Volume, folder: str = MAPS) -> list[str]:
    """Write probability maps: probabilities/<name>.nii.gz, for a picture probabilities/<name>/<class>.png (0..255) for each map.

    Args:
      output: the results folder.
      name: the case's name.
      maps: float, in the image's own axis order, with a last axis for `names`.
      names: names of the maps, from `map_names`.
      image: the input image, whose geometry the files get.
      folder: below `output`.
    Returns:
      The files, relative to `output`.
    """
    if not volumes.is_photo(image):
        make_folder(output / folder, f"--output={output}")
        volumes.write_like(output / folder / f"{name}.nii.gz", maps.astype(np.float32), image)
        return [f"{folder}/{name}.nii.gz"]
    make_folder(output / folder / name, f"--output={output}")
    written = [f"{folder}/{name}/{what}.png" for what in _file_names(names)]
    for k, file in enumerate(written):
        volumes.write_like(output / file, np.round(maps[..., k] * 255).astype(np.uint8), image)
    return written


def write_uncertainty(output: Path, name: str, maps: np.ndarray, image: Volume) -> str:
    """Write uncertainty/<name>.nii.gz with the image's geometry ([W, H, 1] for a picture); returns its path in `output`.

    Args:
      maps: float32 [*S, M] in the image's own axis order; a single map is written without this last axis.
    """
    make_folder(output / UNCERTAINTY, f"--output={output}")
    file = f"{UNCERTAINTY}/{name}.nii.gz"
    volumes.write_like(output / file, maps[..., 0] if maps.shape[-1] == 1 else maps, image)
    return file


def groups_of(record: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return name -> label values of what statistics measure: regions, then classes; or only structures that overlap."""
    values = values_of(record)
    groups = {name: tuple(int(values[k]) for k in classes) for name, classes in record["regions"]}
    if not structures_of(record):
        groups |= {name: (int(values[k]),) for k, name in enumerate(record["labels"], 1) if name not in groups}
    return groups


def write_statistics(output: Path, name: str, labels: np.ndarray, images: Sequence[Volume], record: Mapping[str, Any]) -> str:
    """Write the size and intensity of each structure to statistics/<name>.json; returns the file, relative to `output`.

    Args:
      labels: the written label values, in the image's own axis order.
      images: the images of the case.
      record: the run's record.
    """
    photo = volumes.is_photo(images[0])
    known = not photo and images[0].header is not None
    whole = [image.array if image.array.ndim > labels.ndim else image.array[..., None] for image in images]
    channels = [one[..., c] for one in whole for c in range(one.shape[-1])]
    names = record["recipe"]["modalities"] or (COLOURS if photo and len(channels) > 2 else ())
    names = names[: len(channels)] if len(names) >= len(channels) else [str(c) for c in range(len(channels))]
    rows = sizes.measured(labels, dict(zip(names, channels)), groups_of(record), affine=images[0].affine if known else None)
    about = {
        "case": name,
        "images": [str(image.path) for image in images],
        "spacing_mm": list(images[0].spacing) if known else None,
        "structures": rows,
    }
    make_folder(output / STATISTICS, f"--output={output}")
    write_json(output / STATISTICS / f"{name}.json", about)
    return f"{STATISTICS}/{name}.json"


def gather_statistics(output: Path, names: Sequence[str], show: Callable[[str], str] = str) -> Path | None:
    """Write statistics.csv, a row for each case and structure, from the cases' files; returns None if there are none.

    Args:
      output: the results folder.
      names: names of all cases.
      show: converts names of cases for the table.
    """
    files = [output / STATISTICS / f"{name}.json" for name in names]
    found = [json.loads(file.read_text()) for file in files if file.is_file()]
    order = ("structure", "voxels", "volume_ml", "area_mm2")
    rows = [{"case": show(one["case"]), **{key: row[key] for key in order}, **row} for one in found for row in one["structures"]]
    if not rows:
        return None
    write_csv(output / f"{STATISTICS}.csv", rows)
    return output / f"{STATISTICS}.csv"


def _file_names(names: Sequence[str]) -> list[str]:
    """Convert names to file names: without "/", and with a number where a file system could take two for the same file."""
    plain = [name.replace("/", "_") for name in names]
    alike = collections.Counter(name.casefold() for name in plain)
    return [name if alike[name.casefold()] == 1 else f"{k}_{name}" for k, name in enumerate(plain, 1)]


def write_overlay(output: Path, name: str, picture: np.ndarray) -> str:
    """Write uint8 [H, W, 3] as overlays/<name>.png; returns the file, relative to `output`."""
    make_folder(output / OVERLAYS, f"--output={output}")
    path = output / OVERLAYS / f"{name}.png"
    write_atomic(path, photos.encode_png(picture, path))
    return f"{OVERLAYS}/{name}.png"
