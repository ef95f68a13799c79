"""Prepare a case's examples for a store. Only `examples_of` distinguishes slices (including pictures) from volumes, by the number
of axes in the recipe.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxseg.data.geometry import to_slices, to_volume
from jaxseg.data.prepare import contrast
from jaxseg.data.prepare.canvas import crop_box, placement
from jaxseg.data.prepare.examples import place_scan, prepare, prepare_mask, prepare_scan, whole
from jaxseg.data.prepare.mask_values import Meanings
from jaxseg.data.records import Case, DataSet, Photo, Recipe
from jaxseg.data.store import base
from jaxseg.data.store.fingerprint import words
from jaxseg.types import DataError


class Slice(NamedTuple):
    """One slice of a case as it was read."""

    image: np.ndarray  # [H, W, C]
    mask: np.ndarray  # [H, W], classes 0..K
    index: int  # along the file's own third axis
    spacing: tuple[float, float] | None  # (row mm, column mm); None for photographs
    kept: bool  # under the data set's protocol
    raw: np.ndarray  # [H, W, C], `image` before what `intensity` does to whole volumes
    turned: bool = False  # a photograph whose pixels lie in their file otherwise


class PreparedExample(NamedTuple):
    """A prepared slice or volume.

    Attributes:
      image: [*s, C].
      mask: [*s], classes 0..K.
      row: case, patient, stratum, of slices "slice" (index in the file).
      grid: spacing (mm) of the prepared grid, scan_shape and scan_spacing of the example's own; a photograph's spacing is 1.
    """

    image: np.ndarray
    mask: np.ndarray
    row: dict
    grid: dict


@dataclasses.dataclass
class Tally:
    """Counts over cases: slices or volumes read, foreground pixels of the kept slices, those that the crop removed, how values of
    masks were interpreted, and the intensities of each case.
    """

    seen: int = 0
    foreground: int = 0
    cut: int = 0
    meanings: Meanings = dataclasses.field(default_factory=Meanings)
    levels: list[contrast.Levels] = dataclasses.field(default_factory=list)

    def add(self, other: "Tally") -> None:
        self.seen, self.foreground, self.cut = self.seen + other.seen, self.foreground + other.foreground, self.cut + other.cut
        self.levels += other.levels

    def lines(self, recipe: Recipe, labels: tuple[str, ...]) -> list[str]:
        """Return the log lines about a build: how values of masks were interpreted, and how much foreground the crop removed."""
        cut = (
            f"cache: data.crop={tuple(recipe.crop)} cut {self.cut} of {self.foreground} foreground pixels away; scores do not "
            "count them"
        )
        return [*(f"masks: {line}" for line in self.meanings.lines(labels)), *([cut] if self.cut else [])]


class CaseExamples(NamedTuple):
    """The kept examples of a case, and the case's counts for the tally."""

    kept: list[PreparedExample]
    tally: Tally


def read_case(dataset: DataSet, case: Case, recipe: Recipe | None = None, meanings: Meanings | None = None) -> Iterator[Slice]:
    """Yield all slices of a case, feet to head, after checking images and masks against each other.

    Args:
      dataset: the data set.
      case: one of its cases.
      recipe: its volume-level intensity step is applied before volumes are cut into slices along its `plane`; None: no such
        step, axial slices.
      meanings: collects how the mask's values are interpreted.
    Raises:
      DataError: a file cannot be used, or the case has no image or no mask (DATA_MISSING).
    """
    read, mask = base.read_files(dataset, case, meanings)
    untouched, plane = read, recipe.plane if recipe is not None else "axial"
    if recipe is not None and not (recipe.intensity == "brain" and dataset.normalised):
        try:
            read = [whole(volume, recipe) for volume in read]
        except DataError as error:  # the rule knows values, not files
            raise DataError(f"case {case.id}: {error}", error.code) from error
    labels, orientation = to_slices(mask, plane)
    stacks = lambda volumes: [a if a.ndim == 4 else a[..., None] for a in (to_slices(v, plane)[0] for v in volumes)]
    images, raws = stacks(read), stacks(untouched)  # [Z, Y, X, c]
    joined = lambda stacks, z: np.concatenate([a[z] for a in stacks], -1) if len(stacks) > 1 else stacks[0][z]
    if labels.ndim != 3:
        raise DataError(f"case {case.id}: the mask has shape {labels.shape} as slices; must be [Z, Y, X]", "DATA_LABEL")
    spacing = orientation.spacing[1:] if orientation.axes else None
    turned = isinstance(read[0].header, Photo) and read[0].header.turn > 1
    for z, truth in enumerate(labels):
        index = orientation.file_index(z)
        kept = bool(dataset.keep_slice(case, index, truth))
        yield Slice(joined(images, z), truth, index, spacing, kept, joined(raws, z), turned)


def examples_of(dataset: DataSet, recipe: Recipe, case: Case, *, meanings: Meanings | None = None) -> CaseExamples:
    """Prepare the examples of a case: one volume for a recipe with three axes, else the slices of the data set's protocol.

    Args:
      dataset: the data set.
      recipe: how images are prepared.
      case: one of its cases.
      meanings: collects how the mask's values are interpreted.
    Raises:
      DataError: a file cannot be used; the message names the case.
    """
    return (_volume if len(recipe.size) == 3 else _slices)(dataset, recipe, case, meanings)


def nothing_kept(dataset: DataSet, tally: Tally) -> DataError:
    """Return the error for a data set of which no slice is kept."""
    return DataError(
        f"{dataset.name}: {tally.seen} slices of {len(dataset.cases)} cases and none kept by the protocol "
        f"{words(dataset.keep_slice)}; check data.root and data.protocol",
        "DATA_EMPTY",
    )


def prepared_slices(
    dataset: DataSet, recipe: Recipe, case: Case, *, meanings: Meanings | None = None
) -> Iterator[tuple[Slice, PreparedExample | None]]:
    """Yield all slices of a case, feet to head, each with its prepared example, or None if the protocol does not keep the slice.

    Raises:
      DataError: a file cannot be used; the message names the case.
    """
    row = {"case": case.id, "patient": case.patient, "stratum": dataset.stratum(case)}
    for piece in read_case(dataset, case, recipe, meanings):
        if not piece.kept:
            yield piece, None
            continue
        try:
            image = prepare(piece.image, recipe, piece.spacing)
            labels = prepare_mask(piece.mask, recipe, piece.spacing, len(dataset.labels))
            place = placement(piece.mask.shape, recipe, piece.spacing)
        except DataError as error:
            raise DataError(f"case {case.id}, slice {piece.index}: {error}", error.code) from error
        grid = _grid(place, piece.mask.shape, piece.spacing)
        yield piece, PreparedExample(image, labels, row | {"slice": piece.index}, grid)


def _slices(dataset: DataSet, recipe: Recipe, case: Case, meanings: Meanings | None) -> CaseExamples:
    kept, tally, raws, placed = [], Tally(), [], False
    for piece, example in prepared_slices(dataset, recipe, case, meanings=meanings):
        tally.seen += 1
        if example is None:
            continue
        if recipe.crop:
            there = np.count_nonzero(piece.mask)
            tally.foreground += there
            tally.cut += there - np.count_nonzero(piece.mask[crop_box(piece.mask.shape, recipe.crop)])
        kept.append(example)
        raws.append(piece.raw)
        placed = piece.spacing is not None
    if kept:
        tally.levels.append(contrast.levels_of(case.id, raws, [example.image for example in kept], placed=placed))
    return CaseExamples(kept, tally)


def _volume(dataset: DataSet, recipe: Recipe, case: Case, meanings: Meanings | None) -> CaseExamples:
    read, truth = base.read_files(dataset, case, meanings)
    read, truth = [base.cut(volume, case.slab) for volume in read], base.cut(truth, case.slab)
    try:
        labels, orientation = to_volume(truth, recipe.orientation)
        place = place_scan(read, recipe)
        image = prepare_scan(read, recipe)
        mask = prepare_mask(labels, recipe, orientation.spacing, len(dataset.labels), place=place)
    except DataError as error:
        raise DataError(f"case {case.id}: {error}", error.code) from error
    row = {"case": case.id, "patient": case.patient, "stratum": dataset.stratum(case)}
    raws = np.concatenate([v.array if v.array.ndim == 4 else v.array[..., None] for v in read], -1)
    levels = [contrast.levels_of(case.id, [raws], [image], placed=True)]
    return CaseExamples(
        [PreparedExample(image, mask, row, _grid(place, labels.shape, orientation.spacing))], Tally(1, levels=levels)
    )


def _grid(place, shape: tuple[int, ...], spacing: tuple[float, ...] | None) -> dict:
    spacing = spacing or (1.0,) * len(shape)
    return {"spacing": list(place.spacing(spacing)), "scan_shape": list(shape), "scan_spacing": list(spacing)}
