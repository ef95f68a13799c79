"""The configuration of a trained run, read from its record, with the few keys that evaluation and prediction may change.

A run folder is enough: `--mode=evaluate --workdir=RUN` reads data, preparation, classes and network from RUN/run.json. The
command line may change keys of `eval`, `infer`, `report` and `explain`; every other key must equal the record's.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, config_dict

from jaxseg import checkpoint, config
from jaxseg.types import CheckpointError, ConfigError, MismatchError

OPEN = ("eval.", "infer.", "report.", "explain.")  # keys of these groups may differ from the record
_NONE = dict.fromkeys(("data.ignore", "data.structures", "data.modalities"))
LEFT_OPEN = {"train.dtype": "auto", "data.window": [], **_NONE, **config.FROM_DATA}
AS_BEFORE = {  # keys that are newer than some runs: what held for them
    "data.above": [],
    "data.previous_labels": "",
    "data.store_address": "",
    "data.store_dtype": "float32",
    "infer.sums": "float32",
}
WITHOUT = ("name", "variant")  # names of the experiment, which change no result


def get_config(run: str) -> ConfigDict:
    """Return the configuration of a run folder; makes this module a config file: --config=jaxseg/recorded.py:RUN."""
    record = checkpoint.find_record(Path(run))
    tree = tree_of(record, previous=_stages(record, Path(run)))
    try:
        config.resolve(tree)
    except ConfigError as error:
        raise CheckpointError(f"the record of {run}: {error}") from error
    return tree


def tree_of(record: Mapping[str, Any], previous: tuple[str, ...] | None = None) -> ConfigDict:
    """Return a record's configuration as a locked ConfigDict.

    Args:
      record: the content of run.json.
      previous: paths of the runs in data.previous, which a record gives from the run folder; None: as they are recorded.
    Raises:
      CheckpointError: a key is missing because the run is older than this version, or the configuration is damaged.
    """
    there = config.flatten(record["config"])
    missing = [key for key in config.KINDS if key not in there and key not in AS_BEFORE]
    if missing:
        raise CheckpointError(
            f"the run's record has no config.{missing[0]}: the key is newer than the run; use the run with "
            f"jaxseg {record.get('jaxseg')}, which trained it"
        )
    try:
        tree = ConfigDict(_plain(record["config"]))
        tree.data.previous = tree.data.previous if previous is None else previous
        tree.update_from_flattened_dict({key: _plain(value) for key, value in AS_BEFORE.items() if key not in there})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the config in the run's record is damaged: {error}; restore run.json from a copy") from error
    tree.defaults, tree.embedded = json.dumps(tree.to_dict()), ()
    return tree.lock()


def settled(given: ConfigDict | None, record: Mapping[str, Any], run: Path, *, reads_data: bool = False) -> ConfigDict:
    """Return the configuration to evaluate or predict with.

    Args:
      given: a resolved tree from the command line; None: take everything from the record.
      record: the content of the run's run.json.
      run: the run folder, for the message.
      reads_data: the run's data are read again; config.data.root may then differ, because they may have been moved.
    Raises:
      MismatchError: a key outside of the groups in OPEN differs from the record.
    """
    previous = _stages(record, run)
    if given is None:
        return tree_of(record, previous)
    plain = lambda tree: config.flatten(json.loads(json.dumps(tree)))
    old, new = AS_BEFORE | plain(record["config"]), plain(config.as_dict(given))
    if new["data.previous"] == list(previous):
        new["data.previous"] = old["data.previous"]
    ours = {key for key in new if key not in WITHOUT and key not in config.NEUTRAL and not key.startswith(OPEN)}
    moved = [key for key in sorted(ours) if key in old and old[key] != new[key] and not _left_open(key, new[key], old[key])]
    if reads_data and new["data.root"] and old["data.root"]:  # evaluation compares the digest of the data instead
        moved = [key for key in moved if key != "data.root"]
    if moved:
        said = "; ".join(f"config.{key}={new[key]!r}, recorded {old[key]!r}" for key in moved[:5])
        raise MismatchError(
            f"{run} was trained with other values: {said}{f'; {len(moved) - 5} more' if moved[5:] else ''}; leave "
            "these keys, or --config, out: only keys of eval and infer may differ from run.json"
        )
    tree = tree_of(record, previous).unlock()
    tree.data.root = given.data.root or tree.data.root
    tree.mesh.space = given.mesh.space
    for group in ("eval", "infer", "report", "explain"):
        for key in tree[group]:
            tree[group][key] = given[group][key]
    return tree.lock()


def _stages(record: Mapping[str, Any], run: Path) -> tuple[str, ...]:
    """Return config.data.previous as the paths of runs, which a record gives from the run folder."""
    return tuple(map(str, checkpoint.stages_of(run, record)))


def _left_open(key: str, given: Any, recorded: Any) -> bool:
    """Return whether the given value of a key means "choose automatically", so that any recorded value agrees with it."""
    if key in ("data.mean", "data.std"):  # for colour pictures; emptied for other data
        return recorded == []
    return key in LEFT_OPEN and given == LEFT_OPEN[key]


def command_line(argv: list[str], run: str | None) -> list[str]:
    """Add the run's own configuration as --config to a command line that has none.

    Args:
      argv: the command line as typed.
      run: the value of --checkpoint or --workdir.
    Raises:
      ConfigError: the command line names no run.
      CheckpointError: the folder holds no run.
    """
    if not run:
        raise ConfigError("evaluate, predict, explain, export and report need a run; give --workdir=RUN")
    checkpoint.find_record(Path(run))
    return [argv[0], f"--config={Path(__file__)}:{run}", *argv[1:]]


def _plain(value: Any) -> Any:
    """Convert values from JSON to those of a config: lists to tuples, null to an optional key without a value."""
    if isinstance(value, dict):
        return {key: config_dict.placeholder(str) if v is None else _plain(v) for key, v in value.items()}
    return tuple(_plain(v) for v in value) if isinstance(value, list) else value
