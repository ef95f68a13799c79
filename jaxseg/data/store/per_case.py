"""The store layout for examples of any size: separate files for each example, opened as memory maps, so that reading a patch
reads only its own bytes.

    <cache root>/volumes/<data set>-<fingerprint>/   as every store (`base`), and       (slices and pictures: pictures/...)
      000/000000.image.npy       float32 [X, Y, Z, C]; of slices and pictures uint8 or float32 [H, W, C] (`examples.dtype_of`)
      000/000000.mask.npy        uint8 or uint16 [*S]
      000/000000.foreground.npy  uint32 [n], flat indices of voxels of class 1, then of class 2, ... (`foreground.index`)
      000/joined.bin             the same arrays, without headers, of examples whose case has at most 1 MiB

with the examples 1000 n to 1000 n + 999 in folder n; with the engine zarr3 000/000000.image.zarr, ... for all (`engines`).

A previous stage's classes are the last channel of the files, as numbers; `PerCase` returns a channel for each of them.

Axes of volumes are in the common order (`geometry.to_volume`), or that of `Recipe.axes`; slices are upright. The fingerprint
contains only those parts of the recipe on which the bytes depend: runs with different patch sizes share a store.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxseg.data.formats import remarks
from jaxseg.data.prepare import contrast
from jaxseg.data.prepare.examples import dtype_of, one_hot
from jaxseg.data.prepare.labels import dtype_for
from jaxseg.data.records import DataSet, Recipe
from jaxseg.data.store import bad_cases, base, cases, foreground, preparing, rows
from jaxseg.data.store.arrays import (
    Joined,
    OpenMaps,
    as_half,
    content_digest,
    damaged,
    joined_path,
    open_bytes,
    sync_files,
    thousand_of,
    write_array,
)
from jaxseg.data.store.engines import StoreEngine, engine_at
from jaxseg.data.store.fingerprint import Sources
from jaxseg.data.store.parts import Parts
from jaxseg.data.store.preparing import ALONE, FOLDERS, CaseProgress, HostShare
from jaxseg.types import DataError
from jaxseg.utils import files

LAYOUT = "per case, a thousand to a folder, small ones joined"
LAYOUTS = {  # by the engine and the type of stored images
    ("memmap", "float32"): LAYOUT,
    ("zarr3", "float32"): f"{LAYOUT}, as zarr",
    ("memmap", "float16"): f"{LAYOUT}, in float16",
    ("zarr3", "float16"): f"{LAYOUT}, as zarr in float16",
}
KINDS = {"image": "digest", "mask": "mask_digest", "foreground": "foreground_digest"}  # arrays, and their digests' columns
OWN = [-1] * len(KINDS)  # column "start" of an example with files of its own


class Maps(NamedTuple):
    """One example's open arrays: image [*S, C], mask [*S] and the index behind `PerCase.foreground`."""

    image: Any
    mask: Any
    foreground: Any


@dataclasses.dataclass(frozen=True)
class PerCase(base.Store):
    """A store of examples of any size.

    Attributes:
      engine: name of what wrote the arrays.
      stored: in which type float32 images lie on the disk, "float32" or "float16"; they are read as float32.
      address: where the arrays lie if not in the folder ("gs://bucket/folder").
      rows: N records {case, patient, stratum, start ([3], where the arrays lie in the file of joined examples; -1 for files of
        their own; absent if all have some), shape ([*S]), spacing (mm), scan_shape and scan_spacing (before resampling,
        in the common order), span ([C, 2], lowest and highest value of each channel), foreground and kept ([K]), bytes ([3],
        sizes of the files or arrays), digest, mask_digest and foreground_digest (blake2b of them)}, in float16 also
        rounding (the largest change of a value), of slices and pictures slice (index in the file) and constant (whether the
        image is one value).
    """

    engine: str = dataclasses.field(default="memmap", kw_only=True)
    stored: str = dataclasses.field(default="float32", kw_only=True)
    address: str = dataclasses.field(default="", kw_only=True)
    _joined: OpenMaps = dataclasses.field(default_factory=OpenMaps, init=False, repr=False, compare=False)
    _open: OpenMaps = dataclasses.field(default_factory=OpenMaps, init=False, repr=False, compare=False)

    def image(self, i: int) -> np.ndarray:
        """Return the image of example i, [*S, C], after checking its digest; a map of a .npy file, else all of it decoded."""
        self.check(i)
        return self._float(self._map(i, "image", self._on_disk, (*self.shape(i), self._stored))[()])

    def mask(self, i: int) -> np.ndarray:
        """Return the classes 0..K of example i, [*S], after checking its digest; as `image`."""
        self.check(i)
        return self._map(i, "mask", dtype_for(len(self.labels)), self.shape(i))[()]

    def index(self, i: int) -> np.ndarray:
        """As in `Store`; the array stays open."""
        return self.kept(i).foreground[()]

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

    @functools.cached_property
    def _engine(self) -> StoreEngine:
        return engine_at(self.engine, self.address, self.folder.name)

    @property
    def _on_disk(self) -> np.dtype:
        return np.dtype(self.stored) if self.dtype == np.float32 else self.dtype

    def read(self, i: int, box: base.Box = ()) -> tuple[np.ndarray, np.ndarray]:
        """As in `Store`; the memory maps stay open."""
        maps = self.kept(i)
        return self._float(maps.image[box]), maps.mask[box]

    @property
    def channels(self) -> int:
        """The number of channels of the images, a previous stage's classes included."""
        return self.recipe.channels + self.recipe.stage

    @property
    def _stored(self) -> int:
        """The number of channels in the files: the classes of a previous stage are one, of class numbers."""
        return self.recipe.channels + (self.recipe.stage > 0)

    def _float(self, image: np.ndarray) -> np.ndarray:
        """Return an image as it is read from the one on the disk."""
        image = image.astype(self.dtype, copy=False)
        return one_hot(image, self.recipe.stage) if self.recipe.stage else image

    def kept(self, i: int) -> Maps:
        """Return the memory maps of example i after checking it; they stay open while it is among the KEPT opened last.

        With a new memory map every page of a patch is mapped again, which took two thirds of the time of reading patches.
        """
        return self._open.get(i, lambda: self._checked_maps(i))

    def _checked_maps(self, i: int) -> Maps:
        self.check(i)
        n = int(self.rows.columns["kept"][i].sum())
        index = self._map(i, "foreground", foreground.dtype_for(self.shape(i)), (n,))
        image = self._map(i, "image", self._on_disk, (*self.shape(i), self._stored))
        return Maps(image, self._map(i, "mask", dtype_for(len(self.labels)), self.shape(i)), index)

    def _digests(self, i: int) -> Iterator[tuple[str, str, str]]:
        row = self.rows[i]
        for kind, column in KINDS.items():
            piece = self._piece(i, kind)
            found = self._engine.digest(self._path(i, kind)) if piece is None else content_digest(piece)
            yield f"the {kind} of example {i} ({row['case']})", found, row[column]

    def _piece(self, i: int, kind: str) -> np.ndarray | None:
        """Return the bytes of an array in the file of its thousand; None if it has a file of its own."""
        starts, which = self.rows.columns.get("start"), list(KINDS).index(kind)
        if starts is None or starts[i, which] < 0:
            return None
        path, start, size = joined_path(self.folder, i), int(starts[i, which]), int(self.rows.columns["bytes"][i, which])
        content = self._joined.get(path, lambda: open_bytes(path))
        if start + size > len(content):
            raise damaged(path.parent, f"{path.name} has {len(content)} bytes, not {start + size}")
        return content[start : start + size]

    def _map(self, i: int, kind: str, dtype, shape: tuple[int, ...]) -> Any:
        if (piece := self._piece(i, kind)) is not None:
            return piece.view(dtype).reshape(shape)
        return self._engine.open(self._path(i, kind), np.dtype(dtype), shape, f" of {self.rows.columns['case'][i]}")

    def _path(self, i: int, kind: str) -> Path:
        return _path(self.folder, i, kind, self._engine.ending)


def open_or_build(
    dataset: DataSet,
    recipe: Recipe,
    *,
    log: Callable[[str], None] = print,
    bad_share: float = 0.0,
    workers: int | None = None,
    share: HostShare = ALONE,
    engine: str = "memmap",
    stored: str = "float32",
    address: str = "",
) -> PerCase:
    """Open the store of a data set for a recipe; it is built first if it does not exist, only once if several processes ask.

    Args:
      dataset: the data set.
      recipe: how images are prepared.
      log: called with lines of text about the build.
      bad_share: fraction of cases that may be bad and are left out; with 0, the first bad case is an error.
      workers: number of processes that prepare cases, see `preparing.CasePreparation`.
      share: which of the cases this process prepares first, and what waits for the other processes of the run.
      engine: name of what writes the arrays, one of `engines.ENGINES`.
      stored: "float16" stores float32 images in half the bytes, and says how far that moves their values.
      address: where zarr arrays are to lie, such as "gs://bucket/folder"; "": in the store's folder. While the store is built
        they lie on this machine.
    Raises:
      DataError: more cases than allowed cannot be used, files changed during the build, or there is no case.
      ConfigError: the recipe is for other labels or modalities, or does not fit the images.
      StorageError: the disk is full, or the address cannot be reached.
    """
    base.check_recipe(dataset, recipe)
    sources, layout = _sources(dataset, recipe, engine, stored, address), functools.partial(finish, stored=stored)
    final = files.cache_root() / FOLDERS[len(recipe.size)] / f"{files.plain_name(dataset.name)}-{sources.fingerprint}"
    parts = Parts(preparing.folder_of(final, files.plain_name(dataset.name)), dataset, recipe, layout, sources, engine)
    there = engine_at(engine, address, final.name)
    if not final.is_dir():
        there.reach()
    preparing.spread(parts, final, share, workers)
    about = {"layout": LAYOUTS[engine, stored], "address": address}
    built = files.build_folder(final, lambda folder: _build(folder, parts, there, about, log, bad_share, workers))
    store = open_store(built)
    bad_cases.check(store.left_out, bad_share)  # it may have been built by a run that allows more
    return dataclasses.replace(store, recipe=recipe)  # with its own patch size


def open_store(folder: Path) -> PerCase:
    """Open a store that `open_or_build` built; its recipe has only the fields on which the bytes depend.

    No example's file is looked at: there may be hundreds of thousands. Each is checked when it is first read.

    Raises:
      DataError: the manifest or the rows are missing, or differ from what was written (DATA_CHANGED).
    """
    written = base.open_manifest(folder, *LAYOUTS.values())
    engine, stored = next(names for names, layout in LAYOUTS.items() if layout == base.entry(folder, "layout"))
    return PerCase(**written, engine=engine, stored=stored, address=base.entry(folder, "address", ""))


def fingerprint(dataset: DataSet, recipe: Recipe) -> str:
    """Digest of all that decides a store's bytes."""
    return _sources(dataset, recipe, "memmap", "float32", "").fingerprint


def _sources(dataset: DataSet, recipe: Recipe, engine: str, stored: str, address: str) -> Sources:
    more = (LAYOUTS[engine, stored], f"{len(recipe.size)} axes", *([address] if address else []))
    return Sources(dataset, _deciding(recipe), *more)


def finish(
    recipe: Recipe, found: cases.CaseExamples, stored: str = "float32"
) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Return the arrays of a case's examples, "0.image", "0.mask", "0.foreground", "1.image", ..., and their rows."""
    arrays: dict[str, np.ndarray] = {}
    made: list[dict[str, Any]] = []
    for e, (image, mask, row, grid) in enumerate(found.kept):
        own, facts = _complete(image, mask, len(recipe.labels), found.left_out)
        if image.dtype == np.float32 and stored == "float16":
            own["image"], facts["rounding"] = as_half(image, row["case"])
        arrays |= {f"{e}.{kind}": array for kind, array in own.items()}
        made.append(row | grid | facts)
    return arrays, made


def _complete(
    image: np.ndarray, mask: np.ndarray, k: int, left_out: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return an example's arrays by KINDS, and the entries of its row that follow from them."""
    index, kept, counts = foreground.index(mask, k, left_out)
    flat = image.reshape(-1, image.shape[-1])
    span = np.stack([flat.min(0), flat.max(0)], -1).astype(np.float64).tolist()
    facts = {"shape": list(mask.shape), "foreground": counts, "kept": kept, "span": span}
    if mask.ndim == 2:
        facts["constant"] = bool((image == image.flat[0]).all())
    return {"image": image, "mask": mask.astype(dtype_for(k), copy=False), "foreground": index}, facts


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
    """Fill an empty folder with prepared examples of one rank.

    Args:
      folder: the empty folder.
      items: for each example (image [*S, C], mask uint8 or uint16 [*S], row with case, patient, stratum, spacing and any further
        entries); shape, foreground, kept, bytes and digests are added here, and every example gets files of its own.
      recipe: how the examples were prepared.
      count: number of examples, to estimate the disk space.
      name, synthetic, regions, fingerprint: as in `Store`.
      log: called with lines of text about the progress.
    Raises:
      StorageError: the disk has not enough space for the remaining examples.
    """
    progress, found = CaseProgress(name, count, log), []
    for i, (image, mask, row) in enumerate(items):
        arrays, facts = _complete(image, mask, len(recipe.labels))
        progress.add(sum(a.nbytes for a in arrays.values()), mask.ndim, folder)
        written = {kind: write_array(_place(folder, i, kind), array) for kind, array in arrays.items()}
        found.append(_row({key: value for key, value in row.items() if key != "start"} | facts, written))  # of another store
    about = {"name": name, "synthetic": synthetic, "regions": regions, "fingerprint": fingerprint}
    base.write_manifest(folder, LAYOUT, rows.from_records(found), _deciding(recipe), **about)
    progress.end(len(found))


def _deciding(recipe: Recipe) -> Recipe:
    """Return the recipe without fields that only affect patches and augmentation."""
    return dataclasses.replace(recipe, size=(), mean=(), std=(), extra=(), target="labels")


def _build(
    folder: Path, parts: Parts, there: StoreEngine, about: dict[str, str], log: Callable, bad_share: float, workers: int | None
) -> None:
    dataset, recipe = parts.dataset, parts.recipe
    if not dataset.cases:
        raise DataError(f"{dataset.name}: no case under {dataset.root}; check data.root", "DATA_EMPTY")
    bad: list[bad_cases.Bad] = []
    tally, progress = cases.Tally(), CaseProgress(dataset.name, len(dataset.cases), log)
    found, own = rows.Collected(), []  # rows, and the cases with files of their own: (part, number of its first example)
    with remarks.collected(log), preparing.CasePreparation(parts, workers=workers) as prepared, Joined(folder) as joined:
        for _, part in bad_cases.sift(dataset, lambda case: prepared(case, tally), bad_share, bad):
            progress.add(part.bytes, len(recipe.size))
            first, starts = len(found), {}
            if part.ending:
                own.append((part.done(), first, len(part.rows)))
            for e, row in enumerate(part.rows):
                written = {kind: part.arrays[f"{e}.{kind}"] for kind in KINDS}
                if not part.ending:
                    content = {kind: part.content[f"{e}.{kind}"] for kind in KINDS}
                    written = {kind: (array.nbytes, written[kind][-1]) for kind, array in content.items()}
                    starts = {"start": joined.write(first + e, content.values())}
                found.extend([_row(row, written) | {"start": OWN} | starts])
    if not found:
        raise cases.nothing_kept(dataset, tally)
    moved = joined.paths
    for part, first, count in own:
        part.marker.unlink(missing_ok=True)  # from here on the case is this store's alone
        for e, kind in itertools.product(range(count), KINDS):
            place = _place(folder, first + e, kind, part.ending)
            there.take(part.path(f"{e}.{kind}"), place)
            moved += there.files(place)
    sync_files(moved)
    made = found.rows()
    base.write_manifest(
        folder,
        rows=made,
        recipe=_deciding(recipe),
        **about,
        name=dataset.name,
        synthetic=dataset.synthetic,
        regions=dataset.regions,
        fingerprint=parts.sources.fingerprint,
        warnings=contrast.warnings(tally.levels, recipe),
    )
    bad_cases.write(folder, bad_cases.LeftOut(tuple(bad), len(dataset.cases)))
    for line in tally.lines(recipe, dataset.labels):
        log(line)
    if (moves := made.columns.get("rounding")) is not None:
        log(f"{FOLDERS[len(recipe.size)]}: stored in float16, which changed values by at most {moves.max():.3g}")
    prepared.clear()
    progress.end(len(made))


def _row(row: dict[str, Any], written: Mapping[str, Sequence]) -> dict[str, Any]:
    """Return a row with the sizes and digests of the example's files, {kind: (bytes, digest)}."""
    digests = {column: written[kind][1] for kind, column in KINDS.items()}
    return row | {"bytes": [written[kind][0] for kind in KINDS]} | digests


def _path(folder: Path, i: int, kind: str, ending: str = ".npy") -> Path:
    return Path(f"{thousand_of(folder, i)}/{i:06d}.{kind}{ending}")


def _place(folder: Path, i: int, kind: str, ending: str = ".npy") -> Path:
    """As `_path`, for a file to be written: its folder exists."""
    path = _path(folder, i, kind, ending)
    path.parent.mkdir(exist_ok=True)
    return path
