"""Read a table of paths: CSV, JSON or YAML, one row per case. Paths are relative to the table's folder.

    case,image_t1,image_flair,mask,patient,split,spacing
    a1,scans/a1_t1.nii.gz,scans/a1_flair.nii.gz,labels/a1.nii.gz,anna,train,

Columns: `image`, or one for each channel (`image_<channel>`, or those that data.modalities names); `mask`, or one for each
structure (`mask_<structure>`), with empty cells if there is none; `patient` (also patient_id, PatientID, subject, subject_id), or
the column that data.patient names; `split` (train, val, test; with train and test only, validation patients are drawn from
train); `spacing` in mm along the file's axes ("0.5 0.5 3"), used for files without spacing and compared with the spacing of
others; `case`. JSON and YAML hold a list of objects with these keys, or such lists under "training", "validation" and "test".
A CSV may be separated by commas, semicolons or tabs.
"""

import csv
import functools
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from jaxseg.data.datasets import folder, pairs
from jaxseg.data.datasets.own import overlap, patients, unmasked
from jaxseg.data.formats import photos, volumes
from jaxseg.data.formats.discover import files_and_folders, has_suffix
from jaxseg.data.formats.refusal import refusal
from jaxseg.data.prepare import mask_values as values_and_classes
from jaxseg.data.prepare import masks
from jaxseg.data.records import Case, DataSet, Volume
from jaxseg.types import ConfigError, DataError
from jaxseg.utils import guard

VERSION = 1  # of the rules below: raise it when they would read a file otherwise, so that stores are built anew

SUFFIXES = (".csv", ".json", ".yaml", ".yml")
OTHERS = ("dataset.json", "plans.json", "splits.json", "splits_final.json")  # that are no tables
IMAGE, MASK = "image", "mask"
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
DELIMITERS = ",;\t"  # of a CSV: the one that its header has most of
PATIENT = ("patient", "patient_id", "patientid", "subject", "subject_id", "subjectid", "participant_id")  # names of its column
RESERVED = ("image", "mask", "label", "split", "spacing", "case")  # columns that may be written in capitals
MAX_TEXT = 64 << 20  # bytes of a table
SLACK = 0.01  # share by which a spacing in the table may differ from the file's

Row = dict[str, Any]


class Columns(NamedTuple):
    """The roles of a table's columns: names of channels and structures -> their columns."""

    images: dict[str, str]
    masks: dict[str, str]


def recognised(root: Path) -> bool:
    """Whether a path is a table, or a folder with one, where images and masks do not lie in folders of their own."""
    return _table_of(root) is not None and not folder.in_two_folders(root)


def load(
    root: str | Path,
    *,
    structures: Sequence[str] | None = None,
    modalities: Sequence[str] | None = None,
    patient: str | None = None,
    overlapping: bool = False,
    mask_values: Sequence = (),
    missing_masks: str | None = None,
) -> DataSet:
    """List the rows of a table; those without a mask have mask None.

    Args:
      root: the table, or a folder with no other table.
      structures, overlapping, mask_values: as `folder.load`.
      missing_masks: see `unmasked.apply`; None: as "skip".
      modalities: names of the channels, which are columns; None: those that begin with image.
      patient: a column, or see `patients.named_by`.
    Raises:
      ConfigError: names that are not columns.
      DataError: DATA_TABLE for a table that cannot be used, DATA_MISSING for a missing file.
    """
    path = _table_of(Path(root))
    if path is None:
        raise refusal(
            "DATA_MISSING", root, "no table of paths", f"tables end in {', '.join(SUFFIXES)}", "give the table's own path"
        )
    rows = _rows(path)
    bad = lambda found, rule: refusal("DATA_TABLE", path, found, rule, "correct the table")
    columns = _columns(path, rows, modalities)
    names = tuple(structures or (columns.masks if columns.masks and MASK not in columns.masks else folder.LABELS))
    several = bool(columns.masks) and MASK not in columns.masks
    unknown = [name for name in columns.masks if several and name not in names]
    if unknown:
        raise ConfigError(f"data.structures={names!r}: {path} has a column of masks for {unknown[0]} too; add it")
    table = values_and_classes.table_of(mask_values, len(names))
    if several and table:
        raise ConfigError("data.mask_values is for masks that hold the classes; here each structure has a mask: leave it out")
    joined = several and overlapping
    labels = overlap.combinations(names) if joined else names
    whose = _patients(path, rows, patient)
    cases, splits, spacings = [], {}, {}
    for i, row in enumerate(rows):
        images = tuple(_file(path, row, column, bad) for column in columns.images.values())
        parts = {name: _file(path, row, column, bad) for name, column in columns.masks.items() if row.get(column)}
        name = _word(path, row, "case") or pairs.stem(images[0])
        meta: dict[str, Any] = {"structures": list(parts)} if several else {}
        case = Case(name, whose(row, name), images, next(iter(parts.values()), None), meta, tuple(parts.values())[1:])
        if row.get("split"):
            word = SPLITS.get(_word(path, row, "split").strip().lower())
            if word is None:
                raise bad(f"split {guard.shown(row['split'])} of row {i + 1}", f"a split is one of {', '.join(SPLITS)}")
            if splits.setdefault(case.patient, word) != word:
                raise DataError(
                    f"{path}: patient {case.patient} is in {splits[case.patient]} and in {word}; a patient belongs to one split",
                    "DATA_LEAK",
                )
        if row.get("spacing") and not has_suffix(images[0], photos.SUFFIXES):
            spacings |= dict.fromkeys(map(str, images), _spacing(row["spacing"], i, bad))
        cases.append(case)
    twice = (
        sorted({c.id for c in cases if sum(o.id == c.id for o in cases) > 1}) if len({c.id for c in cases}) < len(cases) else []
    )
    if twice:
        raise bad(f"case {twice[0]} twice", "names of cases are unique; a column `case` names them")
    pictures = any(row.get("spacing") for row in rows) and not spacings
    whole = len(splits) == len({c.patient for c in cases}) and {"train", "val"} <= set(splits.values())
    read = (
        functools.partial(folder.read_structures, names, joined, 0)
        if several
        else functools.partial(masks.read_mask, len(names), table)
    )
    dataset = DataSet(
        "table",
        path.parent,
        tuple(sorted(cases, key=lambda c: c.id)),
        labels,
        functools.partial(masks.map_mask, len(labels)),
        read_image=functools.partial(read_spaced, spacings) if spacings else None,
        read_mask=read,
        modalities=tuple(columns.images) if len(columns.images) > 1 else (),
        regions=overlap.regions(names) if joined else (),
        combined=joined,
        values=() if several else values_and_classes.values_of(table, len(names)),
        fixed_split=splits if whole else None,
        held_out=frozenset() if whole else frozenset(p for p, word in splits.items() if word == "test"),
        notes=("the column spacing is not used: pictures are resized, not resampled",) if pictures else (),
    )
    return unmasked.apply(dataset, missing_masks)


def read_spaced(spacings: Mapping[str, tuple[float, ...]], path: Path) -> Volume:
    """Read an image whose spacing the table gives.

    Raises:
      DataError: as `volumes.read_volume`; DATA_GEOMETRY for a file that states another spacing.
    """
    volume, spacing = volumes.read_volume(path), spacings.get(str(path))
    if spacing is None:
        return volume
    own = np.linalg.norm(volume.affine[:3, :3], axis=0)
    if len(spacing) != 3 or volume.header is not None and not np.allclose(own, spacing, rtol=SLACK):
        raise refusal(
            "DATA_GEOMETRY",
            path,
            f"spacing {' '.join(f'{s:g}' for s in spacing)} mm in the table, {' '.join(f'{s:.4g}' for s in own)} mm in the file",
            "both agree to 1 %",
            "correct one of them, or leave the column out",
        )
    return volume if volume.header is not None else Volume(volume.array, np.diag([*spacing, 1.0]), None, volume.path)


def _table_of(root: Path) -> Path | None:
    if root.is_file():
        return root if root.suffix.lower() in SUFFIXES else None
    if not root.is_dir():
        return None
    found = [e for e in files_and_folders(root)[0] if has_suffix(e, SUFFIXES) and e.name not in OTHERS]
    try:
        return found[0] if len(found) == 1 and any(c.startswith(IMAGE) for c in _rows(found[0])[0]) else None
    except DataError:
        return None


def _rows(path: Path) -> list[Row]:
    """The rows, each {column: cell}.

    Raises:
      DataError: DATA_TABLE.
    """
    bad = lambda found: refusal(
        "DATA_TABLE", path, found, "a table has a header and rows, or is a list of objects", "see configs/folder.py"
    )
    if path.suffix.lower() == ".csv":
        try:
            text = guard.read_text(path, MAX_TEXT)
            header = text.partition("\n")[0]
            reader = csv.DictReader(io.StringIO(text), delimiter=max(DELIMITERS, key=header.count), strict=True)
            rows: Any = list(reader)
        except csv.Error as error:
            raise bad(f"no CSV ({error})") from error
        if any(None in row or None in row.values() for row in rows):
            raise bad("rows of different lengths")
        names = [column.strip() for column in reader.fieldnames or ()]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise bad(f"two columns are called {twice[0]!r}")
        rows = [{column.strip(): cell.strip() for column, cell in row.items()} for row in rows]
    elif path.suffix.lower() == ".json":
        rows = guard.read_json(path, MAX_TEXT)
    else:
        try:
            rows = yaml.safe_load(guard.read_text(path, MAX_TEXT))
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            raise bad(f"no YAML ({' '.join(str(error).split())[:100]})") from error
    if isinstance(rows, dict):
        if not rows or not all(part in SPLITS and isinstance(listed, list) for part, listed in rows.items()):
            raise bad(f"an object with {', '.join(map(str, list(rows)[:5]))}")
        rows = [{"split": part, **row} for part, listed in rows.items() for row in listed if isinstance(row, dict)]
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) and row for row in rows):
        raise bad("no rows")
    if odd := [column for row in rows for column in row if not isinstance(column, str)]:
        raise bad(f"a column called {guard.shown(odd[0])}, which is no text")
    taken = {column: column.lower() for column in _present(rows) if column.lower() in RESERVED}
    taken = {c: name for c, name in taken.items() if list(taken.values()).count(name) == 1}
    return [{taken.get(column, column): cell for column, cell in row.items()} for row in rows]


def _present(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(column for row in rows for column in row))


def _columns(path: Path, rows: Sequence[Row], modalities: Sequence[str] | None) -> Columns:
    present = _present(rows)
    begins = lambda word: {
        c[len(word) + 1 :]: c for c in present if c.startswith((f"{word}_", f"{word}:")) and c[len(word) + 1 :]
    }
    images = {IMAGE: IMAGE} if IMAGE in present else begins(IMAGE)
    if modalities is not None:
        known = images | {c: c for c in present}
        absent = [name for name in modalities if name not in known]
        if isinstance(modalities, str) or absent or len(set(modalities)) < len(modalities):
            raise ConfigError(
                f"data.modalities={modalities!r}: {path} has the columns {', '.join(present)}; name those of channels"
            )
        images = {name: known[name] for name in modalities}
    alone = next((column for column in (MASK, "label") if column in present), None)
    truth = {MASK: alone} if alone else begins(MASK)
    if not images:
        raise refusal(
            "DATA_TABLE",
            path,
            f"columns {', '.join(present)}",
            "a table has a column image, or image_<channel> for each, and mask, or mask_<structure> for each",
            "rename them, or name the channels' columns in data.modalities",
        )
    return Columns(images, truth)


def _patients(path: Path, rows: Sequence[Row], wanted: str | None):
    """(row, case) -> patient: from a column, or from the case's name."""
    column = wanted if wanted is not None and any(wanted in row for row in rows) else None
    if wanted is None:
        column = next((c for c in _present(rows) if c.lower().replace(" ", "_").replace("-", "_") in PATIENT), None)
    if column is None or not any(row.get(column) for row in rows):
        by_name = patients.named_by(wanted if column is None else None)
        return lambda row, case: by_name(case)

    def named(row: Row, case: str) -> str:
        if not row.get(column):
            raise DataError(f"case {case} has an empty cell in the column {column!r}; name its patient", "DATA_TABLE")
        return _word(path, row, column)

    return named


def _word(path: Path, row: Row, column: str) -> str:
    """The text of a cell, "" where it is empty. Lists are refused: those of YAML may hold themselves many times over."""
    cell = row.get(column)
    if isinstance(cell, list | dict | set | tuple):
        found = f"{guard.shown(cell)} in column {column}"
        raise refusal("DATA_TABLE", path, found, "a cell holds a word or a number", "correct the table")
    return str(cell or "")


def _file(table: Path, row: Row, column: str, bad) -> Path:
    cell = row.get(column)
    if not isinstance(cell, str) or not cell:
        raise bad(f"{guard.shown(cell)} in column {column}", "every row has a path to a file there")
    path = table.parent / cell
    if not path.exists():
        raise refusal(
            "DATA_MISSING", path, "not there", f"{table.name} lists it in column {column}", "paths are relative to the table"
        )
    return path


def _spacing(cell: Any, row: int, bad) -> tuple[float, ...]:
    try:
        found = tuple(float(v) for v in (cell.replace("x", " ").replace(",", " ").split() if isinstance(cell, str) else cell))
        if len(found) == 3 and all(0 < v < 1e4 for v in found):
            return found
    except (TypeError, ValueError):
        pass
    raise bad(f"spacing {guard.shown(cell)} of row {row + 1}", "three numbers above 0, in mm, such as '0.5 0.5 3'")
