"""Read and prepare every case as training would, one at a time, and report on all of them."""

import base64
import dataclasses
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.data.check import duplicates
from jaxseg.data.check.classes import Classes
from jaxseg.data.check.report import DataReport
from jaxseg.data.check.sheet import NAME as SHEET
from jaxseg.data.check.sheet import TILES, Sheet
from jaxseg.data.check.tally import SetCounts, describe
from jaxseg.data.formats import remarks
from jaxseg.data.prepare import contrast
from jaxseg.data.prepare.labels import as_background
from jaxseg.data.prepare.mask_values import RecordedMeanings
from jaxseg.data.records import Case, DataSet, Recipe
from jaxseg.data.store import bad_cases, base, cases
from jaxseg.data.store.rows import Collected
from jaxseg.data.store.stacked import target_mask
from jaxseg.types import DataError
from jaxseg.utils import files, output
from jaxseg.utils.turns import ALONE, CaseShare

Learn = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass
class CaseFacts:
    """What reading and preparing one case showed; the report adds them up in the order of the cases.

    Attributes:
      counts: the case's own counts.
      records: one for each kept example, in the form of a store's rows.
      copies: (thumbnail or None, digest) of each kept image that is not constant.
      meanings: how the values of its masks were interpreted (`mask_values.RecordedMeanings`).
      remarks: about its files (`remarks.recorded`).
      error: the reason for which it cannot be used.
    """

    counts: SetCounts
    records: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    copies: list[tuple[np.ndarray | None, str]] = dataclasses.field(default_factory=list)
    meanings: list = dataclasses.field(default_factory=list)
    remarks: list = dataclasses.field(default_factory=list)
    error: DataError | None = None


def examine(
    dataset: DataSet,
    recipe: Recipe,
    *,
    bad_share: float = 0.0,
    learn: Learn | None = None,
    sheet: Path | None = None,
    share: CaseShare = ALONE,
) -> DataReport:
    """Read and prepare every case, as slices or as volumes, and collect all errors.

    Several processes read a share of the cases each, and all return the report that one process would.

    Args:
      dataset: the data set.
      recipe: how images are prepared.
      bad_share: the fraction of cases that may be unreadable and are left out of the report's examples; with 0, the first such
        case is the report's refusal.
      learn: converts a prepared mask [*S] to the training target; None: by `recipe.target`.
      sheet: an existing folder for a picture of some examples, which process 0 writes; None: no picture.
      share: the part of the cases that this process reads.
    Raises:
      DataError: no case has a mask.
      StorageError: the picture cannot be written.
    """
    report = DataReport(dataset)
    report.dataset = dataset = base.labelled(dataset, report.say)
    piece, point, unit = ("volume", "voxel", "ml") if len(recipe.size) == 3 else ("slice", "pixel", "pixels")
    counts = lambda: SetCounts(np.zeros(len(dataset.labels) + 1, np.int64), Classes(dataset.labels, unit), piece, point)
    tally, shown = counts(), Sheet()
    records, bad = Collected(), []
    own = output.working_through(share.of(dataset.cases), "checking cases")
    facts = (_look(counts(), dataset, case, recipe, learn, shown) for case in own)
    if share.count > 1:
        facts = iter([_unpacked(text) for text in share.in_order([_packed(found) for found in facts])])
        sheets = share.gather([_packed(shown.few() if share.index else Sheet())])
        shown.merge([_unpacked(text) for text in sheets])
    with remarks.collected(report.warnings.append):
        for case, found in zip(dataset.cases, facts, strict=True):
            try:
                made = _add(tally, case, found)
                if len(recipe.size) == 3:  # as in their store: no volume counts as constant
                    made = [{key: value for key, value in record.items() if key != "constant"} for record in made]
                records.extend(made)
            except DataError as error:
                report.errors[case.id] = error
                _refuse(report, bad, case, error, bad_share)
    left_out = bad_cases.LeftOut(tuple(bad), len(dataset.cases))
    if not len(records) and report.refusal is None:
        report.refusal = cases.nothing_kept(dataset, cases.Tally(seen=tally.pieces))
    if report.refusal is None:
        report.examples = base.Listing(records.rows(), recipe, dataset.regions, left_out)
        report.warnings += [str(left_out)] if bad else []
    report.warnings += dataset.notes
    describe(report, tally, recipe)
    if sheet is not None and tally.kept and not share.index:
        path = shown.write(sheet / SHEET)
        report.lines.append(f"pictures {min(tally.kept, TILES)} prepared {piece}s with their masks: {path}")
    return report


def _add(tally: SetCounts, case: Case, found: CaseFacts) -> list[dict[str, Any]]:
    """Add the facts of a case to the counts of all; returns its records.

    Raises:
      DataError: it cannot be used, or its masks contradict those of earlier cases (`Meanings.add`).
    """
    for text, path, amount, detail in found.remarks:
        remarks.remark(text, path, amount, detail)
    for path, meanings in found.meanings:
        tally.meanings.add(case.id, path, meanings)
    tally.merge(found.counts)
    for values, digest in found.copies:
        tally.copies.add_thumbnail(values, digest, case.id, case.patient)
    if found.error is not None:
        raise found.error
    return found.records


def _packed(found: Any) -> str:
    """Return an object as text, for the other processes of this run."""
    return base64.b64encode(zlib.compress(pickle.dumps(found), 1)).decode()


def _unpacked(text: str) -> Any:
    return pickle.loads(zlib.decompress(base64.b64decode(text)))  # from a process of this run


def _refuse(report: DataReport, bad: list[bad_cases.Bad], case: Case, error: DataError, share: float) -> None:
    """Count a bad case; the first one's error becomes the report's refusal, the error with which training would end."""
    if report.refusal is None:
        try:
            bad_cases.note(bad, case, error, len(report.dataset.cases), share)
        except DataError as refusal:
            report.refusal = refusal


def _look(counts: SetCounts, dataset: DataSet, case: Case, recipe: Recipe, learn: Learn | None, shown: Sheet) -> CaseFacts:
    """Read and prepare one case."""
    found, meanings = CaseFacts(counts), RecordedMeanings()
    with remarks.recorded() as found.remarks:
        try:
            _examples(found, dataset, case, recipe, learn, shown, meanings)
        except DataError as error:
            found.error = error
    found.meanings = meanings.found
    return found


def _examples(
    found: CaseFacts, dataset: DataSet, case: Case, recipe: Recipe, learn: Learn | None, shown: Sheet, meanings: RecordedMeanings
) -> None:
    counts, raws, images, placed = found.counts, [], [], False
    for piece, example in cases.prepared_examples(dataset, recipe, case, meanings=meanings):
        counts.add(piece.mask.shape, piece.spacing, piece.image.min(), piece.image.max())
        counts.turned += piece.turned
        if example is None:
            continue
        image, mask = example.image, example.mask
        counts.greyed += image.shape[-1] == 1 and piece.image.shape[-1] == 3
        raws.append(piece.raw)
        images.append(image)
        placed = piece.spacing is not None
        known, left = (as_background(array, len(dataset.labels)) for array in (piece.mask, mask))
        if known.any() and not left.any():
            name = case.id if piece.index is None else f"{case.id}, slice {piece.index}"
            counts.lost.append(
                f"{name}: none of {np.count_nonzero(known)} foreground {counts.point}s is left at "
                f"{' x '.join(map(str, mask.shape))}"
            )
        counts.keep(example)
        shown.add(image, left)
        counts.scale.add(example, recipe)
        found.records.append(_record(example, recipe, learn))
        if not found.records[-1]["constant"]:
            found.copies.append((duplicates.thumbnail(image), found.records[-1]["digest"]))
    if raws:
        counts.levels.append(contrast.levels_of(case.id, raws, images, placed=placed))


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
