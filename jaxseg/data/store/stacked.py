"""The store layout for examples of one size: all of them in one array, opened as a memory map, so that reading a batch reads only
its own bytes.

    <cache root>/cache/<data set>-<fingerprint>/     as every store (`base`), and
      images.npy      uint8 or float32 [N, h, w, C]
      masks.npy       uint8 or uint16 [N, h, w]
      foreground.npy  uint32 [n], for each example flat indices of pixels of class 1, then of class 2, ... (`foreground.index`)
      targets.npy     float32 [N, h, w, 1], only where the recipe's target is "composite"

With the engine zarr3 they are images.zarr, ... (`engines`), of which a batch reads and decodes the chunks of its examples.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from jaxseg.data.formats import remarks
from jaxseg.data.prepare import channels, contrast, intensity
from jaxseg.data.prepare.examples import dtype_of
from jaxseg.data.prepare.labels import dtype_for
from jaxseg.data.records import DataSet, Recipe
from jaxseg.data.store import bad_cases, base, cases, foreground, preparing, rows
from jaxseg.data.store.engines import ENGINES, Chunks
from jaxseg.data.store.fingerprint import Sources
from jaxseg.data.store.parts import Parts, PreparedCase
from jaxseg.data.store.preparing import ALONE, HostShare
from jaxseg.types import ConfigError
from jaxseg.utils import files
from jaxseg.utils.lookup import lookup
from jaxseg.utils.pictures import to_8bit

LAYOUTS = {"memmap": "stacked", "zarr3": "stacked, as zarr"}  # by the engine
PROGRESS = 5.0  # seconds between lines
TOGETHER = 16  # slices given at once to a network that makes channels
FOREGROUND = "foreground"


@dataclasses.dataclass(frozen=True)
class Stacked(base.Store):
    """A store of examples of one size.

    Attributes:
      images: [N, h, w, C], uint8 or (all but "grey") float32, memory-mapped or in chunks.
      masks: uint8 or uint16 [N, h, w], classes 0..K.
      rows: N records {case, patient, slice (index in the file), stratum, foreground and kept ([K]), digest, mask_digest and
        target_digest (blake2b of the bytes), constant (whether the image is one value), span (lowest and highest value of the
        first channel)}.
      targets: float32 [N, h, w, 1], an autoencoder's training targets, or None.
    """

    images: np.ndarray | Chunks
    masks: np.ndarray | Chunks
    indices: np.ndarray = dataclasses.field(repr=False)
    targets: np.ndarray | None = None

    def image(self, i: int) -> np.ndarray:
        """Return the image of example i, [h, w, C], memory-mapped, after checking its digest."""
        self.check(i)
        return self.images[i]

    def mask(self, i: int) -> np.ndarray:
        """Return the classes 0..K of example i, [h, w], memory-mapped, after checking its digest."""
        self.check(i)
        return self.masks[i]

    def index(self, i: int) -> np.ndarray:
        """As in `Store`."""
        end = self._ends[i]
        return self.indices[end - int(self.rows.columns["kept"][i].sum()) : end]

    def sizes(self) -> np.ndarray:
        """As in `Store`; all sizes are equal."""
        return np.full(len(self), math.prod(self.masks.shape[1:]), np.int64)

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum(self.rows.columns["kept"].sum(-1))

    @functools.cached_property
    def span(self) -> tuple[float, float] | None:
        """(lowest, highest) value of the first channel over all examples; None for uint8, whose range is known."""
        if self.images.dtype == np.uint8:
            return None
        span = self.rows.columns["span"]
        return float(span[:, 0].min()), float(span[:, 1].max())

    def value(self, grey: float) -> str:
        """Return the value of a grey level 0..255 in words: "52.0 HU" of a window below 0, "z 1.25", "grey 7"."""
        recipe = self.recipe
        if not {"grey", "ct"} & set(intensity.rules_of(recipe)):
            low, high = self.span
            return f"z {low + grey / 256 * (high - low):.2f}"  # the lower end of one of 256 bins, as in `picture`
        if recipe.window is None:
            return f"grey {grey:g}"
        level, width = recipe.window
        if recipe.intensity == "ct":
            low, high = self.span
            grey = (low + grey / 256 * (high - low) + 1) * 127.5
        value = f"{level - width / 2 + grey / 255 * width:.1f}"
        return f"{value} HU" if level < width / 2 else f"grey {value}"

    def picture(self, row: int) -> np.ndarray:
        """Return an example's image for display, uint8 [h, w, C]: unchanged, or in 256 steps over the store's span."""
        image = self.images[row]
        return image if self.span is None else to_8bit(image, *self.span)

    def _digests(self, i: int) -> Iterator[tuple[str, str, str]]:
        row, arrays = self.rows[i], {"digest": self.images, "mask_digest": self.masks, "target_digest": self.targets}
        name = f"example {i} ({row['case']}, slice {row['slice']})"
        for key, array in arrays.items():
            if array is not None:
                yield name, files.digest(array[i].tobytes()), row[key]
        yield f"the foreground of {name}", files.digest(self.index(i).tobytes()), row["foreground_digest"]


def target_labels(labels: tuple[str, ...], target: str) -> tuple[str, ...]:
    """Return the names of the classes 1, 2, ... of a training target, for a data set with these labels.

    Raises:
      ConfigError: there is no such target.
    """
    lookup("value of data.target", target, dict.fromkeys(channels.TARGETS))
    return {"labels": tuple(labels), "edges": ("edge",), "composite": ("foreground",)}[target]


def target_mask(labels: np.ndarray, target: str) -> np.ndarray:
    """Convert classes [h, w] to the mask of a training target: the classes, their edges, or their union, uint8 [h, w]."""
    if target == "labels":
        return labels
    return (channels.edge_map(labels) if target == "edges" else labels > 0).astype(np.uint8)


def open_or_build(
    dataset: DataSet,
    recipe: Recipe,
    *,
    log: Callable[[str], None] = print,
    extra: channels.Generate | None = None,
    extra_id: str = "",
    bad_share: float = 0.0,
    workers: int | None = None,
    share: HostShare = ALONE,
    engine: str = "memmap",
) -> Stacked:
    """Open the store of a data set for a recipe; it is built first if it does not exist, only once if several processes ask.

    Args:
      dataset: the data set.
      recipe: how images are prepared.
      log: called with lines of text about the build.
      extra: generates the channels `channels.trained(recipe.extra)` from images, see `channels.extend`; called for 16 slices
        at once and never with a mask.
      extra_id: digest of the weights and code of `extra`.
      bad_share: fraction of cases that may be bad and are left out; with 0, the first bad case is an error.
      workers: number of processes that prepare cases, see `preparing.CasePreparation`.
      share: which of the cases this process prepares first, and what waits for the other processes of the run.
      engine: name of what writes the arrays, one of `engines.ENGINES`.
    Raises:
      DataError: more cases than allowed cannot be used, files changed during the build, or no slice is kept.
      ConfigError: the recipe is for other labels, or names an extra channel without its network, or the reverse.
      StorageError: the disk is full.
    """
    expected = target_labels(dataset.labels, recipe.target)
    if tuple(recipe.labels) != expected:
        raise ConfigError(
            f"the recipe has labels {tuple(recipe.labels)}, but the data set {dataset.name} has {expected} for "
            f"data.target={recipe.target!r}; use those"
        )
    base.check_recipe(dataset, dataclasses.replace(recipe, labels=dataset.labels))
    channels.added(recipe.extra)
    names = channels.trained(recipe.extra)
    if bool(names) != (extra is not None) or bool(names) != bool(extra_id):
        raise ConfigError(
            f"got data.extra={tuple(recipe.extra)}, {'a' if extra else 'no'} network and the digest "
            f"{extra_id!r} of its weights; {', '.join(names) or 'no name in it'} needs "
            f"{'both: name the run' if names else 'neither: drop the run'}"
        )
    sources = Sources(dataset, recipe, LAYOUTS[engine], extra_id)
    final = files.cache_root() / "cache" / f"{files.plain_name(dataset.name)}-{sources.fingerprint}"
    parts = Parts(preparing.folder_of(final, files.plain_name(dataset.name)), dataset, recipe, finish, sources)
    preparing.spread(parts, final, share, workers)
    built = files.build_folder(final, lambda folder: _build(folder, parts, log, extra, extra_id, bad_share, workers, engine))
    cache = open_cache(built)
    bad_cases.check(cache.left_out, bad_share)  # it may have been built by a run that allows more
    return cache


def open_cache(folder: Path) -> Stacked:
    """Open a store that `open_or_build` built.

    Raises:
      DataError: files are missing or have another size than when they were written (DATA_CHANGED).
    """
    written = base.open_manifest(folder, *LAYOUTS.values())
    engine = ENGINES[next(name for name, layout in LAYOUTS.items() if layout == base.entry(folder, "layout"))]
    n, recipe, kept = len(written["rows"]), written["recipe"], int(written["rows"].columns["kept"].sum())
    arrays = {
        name: engine.open(folder / f"{name}{engine.ending}", np.dtype(dtype), (kept if name == FOREGROUND else n, *shape))
        for name, (shape, dtype) in _arrays(recipe).items()
    }
    return Stacked(**written, indices=arrays.pop(FOREGROUND), **arrays)


def fingerprint(dataset: DataSet, recipe: Recipe, extra_id: str = "") -> str:
    """Digest of all that decides a store's bytes."""
    return Sources(dataset, recipe, LAYOUTS["memmap"], extra_id).fingerprint


def _arrays(recipe: Recipe) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """The store's files: name -> (shape of an example, dtype)."""
    size = tuple(recipe.size)
    arrays = {
        "images": ((*size, recipe.channels), dtype_of(recipe, len(size))),
        "masks": (size, dtype_for(len(recipe.labels))),
        FOREGROUND: ((), foreground.dtype_for(size)),
    }
    return {**arrays, "targets": ((*size, 1), np.dtype(np.float32))} if recipe.target == "composite" else arrays


class Writer(contextlib.ExitStack):
    """Writes examples of one size to an empty folder, one after the other; `finish` completes the store.

    Args:
      folder: the empty folder.
      recipe: how the examples were prepared.
      engine: name of what writes the arrays.
    """

    def __init__(self, folder: Path, recipe: Recipe, engine: str = "memmap"):
        super().__init__()
        self.rows = rows.Collected()
        self._folder, self._recipe, self._layout, by = folder, recipe, LAYOUTS[engine], ENGINES[engine]
        place = lambda name: folder / f"{name}{by.ending}"
        self._files = {name: self.enter_context(by.growing(place(name), *kind)) for name, kind in _arrays(recipe).items()}

    def add(self, image: np.ndarray, mask: np.ndarray, row: dict, target: np.ndarray | None = None) -> None:
        """Add an example.

        Args:
          image: [h, w, C].
          mask: [h, w], classes 0..K.
          row: case, patient, stratum, slice; entries that follow from the arrays are added here.
          target: float32 [h, w, 1] for "composite".
        """
        self.extend(*_complete(image[None], mask[None], [row], None if target is None else target[None], self._recipe))

    def extend(self, arrays: Mapping[str, np.ndarray], records: list[dict]) -> None:
        """Add complete examples: their arrays by the names of the files, and their rows."""
        for name, array in arrays.items():
            self._files[name].extend(array)
        self.rows.extend(records)

    def finish(self, **about) -> None:
        """Close the files and write the manifest; `about` as for `base.write_manifest`."""
        self.close()
        base.write_manifest(self._folder, self._layout, self.rows.rows(), self._recipe, **about)


def finish(recipe: Recipe, found: cases.CaseExamples) -> tuple[dict[str, np.ndarray], list[dict]]:
    """Return the arrays of a case's slices by the names of the store's files, and their rows.

    Where another run's network makes a channel, the slices are completed when the store is put together: "images" as they were
    prepared, and "labels".
    """
    if not found.kept:
        return {}, []
    images, labels = np.stack([example.image for example in found.kept]), np.stack([example.mask for example in found.kept])
    if channels.trained(recipe.extra):
        return {"images": images, "labels": labels}, [example.row for example in found.kept]
    return _extended(images, labels, [example.row for example in found.kept], recipe, None)


def _extended(
    images: np.ndarray, labels: np.ndarray, rows: list[dict], recipe: Recipe, extra: channels.Generate | None
) -> tuple[dict[str, np.ndarray], list[dict]]:
    """Complete slices [n, h, w, C] with labels [n, h, w]: the channels of `Recipe.extra`, the target, and what follows."""
    targets = None
    if recipe.target == "composite":
        targets = np.stack([channels.composite(image, mask) for image, mask in zip(images, labels)])
    masks = np.stack([target_mask(mask, recipe.target) for mask in labels])
    return _complete(channels.extend(images, recipe.extra, extra), masks, rows, targets, recipe)


def _complete(
    images: np.ndarray, masks: np.ndarray, rows: list[dict], targets: np.ndarray | None, recipe: Recipe
) -> tuple[dict[str, np.ndarray], list[dict]]:
    """Return the arrays by the names of the store's files, and the rows with the entries that follow from the arrays."""
    kinds = {name: dtype for name, (_, dtype) in _arrays(recipe).items()}
    images, masks = (np.ascontiguousarray(a, kinds[name]) for name, a in (("images", images), ("masks", masks)))
    indices, made = [], []
    for n, (image, mask, row) in enumerate(zip(images, masks, rows)):
        index, kept, counts = foreground.index(mask, len(recipe.labels))
        indices.append(index)
        facts = {
            "foreground": counts,
            "kept": kept,
            "digest": files.digest(image.tobytes()),
            "mask_digest": files.digest(mask.tobytes()),
            "foreground_digest": files.digest(index.tobytes()),
            "constant": bool((image == image.flat[0]).all()),
            "span": [float(image[..., 0].min()), float(image[..., 0].max())],
        }
        made.append(row | facts | ({} if targets is None else {"target_digest": files.digest(targets[n].tobytes())}))
    arrays = {"images": images, "masks": masks, FOREGROUND: np.concatenate(indices)}
    return arrays if targets is None else {**arrays, "targets": targets}, made


class _Cases:
    """The parts of the usable cases, one after another, with lines of progress; `clear` removes them."""

    def __init__(self, parts: Parts, tally: cases.Tally, log: Callable[[str], None], share: float, workers: int | None):
        self.done = 0
        self.bad: list[bad_cases.Bad] = []
        self._parts, self._tally, self._log, self._share, self._workers = parts, tally, log, share, workers

    def __iter__(self) -> Iterator[PreparedCase]:
        dataset, kept = self._parts.dataset, 0
        started = said = time.monotonic()
        with preparing.CasePreparation(self._parts, workers=self._workers) as prepared:
            self.clear = prepared.clear
            for _, part in bad_cases.sift(dataset, lambda case: prepared(case, self._tally), self._share, self.bad):
                self.done += 1
                kept += len(part.rows)
                yield part
                if time.monotonic() - said > PROGRESS:
                    said = time.monotonic()
                    so_far = f"{self.done}/{len(dataset.cases)} cases of {dataset.name}"
                    self._log(f"cache: {so_far}, {kept} slices, {said - started:.0f} s")


def _build(
    folder: Path,
    parts: Parts,
    log: Callable[[str], None],
    extra: channels.Generate | None,
    extra_id: str,
    bad_share: float,
    workers: int | None,
    engine: str,
) -> None:
    dataset, recipe = parts.dataset, parts.recipe
    started, tally = time.monotonic(), cases.Tally()
    prepared = _Cases(parts, tally, log, bad_share, workers)
    with Writer(folder, recipe, engine) as writer, remarks.collected(log):
        if channels.trained(recipe.extra):
            loaded = ((part.content, part.rows) for part in prepared if part.rows)
            loaded = (zip(arrays["images"], arrays["labels"], own) for arrays, own in loaded)
            examples = itertools.chain.from_iterable(loaded)
            while chunk := list(itertools.islice(examples, TOGETHER)):
                images, labels, own_rows = zip(*chunk)
                writer.extend(*_extended(np.stack(images), np.stack(labels), list(own_rows), recipe, extra))
        else:
            for part in prepared:
                writer.extend(part.content, part.rows)
        kept = len(writer.rows)
        if not kept:
            raise cases.nothing_kept(dataset, tally)
        writer.finish(
            name=dataset.name,
            synthetic=dataset.synthetic,
            regions=dataset.regions,
            fingerprint=parts.sources.fingerprint,
            warnings=contrast.warnings(tally.levels, recipe),
            cases=len(dataset.cases),
            slices=tally.seen,
            generated_by=extra_id,
            cut_by_crop=tally.cut,
        )
    bad_cases.write(folder, bad_cases.LeftOut(tuple(prepared.bad), len(dataset.cases)))
    prepared.clear()
    for line in tally.lines(recipe, dataset.labels):
        log(line)
    log(
        f"cache: {dataset.name}, {kept} of {tally.seen} slices of {len(dataset.cases) - len(prepared.bad)} cases kept, "
        f"{time.monotonic() - started:.1f} s"
    )
