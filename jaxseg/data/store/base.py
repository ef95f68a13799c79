"""The common part of all stores of prepared examples: their interface, their manifest, and reading a case's files.

A store is a folder, format 2:

    manifest.json   format, layout, data set, recipe, regions, versions of the rules, fingerprint, digest of the rows
    rows.*.npy      one column of the examples' records each (`rows.Rows`)
    left_out.json   the bad cases, if there were any

and the examples' arrays. There are two layouts: `stacked` for examples of one size, `per_case` for examples of any size.
Examples have two axes (slices, pictures) or three (volumes); images are [*S, C], masks [*S] with classes 0..K.
"""

import abc
import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxseg.data.formats import volumes
from jaxseg.data.prepare import masks
from jaxseg.data.prepare.mask_values import Meanings
from jaxseg.data.records import Case, DataSet, Recipe, Volume
from jaxseg.data.store import bad_cases
from jaxseg.data.store import rows as records
from jaxseg.data.store.arrays import damaged
from jaxseg.data.store.fingerprint import RULES
from jaxseg.data.store.rows import Rows
from jaxseg.types import ConfigError, DataError
from jaxseg.utils import files

FORMAT = 2
MANIFEST = "manifest.json"
Box = tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class Store(abc.ABC):
    """The examples of one data set, prepared by one recipe, in a folder. Opening it reads no example.

    An example's bytes are compared with its digests when it is first read (`check`), once in each process.

    Attributes:
      folder: the store's folder.
      rows: one record per example, with case, patient, stratum, "foreground" ([K] pixels or voxels of each class), "kept" ([K],
        how many of them `foreground` lists; with `DataSet.left_out` [K + 1]) and digests of its
        bytes ("digest" is that of the image).
      recipe: how the examples were prepared; recipe.labels are the names of the classes 1..K.
      name: name of the data set.
      synthetic: the data are generated, not measured.
      regions: ((name, classes), ...), unions of classes.
      fingerprint: digest of everything on which the store's bytes depend.
      left_out: the cases that could not be used; they have no rows.
      warnings: warnings about the data, to log whenever they are used for training.
    """

    folder: Path
    rows: Rows
    recipe: Recipe
    name: str
    synthetic: bool
    regions: tuple[tuple[str, tuple[int, ...]], ...] = dataclasses.field(default=(), kw_only=True)
    fingerprint: str = dataclasses.field(default="", kw_only=True)
    left_out: bad_cases.LeftOut = dataclasses.field(default=bad_cases.LeftOut(), kw_only=True)
    warnings: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)
    _checked: set[int] = dataclasses.field(default_factory=set, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.rows)

    @abc.abstractmethod
    def image(self, i: int) -> np.ndarray:
        """Return the image of example i, [*S, C], memory-mapped, after checking its digest."""

    @abc.abstractmethod
    def mask(self, i: int) -> np.ndarray:
        """Return the classes 0..K (or LEFT_OUT) of example i, [*S], uint8 or (above 255 classes) uint16, memory-mapped, after
        checking it.
        """

    @abc.abstractmethod
    def index(self, i: int) -> np.ndarray:
        """Return the flat indices (C order) of the kept voxels of class 1, then of class 2, ... of example i, memory-mapped."""

    @abc.abstractmethod
    def sizes(self) -> np.ndarray:
        """Return the number of pixels or voxels of each example, int64 [N]."""

    @abc.abstractmethod
    def _digests(self, i: int) -> Iterator[tuple[str, str, str]]:
        """Yield (name, digest of its bytes now, digest when written) for every array of example i."""

    def read(self, i: int, box: Box = ()) -> tuple[np.ndarray, np.ndarray]:
        """Return (image [*S, C], mask [*S]) of a box of example i (the whole example for ()), as views of memory maps.

        Raises:
          DataError: as `check`.
        """
        return self.image(i)[box], self.mask(i)[box]

    def foreground(self, i: int, k: int) -> np.ndarray:
        """Return flat indices (C order) of voxels of class k = 1..K in example i, ascending, memory-mapped: all voxels of a small
        class, a fixed random sample of a large one (`store.foreground`).
        """
        kept = self.rows.columns["kept"]
        if not 1 <= k <= kept.shape[1]:
            raise ValueError(
                f"got class {k}; must be one of 1..{kept.shape[1]} of the store {self.name} ({', '.join(self.labels)})"
            )
        start = int(kept[i, : k - 1].sum())
        return self.index(i)[start : start + int(kept[i, k - 1])]

    def check(self, i: int) -> None:
        """Compare example i with its digests, unless this object has already done so.

        Raises:
          DataError: an array has changed since it was written (DATA_CHANGED); the message names it.
        """
        if i not in self._checked:
            for what, found, written in self._digests(i):
                if found != written:
                    raise damaged(self.folder, f"{what} has changed since it was written")
            self._checked.add(i)  # two threads may both check, and agree

    def verify(self) -> None:
        """Read all examples and compare them with their digests.

        Raises:
          DataError: an array has changed since it was written (DATA_CHANGED); the message names the first one.
        """
        self._checked.clear()
        for i in range(len(self)):
            self.check(i)

    @functools.cached_property
    def digest(self) -> str:
        """A digest of all rows (which hold the digests of images and masks) and of the names of the cases that were left out."""
        return files.digest(self.rows.digest, json.dumps(self.left_out.cases))

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes 1..K."""
        return self.recipe.labels

    def foreground_counts(self) -> np.ndarray:
        """The number of pixels or voxels of each class in each row, int64 [N, K]."""
        return np.array(self.rows.columns["foreground"], np.int64).reshape(len(self.rows), len(self.labels))


class Listing(NamedTuple):
    """The records of examples that were prepared but not stored: the part of a `Store` that needs no arrays.

    Attributes:
      rows: one record per example, with case, patient, stratum, "foreground" ([K]), digest and shape ([*S]).
      recipe, regions, left_out: as in a store.
    """

    rows: Rows
    recipe: Recipe
    regions: tuple[tuple[str, tuple[int, ...]], ...] = ()
    left_out: bad_cases.LeftOut = bad_cases.LeftOut()

    @property
    def rank(self) -> int:
        """The number of axes of an example."""
        return len(self.recipe.size)


def write_manifest(
    folder: Path,
    layout: str,
    rows: Rows,
    recipe: Recipe,
    *,
    name: str,
    synthetic: bool,
    regions=(),
    fingerprint: str = "",
    warnings: Sequence[str] = (),
    **about,
) -> None:
    """Write the rows and the manifest that `open_manifest` reads; `about` holds further entries, for information only."""
    columns = rows.write(folder)
    files.write_json(
        folder / MANIFEST,
        {
            "format": FORMAT,
            "layout": layout,
            "dataset": name,
            "synthetic": synthetic,
            "recipe": recipe.as_dict(),
            "regions": regions,
            "rules": RULES,
            "fingerprint": fingerprint,
            "warnings": list(warnings),
            "examples": len(rows),
            "columns": columns,
            "digest": rows.digest,
            **about,
        },
    )


def open_manifest(folder: Path, *layouts: str) -> dict[str, Any]:
    """Read the part of a store that is common to all layouts, as keyword arguments of `Store`.

    Raises:
      DataError: the folder has another format or layout, or has changed since it was written (DATA_CHANGED).
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest["format"] != FORMAT or manifest["layout"] not in layouts:
            raise damaged(folder, f"format {manifest['format']} ({manifest['layout']}) instead of {FORMAT} ({layouts[0]})")
        rows, left_out = records.read(folder, manifest["columns"]), bad_cases.read(folder)
        if rows.digest != manifest["digest"] or len(rows) != manifest["examples"]:
            raise damaged(folder, f"its {len(rows)} rows differ from the {manifest['examples']} that were written")
        regions = tuple((name, tuple(classes)) for name, classes in manifest["regions"])
        return {
            "folder": folder,
            "rows": rows,
            "recipe": recipe_from(manifest),
            "name": manifest["dataset"],
            "synthetic": manifest["synthetic"],
            "regions": regions,
            "fingerprint": manifest["fingerprint"],
            "left_out": left_out,
            "warnings": tuple(manifest["warnings"]),
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise damaged(folder, str(error)) from error


def entry(folder: Path, name: str, default: Any = None) -> Any:
    """Return an entry of the manifest of a store that `open_manifest` has read, such as "layout"."""
    return json.loads((folder / MANIFEST).read_text()).get(name, default)


def read_files(dataset: DataSet, case: Case, meanings: Meanings | None = None) -> tuple[list[Volume], Volume]:
    """Read the case's images, and its mask in classes 0..K, all on one grid.

    Args:
      dataset: the data set.
      case: one of its cases.
      meanings: collects how the values of the mask are interpreted.
    Raises:
      DataError: a file cannot be used, or the case has no image or no mask (DATA_MISSING).
    """
    if not case.images or case.mask is None:
        raise DataError(f"case {case.id} has no {'mask' if case.images else 'image'}; add it, or remove the case", "DATA_MISSING")
    read = [(dataset.read_image or volumes.read_volume)(path) for path in case.images]
    mask = masks.read_numbers(case.mask) if dataset.read_mask is None else dataset.read_mask(case, read[0])
    try:
        mask = masks.rounded(mask)
        mask = dataclasses.replace(mask, array=dataset.map_mask(mask.array))
    except DataError as error:  # the rule knows values, not files
        raise DataError(f"case {case.id}, {case.mask}: {error}", error.code) from error
    read[1:], mask = [volumes.paired(read[0], other) for other in read[1:]], volumes.paired(read[0], mask)
    if meanings is not None:
        meanings.add(case.id, mask.path, mask.meaning)
    return read, mask


def read_stage(dataset: DataSet, case: Case, image: Volume) -> Volume:
    """Read the previous stage's segmentation of a case, classes 0..K on the grid of its first image.

    Raises:
      DataError: there is none (DATA_MISSING), or it does not fit the image.
    """
    if case.stage is None:
        raise DataError(f"case {case.id} has no segmentation of the previous stage; add it, or remove the case", "DATA_MISSING")
    if case.stage.suffix == ".npy":
        try:
            found = dataclasses.replace(image, array=np.load(case.stage), path=case.stage)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                f"case {case.id}: {case.stage} cannot be read ({error}); delete it, and it is made anew", "DATA_TRUNCATED"
            ) from error
    else:
        found = masks.rounded(masks.read_numbers(case.stage))
        found = dataclasses.replace(found, array=dataset.map_mask(found.array))
    try:
        return volumes.paired(image, found)
    except DataError as error:
        raise DataError(f"case {case.id}, its segmentation of the previous stage: {error}", error.code) from error


def labelled(dataset: DataSet, log: Callable[[str], None]) -> DataSet:
    """Return the data set without the cases that have no mask (such as the validation sets of challenges).

    Raises:
      DataError: no case has a mask (DATA_EMPTY).
    """
    kept = tuple(case for case in dataset.cases if case.mask is not None)
    without = len(dataset.cases) - len(kept)
    if without and not kept:
        raise DataError(
            f"{dataset.root}: none of {without} cases has a mask, but training and evaluation need masks; "
            "add masks, or segment them with --mode=predict",
            "DATA_EMPTY",
        )
    if without:
        first = next(case.id for case in dataset.cases if case.mask is None)
        log(
            f"{without} of {len(dataset.cases)} cases have no mask ({first}{', ...' if without > 1 else ''}) and are left out; "
            "--mode=predict takes them"
        )
    return dataclasses.replace(dataset, cases=kept) if without else dataset


def check_recipe(dataset: DataSet, recipe: Recipe) -> None:
    """Refuse a recipe with other labels or modalities than the data set.

    Raises:
      ConfigError: they differ.
    """
    for what, ours, theirs in (("labels", recipe.labels, dataset.labels), ("modalities", recipe.modalities, dataset.modalities)):
        if tuple(ours) != tuple(theirs) and (what == "labels" or ours and theirs):
            raise ConfigError(
                f"the recipe has {what} {tuple(ours)}, but the data set {dataset.name} has {tuple(theirs)}; use those"
            )


def recipe_from(meta: dict[str, Any]) -> Recipe:
    """The recipe in a store's manifest or a run's record."""
    deep = lambda v: tuple(map(deep, v)) if isinstance(v, (list, tuple)) else v
    return Recipe(**{key: deep(v) for key, v in meta["recipe"].items()})


def changed(dataset: DataSet) -> DataError:
    """Return the error for files whose fingerprint changed while the store was built."""
    return DataError(
        f"files under {dataset.root} changed while they were read; start again once they no longer change", "DATA_CHANGED"
    )
