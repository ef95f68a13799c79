"""Prepare a case's examples for a store: the slices that the data set's protocol keeps, or the one volume."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from jaxseg.data import layout
from jaxseg.data.prepare import contrast
from jaxseg.data.prepare import examples as preprocess
from jaxseg.data.prepare.canvas import Placement, crop_box
from jaxseg.data.prepare.labels import as_background
from jaxseg.data.prepare.mask_values import Meanings
from jaxseg.data.records import Case, DataSet, Photo, Recipe, Volume
from jaxseg.data.store import base
from jaxseg.data.store.fingerprint import words
from jaxseg.types import DataError

AS_READ = Recipe(size=(1, 1), window=None, spacing=None, channels=1, labels=(), plane="axial")  # no intensity step


class Piece(NamedTuple):
    """One slice of a case, or its volume, as it was read.

    Attributes:
      image: [*S, C], after the part of the intensity preparation that comes before a volume is cut into slices.
      raw: [*S, C], as it was read.
      mask: [*S], classes 0..K.
      index: of slices: along the file's own third axis; None for a volume.
      spacing: mm along the axes of the image; None for photographs.
      kept: whether it is an example under the data set's protocol; volumes are.
      turned: whether it is a photograph whose pixels lie in another direction in its file.
    """

    image: np.ndarray
    raw: np.ndarray
    mask: np.ndarray
    index: int | None
    spacing: tuple[float, ...] | None
    kept: bool
    turned: bool = False


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
    """The kept examples of a case, the case's counts for the tally, and `DataSet.left_out`."""

    kept: list[PreparedExample]
    tally: Tally
    left_out: bool = False


def read_case(dataset: DataSet, case: Case, recipe: Recipe | None = None, meanings: Meanings | None = None) -> Iterator[Piece]:
    """Yield all slices of a case, feet to head, or its volume, after checking images and masks against each other.

    Args:
      dataset: the data set.
      case: one of its cases.
      recipe: how images are prepared; None: as axial slices, without any intensity step.
      meanings: collects how the mask's values are interpreted.
    Raises:
      DataError: a file cannot be used, or the case has no image or no mask (DATA_MISSING).
    """
    yield from (piece for piece, _ in _pieces(dataset, case, recipe, meanings))


def prepared_examples(
    dataset: DataSet, recipe: Recipe, case: Case, *, meanings: Meanings | None = None
) -> Iterator[tuple[Piece, PreparedExample | None]]:
    """Yield what `read_case` yields, each with its prepared example, or None if the protocol does not keep the slice.

    Args:
      dataset: the data set.
      recipe: how images are prepared.
      case: one of its cases.
      meanings: collects how the mask's values are interpreted.
    Raises:
      DataError: a file cannot be used; the message names the case.
    """
    row = {"case": case.id, "patient": case.patient, "stratum": dataset.stratum(case)}
    for piece, prepare in _pieces(dataset, case, recipe, meanings):
        if not piece.kept:
            yield piece, None
            continue
        where = {} if piece.index is None else {"slice": piece.index}
        try:
            image, place = prepare()
            mask = preprocess.prepare_mask(
                piece.mask, recipe, piece.spacing, len(dataset.labels), place=place, left_out=dataset.left_out
            )
        except DataError as error:
            name = ", ".join([case.id, *(f"{kind} {number}" for kind, number in where.items())])
            raise DataError(f"case {name}: {error}", error.code) from error
        yield piece, PreparedExample(image, mask, row | where, _grid(place, piece.mask.shape, piece.spacing))


def examples_of(dataset: DataSet, recipe: Recipe, case: Case, *, meanings: Meanings | None = None) -> CaseExamples:
    """Return the prepared examples of a case that the protocol keeps, and their counts; arguments as `prepared_examples`."""
    kept, tally, raws, placed = [], Tally(), [], False
    for piece, example in prepared_examples(dataset, recipe, case, meanings=meanings):
        tally.seen += 1
        if example is None:
            continue
        if recipe.crop:
            mask = as_background(piece.mask, len(dataset.labels))
            there = np.count_nonzero(mask)
            tally.foreground += there
            tally.cut += there - np.count_nonzero(mask[crop_box(mask.shape, recipe.crop)])
        kept.append(example)
        raws.append(piece.raw)
        placed = piece.spacing is not None
    if kept:
        images = [example.image[..., : recipe.channels] for example in kept]  # without a previous stage's classes
        tally.levels.append(contrast.levels_of(case.id, raws, images, placed=placed))
    return CaseExamples(kept, tally, dataset.left_out)


def nothing_kept(dataset: DataSet, tally: Tally) -> DataError:
    """Return the error for a data set of which no slice is kept."""
    return DataError(
        f"{dataset.name}: {tally.seen} slices of {len(dataset.cases)} cases and none kept by the protocol "
        f"{words(dataset.keep_slice)}; check data.root and data.protocol",
        "DATA_EMPTY",
    )


def _pieces(
    dataset: DataSet, case: Case, recipe: Recipe | None, meanings: Meanings | None
) -> Iterator[tuple[Piece, Callable[[], tuple[np.ndarray, Placement]]]]:
    """Yield every piece of a case, and the function that prepares it: () -> (the network's input, its placement)."""
    read, mask = base.read_files(dataset, case, meanings)
    arrangement = layout.of(recipe or AS_READ, normalised=dataset.normalised)
    whole, read, mask = read[0], [arrangement.part(volume, case) for volume in read], arrangement.part(mask, case)
    labels, orientation = arrangement.arrange(mask)
    if labels.ndim != 3:
        raise DataError(f"case {case.id}: the mask has shape {labels.shape}; must be [Z, Y, X] or [X, Y, Z]", "DATA_LABEL")
    try:
        found = arrangement.open(read)
    except DataError as error:  # the rule knows values, not files
        raise DataError(f"case {case.id}: {error}", error.code) from error
    prepare = lambda z: lambda: (found.prepare(z), found.place())
    if not arrangement.stacked:
        raw = found.raw(0)
        alone = prepare(0)
        if recipe is not None and recipe.stage:
            stage = arrangement.part(base.read_stage(dataset, case, whole), case)
            alone = lambda: _with_stage(found, stage, recipe)
        yield Piece(raw, raw, labels, None, found.spacing, True), alone
        return
    turned = isinstance(read[0].header, Photo) and read[0].header.turn > 1
    for z, truth in enumerate(labels):
        index = orientation.file_index(z)
        kept = bool(dataset.keep_slice(case, index, truth))
        yield Piece(found.image(z), found.raw(z), truth, index, found.spacing, kept, turned), prepare(z)


def _with_stage(found: layout.Arranged, stage: Volume, recipe: Recipe) -> tuple[np.ndarray, Placement]:
    """Return (a prepared volume whose last channel holds the previous stage's classes, its placement)."""
    place = found.place()
    classes = preprocess.prepare_stage(stage, recipe, place)
    return np.concatenate([found.prepare(0), classes.astype(np.float32)], -1), place


def _grid(place: Placement, shape: tuple[int, ...], spacing: tuple[float, ...] | None) -> dict:
    spacing = spacing or (1.0,) * len(shape)
    return {"spacing": list(place.spacing(spacing)), "scan_shape": list(shape), "scan_spacing": list(spacing)}
