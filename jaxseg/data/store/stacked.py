"""Prepared examples on disk: built once, opened as memory maps, so that a batch reads its own bytes and no more.

    <cache root>/cache/<data set>-<digest>/
      images.npy  uint8 or float32 [N, h, w, C]  rows.json  one record per example (see `Cache.rows`)
      masks.npy   uint8 [N, h, w]                meta.json  data set, recipe, labels, what was kept
      targets.npy float32 [N, h, w, 1]           only where the recipe's target is "composite"
      left_out.json  the bad cases               only where there were any

The digest covers the recipe, every file's name, size and time, the cases, the rules of the data set, the weights that make
extra channels and this code's version: whatever changes, another folder is built.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxseg.data.geometry import to_slices
from jaxseg.data.prepare import channels, intensity
from jaxseg.data.prepare.canvas import crop_box
from jaxseg.data.prepare.examples import prepare, prepare_mask, whole
from jaxseg.data.records import Case, DataSet, Recipe
from jaxseg.data.store import bad_cases, base
from jaxseg.types import ConfigError, DataError
from jaxseg.utils import files
from jaxseg.utils.lookup import lookup
from jaxseg.utils.pictures import to_8bit

VERSION = 2  # raise it when the bytes of a cache would change
PROGRESS = 5.0  # seconds between lines
TOGETHER = 16  # slices given at once to a network that makes channels


@dataclasses.dataclass(frozen=True)
class Cache(base.Prepared):
    """The examples of one data set under one recipe.

    Attributes:
      images: [N, h, w, C], uint8 or (recipe.intensity "brain" and "ct") float32, memory-mapped.
      masks: uint8 [N, h, w], classes 0..K.
      rows: N records {case, patient, slice (index in the file), stratum, foreground ([K] pixels of each class), digest,
        mask_digest and target_digest (blake2b of the bytes), constant (whether the image is one value), span (lowest and
        highest value of the first channel)}.
      targets: float32 [N, h, w, 1] that an autoencoder learns to draw, or None.
    """

    images: np.ndarray
    masks: np.ndarray
    targets: np.ndarray | None = None

    @functools.cached_property
    def span(self) -> tuple[float, float] | None:
        """(lowest, highest) value of the first channel of all examples; None for uint8, which is its own scale."""
        if self.images.dtype == np.uint8:
            return None
        return min(row["span"][0] for row in self.rows), max(row["span"][1] for row in self.rows)

    def value(self, grey: float) -> str:
        """What a grey value 0..255 stands for, with its unit: "52.0 HU", "z 1.25", or the grey value itself."""
        recipe = self.recipe
        if recipe.intensity in (*intensity.SCANS, "ct_zscore"):
            low, high = self.span
            return f"z {low + grey / 256 * (high - low):.2f}"  # the lower end of one of 256 bins, as in `picture`
        if recipe.window is None:
            return f"grey {grey:g}"
        level, width = recipe.window
        if recipe.intensity == "ct":
            low, high = self.span
            grey = (low + grey / 256 * (high - low) + 1) * 127.5
        return f"{level - width / 2 + grey / 255 * width:.1f} HU"

    def picture(self, row: int) -> np.ndarray:
        """An example's image for the eye, uint8 [h, w, C]: as it is, or 256 steps over the cache's span."""
        image = self.images[row]
        return image if self.span is None else to_8bit(image, *self.span)

    def _digests(self) -> Iterator[tuple[str, str, str]]:
        for i, row in enumerate(self.rows):
            for array, key in ((self.images, "digest"), (self.masks, "mask_digest"), (self.targets, "target_digest")):
                if array is not None:
                    yield f"example {i} ({row['case']}, slice {row['slice']})", files.digest(array[i].tobytes()), row[key]


class Slice(NamedTuple):
    """One slice of a case as it was read."""

    image: np.ndarray  # [H, W, C]
    mask: np.ndarray  # [H, W], classes 0..K
    index: int  # along the file's own third axis
    spacing: tuple[float, float] | None  # (row mm, column mm); None for photographs
    kept: bool  # under the data set's protocol


def read_case(dataset: DataSet, case: Case, recipe: Recipe | None = None) -> Iterator[Slice]:
    """All slices of a case, feet to head, images and masks checked against each other.

    Args:
      recipe: whose `intensity` says what happens to whole volumes before they are cut; None: nothing.
    Raises:
      DataError: a file that cannot be used, or DATA_MISSING for a case without image or mask.
    """
    read, mask = base.read_files(dataset, case)
    if recipe is not None and not (recipe.intensity == "brain" and dataset.normalised):
        try:
            read = [whole(volume, recipe) for volume in read]
        except DataError as error:  # the rule knows values, not files
            raise DataError(f"case {case.id}: {error}", error.code) from error
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


def target_labels(labels: tuple[str, ...], target: str) -> tuple[str, ...]:
    """Names of the classes 1, 2, ... that a recipe of this target learns from a data set of these labels.

    Raises:
      ConfigError: an unknown target.
    """
    lookup("value of data.target", target, dict.fromkeys(channels.TARGETS))
    return {"labels": tuple(labels), "edges": ("edge",), "composite": ("foreground",)}[target]


def open_or_build(dataset: DataSet, recipe: Recipe, *, log: Callable[[str], None] = print,
                  extra: channels.Generate | None = None, extra_id: str = "", bad_share: float = 0.0) -> Cache:
    """The cache of this data set under this recipe; built first if there is none, once however many processes ask.

    Args:
      extra: the maps of `channels.trained(recipe.extra)` from images, see `channels.extend`; called for 16 slices at once
        and never with a mask.
      extra_id: digest of the weights and code behind `extra`.
      bad_share: this share of the cases may be bad and is left out; 0: the first bad case is an error.
    Raises:
      DataError: a case that cannot be used, or more than `bad_share` of them, files that changed meanwhile, or nothing to keep.
      ConfigError: a recipe for other labels, an extra channel without its network or the reverse.
      StorageError: no space.
    """
    expected = target_labels(dataset.labels, recipe.target)
    if tuple(recipe.labels) != expected:
        raise ConfigError(f"the recipe has labels {tuple(recipe.labels)}, the data set {dataset.name} {expected} for "
                          f"data.target={recipe.target!r}; take those")
    base.check_recipe(dataset, dataclasses.replace(recipe, labels=dataset.labels))
    channels.added(recipe.extra)
    names = channels.trained(recipe.extra)
    if bool(names) != (extra is not None) or bool(names) != bool(extra_id):
        raise ConfigError(f"got data.extra={tuple(recipe.extra)}, {'a' if extra else 'no'} network and the digest "
                          f"{extra_id!r} of its weights; {', '.join(names) or 'no name in it'} needs "
                          f"{'both: name the run' if names else 'neither: drop the run'}")
    final = files.cache_root() / "cache" / f"{dataset.name}-{fingerprint(dataset, recipe, extra_id)}"
    built = files.build_folder(final, lambda folder: _build(folder, dataset, recipe, log, extra, extra_id, bad_share))
    cache = open_cache(built)
    bad_cases.check(cache.left_out, bad_share)  # it may have been built by a run that allows more
    return cache


def open_cache(folder: Path) -> Cache:
    """Open a cache that `open_or_build` made.

    Raises:
      DataError: DATA_CHANGED when files are gone or of another size than written.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text())
        rows = json.loads((folder / "rows.json").read_text())
        recipe, left_out = base.recipe_from(meta), bad_cases.read(folder)
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in _arrays(recipe)}
    except (OSError, ValueError) as error:
        raise base.damaged(folder, str(error)) from error
    for name, (shape, dtype) in _arrays(recipe).items():
        array = arrays[name]
        if array.shape != (len(rows), *shape) or array.dtype != dtype:
            raise base.damaged(folder, f"{name} {array.dtype} {array.shape} for {len(rows)} rows of {recipe.size}")
    return Cache(folder, rows=rows, recipe=recipe, name=meta["dataset"], synthetic=meta["synthetic"], left_out=left_out, **arrays)


def fingerprint(dataset: DataSet, recipe: Recipe, extra_id: str = "") -> str:
    """Digest of all that decides a cache's bytes."""
    return base.fingerprint(dataset, recipe, f"{VERSION}-{dataset.normalised}-{extra_id}")


def _arrays(recipe: Recipe) -> dict[str, tuple[tuple[int, ...], type]]:
    """The cache's arrays: name -> (shape of an example, dtype)."""
    arrays = {"images": ((*recipe.size, recipe.channels), np.uint8 if recipe.intensity == "grey" else np.float32),
              "masks": (tuple(recipe.size), np.uint8)}
    return {**arrays, "targets": ((*recipe.size, 1), np.float32)} if recipe.target == "composite" else arrays


@dataclasses.dataclass
class _Tally:
    """Counts over a build: slices read, foreground pixels of the kept ones, and how many of these the crop cut away."""

    seen: int = 0
    foreground: int = 0
    cut: int = 0

    def add(self, other: "_Tally") -> None:
        self.seen, self.foreground, self.cut = self.seen + other.seen, self.foreground + other.foreground, self.cut + other.cut


class _Examples(NamedTuple):
    """A case's kept slices (index in the file, prepared image, prepared labels), and what they add to the tally."""

    kept: list[tuple[int, np.ndarray, np.ndarray]]
    tally: _Tally


def _examples_of(dataset: DataSet, recipe: Recipe, case: Case) -> _Examples:
    kept, tally = [], _Tally()
    for piece in read_case(dataset, case, recipe):
        tally.seen += 1
        if not piece.kept:
            continue
        try:
            image = prepare(piece.image, recipe, piece.spacing)
            labels = prepare_mask(piece.mask, recipe, piece.spacing, len(dataset.labels))
        except DataError as error:
            raise DataError(f"case {case.id}, slice {piece.index}: {error}", error.code) from error
        if recipe.crop:
            there = np.count_nonzero(piece.mask)
            tally.foreground += there
            tally.cut += there - np.count_nonzero(piece.mask[crop_box(piece.mask.shape, recipe.crop)])
        kept.append((piece.index, image, labels))
    return _Examples(kept, tally)


def _examples(dataset: DataSet, recipe: Recipe, tally: _Tally, log: Callable[[str], None], share: float,
              bad: list[bad_cases.Bad]) -> Iterator[tuple]:
    """(case, index in the file, prepared image, prepared labels) of every kept slice, with a line of progress at times."""
    started = said = time.monotonic()
    kept = 0
    good = bad_cases.sift(dataset, functools.partial(_examples_of, dataset, recipe), share, bad)
    for done, (case, found) in enumerate(good):
        tally.add(found.tally)
        kept += len(found.kept)
        for example in found.kept:
            yield case, *example
        if time.monotonic() - said > PROGRESS:
            said = time.monotonic()
            log(f"cache: {done + 1}/{len(dataset.cases)} cases of {dataset.name}, {kept} slices, {said - started:.0f} s")


def _build(folder: Path, dataset: DataSet, recipe: Recipe, log: Callable[[str], None], extra: channels.Generate | None,
           extra_id: str, bad_share: float) -> None:
    before = fingerprint(dataset, recipe, extra_id)
    started, rows, bad, tally, k = time.monotonic(), [], [], _Tally(), len(recipe.labels)
    examples = _examples(dataset, recipe, tally, log, bad_share, bad)
    with contextlib.ExitStack() as stack:
        arrays = {name: stack.enter_context(_Growing(folder / f"{name}.npy", *kind)) for name, kind in _arrays(recipe).items()}
        while chunk := list(itertools.islice(examples, TOGETHER if recipe.extra else 1)):
            inputs = channels.extend(np.stack([image for _, _, image, _ in chunk]), recipe.extra, extra)
            for (case, index, own, labels), image in zip(chunk, inputs):
                mask = _target_mask(labels, recipe.target)
                row = {"case": case.id, "patient": case.patient, "slice": index, "stratum": dataset.stratum(case),
                       "foreground": np.bincount(mask.ravel(), minlength=k + 1)[1:].tolist(),
                       "digest": files.digest(image.tobytes()), "mask_digest": files.digest(mask.tobytes()),
                       "constant": bool((image == image.flat[0]).all()),
                       "span": [float(image[..., 0].min()), float(image[..., 0].max())]}
                arrays["images"].append(image)
                arrays["masks"].append(mask)
                if recipe.target == "composite":
                    target = channels.composite(own, labels)
                    arrays["targets"].append(target)
                    row["target_digest"] = files.digest(target.tobytes())
                rows.append(row)
    if not rows:
        raise DataError(f"{dataset.name}: {tally.seen} slices of {len(dataset.cases)} cases and none kept by the protocol "
                        f"{base.words(dataset.keep_slice)}; check data.root and data.protocol", "DATA_EMPTY")
    if fingerprint(dataset, recipe, extra_id) != before:
        raise base.changed(dataset)
    files.write_json(folder / "rows.json", rows)
    files.write_json(folder / "meta.json", {
        "dataset": dataset.name, "synthetic": dataset.synthetic, "recipe": dataclasses.asdict(recipe),
        "cases": len(dataset.cases), "slices": tally.seen, "kept": len(rows), "version": VERSION, "generated_by": extra_id,
        "cut_by_crop": tally.cut})
    bad_cases.write(folder, bad_cases.LeftOut(tuple(bad), len(dataset.cases)))
    if tally.cut:
        log(f"cache: data.crop={tuple(recipe.crop)} cut {tally.cut} of {tally.foreground} foreground pixels away; scores do not "
            "count them")
    log(f"cache: {dataset.name}, {len(rows)} of {tally.seen} slices of {len(dataset.cases) - len(bad)} cases kept, "
        f"{time.monotonic() - started:.1f} s")


def _target_mask(labels: np.ndarray, target: str) -> np.ndarray:
    """The classes that are learnt, uint8 [h, w]: the labels, their edges, or their union."""
    if target == "labels":
        return labels
    return (channels.edge_map(labels) if target == "edges" else labels > 0).astype(np.uint8)


class _Growing:
    """A .npy file [n, *shape] that grows along its first axis; numpy leaves room in the header for n."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type):
        self._shape, self._dtype, self._count, self._file = shape, np.dtype(dtype), 0, open(path, "wb")
        self._start = self._header()

    def append(self, array: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(array, self._dtype).data)
        self._count += 1

    def _header(self) -> int:
        spec = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._count, *self._shape)}
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
