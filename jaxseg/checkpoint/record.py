"""The run's own record: run.json says everything that evaluation and prediction need beside the weights.

It holds a digest of its content, and what it says is checked wherever it is read: a record that was damaged or edited by
accident is found. The digest is no signature: it does not protect against somebody who writes a new one.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jaxseg
from jaxseg.checkpoint import schema
from jaxseg.types import CheckpointError, DataError, MismatchError
from jaxseg.utils import guard
from jaxseg.utils.files import write_json

RECORD, CHECKPOINTS = "run.json", "checkpoints"
FORMAT = 2
LAST_READER = {1: "0.1.0"}  # format -> the last version of jaxseg that reads it
_HOLDS = f"a run folder holds {RECORD} and {CHECKPOINTS}/"


def write_record(workdir: str | Path, record: Mapping[str, Any]) -> None:
    """Write run.json, whole or not at all.

    Args:
      workdir: the run folder.
      record: the entries of `schema.ENTRIES`, and whatever else the run wants remembered, all JSON-able; "format", "jaxseg"
        (the version) and "digest" are added.
    Raises:
      ValueError: an entry is missing or of another kind.
      StorageError: it cannot be written.
    """
    whole = {**plain(record), "format": FORMAT, "jaxseg": jaxseg.__version__}
    whole["digest"] = digest_of(whole)
    wrong = schema.faults(whole)
    if wrong:
        raise ValueError(f"a run's record does not hold what it must: {'; '.join(wrong)}")
    write_json(Path(workdir) / RECORD, whole)


def read_record(workdir: str | Path) -> dict[str, Any]:
    """The record of a run folder.

    Raises:
      CheckpointError: there is none, or it was damaged or edited, or comes from a newer version.
      MismatchError: it has a format that this version reads no more.
    """
    path = Path(workdir) / RECORD
    try:
        record = guard.read_json(path)
    except DataError as error:
        if error.code == "DATA_MISSING":
            there = "it does not exist" if not path.parent.is_dir() else f"it has no {RECORD}"
            raise CheckpointError(f"{path.parent} is no run folder: {there}; {_HOLDS}") from error
        raise CheckpointError(f"{error}; weights alone do not say what {RECORD} says") from error
    if not isinstance(record, dict) or type(record.get("format")) is not int:
        raise CheckpointError(f"{path} is no record of a run: it has no whole number 'format'; {_HOLDS}")
    version = guard.shown(record.get("jaxseg"))
    if record["format"] in LAST_READER:
        raise MismatchError(
            f"{path} has format {record['format']}, and this jaxseg {jaxseg.__version__} reads format {FORMAT}: jaxseg "
            f"{LAST_READER[record['format']]} is the last version that reads it; use that one for this run, or train it anew"
        )
    if record["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {guard.shown(record['format'])} (of jaxseg {version}), and this jaxseg {jaxseg.__version__} "
            f"reads format {FORMAT}; use a newer jaxseg, or restore the file if it was edited"
        )
    if record.get("digest") != digest_of(record):
        raise CheckpointError(
            f"{path} was damaged or edited: its content has another digest than it holds; restore it from a copy, or train the "
            "run anew"
        )
    wrong = schema.faults(record)
    if wrong:
        raise CheckpointError(f"{path} does not hold what a record must: {'; '.join(wrong[:3])}; restore it from a copy")
    return record


def find_record(run: Path) -> dict[str, Any]:
    """The record of a run folder, or of the run that a checkpoint folder (run/checkpoints/N) belongs to."""
    return read_record(run_folder(run))


def run_folder(run: Path) -> Path:
    """The run folder that a path lies in, at most two folders up; the path itself where there is none."""
    around = (run, *run.absolute().parents[:2])
    return next((p for p in around if (p / RECORD).is_file()), run)


def digest_of(record: Mapping[str, Any]) -> str:
    """SHA-256 of a record's content without its own digest: of its JSON with sorted keys and no white space."""
    content = {key: value for key, value in record.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def plain(value: Any) -> Any:
    """The value as JSON gives it back: tuples become lists, keys strings.

    Raises:
      ValueError: it is not JSON-able.
    """
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"a run's record must be JSON-able: {error}") from error
