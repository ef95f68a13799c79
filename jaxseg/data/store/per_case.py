"""The layout of examples of their own sizes: files of one example each, opened one at a time as memory maps, so that a patch
reads its own bytes and no more.

    <cache root>/volumes/<data set>-<fingerprint>/   as every store (`base`), and
      00000.image.npy       float32 [X, Y, Z, C]
      00000.mask.npy        uint8 or uint16 [X, Y, Z]
      00000.foreground.npy  uint32 [n], flat indices of voxels of class 1, then of class 2, ... (`foreground.index`)

Axes are in the common order (`geometry.to_volume`), or that of `Recipe.axes`. Of the recipe only what decides the bytes is in the
fingerprint: another patch size is the same store.
"""

import dataclasses
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxseg.data.geometry import to_volume
from jaxseg.data.prepare.examples import place_scan, prepare_mask, prepare_scan
from jaxseg.data.prepare.labels import dtype_for
from jaxseg.data.prepare.mask_values import Meanings
from jaxseg.data.records import Case, DataSet, Recipe
from jaxseg.data.store import bad_cases, base, foreground, rows
from jaxseg.data.store.arrays import damaged, file_digest, open_array, write_array
from jaxseg.data.store.fingerprint import fingerprint as fingerprint_of
from jaxseg.types import DataError, StorageError
from jaxseg.utils import files

LAYOUT = "per case"
PROGRESS = 5.0  # seconds between lines
KINDS = {"image": "digest", "mask": "mask_digest", "foreground": "foreground_digest"}  # arrays, and their digests' columns
KEPT = 64  # examples whose maps stay open for `PerCase.kept`; each holds three file descriptors


class Maps(NamedTuple):
    """One example's arrays, memory-mapped: image [X, Y, Z, C], mask [X, Y, Z] and the index behind `PerCase.foreground`."""

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
class PerCase(base.Store):
    """A store of examples of their own sizes.

    Attributes:
      rows: N records {case, patient, stratum, shape (X, Y, Z), spacing (mm), scan_shape and scan_spacing (before resampling,
        in the common order), foreground and kept ([K]), bytes ([3], sizes of the files), digest, mask_digest and
        foreground_digest (blake2b of the files)}.
    """

    _open: _OpenMaps = dataclasses.field(default_factory=_OpenMaps, init=False, repr=False, compare=False)

    def image(self, i: int) -> np.ndarray:
        """Volume i, float32 [X, Y, Z, C], memory-mapped, checked."""
        self.check(i)
        return self._map(i, "image", np.float32, (*self.shape(i), self.recipe.channels))

    def mask(self, i: int) -> np.ndarray:
        """Classes 0..K of volume i, [X, Y, Z], memory-mapped, checked."""
        self.check(i)
        return self._map(i, "mask", dtype_for(len(self.labels)), self.shape(i))

    def index(self, i: int) -> np.ndarray:
        """As in every store; its map stays open."""
        return self.kept(i).foreground

    def shape(self, i: int) -> tuple[int, ...]:
        """(X, Y, Z) of volume i."""
        return tuple(self.rows.columns["shape"][i].tolist())

    def read(self, i: int, box: base.Box = ()) -> tuple[np.ndarray, np.ndarray]:
        """As in every store, through maps that stay open."""
        maps = self.kept(i)
        return maps.image[box], maps.mask[box]

    def kept(self, i: int) -> Maps:
        """The maps of volume i, checked, which stay open while it is among the KEPT opened last.

        A fresh map has every page of a patch mapped anew: that took two thirds of the time of reading patches.
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
            yield f"the {kind} of volume {i} ({row['case']})", file_digest(_path(self.folder, i, kind)), row[column]

    def _map(self, i: int, kind: str, dtype, shape: tuple[int, ...]) -> np.ndarray:
        return open_array(_path(self.folder, i, kind), np.dtype(dtype), shape, f" of {self.rows.columns['case'][i]}")


def open_or_build(dataset: DataSet, recipe: Recipe, *, log: Callable[[str], None] = print, bad_share: float = 0.0) -> PerCase:
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


def open_store(folder: Path) -> PerCase:
    """Open a store that `open_or_build` made; its recipe has the fields alone that decide the bytes.

    Raises:
      DataError: DATA_CHANGED when files are gone or of another size than written.
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
    return fingerprint_of(dataset, _deciding(recipe), LAYOUT)


def estimate(volumes: list[int], count: int) -> int:
    """Bytes on disk of `count` volumes, if the rest are like the ones whose sizes are known."""
    return -(-sum(volumes) * count // len(volumes))


def write(
    folder: Path,
    items: Iterable[tuple[np.ndarray, np.ndarray, dict[str, Any]]],
    recipe: Recipe,
    *,
    count: int,
    name: str,
    synthetic: bool,
    regions,
    fingerprint: str = "",
    log: Callable[[str], None] = print,
) -> None:
    """Fill an empty folder with prepared volumes.

    Args:
      items: (image float32 [X, Y, Z, C], mask uint8 or uint16 [X, Y, Z], row with case, patient, stratum, spacing and what else
        is to be kept) of each volume; shape, foreground, kept, bytes and digests are filled in here.
      recipe: how they were prepared.
      count: how many there are, for the space they will take.
      name, synthetic, regions, fingerprint: of the store.
    Raises:
      StorageError: the volumes still to come would not fit.
    """
    started = said = time.monotonic()
    found, sizes, k = [], [], len(recipe.labels)
    for i, (image, mask, row) in enumerate(items):
        index, kept, counts = foreground.index(mask, k)
        arrays = {"image": image, "mask": mask.astype(dtype_for(k), copy=False), "foreground": index}
        sizes.append(sum(a.nbytes for a in arrays.values()))
        _check_space(folder, estimate(sizes, count) - sum(sizes[:-1]), count, i)
        written = {kind: write_array(_path(folder, i, kind), array) for kind, array in arrays.items()}
        found.append(
            row
            | {
                "shape": list(mask.shape),
                "foreground": counts,
                "kept": kept,
                "bytes": [size for size, _ in written.values()],
                **{column: written[kind][1] for kind, column in KINDS.items()},
            }
        )
        if time.monotonic() - said > PROGRESS:
            said = time.monotonic()
            log(f"volumes: {i + 1}/{count} cases of {name}, {_gib(sum(sizes))}, {said - started:.0f} s")
    base.write_manifest(
        folder,
        LAYOUT,
        rows.from_records(found),
        _deciding(recipe),
        name=name,
        synthetic=synthetic,
        regions=regions,
        fingerprint=fingerprint,
    )
    log(f"volumes: {name}, {len(found)} cases, {_gib(sum(sizes))}, {time.monotonic() - started:.1f} s")


def _deciding(recipe: Recipe) -> Recipe:
    """The recipe without what patches and augmentation alone look at."""
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
    )


def _build(folder: Path, dataset: DataSet, recipe: Recipe, log: Callable[[str], None], bad_share: float) -> None:
    before = fingerprint(dataset, recipe)
    if not dataset.cases:
        raise DataError(f"{dataset.name}: no case under {dataset.root}; check data.root", "DATA_EMPTY")
    bad: list[bad_cases.Bad] = []
    meanings = Meanings()
    good = bad_cases.sift(dataset, lambda case: prepare_case(dataset, case, recipe, meanings), bad_share, bad)
    write(
        folder,
        (prepared for _, prepared in good),
        recipe,
        count=len(dataset.cases),
        name=dataset.name,
        synthetic=dataset.synthetic,
        regions=dataset.regions,
        fingerprint=before,
        log=log,
    )
    bad_cases.write(folder, bad_cases.LeftOut(tuple(bad), len(dataset.cases)))
    for line in meanings.lines(dataset.labels):
        log(line)
    if fingerprint(dataset, recipe) != before:
        raise base.changed(dataset)


def prepare_case(
    dataset: DataSet, case: Case, recipe: Recipe, meanings: Meanings | None = None
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """(image float32 [X, Y, Z, C], mask uint8 or uint16 [X, Y, Z], row) of one case, errors naming it.

    Args:
      meanings: counts what the mask's values were taken for.
    """
    read, truth = base.read_files(dataset, case, meanings)
    read, truth = [base.cut(volume, case.slab) for volume in read], base.cut(truth, case.slab)
    try:
        labels, orientation = to_volume(truth)
        place = place_scan(read, recipe)
        image = prepare_scan(read, recipe)
        mask = prepare_mask(labels, recipe, orientation.spacing, len(dataset.labels), place=place)
    except DataError as error:
        raise DataError(f"case {case.id}: {error}", error.code) from error
    return (
        image,
        mask,
        {
            "case": case.id,
            "patient": case.patient,
            "stratum": dataset.stratum(case),
            "spacing": list(place.spacing(orientation.spacing)),
            "scan_shape": list(labels.shape),
            "scan_spacing": list(orientation.spacing),
        },
    )


def _check_space(folder: Path, needed: int, cases: int, done: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(
            f"the remaining {cases - done} of {cases} volumes need about {_gib(needed)}, and {folder.parent} has "
            f"{_gib(free)} free; free space or set JAXSEG_CACHE to another folder"
        )


def _path(folder: Path, i: int, kind: str) -> Path:
    return folder / f"{i:05d}.{kind}.npy"


def _gib(n: int) -> str:
    return f"{n / 2**30:.2f} GiB"
