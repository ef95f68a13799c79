"""The record of a run: run.json holds everything that evaluation and prediction need besides the weights.

It holds a digest of its content, and both are checked whenever it is read, so that accidental damage or editing is detected. The
digest is no signature: it does not protect against somebody who computes a new one.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jaxseg
from jaxseg.checkpoint import schema
from jaxseg.types import CheckpointError, DataError, MismatchError
from jaxseg.utils import guard
from jaxseg.utils.files import write_json

RECORD, CHECKPOINTS = "run.json", "checkpoints"
PREVIOUS = "previous"  # inside the run of a second stage: a folder with copies of the first stage's runs
FORMAT = 2
LAST_READER = {1: "0.1.0"}  # format -> the last version of jaxseg that reads it
_HOLDS = f"a run folder holds {RECORD} and {CHECKPOINTS}/"


def write_record(workdir: str | Path, record: Mapping[str, Any]) -> None:
    """Write run.json completely or not at all.

    Args:
      workdir: the run folder.
      record: the entries of `schema.ENTRIES`, and any others, all JSON-able; "format", "jaxseg" (the version) and "digest" are
        added.
    Raises:
      ValueError: an entry is missing or of the wrong type.
      StorageError: the file cannot be written.
    """
    whole = {**plain(record), "format": FORMAT, "jaxseg": jaxseg.__version__}
    whole["digest"] = digest_of(whole)
    wrong = schema.faults(whole)
    if wrong:
        raise ValueError(f"the run's record is invalid: {'; '.join(wrong)}")
    write_json(Path(workdir) / RECORD, whole)


def read_record(workdir: str | Path) -> dict[str, Any]:
    """Read the record of a run folder.

    Raises:
      CheckpointError: there is no record, it was damaged or edited, or it comes from a newer version.
      MismatchError: this version no longer reads the record's format.
    """
    path = Path(workdir) / RECORD
    try:
        record = guard.read_json(path)
    except DataError as error:
        if error.code == "DATA_MISSING":
            there = "it does not exist" if not path.parent.is_dir() else f"it has no {RECORD}"
            raise CheckpointError(f"{path.parent} is not a run folder: {there}; {_HOLDS}") from error
        raise CheckpointError(f"{error}; the weights cannot be used without {RECORD}") from error
    if not isinstance(record, dict) or type(record.get("format")) is not int:
        raise CheckpointError(f"{path} is not a run's record: it has no whole number 'format'; {_HOLDS}")
    version = guard.shown(record.get("jaxseg"))
    if record["format"] in LAST_READER:
        raise MismatchError(
            f"{path} has format {record['format']}, but this jaxseg {jaxseg.__version__} reads format {FORMAT}: jaxseg "
            f"{LAST_READER[record['format']]} is the last version that reads it; use that version for this run, or train again"
        )
    if record["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {guard.shown(record['format'])} (of jaxseg {version}), but this jaxseg {jaxseg.__version__} "
            f"reads format {FORMAT}; use a newer jaxseg, or restore the file if it was edited"
        )
    if record.get("digest") != digest_of(record):
        raise CheckpointError(
            f"{path} was damaged or edited: its content does not match its digest; restore it from a copy, or train the run again"
        )
    wrong = schema.faults(record)
    if wrong:
        raise CheckpointError(f"{path} is invalid: {'; '.join(wrong[:3])}; restore it from a copy")
    return record


def find_record(run: Path) -> dict[str, Any]:
    """Read the record of a run folder, or of the run that a checkpoint folder (run/checkpoints/N) belongs to."""
    return read_record(run_folder(run))


def run_folder(run: Path) -> Path:
    """Return the run folder that contains a path, at most two folders up; the path itself if there is none."""
    around = (run, *run.absolute().parents[:2])
    return next((p for p in around if (p / RECORD).is_file()), run)


def digest_of(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a record without its own digest, as JSON with sorted keys and without white space."""
    content = {key: value for key, value in record.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def plain(value: Any) -> Any:
    """Return the value as JSON would restore it: tuples become lists, keys become strings.

    Raises:
      ValueError: the value is not JSON-able.
    """
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"a run's record must be JSON-able: {error}") from error


def copied_stages(run: Path) -> tuple[Path, ...]:
    """Return the copies of a cascade's previous stage inside a run folder, in their order; () if there are none."""
    return tuple(sorted((run / PREVIOUS).glob("[0-9]*"), key=lambda copy: int(copy.name)))


def stages_of(run: Path, record: Mapping[str, Any]) -> tuple[Path, ...]:
    """Return the runs of the previous stage of a cascade: the copies inside the run, or those that its record names beside it.

    Args:
      run: the run folder, or a checkpoint folder inside one.
      record: its record.
    """
    place = run_folder(run)
    named = record["config"]["data"].get("previous") or ()
    return named and (copied_stages(place) or tuple(Path(os.path.normpath(place / name)) for name in named))
