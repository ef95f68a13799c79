"""The configuration of a run that was trained: its record's, with the keys that evaluation and prediction may change.

Beside a run folder nothing else is asked for: `--mode=evaluate --workdir=RUN` reads data, preparation, classes and network from
RUN/run.json. Of the command line, keys of `eval` and `infer` count; any other must say what the record says.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, config_dict

from jaxseg import checkpoint, config
from jaxseg.types import CheckpointError, ConfigError, MismatchError

OPEN = ("eval.", "infer.")  # keys of these groups may differ from the record
LEFT_OPEN = {"train.dtype": "auto", "data.structures": None, "data.modalities": None, "data.window": [], **config.FROM_DATA}
WITHOUT = ("name", "variant")  # what an experiment is called decides nothing


def get_config(run: str) -> ConfigDict:
    """The tree of a run folder, in the form of a config file: --config=jaxseg/recorded.py:RUN."""
    tree = tree_of(checkpoint.find_record(Path(run)))
    try:
        config.resolve(tree)
    except ConfigError as error:
        raise CheckpointError(f"the record of {run}: {error}") from error
    return tree


def tree_of(record: Mapping[str, Any]) -> ConfigDict:
    """A locked tree of a record's configuration.

    Raises:
      CheckpointError: it is not the configuration of a run of this version.
    """
    there = config.flatten(record["config"])
    missing = [key for key in config.KINDS if key not in there]
    if missing:
        raise CheckpointError(
            f"the run's record has no config.{missing[0]}, which is newer than the run (jaxseg {record.get('jaxseg')}); use "
            "that version for it"
        )
    try:
        tree = ConfigDict(_plain(record["config"]))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the run's record holds a config that is none: {error}; restore run.json from a copy") from error
    tree.defaults, tree.embedded = json.dumps(tree.to_dict()), ()
    return tree.lock()


def settled(given: ConfigDict | None, record: Mapping[str, Any], run: Path, *, reads_data: bool = False) -> ConfigDict:
    """The configuration to evaluate or predict with.

    Args:
      given: a resolved tree from the command line; None: the record's alone.
      record: of the run.
      run: its folder, for the message.
      reads_data: the run's data are read, and may lie in another folder now (config.data.root).
    Raises:
      MismatchError: a key outside of OPEN that differs from the record.
    """
    if given is None:
        return tree_of(record)
    plain = lambda tree: config.flatten(json.loads(json.dumps(tree)))
    old, new = plain(record["config"]), plain(config.as_dict(given))
    ours = {key for key in new if key not in WITHOUT and key not in config.NEUTRAL and not key.startswith(OPEN)}
    moved = [key for key in sorted(ours) if key in old and old[key] != new[key] and not _left_open(key, new[key], old[key])]
    if reads_data and new["data.root"] and old["data.root"]:  # evaluation compares what the data are
        moved = [key for key in moved if key != "data.root"]
    if moved:
        said = "; ".join(f"config.{key}={new[key]!r}, recorded {old[key]!r}" for key in moved[:5])
        raise MismatchError(
            f"{run} was trained otherwise: {said}{f'; {len(moved) - 5} more' if moved[5:] else ''}; leave "
            "these keys, or --config, out: run.json holds all that is needed beside keys of eval and infer"
        )
    tree = tree_of(record).unlock()
    tree.data.root = given.data.root or tree.data.root
    for group in ("eval", "infer"):
        for key in tree[group]:
            tree[group][key] = given[group][key]
    return tree.lock()


def _left_open(key: str, given: Any, recorded: Any) -> bool:
    """Whether a key leaves to the machine or to the data what the run then came to."""
    if key in ("data.mean", "data.std"):  # of pictures in colour: left out for other data
        return recorded == []
    return key in LEFT_OPEN and given == LEFT_OPEN[key]


def command_line(argv: list[str], run: str | None) -> list[str]:
    """The command line with the run's own configuration in the place of --config, where none is given.

    Args:
      argv: as typed.
      run: --checkpoint or --workdir.
    Raises:
      ConfigError: no run is named.
      CheckpointError: no run there.
    """
    if not run:
        raise ConfigError("--mode=evaluate, --mode=predict and --mode=export need a run: --workdir=RUN")
    checkpoint.find_record(Path(run))
    return [argv[0], f"--config={Path(__file__)}:{run}", *argv[1:]]


def _plain(value: Any) -> Any:
    """JSON as a config holds it: lists as tuples, null as an optional key."""
    if isinstance(value, dict):
        return {key: config_dict.placeholder(str) if v is None else _plain(v) for key, v in value.items()}
    return tuple(_plain(v) for v in value) if isinstance(value, list) else value
