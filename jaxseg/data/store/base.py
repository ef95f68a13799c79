"""What every store of prepared examples takes from a data set: a case's files, read and checked against each other, and the
digest of all that decides the prepared bytes; and what every store is.
"""

import dataclasses
import functools
import json
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.data.formats import volumes
from jaxseg.data.records import Case, DataSet, Recipe, Volume
from jaxseg.data.store import bad_cases
from jaxseg.types import ConfigError, DataError
from jaxseg.utils import files


@dataclasses.dataclass(frozen=True)
class Prepared:
    """The examples or volumes of one data set under one recipe, in a folder.

    Attributes:
      folder: where they lie.
      rows: a record for each, with "foreground" ([K] pixels or voxels of each class) and digests of its bytes.
      recipe: how they were prepared; recipe.labels are the names of the classes 1..K.
      name: of the data set.
      synthetic: the data are generated, not measured.
      left_out: the cases that could not be used; no row is theirs.
    """

    folder: Path
    rows: list[dict[str, Any]]
    recipe: Recipe
    name: str
    synthetic: bool
    left_out: bad_cases.LeftOut = dataclasses.field(default=bad_cases.LeftOut(), kw_only=True)

    @functools.cached_property
    def digest(self) -> str:
        """Of all rows, so of every image and mask, and of the names of the cases that were left out."""
        return files.digest(json.dumps([self.rows, self.left_out.cases], sort_keys=True))

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes 1..K."""
        return self.recipe.labels

    def foreground_counts(self) -> np.ndarray:
        """Pixels or voxels of each class in each row, int64 [N, K]."""
        return np.array([row["foreground"] for row in self.rows], np.int64).reshape(len(self.rows), len(self.labels))

    def verify(self) -> None:
        """Read everything and compare with the digests.

        Raises:
          DataError: DATA_CHANGED, naming the first that differs.
        """
        for what, found, written in self._digests():
            if found != written:
                raise damaged(self.folder, f"{what} is not as written")

    def _digests(self) -> Iterator[tuple[str, str, str]]:
        """(what, digest of its bytes now, digest when written) of every array of every row; to be defined by each store."""
        raise TypeError(f"{type(self).__name__} defines no _digests()")


def read_files(dataset: DataSet, case: Case) -> tuple[list[Volume], Volume]:
    """The case's images and its mask in classes 0..K, all on one grid.

    Raises:
      DataError: a file that cannot be used, or DATA_MISSING for a case without image or mask.
    """
    if not case.images or case.mask is None:
        raise DataError(f"case {case.id} has no {'mask' if case.images else 'image'}; add it or drop the case", "DATA_MISSING")
    read = [(dataset.read_image or volumes.read_volume)(path) for path in case.images]
    mask = volumes.read_volume(case.mask) if dataset.read_mask is None else dataset.read_mask(case, read[0])
    try:
        mask = dataclasses.replace(mask, array=dataset.map_mask(mask.array))
    except DataError as error:  # the rule knows values, not files
        raise DataError(f"case {case.id}, {case.mask}: {error}", error.code) from error
    for other in (*read[1:], mask):
        volumes.check_pair(read[0], other)
    return read, mask


def cut(volume: Volume, slab: tuple[int, ...]) -> Volume:
    """The part of a volume that is a case, where it lies in space."""
    if not slab:
        return volume
    first, end = slab
    affine = volume.affine.copy()
    affine[:3, 3] += first * affine[:3, 2]
    return dataclasses.replace(volume, array=volume.array[:, :, first:end], affine=affine)


def labelled(dataset: DataSet, log: Callable[[str], None]) -> DataSet:
    """The data set without the cases that have no mask (validation sets of challenges): nothing can be learnt from them.

    Raises:
      DataError: DATA_EMPTY when none is left.
    """
    kept = tuple(case for case in dataset.cases if case.mask is not None)
    without = len(dataset.cases) - len(kept)
    if without and not kept:
        raise DataError(f"{dataset.root}: none of {without} cases has a mask; training and evaluation need masks, "
                        "--mode=predict takes such folders", "DATA_EMPTY")
    if without:
        first = next(case.id for case in dataset.cases if case.mask is None)
        log(f"{without} of {len(dataset.cases)} cases have no mask ({first}{', ...' if without > 1 else ''}): left out here; "
            "--mode=predict takes them")
    return dataclasses.replace(dataset, cases=kept) if without else dataset


def check_recipe(dataset: DataSet, recipe: Recipe) -> None:
    """Refuse a recipe for another data set's labels or modalities.

    Raises:
      ConfigError.
    """
    for what, ours, theirs in (("labels", recipe.labels, dataset.labels), ("modalities", recipe.modalities, dataset.modalities)):
        if tuple(ours) != tuple(theirs) and (what == "labels" or ours and theirs):
            raise ConfigError(f"the recipe has {what} {tuple(ours)}, the data set {dataset.name} {tuple(theirs)}; take those")


def recipe_from(meta: dict[str, Any]) -> Recipe:
    """The recipe in a store's meta.json."""
    deep = lambda v: tuple(map(deep, v)) if isinstance(v, (list, tuple)) else v
    return Recipe(**{key: deep(v) for key, v in meta["recipe"].items()})


def changed(dataset: DataSet) -> DataError:
    """The error for a fingerprint that is another one after the build."""
    return DataError(f"files under {dataset.root} changed while they were read; start again when they rest", "DATA_CHANGED")


def damaged(folder: Path, why: str) -> DataError:
    """The error for a store that is not what was written."""
    return DataError(f"{folder} is damaged: {why}; delete the folder and it is built again", "DATA_CHANGED")


def fingerprint(dataset: DataSet, recipe: Recipe, version: int | str) -> str:
    """Digest of all that decides the prepared bytes; `version` names the code that prepares."""
    cases = [[c.id, c.patient, dict(c.meta), dataset.stratum(c),
              [_files(p) for p in (*c.images, *([c.mask] if c.mask else []), *c.parts)], *([c.slab] if c.slab else [])]
             for c in dataset.cases]
    rules = [dataset.name, dataset.labels, dataset.map_mask, dataset.keep_slice, dataset.synthetic, dataset.read_image,
             dataset.read_mask, dataset.modalities, dataset.regions]
    return files.digest(json.dumps(words([version, dataclasses.asdict(recipe), rules, cases])))[:16]


def _files(path: Path) -> list:
    """[name, size, time] of a file, or of every file in a folder."""
    found = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    try:
        return [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in found]
    except OSError:
        return [[path.name, "missing"]]  # reading the case says so properly


def words(value) -> Any:
    """A value, or a rule that is code, as JSON that is the same in the next process: no addresses, no set order."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (set, frozenset)):
        return sorted((words(v) for v in value), key=json.dumps)
    if isinstance(value, (list, tuple)):
        return [words(v) for v in value]
    if isinstance(value, functools.partial):
        return ["partial", words(value.func), words(value.args), words(value.keywords)]
    if isinstance(value, types.MethodType):
        return ["method", words(value.__self__), words(value.__func__)]
    if isinstance(value, types.FunctionType):
        return ["function", value.__module__, value.__qualname__, words(value.__code__), words(value.__defaults__),
                words(value.__kwdefaults__), [words(c.cell_contents) for c in value.__closure__ or ()]]
    if isinstance(value, types.CodeType):
        return [files.digest(value.co_code, *value.co_names), words(value.co_consts)]
    if isinstance(value, bytes):
        return files.digest(value)
    if isinstance(value, (np.ndarray, np.generic)):
        return [str(value.dtype), list(value.shape), files.digest(value.tobytes())]
    if isinstance(value, Path):
        return value.name
    if hasattr(value, "items"):
        return sorted(([words(k), words(v)] for k, v in value.items()), key=json.dumps)
    if isinstance(value, type) or callable(value) and not hasattr(value, "__dict__"):
        return [value.__module__, value.__qualname__]
    return [type(value).__module__, type(value).__qualname__, words(getattr(value, "__dict__", {}))]
