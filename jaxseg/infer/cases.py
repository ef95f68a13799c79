"""What lies under --input: the cases that a run's network can take, under which names and in which values their results are
written, and the way through all of them.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.data import datasets, volumes
from jaxseg.data.inputs import holds_dicom
from jaxseg.data.records import Recipe, Volume
from jaxseg.types import ConfigError, DataError, JaxsegError

Found = tuple[str, Callable[[], list[Volume]]]  # name, function that reads the images


def find_cases(origin: Path, recipe: Recipe, record: Mapping[str, Any]) -> list[Found]:
    """(name, function that reads its images) of every case under a path.

    Networks of one modality take any file or DICOM folder; those of several a folder in the layout of their data set, which
    says what is what.

    Args:
      origin: file or folder.
      recipe: of the run.
      record: of the run.
    Raises:
      DataError: nothing there, or not what the network takes.
    """
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
    """Output names of inputs, without suffix; a folder's name is put before names that would collide."""
    stem = lambda p: p.name.removesuffix(".gz").removesuffix(".nii") if p.is_file() and ".nii" in p.name else \
        (p.stem if p.is_file() else p.name)
    plain = [stem(p) for p in inputs]
    return [n if plain.count(n) == 1 else f"{p.parent.name}_{n}" for n, p in zip(plain, inputs)]


def values_of(record: Mapping[str, Any]) -> np.ndarray:
    """What is written for background and the classes 1..K: [K + 1], the values of the masks that the run learnt from.

    The class numbers in records that do not say.
    """
    values = record["values"] if "values" in record else range(1, len(record["labels"]) + 1)
    return np.array([0, *values], np.uint8 if max(values, default=0) < 256 else np.uint16)


def check_output(output: Path) -> None:
    """Refuse a file as the folder of the results.

    Raises:
      ConfigError.
    """
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output={output}: is a file; give a folder")


def segment_each(cases: list[Found], segment: Callable[[list[Volume], str], str], output: Path, *, synthetic: bool,
                 say: Callable[[str], None]) -> int:
    """Segment one case after the other; a bad one is named and skipped.

    Args:
      cases: what `find_cases` found.
      segment: (images, name) -> what was found, in words; writes its files into `output`.
      output: folder, made if absent.
      synthetic: the network was trained on generated data.
      say: told one line per case.
    Returns:
      0, or 65 if some cases could not be used.
    """
    if synthetic:
        say("note: these weights were trained on SYNTHETIC data; what they find in patients means nothing")
    output.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name, read in cases:
        begin = time.perf_counter()
        try:
            found = segment(read(), name)
        except JaxsegError as error:
            failed += 1
            say(f"FAILED {name}: {error}")
            continue
        say(f"{name}: {found}, {time.perf_counter() - begin:.1f} s")
    say(f"{len(cases) - failed} of {len(cases)} written to {output}" + (f"; {failed} failed" if failed else ""))
    return DataError.exit_code if failed else 0
