"""Prepared volumes on disk: built once, opened one at a time as memory maps, so that a patch reads its own bytes and no more.

    <cache root>/volumes/<data set>-<digest>/
      00000.image.npy       float32 [X, Y, Z, C]        rows.json  one record per volume (see `Store.rows`)
      00000.mask.npy        uint8 [X, Y, Z]             meta.json  data set, recipe, labels, regions
      00000.foreground.npy  uint32 [n], flat indices of the voxels of class 1, then of class 2, ...
      left_out.json         the bad cases, only where there were any

Axes are in the common order (`geometry.to_volume`). The digest covers what `cache`'s does, but of the recipe only what
decides the bytes: another patch size is the same store.
"""

import dataclasses
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxseg.data.geometry import to_volume
from jaxseg.data.prepare.examples import place_scan, prepare_mask, prepare_scan
from jaxseg.data.records import Case, DataSet, Recipe
from jaxseg.data.store import bad_cases, base
from jaxseg.types import DataError, StorageError
from jaxseg.utils import files

VERSION = "volumes 2"  # raise it when the bytes of a store would change
PROGRESS = 5.0  # seconds between lines
KINDS = ("image", "mask", "foreground")
_LOADING = threading.Lock()  # np.load parses headers with `ast`, which several threads may not before CPython 3.11.8 (gh-106905)
KEPT = 64  # volumes whose maps stay open for `Store.kept`; each holds three file descriptors


class Maps(NamedTuple):
    """One volume's arrays, memory-mapped: image [X, Y, Z, C], mask [X, Y, Z] and the index behind `Store.foreground`."""

    image: np.ndarray
    mask: np.ndarray
    foreground: np.ndarray


class _OpenMaps:
    """The maps of the KEPT volumes opened last, shared by the threads that read batches and patches.

    A copy (for another process, say) begins empty.
    """

    def __init__(self):
        self._maps: dict[int, Maps] = {}
        self._lock = threading.Lock()

    def get(self, i: int, open_maps: Callable[[], Maps]) -> Maps:
        """The maps of volume i: those kept, else `open_maps()`, which then are kept in place of the oldest."""
        with self._lock:
            maps = self._maps.get(i)
        if maps is None:
            opened = open_maps()  # outside the lock: a slow disk holds up no thread that reads another volume
            with self._lock:
                maps = self._maps.setdefault(i, opened)
                while len(self._maps) > KEPT:
                    del self._maps[next(iter(self._maps))]
        return maps

    def __len__(self) -> int:
        with self._lock:
            return len(self._maps)

    def __reduce__(self):
        return _OpenMaps, ()


@dataclasses.dataclass(frozen=True)
class Store(base.Prepared):
    """The volumes of one data set under one recipe. Opening it reads no volume.

    Attributes:
      rows: N records {case, patient, stratum, shape (X, Y, Z), spacing (mm), scan_shape and scan_spacing (before resampling,
        in the common order), foreground ([K] voxels of each class), bytes ({kind: size of its file}), digests ({kind:
        blake2b of its planes})}.
      regions: ((name, classes), ...), unions of classes.
    """

    regions: tuple[tuple[str, tuple[int, ...]], ...] = ()
    _open: _OpenMaps = dataclasses.field(default_factory=_OpenMaps, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, i: int) -> np.ndarray:
        """Volume i, float32 [X, Y, Z, C], memory-mapped."""
        return self._map(i, "image", np.float32, (*self.rows[i]["shape"], self.recipe.channels))

    def mask(self, i: int) -> np.ndarray:
        """Classes 0..K of volume i, uint8 [X, Y, Z], memory-mapped."""
        return self._map(i, "mask", np.uint8, tuple(self.rows[i]["shape"]))

    def foreground(self, i: int, k: int) -> np.ndarray:
        """Flat indices (C order) of the voxels of class k = 1..K in volume i, ascending, memory-mapped."""
        counts = self.rows[i]["foreground"]
        if not 1 <= k <= len(counts):
            raise ValueError(f"got class {k}; the store {self.name} has 1..{len(counts)} ({', '.join(self.labels)})")
        start = sum(counts[:k - 1])
        return self.kept(i).foreground[start:start + counts[k - 1]]

    def kept(self, i: int) -> "Maps":
        """The maps of volume i, which stay open while it is among the KEPT opened last.

        A fresh map has every page of a patch mapped anew: that took two thirds of the time of reading patches.
        """
        return self._open.get(i, lambda: Maps(self.image(i), self.mask(i), self._index(i)))

    def _digests(self) -> Iterator[tuple[str, str, str]]:
        for i, row in enumerate(self.rows):
            for kind, array in (("image", self.image(i)), ("mask", self.mask(i)), ("foreground", self._index(i))):
                yield f"the {kind} of volume {i} ({row['case']})", _digest(array), row["digests"][kind]

    def _index(self, i: int) -> np.ndarray:
        row = self.rows[i]
        n = sum(row["foreground"])
        dtype = _index_dtype(row["shape"])
        return self._map(i, "foreground", dtype, (n,)) if n else np.empty(0, dtype)  # an empty file cannot be mapped

    def _map(self, i: int, kind: str, dtype, shape: tuple[int, ...]) -> np.ndarray:
        path = _path(self.folder, i, kind)
        try:
            with _LOADING:
                array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise base.damaged(self.folder, f"{path.name} of {self.rows[i]['case']}: {error}") from error
        if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
            raise base.damaged(self.folder, f"{path.name} of {self.rows[i]['case']} is {array.dtype} {array.shape}, not "
                                              f"{np.dtype(dtype)} {shape}")
        return array


def open_or_build(dataset: DataSet, recipe: Recipe, *, log: Callable[[str], None] = print, bad_share: float = 0.0) -> Store:
    """The store of this data set under this recipe; built first if there is none, once however many processes ask.

    Args:
      bad_share: this share of the cases may be bad and is left out; 0: the first bad case is an error.
    Raises:
      DataError: a case that cannot be used, or more than `bad_share` of them, files that changed meanwhile, or no case.
      ConfigError: a recipe for other labels or modalities, or one that these volumes cannot take.
      StorageError: no space.
    """
    base.check_recipe(dataset, recipe)
    final = files.cache_root() / "volumes" / f"{dataset.name}-{fingerprint(dataset, recipe)}"
    built = files.build_folder(final, lambda folder: _build(folder, dataset, recipe, log, bad_share))
    store = open_store(built)
    bad_cases.check(store.left_out, bad_share)  # it may have been built by a run that allows more
    return dataclasses.replace(store, recipe=recipe)  # with its own patch size


def open_store(folder: Path) -> Store:
    """Open a store that `open_or_build` made; its recipe has the fields alone that decide the bytes.

    Raises:
      DataError: DATA_CHANGED when files are gone or of another size than written.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text())
        rows = json.loads((folder / "rows.json").read_text())
        left_out = bad_cases.read(folder)
        for i, row in enumerate(rows):
            for kind in KINDS:
                size, path = row["bytes"][kind], _path(folder, i, kind)
                if path.stat().st_size != size:
                    raise base.damaged(folder, f"{path.name} of {row['case']} has {path.stat().st_size} bytes, not {size}")
        if len(rows) != meta["volumes"]:
            raise base.damaged(folder, f"{len(rows)} rows for {meta['volumes']} volumes")
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, DataError):
            raise
        raise base.damaged(folder, str(error)) from error
    regions = tuple((name, tuple(classes)) for name, classes in meta["regions"])
    return Store(folder, rows, base.recipe_from(meta), meta["dataset"], meta["synthetic"], regions, left_out=left_out)


def fingerprint(dataset: DataSet, recipe: Recipe) -> str:
    """Digest of all that decides a store's bytes."""
    return base.fingerprint(dataset, _deciding(recipe), VERSION)


def estimate(volumes: list[int], count: int) -> int:
    """Bytes on disk of `count` volumes, if the rest are like the ones whose sizes are known."""
    return -(-sum(volumes) * count // len(volumes))


def _deciding(recipe: Recipe) -> Recipe:
    """The recipe without what patches and augmentation alone look at."""
    return Recipe(size=(), window=recipe.window, spacing=recipe.spacing, channels=recipe.channels, labels=recipe.labels,
                  intensity=recipe.intensity, modalities=recipe.modalities, filter=recipe.filter, crop=recipe.crop,
                  blur=recipe.blur, axes=recipe.axes, nonzero=recipe.nonzero, statistics=recipe.statistics)


def write(folder: Path, items: Iterable[tuple[np.ndarray, np.ndarray, dict[str, Any]]], recipe: Recipe, *, count: int, name: str,
          synthetic: bool, regions, log: Callable[[str], None] = print) -> None:
    """Fill an empty folder with prepared volumes.

    Args:
      items: (image float32 [X, Y, Z, C], mask uint8 [X, Y, Z], row with case, patient, stratum, spacing and what else is to
        be kept) of each volume; shape, foreground, bytes and digests are filled in here.
      recipe: how they were prepared.
      count: how many there are, for the space they will take.
      name, synthetic, regions: of the store.
    Raises:
      StorageError: the volumes still to come would not fit.
    """
    started = said = time.monotonic()
    rows, sizes = [], []
    for i, (image, mask, row) in enumerate(items):
        k = len(recipe.labels)
        inside = np.flatnonzero(mask)
        index = inside[np.argsort(mask.reshape(-1)[inside], kind="stable")].astype(_index_dtype(mask.shape))
        arrays = {"image": image, "mask": mask, "foreground": index}
        sizes.append(sum(a.nbytes for a in arrays.values()))
        _check_space(folder, estimate(sizes, count) - sum(sizes[:-1]), count, i)
        rows.append(row | {
            "shape": list(mask.shape), "foreground": np.bincount(mask.reshape(-1)[inside], minlength=k + 1)[1:].tolist(),
            "digests": {kind: _digest(array) for kind, array in arrays.items()},
            "bytes": {kind: _write(_path(folder, i, kind), array) for kind, array in arrays.items()}})
        if time.monotonic() - said > PROGRESS:
            said = time.monotonic()
            log(f"volumes: {i + 1}/{count} cases of {name}, {_gib(sum(sizes))}, {said - started:.0f} s")
    files.write_json(folder / "rows.json", rows)
    files.write_json(folder / "meta.json", {
        "dataset": name, "synthetic": synthetic, "recipe": dataclasses.asdict(_deciding(recipe)), "regions": regions,
        "volumes": len(rows), "version": VERSION})
    log(f"volumes: {name}, {len(rows)} cases, {_gib(sum(sizes))}, {time.monotonic() - started:.1f} s")


def _build(folder: Path, dataset: DataSet, recipe: Recipe, log: Callable[[str], None], bad_share: float) -> None:
    before = fingerprint(dataset, recipe)
    if not dataset.cases:
        raise DataError(f"{dataset.name}: no case under {dataset.root}; check data.root", "DATA_EMPTY")
    bad: list[bad_cases.Bad] = []
    good = bad_cases.sift(dataset, lambda case: prepare_case(dataset, case, recipe), bad_share, bad)
    write(folder, (prepared for _, prepared in good), recipe, count=len(dataset.cases), name=dataset.name,
          synthetic=dataset.synthetic, regions=dataset.regions, log=log)
    bad_cases.write(folder, bad_cases.LeftOut(tuple(bad), len(dataset.cases)))
    if fingerprint(dataset, recipe) != before:
        raise base.changed(dataset)


def prepare_case(dataset: DataSet, case: Case, recipe: Recipe) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """(image float32 [X, Y, Z, C], mask uint8 [X, Y, Z], row) of one case, errors naming it."""
    read, truth = base.read_files(dataset, case)
    read, truth = [base.cut(volume, case.slab) for volume in read], base.cut(truth, case.slab)
    try:
        labels, orientation = to_volume(truth)
        place = place_scan(read, recipe)
        image = prepare_scan(read, recipe)
        mask = prepare_mask(labels, recipe, orientation.spacing, len(dataset.labels), place=place)
    except DataError as error:
        raise DataError(f"case {case.id}: {error}", error.code) from error
    return image, mask, {"case": case.id, "patient": case.patient, "stratum": dataset.stratum(case),
                         "spacing": list(place.spacing(orientation.spacing)),
                         "scan_shape": list(labels.shape), "scan_spacing": list(orientation.spacing)}


def _write(path: Path, array: np.ndarray) -> int:
    """Write a .npy file through to the disk; its size in bytes."""
    with open(path, "wb") as file:
        np.save(file, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def _check_space(folder: Path, needed: int, cases: int, done: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(f"the remaining {cases - done} of {cases} volumes need about {_gib(needed)}, and {folder.parent} has "
                           f"{_gib(free)} free; free space or set JAXSEG_CACHE to another folder")


def _digest(array: np.ndarray) -> str:
    """Of the planes along the first axis, so that a memory-mapped volume is never copied whole."""
    planes = array.reshape(1, -1) if array.ndim == 1 else array
    return files.digest(*[files.digest(plane.tobytes()) for plane in planes])


def _index_dtype(shape) -> np.dtype:
    return np.dtype(np.uint32 if np.prod(shape, dtype=np.int64) <= 1 << 32 else np.uint64)


def _path(folder: Path, i: int, kind: str) -> Path:
    return folder / f"{i:05d}.{kind}.npy"


def _gib(n: int) -> str:
    return f"{n / 2**30:.2f} GiB"
