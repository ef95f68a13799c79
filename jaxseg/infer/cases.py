"""What lies under --input: the cases that a run's network can take, under which names and in which values their results are
written, and the way through all of them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.data import datasets
from jaxseg.data.formats import photos, volumes
from jaxseg.data.formats.discover import SUFFIXES, has_suffix, holds_dicom
from jaxseg.data.records import Recipe, Volume
from jaxseg.types import ConfigError, DataError, JaxsegError, StorageError
from jaxseg.utils.command import check_interrupt
from jaxseg.utils.files import make_folder, write_atomic

LONGEST_FIRST = sorted(SUFFIXES, key=len, reverse=True)
Found = tuple[str, Callable[[], list[Volume]]]  # name, function that reads the images


def find_cases(origin: Path, recipe: Recipe, record: Mapping[str, Any]) -> list[Found]:
    """(name, function that reads its images) of every case under a path; every name once.

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
    taken = [name for name, _ in cases]
    twice = sorted({name for name in taken if taken.count(name) > 1})
    if twice:
        raise DataError(f"--input={origin}: {taken.count(twice[0])} inputs would be written as {twice[0]!r}"
                        + (f", and so for {len(twice) - 1} more names" if twice[1:] else "")
                        + "; each name must be there once: rename or move one of them", "DATA_PATH")
    return cases


def _listed(origin: Path, recipe: Recipe, record: Mapping[str, Any]) -> list[Found]:
    several = len(recipe.modalities) > 1
    if origin.is_file() and several:
        raise DataError(f"--input={origin}: is one file; this network takes {', '.join(recipe.modalities)}: give the folder of "
                        "the case, or of all cases", "DATA_CHANNELS")
    if not recipe.modalities or not several and (origin.is_file() or origin.is_dir() and holds_dicom(origin)):
        found = volumes.find_inputs(origin)
        return [(name, lambda path=path: [volumes.read_volume(path)]) for name, path in zip(names_of(found), found)]
    if record["dataset"] == "brats_arrays":
        raise DataError(f"--input={origin}: this network learnt slices of arrays, whose rows and columns lie otherwise than "
                        "those of upright slices; train on slices cut from volumes (configs/brats2d.py:slices)",
                        "DATA_GEOMETRY")
    dataset = datasets.load(record["dataset"], origin, modalities=recipe.modalities, release=record["config"]["data"]["release"])
    reader = dataset.read_image or volumes.read_volume
    return [(case.id.replace("/", "_"), lambda case=case: [reader(path) for path in case.images]) for case in dataset.cases]


def names_of(inputs: list[Path]) -> list[str]:
    """Output names of inputs: without suffix, in any case of letters."""
    return [p.name if p.is_dir() else next((p.name[:-len(end)] for end in LONGEST_FIRST if has_suffix(p, (end,))), p.stem)
            for p in inputs]


def values_of(record: Mapping[str, Any]) -> np.ndarray:
    """What is written for background and the classes 1..K: [K + 1], the values of the masks that the run learnt from.

    The class numbers in records that do not say.
    """
    values = record["values"] if "values" in record else range(1, len(record["labels"]) + 1)
    return np.array([0, *values], np.uint8 if max(values, default=0) < 256 else np.uint16)


def open_output(output: Path) -> None:
    """Make the folder of the results, if absent.

    Raises:
      ConfigError: it is a file.
      StorageError: it cannot be made or written.
    """
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output={output}: is a file; give a folder")
    make_folder(output, f"--output={output}")


def map_names(record: Mapping[str, Any]) -> list[str]:
    """What a run's probability maps are of, in their order: the regions it learnt, else its classes; whole volumes: anything."""
    if record["config"]["data"]["whole"]:
        return ["any foreground"]
    return [name for name, _ in record.get("regions", ())] or list(record["labels"])


def write_maps(output: Path, name: str, maps: np.ndarray, names: Sequence[str], image: Volume) -> str:
    """Probability maps beside the labels: <name>_prob.nii.gz, of a picture <name>_prob_<what>.png (0..255) for each.

    Args:
      maps: in the image's own axis order, a last axis for `names`.
      names: what each map is of (`map_names`).
      image: the input.
    Returns:
      what was written, in words.
    """
    if volumes.is_photo(image):
        for k, what in enumerate(names):
            plane = np.round(maps[..., k] * 255).astype(np.uint8)
            volumes.write_like(output / f"{name}_prob_{what.replace('/', '_')}.png", plane, image)
    else:
        volumes.write_like(output / f"{name}_prob.nii.gz", maps.astype(np.float32), image)
    return f", probabilities of {', '.join(names)}"


def write_overlay(output: Path, name: str, picture: np.ndarray) -> None:
    """<name>_overlay.png from uint8 [H, W, 3]."""
    path = output / f"{name}_overlay.png"
    write_atomic(path, photos.encode_png(picture, path))


def segment_each(cases: list[Found], segment: Callable[[list[Volume], str], str], output: Path, *, synthetic: bool,
                 say: Callable[[str], None]) -> int:
    """Segment one case after the other; a bad one is named and skipped.

    Args:
      cases: what `find_cases` found.
      segment: (images, name) -> what was found, in words; writes its files into `output`.
      output: folder, open (`open_output`).
      synthetic: the network was trained on generated data.
      say: told one line per case.
    Returns:
      0, or 65 if some cases could not be used.
    Raises:
      ConfigError: an input lies in `output`.
      StorageError: `output` cannot be written any more.
    """
    if synthetic:
        say("note: these weights were trained on SYNTHETIC data; what they find in patients means nothing")
    failed = 0
    for name, read in cases:
        begin = time.perf_counter()
        check_interrupt()
        try:
            images = read()
            _check_apart(images, output)
            found = segment(images, name)
        except (ConfigError, StorageError):
            raise  # the next case would meet it too
        except JaxsegError as error:
            failed += 1
            say(f"FAILED {name}: {error}")
            continue
        say(f"{name}: {found}, {time.perf_counter() - begin:.1f} s")
    say(f"{len(cases) - failed} of {len(cases)} written to {output}" + (f"; {failed} failed" if failed else ""))
    return DataError.exit_code if failed else 0


def _check_apart(images: list[Volume], output: Path) -> None:
    """Refuse the inputs' own folder as that of the results, which have their names."""
    for image in images:
        if image.path.is_file() and image.path.resolve().parent == output.resolve():
            raise ConfigError(f"--output={output}: holds the input {image.path.name}, which a result of the same name could "
                              "replace; give another folder")
