"""The store layout for examples of any size: separate files for each example, opened as memory maps, so that reading a patch
reads only its own bytes.

    <cache root>/volumes/<data set>-<fingerprint>/   as every store (`base`), and       (slices and pictures: pictures/...)
      00000.image.npy       float32 [X, Y, Z, C]; of slices and pictures uint8 or float32 [H, W, C] (`examples.dtype_of`)
      00000.mask.npy        uint8 or uint16 [*S]
      00000.foreground.npy  uint32 [n], flat indices of voxels of class 1, then of class 2, ... (`foreground.index`)

Axes of volumes are in the common order (`geometry.to_volume`), or that of `Recipe.axes`; slices are upright. The fingerprint
contains only those parts of the recipe on which the bytes depend: runs with different patch sizes share a store.
"""

import dataclasses
import functools
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxseg.data.formats import remarks
from jaxseg.data.prepare import contrast
from jaxseg.data.prepare.examples import dtype_of
from jaxseg.data.prepare.labels import dtype_for
from jaxseg.data.records import DataSet, Recipe
from jaxseg.data.store import bad_cases, base, cases, foreground, rows
from jaxseg.data.store.arrays import damaged, file_digest, open_array, write_array
from jaxseg.data.store.fingerprint import fingerprint as fingerprint_of
from jaxseg.types import DataError, StorageError
from jaxseg.utils import files

LAYOUT = "per case"
PROGRESS = 5.0  # seconds between lines
FOLDERS, NOUNS = {2: "pictures", 3: "volumes"}, {2: "slices", 3: "volumes"}  # by the number of axes
KINDS = {"image": "digest", "mask": "mask_digest", "foreground": "foreground_digest"}  # arrays, and their digests' columns
KEPT = 64  # examples whose maps stay open for `PerCase.kept`; each holds three file descriptors


class Maps(NamedTuple):
    """One example's arrays, memory-mapped: image [*S, C], mask [*S] and the index behind `PerCase.foreground`."""

    image: np.ndarray
    mask: np.ndarray
    foreground: np.ndarray


class _OpenMaps:
    """A cache of the memory maps of the KEPT examples opened last, shared by the threads that read batches and patches.

    A copy (for example for another process) starts empty.
    """

    def __init__(self):
        self._maps: dict[int, Maps] = {}
        self._lock = threading.Lock()

    def get(self, i: int, open_maps: Callable[[], Maps]) -> Maps:
        """Return the maps of example i: from the cache, else from `open_maps()`; new maps replace the oldest ones."""
        with self._lock:
            maps = self._maps.get(i)
        if maps is None:
            opened = open_maps()  # outside the lock: a slow disk holds up no thread that reads another example
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
class PerCase(base.Store):
    """A store of examples of any size.

    Attributes:
      rows: N records {case, patient, stratum, shape ([*S]), spacing (mm), scan_shape and scan_spacing (before resampling,
        in the common order), foreground and kept ([K]), bytes ([3], sizes of the files), digest, mask_digest and
        foreground_digest (blake2b of the files)}, of slices and pictures also slice (index in the file) and constant (whether
        the image is one value).
    """

    _open: _OpenMaps = dataclasses.field(default_factory=_OpenMaps, init=False, repr=False, compare=False)

    def image(self, i: int) -> np.ndarray:
        """Return the image of example i, [*S, C], memory-mapped, after checking its digest."""
        self.check(i)
        return self._map(i, "image", self.dtype, (*self.shape(i), self.recipe.channels))

    def mask(self, i: int) -> np.ndarray:
        """Return the classes 0..K of example i, [*S], memory-mapped, after checking its digest."""
        self.check(i)
        return self._map(i, "mask", dtype_for(len(self.labels)), self.shape(i))

    def index(self, i: int) -> np.ndarray:
        """As in `Store`; the memory map stays open."""
        return self.kept(i).foreground

    def sizes(self) -> np.ndarray:
        """As in `Store`."""
        return self.rows.columns["shape"].astype(np.int64).prod(1)

    def shape(self, i: int) -> tuple[int, ...]:
        """Return [*S] of example i."""
        return tuple(self.rows.columns["shape"][i].tolist())

    @property
    def rank(self) -> int:
        """The number of axes of an example: 2 for slices and pictures, 3 for volumes."""
        return self.rows.columns["shape"].shape[1]

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the images."""
        return dtype_of(self.recipe, self.rank)

    def read(self, i: int, box: base.Box = ()) -> tuple[np.ndarray, np.ndarray]:
        """As in `Store`; the memory maps stay open."""
        maps = self.kept(i)
        return maps.image[box], maps.mask[box]

    def kept(self, i: int) -> Maps:
        """Return the memory maps of example i after checking it; they stay open while it is among the KEPT opened last.

        With a new memory map every page of a patch is mapped again, which took two thirds of the time of reading patches.
        """
        return self._open.get(i, lambda: self._checked_maps(i))

    def _checked_maps(self, i: int) -> Maps:
        self.check(i)
        n = int(self.rows.columns["kept"][i].sum())
        index = self._map(i, "foreground", foreground.dtype_for(self.shape(i)), (n,))
        return Maps(self.image(i), self.mask(i), index)

    def _digests(self, i: int) -> Iterator[tuple[str, str, str]]:
        row = self.rows[i]
        for kind, column in KINDS.items():
            yield f"the {kind} of example {i} ({row['case']})", file_digest(_path(self.folder, i, kind)), row[column]

    def _map(self, i: int, kind: str, dtype, shape: tuple[int, ...]) -> np.ndarray:
        return open_array(_path(self.folder, i, kind), np.dtype(dtype), shape, f" of {self.rows.columns['case'][i]}")


def open_or_build(dataset: DataSet, recipe: Recipe, *, log: Callable[[str], None] = print, bad_share: float = 0.0) -> PerCase:
    """Open the store of a data set for a recipe; it is built first if it does not exist, only once if several processes ask.

    Args:
      dataset: the data set.
      recipe: how images are prepared.
      log: called with lines of text about the build.
      bad_share: fraction of cases that may be bad and are left out; with 0, the first bad case is an error.
    Raises:
      DataError: more cases than allowed cannot be used, files changed during the build, or there is no case.
      ConfigError: the recipe is for other labels or modalities, or does not fit the images.
      StorageError: the disk is full.
    """
    base.check_recipe(dataset, recipe)
    final = files.cache_root() / FOLDERS[len(recipe.size)] / f"{files.plain_name(dataset.name)}-{fingerprint(dataset, recipe)}"
    built = files.build_folder(final, lambda folder: _build(folder, dataset, recipe, log, bad_share))
    store = open_store(built)
    bad_cases.check(store.left_out, bad_share)  # it may have been built by a run that allows more
    return dataclasses.replace(store, recipe=recipe)  # with its own patch size


def open_store(folder: Path) -> PerCase:
    """Open a store that `open_or_build` built; its recipe has only the fields on which the bytes depend.

    Raises:
      DataError: files are missing or have another size than when they were written (DATA_CHANGED).
    """
    written = base.open_manifest(folder, LAYOUT)
    cases = written["rows"].columns["case"].tolist()
    for i, (case, sizes) in enumerate(zip(cases, written["rows"].columns["bytes"].tolist())):
        for kind, size in zip(KINDS, sizes):
            path = _path(folder, i, kind)
            try:
                found = path.stat().st_size
            except OSError as error:
                raise damaged(folder, f"{path.name} of {case}: {error}") from error
            if found != size:
                raise damaged(folder, f"{path.name} of {case} has {found} bytes, not {size}")
    return PerCase(**written)


def fingerprint(dataset: DataSet, recipe: Recipe) -> str:
    """Digest of all that decides a store's bytes."""
    return fingerprint_of(dataset, _deciding(recipe), LAYOUT, f"{len(recipe.size)} axes")


def estimate(sizes: list[int], count: int) -> int:
    """Estimate the bytes on disk of `count` examples from the sizes of those that are already written."""
    return -(-sum(sizes) * count // len(sizes))


def write(
    folder: Path,
    items: Iterable[tuple[np.ndarray, np.ndarray, dict[str, Any]]],
    recipe: Recipe,
    *,
    count: int | None,
    name: str,
    synthetic: bool,
    regions,
    fingerprint: str = "",
    warnings: Callable[[], list[str]] = list,
    log: Callable[[str], None] = print,
) -> None:
    """Fill an empty folder with prepared examples of one rank.

    Args:
      folder: the empty folder.
      items: for each example (image [*S, C], mask uint8 or uint16 [*S], row with case, patient, stratum, spacing and any further
        entries); shape, foreground, kept, bytes and digests are added here.
      recipe: how the examples were prepared.
      count: number of examples, to estimate the disk space; None if not known.
      name, synthetic, regions, fingerprint: as in `Store`.
      warnings: returns warnings about the data; called after the last item.
      log: called with lines of text about the progress.
    Raises:
      StorageError: the disk has not enough space for the remaining examples.
    """
    started = said = time.monotonic()
    noun = "slices" if count is None else "cases"
    found, sizes, k = [], [], len(recipe.labels)
    for i, (image, mask, row) in enumerate(items):
        index, kept, counts = foreground.index(mask, k)
        arrays = {"image": image, "mask": mask.astype(dtype_for(k), copy=False), "foreground": index}
        sizes.append(sum(a.nbytes for a in arrays.values()))
        if count is None:
            _check_space(folder, sizes[-1], f"slice {i + 1} needs")
        else:
            left = estimate(sizes, count) - sum(sizes[:-1])
            _check_space(folder, left, f"the remaining {count - i} of {count} {NOUNS[mask.ndim]} need about")
        written = {kind: write_array(_path(folder, i, kind), array) for kind, array in arrays.items()}
        found.append(
            row
            | {
                "shape": list(mask.shape),
                "foreground": counts,
                "kept": kept,
                "bytes": [size for size, _ in written.values()],
                **{column: written[kind][1] for kind, column in KINDS.items()},
                **({"constant": bool((image == image.flat[0]).all())} if mask.ndim == 2 else {}),
            }
        )
        if time.monotonic() - said > PROGRESS:
            said = time.monotonic()
            of = "" if count is None else f"/{count}"
            log(f"{FOLDERS[mask.ndim]}: {i + 1}{of} {noun} of {name}, {_gib(sum(sizes))}, {said - started:.0f} s")
    base.write_manifest(
        folder,
        LAYOUT,
        rows.from_records(found),
        _deciding(recipe),
        name=name,
        synthetic=synthetic,
        regions=regions,
        fingerprint=fingerprint,
        warnings=warnings(),
    )
    rank = len(found[0]["shape"])
    log(f"{FOLDERS[rank]}: {name}, {len(found)} {noun}, {_gib(sum(sizes))}, {time.monotonic() - started:.1f} s")


def _deciding(recipe: Recipe) -> Recipe:
    """Return the recipe without fields that only affect patches and augmentation."""
    return Recipe(
        size=(),
        window=recipe.window,
        spacing=recipe.spacing,
        channels=recipe.channels,
        labels=recipe.labels,
        intensity=recipe.intensity,
        modalities=recipe.modalities,
        filter=recipe.filter,
        crop=recipe.crop,
        blur=recipe.blur,
        axes=recipe.axes,
        nonzero=recipe.nonzero,
        statistics=recipe.statistics,
        fit=recipe.fit,
        plane=recipe.plane,
        orientation=recipe.orientation,
    )


def _build(folder: Path, dataset: DataSet, recipe: Recipe, log: Callable[[str], None], bad_share: float) -> None:
    before = fingerprint(dataset, recipe)
    if not dataset.cases:
        raise DataError(f"{dataset.name}: no case under {dataset.root}; check data.root", "DATA_EMPTY")
    bad: list[bad_cases.Bad] = []
    tally = cases.Tally()
    with remarks.collected(log):
        write(
            folder,
            _items(dataset, recipe, tally, bad_share, bad),
            recipe,
            count=len(dataset.cases) if len(recipe.size) == 3 else None,
            name=dataset.name,
            synthetic=dataset.synthetic,
            regions=dataset.regions,
            fingerprint=before,
            warnings=lambda: contrast.warnings(tally.levels, recipe),
            log=log,
        )
    for line in tally.lines(recipe, dataset.labels):
        log(line)
    bad_cases.write(folder, bad_cases.LeftOut(tuple(bad), len(dataset.cases)))
    if fingerprint(dataset, recipe) != before:
        raise base.changed(dataset)


def _items(
    dataset: DataSet, recipe: Recipe, tally: cases.Tally, share: float, bad: list[bad_cases.Bad]
) -> Iterator[tuple[np.ndarray, np.ndarray, dict[str, Any]]]:
    """Yield the arguments of `write` for every kept example.

    Raises:
      DataError: there is none (DATA_EMPTY).
    """
    kept = 0
    for _, found in bad_cases.sift(
        dataset, functools.partial(cases.examples_of, dataset, recipe, meanings=tally.meanings), share, bad
    ):
        tally.add(found.tally)
        kept += len(found.kept)
        for image, mask, row, grid in found.kept:
            yield image, mask, row | grid
    if not kept:
        raise cases.nothing_kept(dataset, tally)


def _check_space(folder: Path, needed: int, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(
            f"{what} {_gib(needed)}, and {folder.parent} has {_gib(free)} free; free space or set JAXSEG_CACHE to another folder"
        )


def _path(folder: Path, i: int, kind: str) -> Path:
    return folder / f"{i:05d}.{kind}.npy"


def _gib(n: int) -> str:
    return f"{n / 2**30:.2f} GiB"
