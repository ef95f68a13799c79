"""The data set's doctor: read every case once, say what is in it, and name everything that is wrong, before anything compiles."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np

from jaxseg.data.cache import Slice, read_case
from jaxseg.data.preprocess import prepare, prepare_mask
from jaxseg.data.records import Case, DataSet, Recipe
from jaxseg.types import DataError
from jaxseg.utils import files


@dataclasses.dataclass
class Report:
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
        return "\n".join([*self.lines, *(f"warning  {w}" for w in self.warnings),
                          *(f"error    {case}: [{e.code}] {e}" for case, e in self.errors.items())])


def check(dataset: DataSet, recipe: Recipe, *, log: Callable[[str], None] = print) -> Report:
    """Read and prepare every case, go on after errors, and tell.

    Returns:
      the report of a data set without errors.
    Raises:
      DataError: DATA_CHECK, after the report was logged, when a case cannot be used or nothing is left.
    """
    report, tally = Report(), _Tally(np.zeros(len(dataset.labels) + 1, np.int64))
    for case in dataset.cases:
        try:
            for piece in read_case(dataset, case, recipe):
                image = prepare(piece.image, recipe, piece.spacing)
                mask = prepare_mask(piece.mask, recipe, piece.spacing, len(dataset.labels))
                tally.add(case, piece, image, mask)
                if piece.kept and piece.mask.any() and not mask.any():
                    report.warnings.append(f"{case.id}, slice {piece.index}: none of {np.count_nonzero(piece.mask)} foreground "
                                           f"pixels is left at {recipe.size[0]} x {recipe.size[1]}")
        except DataError as error:
            report.errors[case.id] = error
    for case, twins in tally.twins.items():
        report.errors.setdefault(case, DataError(f"the same image as in {', '.join(sorted(twins))}, under another patient; "
                                                 "use one patient name or keep one copy", "DATA_LEAK"))
    if not report.errors and not tally.pixels[1:].any():
        what = "holds not one foreground pixel; check the masks and their labels" if tally.kept else \
            f"keeps none of {tally.slices} slices; check data.root and data.protocol"
        report.errors["every case"] = DataError(f"the whole set {what}", "DATA_EMPTY")
    _describe(report, tally, dataset)
    if report.errors:
        log(str(report))
        case, error = next(iter(report.errors.items()))
        codes = ", ".join(sorted({e.code for e in report.errors.values()}))
        raise DataError(f"{dataset.name}: {len(report.errors)} errors in {len(dataset.cases)} cases ({codes}); "
                        f"the first: {case}: {error}", "DATA_CHECK")
    return report


@dataclasses.dataclass
class _Tally:
    """Running counts over slices: `pixels` [1 + K] of each class after preparation, of the kept slices."""

    pixels: np.ndarray
    slices: int = 0
    kept: int = 0
    empty: int = 0
    lowest: float = np.inf
    highest: float = -np.inf
    sizes: Counter = dataclasses.field(default_factory=Counter)
    spacings: set = dataclasses.field(default_factory=set)
    owners: dict = dataclasses.field(default_factory=dict)  # digest of an image -> its first case
    twins: dict = dataclasses.field(default_factory=lambda: defaultdict(set))  # case id -> cases with one of its images

    def add(self, case: Case, piece: Slice, image: np.ndarray, mask: np.ndarray) -> None:
        self.slices += 1
        self.sizes[piece.image.shape[:2]] += 1
        self.spacings |= {piece.spacing} - {None}
        self.lowest, self.highest = min(self.lowest, float(piece.image.min())), max(self.highest, float(piece.image.max()))
        if not piece.kept:
            return
        self.kept += 1
        self.empty += not mask.any()
        self.pixels += np.bincount(mask.ravel(), minlength=len(self.pixels))
        if (image != image.flat[0]).any():  # empty air is alike in all patients
            first = self.owners.setdefault(files.digest(image.tobytes()), case)
            if first.patient != case.patient:
                self.twins[case.id].add(first.id)


def _describe(report: Report, tally: _Tally, dataset: DataSet) -> None:
    """Fill the report's lines, and the warnings about the whole set."""
    strata, say = defaultdict(set), report.lines.append
    for case in dataset.cases:
        strata[dataset.stratum(case) or "-"].add(case.patient)
    patients = {p for who in strata.values() for p in who}
    say(f"data     {dataset.name} in {dataset.root}{' (SYNTHETIC)' if dataset.synthetic else ''}")
    say(f"cases    {len(dataset.cases)} of {len(patients)} patients, {len(report.errors)} errors")
    say("strata   " + ", ".join(f"{word}: {len(who)} patients" for word, who in sorted(strata.items())))
    say(f"slices   {tally.kept} kept of {tally.slices}, {tally.empty} of them without foreground")
    say("labels   " + ", ".join(f"{name}: {n} pixels ({100 * n / max(1, tally.pixels.sum()):.3f} %)"
                                for name, n in zip(("background", *dataset.labels), tally.pixels.tolist())))
    if tally.slices:
        more = f", {len(tally.sizes) - 5} more" if len(tally.sizes) > 5 else ""
        say("sizes    " + ", ".join(f"{h} x {w}: {n}" for (h, w), n in tally.sizes.most_common(5)) + more)
        say(f"values   {tally.lowest:g} to {tally.highest:g}")
    if tally.spacings:
        (r0, c0), (r1, c1) = (f(list(tally.spacings), 0) for f in (np.min, np.max))
        say(f"spacing  rows {r0:.3g} to {r1:.3g} mm, columns {c0:.3g} to {c1:.3g} mm")
    absent = [name for name, n in zip(dataset.labels, tally.pixels[1:]) if not n]
    if absent and tally.pixels[1:].any():
        report.warnings.append(f"no pixel of {', '.join(absent)} in any kept slice")
    few = [f"{word} ({len(who)})" for word, who in sorted(strata.items()) if len(who) < 3]
    if few:
        report.warnings.append(f"strata with fewer patients than splits: {', '.join(few)}")
