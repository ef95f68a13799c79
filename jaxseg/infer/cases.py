"""What lies under --input: the cases that a run's network can take, and under which names their results are written."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxseg.data import datasets, volumes
from jaxseg.data.inputs import holds_dicom
from jaxseg.data.records import Recipe, Volume
from jaxseg.types import DataError


def find_cases(origin: Path, recipe: Recipe, record: Mapping[str, Any]) -> list[tuple[str, Callable[[], list[Volume]]]]:
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
