"""The claim on a run folder: the folder belongs to one run, and to one process at a time, on whichever host."""

import atexit
import contextlib
import datetime
import json
import os
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jaxseg
from jaxseg.checkpoint import folder
from jaxseg.checkpoint.record import CHECKPOINTS, RECORD, plain, read_record, write_record
from jaxseg.types import CheckpointError, ConfigError, DataError, MismatchError, PeerError, StorageError
from jaxseg.utils import command, guard
from jaxseg.utils.files import write_json
from jaxseg.utils.machine import lease as leases

STATE, LOCK, EPOCHS, EVALUATION = "state.json", ".lock", "epochs.csv", "evaluation.json"


class InUse(ConfigError):
    """Another process trains in the folder."""

    def __init__(self, workdir: Path, holder: str):
        self.holder = holder
        super().__init__(f"{workdir} is in use by {holder}; wait for it, end it, or choose another --workdir")


class Claim:
    """A run folder that this process has locked until it ends, or until `release`.

    Attributes:
      workdir: the folder.
      resumed: the folder holds the record of an earlier start of the same run.
      record: that record, or None.
      raised: {key: (recorded value, new value)} of the keys that `claim` was allowed to raise.
      finished: the content of state.json; None if training has not finished.
    """

    def __init__(self, workdir: Path, lease: leases.Lease, record: dict[str, Any] | None, raised: dict[str, tuple[Any, Any]]):
        self.workdir, self._lease, self.record, self.raised = workdir, lease, record, raised
        self.resumed = record is not None
        try:
            self.finished = guard.read_json(workdir / STATE)
        except DataError:
            self.finished = None

    def begin(self, record: Mapping[str, Any]) -> None:
        """Write the record, with the history of an existing one, and create the checkpoints folder.

        A run whose number of epochs was raised is no longer finished; its history records the change.

        Raises:
          StorageError: the record cannot be written.
        """
        history = list(self.record["history"]) if self.record else []
        history += [{key: list(values), "when": _now(), "jaxseg": jaxseg.__version__} for key, values in self.raised.items()]
        try:
            (self.workdir / CHECKPOINTS).mkdir(exist_ok=True)
            if self.raised:
                (self.workdir / STATE).unlink(missing_ok=True)
                self.finished = None
        except OSError as error:
            raise StorageError(f"cannot write into {self.workdir}: {error.strerror}; choose another --workdir") from error
        write_record(self.workdir, {**record, "history": history})

    def finish(self, **facts) -> None:
        """Write state.json, which marks the run as complete; `facts` (step, best value, ...) are stored in it."""
        self.finished = {**plain(facts), "finished": _now()}
        write_json(self.workdir / STATE, self.finished)

    def release(self) -> None:
        """Unlock the folder for other processes."""
        self._lease.release()
        _held.pop(self.workdir, None)


_held: dict[Path, Claim] = {}  # the claims of this process, whatever the caller does with them


def _release_all() -> None:
    for held in list(_held.values()):
        held.release()


atexit.register(_release_all)


def claim(
    workdir: str | Path,
    config: Mapping[str, Any],
    *,
    ignored: Iterable[str] = (),
    defaults: Mapping[str, Any] | None = None,
    raising: Iterable[str] = (),
    hints: Mapping[str, str] | None = None,
) -> Claim:
    """Lock a run folder for this process. With several processes only process 0 calls this.

    The lock is a lease (`utils.machine.lease`): it ends when the process ends for any reason. If the process ran on another host,
    that is known after a minute.

    Args:
      workdir: the run folder, created if it does not exist.
      config: resolved configuration, nested and JSON-able, that `Claim.begin` will store or has stored there.
      ignored: dotted keys whose values may differ from those of an earlier start ("train.log_every").
      defaults: default values of the configuration, nested, for keys that are newer than the record.
      raising: keys whose value may be above the recorded one.
      hints: key -> advice that the message gives if this key differs.
    Raises:
      InUse: another process has locked the folder.
      MismatchError: the folder belongs to a run with another configuration.
      CheckpointError: the folder has checkpoints but no readable record, or a record whose checkpoints are gone.
      StorageError: the folder cannot be created or written to.
    """
    workdir = Path(workdir).absolute()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if (workdir / LOCK).exists():
            guard.check_regular(workdir / LOCK)
        lease = leases.take(workdir / LOCK, lost=lambda: _lost(workdir))
    except leases.Taken as taken:
        raise InUse(workdir, taken.holder) from taken
    except DataError as error:
        raise StorageError(f"cannot use {workdir}: {error}, or choose another --workdir") from error
    except OSError as error:
        raise StorageError(f"cannot create or write to {workdir}: {error.strerror}; choose another --workdir") from error
    try:
        _probe(workdir)
        record = _record(workdir)
        raised = _raised(record, config, raising) if record else {}
        if record:
            _check_config(workdir, record, config, {*ignored, *raised}, defaults or {}, hints or {})
            _check_checkpoints(workdir, record)
        held = Claim(workdir, lease, record, raised)
    except BaseException:
        lease.release()
        raise
    _held[workdir] = held
    return held


def _lost(workdir: Path) -> None:
    """End this process: it was stopped for so long that another one has taken its run folder over, and would write there too."""
    command.end_now(
        f"{workdir} was taken over by another process, because this one showed no sign of life for {leases.STALE:g} s; "
        "it ends so that the two do not write there together",
        PeerError.exit_code,
    )


def _probe(workdir: Path) -> None:
    """Raise a StorageError unless a small file can be written, synced and removed."""
    probe = workdir / f".probe.{uuid.uuid4().hex[:8]}"
    try:
        with open(probe, "wb") as file:
            file.write(bytes(1 << 16))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(f"cannot write into {workdir}: {error.strerror}; free space or choose another --workdir") from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def _record(workdir: Path) -> dict[str, Any] | None:
    """Read the folder's record; None if no run was started in it."""
    if (workdir / RECORD).exists():
        return read_record(workdir)
    left = f"{CHECKPOINTS}/" if any((workdir / CHECKPOINTS).glob("[0-9]*")) else ""
    if left := left or next((name for name in (STATE, EPOCHS, EVALUATION) if (workdir / name).exists()), ""):
        raise CheckpointError(
            f"{workdir} holds {left} of a run but no {RECORD}, so it is unknown which run that was; "
            "restore it, or choose another --workdir"
        )
    return None


def _raised(record: Mapping[str, Any], config: Mapping[str, Any], raising: Iterable[str]) -> dict[str, tuple[Any, Any]]:
    old, new = _flat(record["config"]), _flat(plain(config))
    return {key: (old[key], new[key]) for key in raising if key in old and key in new and new[key] > old[key]}


def _check_checkpoints(workdir: Path, record: Mapping[str, Any]) -> None:
    """Refuse a run whose saved checkpoints are gone: training would start again and overwrite its results."""
    there = workdir / CHECKPOINTS
    if folder.ever_complete(there):
        return
    train = record["config"]["train"]
    rows = guard.read_text(workdir / EPOCHS).splitlines()[1:] if (workdir / EPOCHS).is_file() else []
    ended = range(1, len(rows) + 1)
    due = [epoch for epoch in ended if epoch % max(train.get("save_every", 1), 1) == 0 or epoch == train.get("epochs")]
    if not there.is_dir() or (workdir / STATE).exists() or len(due) > 1:  # a run may be killed before its first save is whole
        raise CheckpointError(
            f"{workdir} holds a run that has begun ({RECORD}; {len(rows)} epochs in {EPOCHS}), but its {CHECKPOINTS}/ "
            f"{'holds no step' if there.is_dir() else 'is gone'}; restore it, or choose another --workdir to train again"
        )


def _check_config(
    workdir: Path,
    record: Mapping[str, Any],
    config: Mapping[str, Any],
    ignored: set[str],
    defaults: Mapping[str, Any],
    hints: Mapping[str, str],
) -> None:
    old, new, known = _flat(record["config"]), _flat(plain(config)), _flat(plain(defaults))
    ignored = ignored | {k for k in new.keys() - old.keys() if k in known and known[k] == new[k]}
    differ = [k for k in sorted(old.keys() | new.keys()) if old.get(k, _ABSENT) != new.get(k, _ABSENT) and k not in ignored]
    if differ:
        lines = [f"{k}: {_show(old, k)} recorded, {_show(new, k)} now" for k in differ[:10]]
        more = f"; {len(differ) - 10} more" if len(differ) > 10 else ""
        raise MismatchError(
            f"{workdir} belongs to a run with another configuration ({'; '.join(lines)}{more}); choose another "
            f"--workdir, or set the recorded values to resume{''.join(f'; {hints[k]}' for k in differ if k in hints)}"
        )


_ABSENT = object()


def _show(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key])[:80] if key in flat else "absent"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested dictionaries under dotted keys; an empty dictionary has none."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
