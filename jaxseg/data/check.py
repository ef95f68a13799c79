"""The data set's doctor: read every case once, say what is in it, and name everything that is wrong, before anything compiles."""

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping

import numpy as np

from jaxseg.data.formats import remarks
from jaxseg.data.prepare import contrast
from jaxseg.data.prepare.examples import prepare, prepare_mask
from jaxseg.data.prepare.mask_values import Meanings
from jaxseg.data.records import Case, DataSet, Recipe
from jaxseg.data.store import cases
from jaxseg.types import DataError
from jaxseg.utils import files

FEW = 3  # cases with the same error that are listed one by one


@dataclasses.dataclass
class DataReport:
    """What a look at every case found; `str()` is its text.

    Attributes:
      lines: what the data set holds, one fact a line.
      warnings: what may be wrong.
      errors: case id -> what is wrong with it.
    """

    lines: list[str] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    errors: dict[str, DataError] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join(
            [*self.lines, *(f"warning  {w}" for w in self.warnings), *(f"error    {line}" for line in _folded(self.errors))]
        )


def _folded(errors: Mapping[str, DataError]) -> list[str]:
    """A line for each error; one line with the count where more than FEW cases have the same but for names and numbers."""
    kinds = defaultdict(list)
    for case, error in errors.items():
        kinds[error.code, re.sub(r"\S*/\S+|\d[\d.e+-]*", "", str(error).replace(case, ""))].append(case)
    lines = []
    for (code, _), named in kinds.items():
        if len(named) > FEW:
            lines.append(f"{len(named)} cases ({', '.join(named[:FEW])}, ...): [{code}] the first: {errors[named[0]]}")
        else:
            lines += [f"{case}: [{code}] {errors[case]}" for case in named]
    return lines


def check(dataset: DataSet, recipe: Recipe, *, patches: bool = True, log: Callable[[str], None] = print) -> DataReport:
    """Read and prepare every case, as slices or as volumes, collect all errors and report them.

    Args:
      patches: whether the size of a recipe of fit "patches" is that of patches, to be held against the images'.
    Returns:
      the report of a data set without errors.
    Raises:
      DataError: DATA_CHECK, after the report was logged, when a case cannot be used or nothing is left.
    """
    report, volumes = DataReport(), len(recipe.size) == 3
    patches = patches and recipe.fit == "patches"
    tally = _Tally(np.zeros(len(dataset.labels) + 1, np.int64), *(("volume", "voxel") if volumes else ("slice", "pixel")))
    with remarks.collected(report.warnings.append):
        for case in dataset.cases:
            try:
                if case.mask is None:
                    tally.unlabelled += 1
                elif volumes:
                    _look_at_volume(report, tally, dataset, case, recipe, patches)
                else:
                    _look_at_slices(report, tally, dataset, case, recipe, patches)
            except DataError as error:
                report.errors[case.id] = error
    report.warnings += [*dataset.notes, *contrast.warnings(tally.levels, recipe)]
    for case, copies in tally.copies.items():
        report.errors.setdefault(
            case,
            DataError(
                f"the same image as in {', '.join(sorted(copies))}, under another patient; use one patient name or keep one copy",
                "DATA_LEAK",
            ),
        )
    if not report.errors and not tally.pixels[1:].any():
        what = (
            f"holds not one foreground {tally.point}; check the masks and their labels"
            if tally.kept
            else f"keeps none of {tally.pieces} {tally.piece}s; check data.root and data.protocol"
        )
        report.errors["every case"] = DataError(f"the whole set {what}", "DATA_EMPTY")
    if tally.largest and any(p >= 2 * n for p, n in zip(recipe.size, tally.largest)):
        report.warnings.append(
            f"data.size={recipe.size}: a patch of twice {tally.largest}, the largest {tally.piece}, or more is mostly padding, "
            "and training refuses it; take a smaller one"
        )
    _describe(report, tally, dataset)
    report.lines += [f"levels   {line}" for line in contrast.table(tally.levels, recipe.modalities)]
    if report.errors:
        log(str(report))
        case, error = next(iter(report.errors.items()))
        codes = ", ".join(sorted({e.code for e in report.errors.values()}))
        raise DataError(
            f"{dataset.name}: {len(report.errors)} errors in {len(dataset.cases)} cases ({codes}); the first: {case}: {error}",
            "DATA_CHECK",
        )
    return report


def _look_at_slices(report: DataReport, tally: "_Tally", dataset: DataSet, case: Case, recipe: Recipe, patches: bool) -> None:
    shape: tuple[int, ...] = ()  # all slices of a case have one
    raws, images, placed = [], [], False
    for piece in cases.read_case(dataset, case, recipe, tally.meanings):
        image = prepare(piece.image, recipe, piece.spacing)
        tally.greyed += image.shape[-1] == 1 and piece.image.shape[2:] == (3,)
        mask = prepare_mask(piece.mask, recipe, piece.spacing, len(dataset.labels))
        tally.see(piece.image.shape[:2], piece.spacing, piece.image.min(), piece.image.max())
        if not piece.kept:
            continue
        tally.keep(case, image, mask)
        raws.append(piece.raw)
        images.append(image)
        shape, placed = mask.shape, piece.spacing is not None
        if piece.mask.any() and not mask.any():
            report.warnings.append(
                f"{case.id}, slice {piece.index}: none of {np.count_nonzero(piece.mask)} foreground pixels is "
                f"left at {mask.shape[0]} x {mask.shape[1]}"
            )
    if raws:
        tally.levels.append(contrast.levels_of(case.id, raws, images, placed=placed))
    if patches and shape:
        _hold_against_patch(report, tally, case, shape, recipe)


def _look_at_volume(report: DataReport, tally: "_Tally", dataset: DataSet, case: Case, recipe: Recipe, patches: bool) -> None:
    found = cases.examples_of(dataset, recipe, case, meanings=tally.meanings)
    ((image, mask, _, grid),) = found.kept
    tally.levels += found.tally.levels
    tally.see(tuple(grid["scan_shape"]), tuple(grid["scan_spacing"]), image.min(), image.max())
    tally.keep(case, image, mask)
    if patches:
        _hold_against_patch(report, tally, case, mask.shape, recipe)


def _hold_against_patch(report: DataReport, tally: "_Tally", case: Case, shape: tuple[int, ...], recipe: Recipe) -> None:
    tally.largest = tuple(map(max, shape, tally.largest or shape))
    if any(n < p for n, p in zip(shape, recipe.size)):
        report.warnings.append(
            f"{case.id}: {' x '.join(map(str, shape))} {tally.point}s are less than a patch of "
            f"{' x '.join(map(str, recipe.size))}: padded with 0"
        )


@dataclasses.dataclass
class _Tally:
    """Running counts: `pixels` [1 + K] of each class after preparation, of the kept slices or volumes."""

    pixels: np.ndarray
    piece: str  # what is counted: "slice" or "volume"
    point: str  # what it is made of: "pixel" or "voxel"
    pieces: int = 0
    kept: int = 0
    empty: int = 0
    unlabelled: int = 0  # cases without a mask
    largest: tuple[int, ...] = ()  # along each axis, of the images that patches are cut from
    levels: list[contrast.Levels] = dataclasses.field(default_factory=list)
    greyed: int = 0  # colour pictures that become grey
    lowest: float = np.inf
    highest: float = -np.inf
    sizes: Counter = dataclasses.field(default_factory=Counter)
    meanings: Meanings = dataclasses.field(default_factory=Meanings)  # of the masks' values
    spacings: set = dataclasses.field(default_factory=set)
    owners: dict = dataclasses.field(default_factory=dict)  # digest of an image -> its first case
    copies: dict = dataclasses.field(default_factory=lambda: defaultdict(set))  # case id -> cases with one of its images

    def see(self, shape: tuple[int, ...], spacing: tuple[float, ...] | None, low, high) -> None:
        self.pieces += 1
        self.sizes[shape] += 1
        self.spacings |= {spacing} - {None}
        self.lowest, self.highest = min(self.lowest, float(low)), max(self.highest, float(high))

    def keep(self, case: Case, image: np.ndarray, mask: np.ndarray) -> None:
        self.kept += 1
        self.empty += not mask.any()
        self.pixels += np.bincount(mask.ravel(), minlength=len(self.pixels))
        if (image != image.flat[0]).any():  # empty air is alike in all patients
            first = self.owners.setdefault(files.digest(image.tobytes()), case)
            if first.patient != case.patient:
                self.copies[case.id].add(first.id)


def _describe(report: DataReport, tally: _Tally, dataset: DataSet) -> None:
    """Fill the report's lines, and the warnings about the whole set."""
    strata, say = defaultdict(set), report.lines.append
    for case in dataset.cases:
        strata[dataset.stratum(case) or "-"].add(case.patient)
    patients = {p for who in strata.values() for p in who}
    say(f"data     {dataset.name} in {dataset.root}{' (SYNTHETIC)' if dataset.synthetic else ''}")
    say(f"cases    {len(dataset.cases)} of {len(patients)} patients, {len(report.errors)} errors")
    say("strata   " + ", ".join(f"{word}: {len(who)} patients" for word, who in sorted(strata.items())))
    say(f"{tally.piece + 's':<8} {tally.kept} kept of {tally.pieces}, {tally.empty} of them without foreground")
    if tally.unlabelled:
        say(f"no mask  {tally.unlabelled} cases: left out of training, --mode=predict takes them")
    say(
        "labels   "
        + ", ".join(
            f"{name}: {n} {tally.point}s ({100 * n / max(1, tally.pixels.sum()):.3f} %)"
            for name, n in zip(("background", *dataset.labels), tally.pixels.tolist())
        )
    )
    for line in tally.meanings.lines(dataset.labels):
        say(f"masks    {line}")
    if tally.pieces:
        more = f", {len(tally.sizes) - 5} more" if len(tally.sizes) > 5 else ""
        say("sizes    " + ", ".join(f"{' x '.join(map(str, size))}: {n}" for size, n in tally.sizes.most_common(5)) + more)
        if tally.greyed:
            say(
                f"colour   {tally.greyed} of {tally.pieces} {tally.piece}s, made grey: data.channels leaves one for the image; "
                "with 2 more colours stay, and grey is repeated"
            )
        say(f"values   {tally.lowest:g} to {tally.highest:g}")
    if tally.spacings:
        axes = ("rows", "columns") if tally.piece == "slice" else ("x", "y", "z")
        ranges = zip(axes, *(f(list(tally.spacings), 0) for f in (np.min, np.max)))
        say("spacing  " + ", ".join(f"{axis} {low:.3g} to {high:.3g} mm" for axis, low, high in ranges))
    absent = [name for name, n in zip(dataset.labels, tally.pixels[1:]) if not n]
    if absent and tally.pixels[1:].any():
        report.warnings.append(f"no {tally.point} of {', '.join(absent)} in any kept {tally.piece}")
    few = [f"{word} ({len(who)})" for word, who in sorted(strata.items()) if len(who) < 3]
    if few:
        report.warnings.append(f"strata with fewer patients than splits: {', '.join(few)}")
