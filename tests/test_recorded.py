"""A run's own configuration comes back from its record as it was, and what is typed beside it counts, or is refused."""

import importlib
import json
from pathlib import Path

import pytest

from jaxseg import described, recorded
from jaxseg.checkpoint import write_record
from jaxseg.config import KINDS, NEUTRAL, as_dict, flatten, neutral, resolve
from jaxseg.types import CheckpointError, ConfigError, MismatchError
from tests.records import RECORD, edit

NAMES = sorted(p.stem for p in (Path(__file__).parent.parent / "configs").glob("[a-z]*.py"))


def record_of(name: str) -> dict:
    config = importlib.import_module(f"configs.{name}").get_config("quick")
    if name == "brats_cascade":
        config.infer.roi = "runs/brats_roi"
    return json.loads(json.dumps({"config": as_dict(described.fill(resolve(config, name=name)).config)}))


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_comes_back_from_its_record(name):
    record = record_of(name)
    tree = resolve(recorded.tree_of(record))
    assert flatten(json.loads(json.dumps(as_dict(tree)))) == flatten(record["config"])
    again = recorded.settled(tree, record, Path("run"))
    assert json.loads(json.dumps(as_dict(again))) == json.loads(json.dumps(as_dict(tree)))


def test_keys_of_evaluation_and_inference_count_and_others_must_agree():
    record = record_of("folder")
    given = recorded.tree_of(record).unlock()
    given.eval.threshold, given.infer.mirror = 0.9, (1,)
    found = recorded.settled(resolve(given), record, Path("run"))
    assert found.eval.threshold == 0.9 and found.infer.mirror == (1,)
    assert found.data.size == tuple(record["config"]["data"]["size"])
    given.data.channels, given.model.name = 3, "unet_base"
    with pytest.raises(
        MismatchError, match="run was trained with other values: config.data.channels=3, recorded 1; config.model.name="
    ):
        recorded.settled(given, record, Path("run"))


def test_what_a_config_leaves_to_the_data_does_not_contradict_a_run():
    record = record_of("folder")
    given = resolve(importlib.import_module("configs.folder").get_config("quick"), name="folder")
    assert given.data.dataset == "auto" and given.data.channels is None
    assert recorded.settled(given, record, Path("run")).data.channels == 1


def test_a_value_that_breaks_a_rule_is_refused_beside_a_run_too():
    given = recorded.tree_of(record_of("folder")).unlock()
    given.eval.threshold = 1.5
    with pytest.raises(ConfigError, match="eval.threshold=1.5"):
        resolve(given)


def test_a_run_must_be_named_and_be_there(tmp_path):
    with pytest.raises(ConfigError, match="--workdir=RUN"):
        recorded.command_line(["jaxseg"], None)
    with pytest.raises(CheckpointError, match="is not a run folder"):
        recorded.command_line(["jaxseg"], str(tmp_path))


@pytest.mark.parametrize(
    "name, best, fixed",
    [
        ("folder", "val_loss", set()),
        ("folder", "last", set()),
        ("folder", "val_dice", {"eval.threshold"}),
        ("brats_unet3d", "val_recall", {"eval.threshold", "eval.empty"}),
    ],
)
def test_what_decides_the_best_checkpoint_stays_between_two_starts_and_is_free_in_an_evaluation(name, best, fixed):
    record = record_of(name)
    record["config"]["train"]["best"] = best
    tree = recorded.tree_of(record)
    assert set(NEUTRAL) - neutral(tree) == fixed
    given = tree.copy_and_resolve_references().unlock()
    given.eval.threshold, given.eval.empty = 0.7, "zero"
    found = recorded.settled(given.lock(), record, Path("run"))
    assert (found.eval.threshold, found.eval.empty) == (0.7, "zero")


def test_a_run_from_before_a_key_existed_has_the_value_that_was_in_effect_then():
    """A new key needs its row in AS_BEFORE; keys_of_runs.txt holds those of 2026-11-28 and is not added to."""
    before = set((Path(__file__).parent / "config" / "keys_of_runs.txt").read_text().split())
    assert set(KINDS) - before == set(recorded.AS_BEFORE)
    record = record_of("folder")
    for key in recorded.AS_BEFORE:
        group, _, name = key.partition(".")
        del record["config"][group][name]
    tree = resolve(recorded.tree_of(record))
    assert (tree.infer.sums, tree.data.above) == ("float32", ())
    given = tree.copy_and_resolve_references().unlock()
    given.infer.sums = "float32"
    assert recorded.settled(given.lock(), record, Path("run")).infer.sums == "float32"


def test_a_record_that_lacks_a_key_or_breaks_a_rule_is_no_configuration(tmp_path):
    write_record(tmp_path, RECORD)
    edit(tmp_path, lambda record: record["config"]["eval"].pop("tables") and None)
    with pytest.raises(CheckpointError, match="has no config.eval.tables: the key is newer than the run"):
        recorded.get_config(str(tmp_path))
    for value, words in ((1.5, "config.eval.threshold=1.5"), (0.5, None)):
        write_record(tmp_path, RECORD)
        edit(tmp_path, lambda record, value=value: record["config"]["eval"].update(threshold=value))
        if words:
            with pytest.raises(CheckpointError, match=words):
                recorded.get_config(str(tmp_path))
        else:
            assert recorded.get_config(str(tmp_path)).eval.threshold == value
    edit(tmp_path, lambda record: record["config"]["model"].update(options={"a.b": {"c": 1}}))
    with pytest.raises(CheckpointError, match="a.b"):
        recorded.get_config(str(tmp_path))
