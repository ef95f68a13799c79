"""Prepared examples on disk: built once, opened as memory maps, so that a batch reads its own bytes and no more.

    <cache root>/cache/<data set>-<digest>/
      images.npy  uint8 [N, h, w, C]     rows.json  one record per example (see `Cache.rows`)
      masks.npy   uint8 [N, h, w]        meta.json  data set, recipe, labels, what was kept

The digest covers the recipe, every file's name, size and time, the cases, the rules of the data set and this code's
version: whatever changes, another folder is built.
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxseg.data import source
from jaxseg.data.geometry import to_slices
from jaxseg.data.preprocess import prepare, prepare_mask
from jaxseg.data.records import Case, DataSet, Recipe
from jaxseg.types import DataError
from jaxseg.utils import files

VERSION = 1  # raise it when the bytes of a cache would change
PROGRESS = 5.0  # seconds between lines


@dataclasses.dataclass(frozen=True)
class Cache:
    """The examples of one data set under one recipe.

    Attributes:
      folder: where it lies.
      images: uint8 [N, h, w, C], memory-mapped.
      masks: uint8 [N, h, w], classes 0..K.
      rows: N records {case, patient, slice (index in the file), stratum, foreground ([K] pixels of each class), digest and
        mask_digest (blake2b of the bytes), constant (whether the image is one value)}.
      recipe: how they were prepared; recipe.labels are the names of the classes 1..K.
      name: of the data set.
      synthetic: the data are generated, not measured.
    """

    folder: Path
    images: np.ndarray
    masks: np.ndarray
    rows: list[dict[str, Any]]
    recipe: Recipe
    name: str
    synthetic: bool

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes 1..K."""
        return self.recipe.labels

    def value(self, grey: float) -> str:
        """What a grey value 0..255 stands for, with its unit: "52.0 HU", or the grey value itself without a window."""
        if self.recipe.window is None:
            return f"grey {grey:g}"
        level, width = self.recipe.window
        return f"{level - width / 2 + grey / 255 * width:.1f} HU"

    def foreground_counts(self) -> np.ndarray:
        """Pixels of each class in each example, int64 [N, K]."""
        return np.array([row["foreground"] for row in self.rows], np.int64).reshape(len(self.rows), len(self.labels))

    def verify(self) -> None:
        """Read everything and compare with the digests.

        Raises:
          DataError: DATA_CHANGED, naming the first example that differs.
        """
        for i, row in enumerate(self.rows):
            for array, key in ((self.images, "digest"), (self.masks, "mask_digest")):
                if files.digest(array[i].tobytes()) != row[key]:
                    raise source.damaged(self.folder, f"example {i} ({row['case']}, slice {row['slice']}) is not as it was written")


class Slice(NamedTuple):
    """One slice of a case as it was read."""

    image: np.ndarray  # [H, W, C]
    mask: np.ndarray  # [H, W], classes 0..K
    index: int  # along the file's own third axis
    spacing: tuple[float, float] | None  # (row mm, column mm); None for photographs
    kept: bool  # under the data set's protocol


def read_case(dataset: DataSet, case: Case) -> Iterator[Slice]:
    """All slices of a case, feet to head, images and masks checked against each other.

    Raises:
      DataError: a file that cannot be used, or DATA_MISSING for a case without image or mask.
    """
    read, mask = source.read_files(dataset, case)
    labels, orientation = to_slices(mask)
    images = [to_slices(volume)[0] for volume in read]
    images = [a if a.ndim == 4 else a[..., None] for a in images]  # [Z, Y, X, c]
    if labels.ndim != 3:
        raise DataError(f"case {case.id}: the mask has shape {labels.shape} as slices; it must be [Z, Y, X]", "DATA_LABEL")
    spacing = orientation.spacing[1:] if orientation.axes else None
    for z, truth in enumerate(labels):
        index = orientation.file_index(z)
        image = np.concatenate([a[z] for a in images], -1) if len(images) > 1 else images[0][z]
        yield Slice(image, truth, index, spacing, bool(dataset.keep_slice(case, index, truth)))


def open_or_build(dataset: DataSet, recipe: Recipe, *, log: Callable[[str], None] = print) -> Cache:
    """The cache of this data set under this recipe; built first if there is none, once however many processes ask.

    Raises:
      DataError: a case that cannot be used, files that changed meanwhile, or nothing to keep.
      ConfigError: a recipe for other labels.
      StorageError: no space.
    """
    source.check_recipe(dataset, recipe)
    final = files.cache_root() / "cache" / f"{dataset.name}-{fingerprint(dataset, recipe)}"
    return open_cache(files.build_folder(final, lambda folder: _build(folder, dataset, recipe, log)))


def open_cache(folder: Path) -> Cache:
    """Open a cache that `open_or_build` made.

    Raises:
      DataError: DATA_CHANGED when files are gone or of another size than written.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text())
        rows = json.loads((folder / "rows.json").read_text())
        images, masks = (np.load(folder / f"{n}.npy", mmap_mode="r", allow_pickle=False) for n in ("images", "masks"))
    except (OSError, ValueError) as error:
        raise source.damaged(folder, str(error)) from error
    recipe = source.recipe_from(meta)
    expected = (len(rows), *recipe.size)
    if images.shape != (*expected, recipe.channels) or masks.shape != expected:
        raise source.damaged(folder, f"arrays {images.shape} and {masks.shape} for {len(rows)} rows of {recipe.size}")
    return Cache(folder, images, masks, rows, recipe, meta["dataset"], meta["synthetic"])


def fingerprint(dataset: DataSet, recipe: Recipe) -> str:
    """Digest of all that decides a cache's bytes."""
    return source.fingerprint(dataset, recipe, VERSION)


def _build(folder: Path, dataset: DataSet, recipe: Recipe, log: Callable[[str], None]) -> None:
    before = fingerprint(dataset, recipe)
    started = said = time.monotonic()
    rows, seen, k = [], 0, len(dataset.labels)
    with _Growing(folder / "images.npy", (*recipe.size, recipe.channels)) as images, \
            _Growing(folder / "masks.npy", tuple(recipe.size)) as masks:
        for done, case in enumerate(dataset.cases):
            for piece in read_case(dataset, case):
                seen += 1
                if not piece.kept:
                    continue
                try:
                    image = prepare(piece.image, recipe, piece.spacing)
                    mask = prepare_mask(piece.mask, recipe, piece.spacing, k)
                except DataError as error:
                    raise DataError(f"case {case.id}, slice {piece.index}: {error}", error.code) from error
                images.append(image)
                masks.append(mask)
                rows.append({"case": case.id, "patient": case.patient, "slice": piece.index, "stratum": dataset.stratum(case),
                             "foreground": np.bincount(mask.ravel(), minlength=k + 1)[1:].tolist(),
                             "digest": files.digest(image.tobytes()), "mask_digest": files.digest(mask.tobytes()),
                             "constant": bool((image == image.flat[0]).all())})
            if time.monotonic() - said > PROGRESS:
                said = time.monotonic()
                log(f"cache: {done + 1}/{len(dataset.cases)} cases of {dataset.name}, {len(rows)} slices, {said - started:.0f} s")
    if not rows:
        raise DataError(f"{dataset.name}: {seen} slices of {len(dataset.cases)} cases and none kept by the protocol "
                        f"{source.words(dataset.keep_slice)}; check data.root and data.protocol", "DATA_EMPTY")
    if fingerprint(dataset, recipe) != before:
        raise source.changed(dataset)
    files.write_json(folder / "rows.json", rows)
    files.write_json(folder / "meta.json", {
        "dataset": dataset.name, "synthetic": dataset.synthetic, "recipe": dataclasses.asdict(recipe),
        "cases": len(dataset.cases), "slices": seen, "kept": len(rows), "version": VERSION})
    log(f"cache: {dataset.name}, {len(rows)} of {seen} slices of {len(dataset.cases)} cases kept, "
        f"{time.monotonic() - started:.1f} s")


class _Growing:
    """A .npy file [n, *shape] of uint8 that grows along its first axis; numpy leaves room in the header for n."""

    def __init__(self, path: Path, shape: tuple[int, ...]):
        self._shape, self._count, self._file = shape, 0, open(path, "wb")
        self._start = self._header()

    def append(self, array: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(array, np.uint8).data)
        self._count += 1

    def _header(self) -> int:
        spec = {"descr": "|u1", "fortran_order": False, "shape": (self._count, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, spec)
        return self._file.tell()

    def __enter__(self) -> "_Growing":
        return self

    def __exit__(self, *_) -> None:
        with self._file:
            self._file.seek(0)
            if self._header() != self._start:
                raise RuntimeError(f"the header of {self._file.name} grew over the data: {self._count} examples")
            self._file.flush()
            os.fsync(self._file.fileno())
