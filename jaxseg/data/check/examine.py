"""Read and prepare every case as training would, one at a time, and report on all of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.data.check.classes import Classes
from jaxseg.data.check.report import DataReport
from jaxseg.data.check.sheet import NAME as SHEET
from jaxseg.data.check.sheet import TILES
from jaxseg.data.check.tally import SetCounts, describe
from jaxseg.data.formats import remarks
from jaxseg.data.prepare import contrast
from jaxseg.data.prepare.labels import as_background
from jaxseg.data.records import Case, DataSet, Recipe
from jaxseg.data.store import bad_cases, base, cases
from jaxseg.data.store.rows import from_records
from jaxseg.data.store.stacked import target_mask
from jaxseg.types import DataError
from jaxseg.utils import files, output

Learn = Callable[[np.ndarray], np.ndarray]


def examine(
    dataset: DataSet, recipe: Recipe, *, bad_share: float = 0.0, learn: Learn | None = None, sheet: Path | None = None
) -> DataReport:
    """Read and prepare every case, as slices or as volumes, and collect all errors.

    Args:
      dataset: the data set.
      recipe: how images are prepared.
      bad_share: the fraction of cases that may be unreadable and are left out of the report's examples; with 0, the first such
        case is the report's refusal.
      learn: converts a prepared mask [*S] to the training target; None: by `recipe.target`.
      sheet: an existing folder for a picture of some examples; None: no picture.
    Raises:
      DataError: no case has a mask.
      StorageError: the picture cannot be written.
    """
    report = DataReport(dataset)
    report.dataset = dataset = base.labelled(dataset, report.say)
    piece, point, unit = ("volume", "voxel", "ml") if len(recipe.size) == 3 else ("slice", "pixel", "pixels")
    tally = SetCounts(np.zeros(len(dataset.labels) + 1, np.int64), Classes(dataset.labels, unit), piece, point)
    records, bad = [], []
    with remarks.collected(report.warnings.append):
        for case in output.working_through(dataset.cases, "checking cases"):
            try:
                found = _look(tally, dataset, case, recipe, learn)
            except DataError as error:
                report.errors[case.id] = error
                _refuse(report, bad, case, error, bad_share)
                continue
            records += found
    left_out = bad_cases.LeftOut(tuple(bad), len(dataset.cases))
    if not records and report.refusal is None:
        report.refusal = cases.nothing_kept(dataset, cases.Tally(seen=tally.pieces))
    if report.refusal is None:
        if len(recipe.size) == 3:  # as in their store: no volume counts as constant
            records = [{key: value for key, value in record.items() if key != "constant"} for record in records]
        report.examples = base.Listing(from_records(records), recipe, dataset.regions, left_out)
        report.warnings += [str(left_out)] if bad else []
    report.warnings += dataset.notes
    describe(report, tally, recipe)
    if sheet is not None and tally.kept:
        shown = tally.sheet.write(sheet / SHEET)
        report.lines.append(f"pictures {min(tally.kept, TILES)} prepared {piece}s with their masks: {shown}")
    return report


def _refuse(report: DataReport, bad: list[bad_cases.Bad], case: Case, error: DataError, share: float) -> None:
    """Count a bad case; the first one's error becomes the report's refusal, the error with which training would end."""
    if report.refusal is None:
        try:
            bad_cases.note(bad, case, error, len(report.dataset.cases), share)
        except DataError as refusal:
            report.refusal = refusal


def _look(tally: SetCounts, dataset: DataSet, case: Case, recipe: Recipe, learn: Learn | None) -> list[dict[str, Any]]:
    """Count one case, and return the records of its examples, in the form of a store's rows."""
    records, raws, images, placed = [], [], [], False
    for piece, example in cases.prepared_examples(dataset, recipe, case, meanings=tally.meanings):
        tally.add(piece.mask.shape, piece.spacing, piece.image.min(), piece.image.max())
        tally.turned += piece.turned
        if example is None:
            continue
        image, mask = example.image, example.mask
        tally.greyed += image.shape[-1] == 1 and piece.image.shape[-1] == 3
        raws.append(piece.raw)
        images.append(image)
        placed = piece.spacing is not None
        known = as_background(piece.mask, len(dataset.labels))
        if known.any() and not as_background(mask, len(dataset.labels)).any():
            name = case.id if piece.index is None else f"{case.id}, slice {piece.index}"
            tally.lost.append(
                f"{name}: none of {np.count_nonzero(known)} foreground {tally.point}s is left at "
                f"{' x '.join(map(str, mask.shape))}"
            )
        tally.keep(example)
        tally.scale.add(example, recipe)
        records.append(_record(example, recipe, learn))
        if not records[-1]["constant"]:
            tally.copies.add(image, records[-1]["digest"], case.id, case.patient)
    if raws:
        tally.levels.append(contrast.levels_of(case.id, raws, images, placed=placed))
    return records


def _record(example: cases.PreparedExample, recipe: Recipe, learn: Learn | None) -> dict[str, Any]:
    mask = as_background(example.mask, len(recipe.labels))
    learnt = learn(mask) if learn else target_mask(mask, recipe.target)
    counts = np.bincount(learnt.ravel(), minlength=(1 if learn else len(recipe.labels)) + 1)[1:]
    return example.row | {
        "foreground": counts.tolist(),
        "digest": files.digest(str(example.image.shape), example.image.tobytes()),
        "shape": list(learnt.shape),
        "constant": bool((example.image == example.image.flat[0]).all()),
    }
