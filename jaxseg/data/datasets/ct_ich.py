"""CT-ICH: intracranial haemorrhage in head CT, PhysioNet, version 1.3.1 (Hssayeni et al. 2020, Data 5(1):14).

    <root>/ct_scans/049.nii ...   HU, about 30 slices of 512 x 512; 75 patients, 059 to 065 have no files
    <root>/masks/049.nii ...      255 where there is blood
    <root>/hemorrhage_diagnosis_raw_ct.csv   one row per slice, slices count from 1 along the file's third axis

Files may be .nii or .nii.gz, any number of them. One case per patient; the protocols are those of the haemorrhage project:
"only" keeps the slices that the table says show blood, "all" keeps every slice.
"""

import csv
import functools
import gzip
import io
import re
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxseg.data.formats import nifti_header, volumes
from jaxseg.data.formats.discover import visible_entries
from jaxseg.data.formats.refusal import refusal
from jaxseg.data.phantom import ct_ich
from jaxseg.data.records import Case, DataSet
from jaxseg.utils import guard
from jaxseg.utils.lookup import lookup

VERSION = 1  # of the rules below: raise it when they would read a file otherwise, so that stores are built anew

TABLE = "hemorrhage_diagnosis_raw_ct.csv"
TYPES = ("Intraventricular", "Intraparenchymal", "Subarachnoid", "Epidural", "Subdural")
LABELS = ("hemorrhage",)
PROTOCOLS = ("only", "all")
NEAR = 64  # mask values this close to 0 or 255 count as 0 or 255
_NAME = re.compile(r"(\d+)\.nii(\.gz)?", re.IGNORECASE)
_RESTORE = "unpack the data set again"

phantom = ct_ich.phantom


def load(root: str | Path, *, protocol: str = "only") -> DataSet:
    """The patients of a CT-ICH folder, with what the table says of their slices.

    Args:
      root: the folder with ct_scans and masks, or the one that holds it.
      protocol: "only" (slices with a bleed according to the table) or "all".
    Returns:
      DataSet; a case's meta is {"bleed_slices": [indices from 0], "types": [kinds of bleed, in the table's order]}.
    Raises:
      ConfigError: unknown protocol.
      DataError: DATA_MISSING for a folder, scan, mask or row that is not there, DATA_TABLE for a table that cannot be read,
        DATA_MISMATCH for bleeds beyond a scan's last slice, DATA_PATH for names that are not NUMBER.nii.
    """
    lookup("protocol", protocol, dict.fromkeys(PROTOCOLS))
    root = _find_root(Path(root))
    scans, masks = _numbered(root / "ct_scans"), _numbered(root / "masks")
    for here, there, folder in ((scans, masks, "masks"), (masks, scans, "ct_scans")):
        absent = sorted(here.keys() - there.keys())
        if absent:
            raise refusal(
                "DATA_MISSING",
                root / folder / f"{absent[0]:03d}.nii",
                f"not there for {len(absent)} patients ({_some(absent)})",
                "every scan has a mask and every mask a scan",
                f"{_RESTORE}, or remove {here[absent[0]]}",
            )
    if not scans:
        raise refusal("DATA_MISSING", root / "ct_scans", "holds no .nii or .nii.gz", "one file per patient", _RESTORE)
    table = read_table(root / TABLE)
    cases = tuple(_case(n, scans[n], masks[n], table.get(n, {}), root / TABLE) for n in sorted(scans))
    return DataSet(
        "ct_ich", root, cases, LABELS, map_mask, functools.partial(keep_slice, protocol), stratum, synthetic=is_synthetic(root)
    )


def label_count() -> int:
    """Number of foreground classes."""
    return len(LABELS)


def map_mask(raw: np.ndarray) -> np.ndarray:
    """Mask values 0..255 (or 0 and 1) -> uint8 classes: 1 above 127 (or where 1).

    Raises:
      DataError: DATA_LABEL, with counts, for values that are neither near 0 nor near 255.
    """
    if raw.size and raw.max() <= 1:
        volumes.check_labels(raw, (0, 1), "mask")
        return (raw > 0).astype(np.uint8)
    distance = np.minimum(np.abs(raw.astype(np.float32)), np.abs(raw.astype(np.float32) - 255))
    if not (distance < NEAR).all():  # NaN is not near
        volumes.check_labels(np.where(distance < NEAR, 0, raw), (0, 255), "mask")
    return (raw > 127).astype(np.uint8)


def keep_slice(protocol: str, case: Case, index: int, mask: np.ndarray | None) -> bool:
    """Whether the slice is an example: always ("all"), or where the table says blood ("only")."""
    return protocol == "all" or index in case.meta["bleed_slices"]


def stratum(case: Case) -> str:
    """ "bleed" or "none"."""
    return "bleed" if case.meta["bleed_slices"] else "none"


def is_synthetic(root: Path) -> bool:
    """Whether the folder was made by `jaxseg.data.phantom.ct_ich`."""
    note = root / "README.txt"
    return note.is_file() and note.read_bytes()[:10] == b"synthetic:"


def disagreements(dataset: DataSet) -> list[str]:
    """Where table and masks contradict each other, one line each way with counts; reads every mask."""
    empty, unlisted = [], []
    for case in dataset.cases:
        mask = map_mask(volumes.read_volume(case.mask).array)
        blood, said = set(np.flatnonzero(mask.any(axis=(0, 1))).tolist()), set(case.meta["bleed_slices"])
        empty += [f"{case.id}/{i + 1}" for i in sorted(said - blood)]
        unlisted += [f"{case.id}/{i + 1}" for i in sorted(blood - said)]
    lines = (
        (empty, "slices have a bleed in the table and an empty mask"),
        (unlisted, "slices have a bleed in the mask and none in the table (protocol 'only' drops them)"),
    )
    return [f"{len(found)} {what}: {_some(found)}" for found, what in lines if found]


def read_table(path: Path) -> dict[int, dict[int, tuple[bool, tuple[str, ...]]]]:
    """patient -> {slice index from 0: (bleed, kinds)}.

    Raises:
      DataError: DATA_MISSING or DATA_TABLE.
    """
    bad = lambda found, rule: refusal("DATA_TABLE", path, found, rule, _RESTORE)
    if not path.is_file():
        raise refusal("DATA_MISSING", path, "not there", "the table of the slices' diagnoses", _RESTORE)
    rows: dict[int, dict[int, tuple[bool, tuple[str, ...]]]] = {}
    try:
        reader = csv.DictReader(io.StringIO(guard.read_text(path)), skipinitialspace=True)
        names = {(name or "").strip(): name for name in reader.fieldnames or ()}
        lost = [c for c in ("PatientNumber", "SliceNumber", "No_Hemorrhage", *TYPES) if c not in names]
        if lost:
            raise bad(f"no column {', '.join(lost)}", f"columns are {', '.join(names)[:200] or 'none'}")
        for row in reader:
            if not any(isinstance(v, str) and v.strip() for v in row.values()):
                continue  # spreadsheets end with empty rows
            patient, number, clean = (_whole(row[names[c]]) for c in ("PatientNumber", "SliceNumber", "No_Hemorrhage"))
            flags = [_whole(row[names[c]]) for c in TYPES]
            if patient is None or number is None or number < 1 or clean not in (0, 1) or not set(flags) <= {0, 1}:
                raise bad(f"line {reader.line_num} is {str(list(row.values()))[:200]}", "numbers, slices from 1, flags 0 or 1")
            if number - 1 in rows.setdefault(patient, {}):
                raise bad(f"line {reader.line_num}: patient {patient}, slice {number} a second time", "one row a slice")
            rows[patient][number - 1] = (clean != 1, tuple(t for t, flag in zip(TYPES, flags) if flag))
    except csv.Error as error:
        raise bad(f"cannot be read ({error})", "must be a comma-separated text") from error
    return rows


def _case(number: int, scan: Path, mask: Path, rows: Mapping, table: Path) -> Case:
    count = _slices(scan)
    absent = [i + 1 for i in range(count) if i not in rows]
    if absent:
        raise refusal(
            "DATA_MISSING",
            table,
            f"no row for patient {number}, slice {_some(absent)}",
            f"{scan.name} has {count} slices and needs a row for each",
            f"{_RESTORE}, or remove {scan.name} and its mask",
        )
    bleeds = sorted(i for i, (bleed, _) in rows.items() if bleed)
    if bleeds and bleeds[-1] >= count:
        raise refusal(
            "DATA_MISMATCH",
            table,
            f"patient {number} bleeds in slice {bleeds[-1] + 1}",
            f"{scan.name} has {count} slices",
            _RESTORE,
        )
    kinds = {kind for bleed, found in rows.values() if bleed for kind in found}
    return Case(
        f"{number:03d}", f"{number:03d}", (scan,), mask, {"bleed_slices": bleeds, "types": [t for t in TYPES if t in kinds]}
    )


def _slices(path: Path) -> int:
    """Slices that the header of a file declares."""
    try:
        with (gzip.open if path.name.lower().endswith(".gz") else open)(path, "rb") as file:
            start = file.read(4)
            size = nifti_header.header_size(start, path)[0]
            block = start + file.read(size - 4)
            if len(block) < size:
                raise EOFError(f"{len(block)} of {size} bytes of a header")
            return nifti_header.parse(block, path).shape[2]
    except (OSError, EOFError, zlib.error) as error:
        raise refusal("DATA_TRUNCATED", path, f"cannot be read ({error})", "must hold a volume", _RESTORE) from error


def _find_root(root: Path) -> Path:
    """The folder with ct_scans: this one, or the only such folder in it."""
    if (root / "ct_scans").is_dir():
        found = [root]
    else:
        found = [d for d in (sorted(root.iterdir()) if root.is_dir() else ()) if (d / "ct_scans").is_dir()]
    if len(found) != 1:
        what = f"{len(found)} folders with ct_scans ({_some([d.name for d in found])})" if found else "no folder ct_scans"
        raise refusal(
            "DATA_MISSING",
            root,
            what,
            "it, or one folder in it, holds ct_scans, masks and " + TABLE,
            "give the folder that was unpacked from PhysioNet CT-ICH 1.3.1",
        )
    if not (found[0] / "masks").is_dir():
        raise refusal("DATA_MISSING", found[0] / "masks", "not there", "the masks lie beside ct_scans", _RESTORE)
    return found[0]


def _numbered(folder: Path) -> dict[int, Path]:
    """patient number -> file."""
    files: dict[int, Path] = {}
    for entry in visible_entries(folder):
        match = _NAME.fullmatch(entry.name)
        if not match or not entry.is_file():
            if entry.name.lower().endswith((".nii", ".nii.gz")):
                raise refusal("DATA_PATH", entry, "no patient's number", "files are named 049.nii", "rename or remove it")
            continue
        number = int(match[1])
        if number in files:
            raise refusal(
                "DATA_PATH",
                entry,
                f"patient {number} a second time, beside {files[number].name}",
                "one file a patient",
                "remove one of them",
            )
        files[number] = entry
    return files


def _whole(text: str | None) -> int | None:
    try:
        return int(float(text)) if text is not None and float(text).is_integer() else None
    except ValueError:
        return None


def _some(items: list, limit: int = 5) -> str:
    return ", ".join(map(str, items[:limit])) + (", ..." if len(items) > limit else "")
