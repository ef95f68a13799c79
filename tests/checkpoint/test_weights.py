"""Weights out of a run, without its optimiser or configuration."""

import numpy as np
import pytest

from jaxseg.checkpoint import Checkpoints, load_weights
from jaxseg.types import CheckpointError


def state(value):
    return {
        "step": value,
        "params": {f"stages.{i}.w": np.full(3, value + i / 100, np.float32) for i in range(12)},
        "state": {"norm.mean": np.full(2, value, np.float32)},
        "ema": {f"stages.{i}.w": np.full(3, -value, np.float32) for i in range(12)},
        "opt": (np.zeros(4), {"mu": np.zeros(3)}),
    }


@pytest.fixture
def run(tmp_path):
    with Checkpoints(tmp_path / "checkpoints", best_mode="max") as checkpoints:
        for step, metric in ((1, 0.7), (2, 0.9), (3, 0.8)):
            checkpoints.save(step, state(step), {"evaluated": "params"}, metric=metric)
    return tmp_path


def test_a_run_folder_gives_its_best_step_and_a_step_folder_itself(run):
    for path, step in ((run, 2), (run / "checkpoints", 2), (run / "checkpoints/3", 3)):
        params, batch_statistics, info = load_weights(path)
        assert len(params) == 12 and info == {"evaluated": "params"}
        assert all(params[f"stages.{i}.w"][0] == np.float32(step + i / 100) for i in range(12)), "each value under its own name"
        assert batch_statistics["norm.mean"][0] == step


def test_a_relative_path_is_as_good_as_an_absolute_one(run, monkeypatch):
    monkeypatch.chdir(run.parent)
    absolute, relative = load_weights(run)[0], load_weights(run.name)[0]
    assert absolute.keys() == relative.keys()


def test_without_a_metric_the_newest_step_is_taken(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(step), {})
    assert load_weights(tmp_path)[1]["norm.mean"][0] == 2


def test_the_moving_average_stands_for_the_parameters_where_it_was_evaluated(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), {"evaluated": "ema"})
        checkpoints.save(2, {**state(2), "ema": {}}, {"evaluated": "ema"})
    assert load_weights(tmp_path / "1")[0]["stages.0.w"][0] == -1
    with pytest.raises(CheckpointError, match="0 arrays of it for 12 parameters"):
        load_weights(tmp_path / "2")


def test_damage_is_refused_and_no_other_step_is_taken_in_its_place(run):
    metadata = run / "checkpoints/2/info/metadata"
    metadata.write_bytes(metadata.read_bytes() + b" ")
    with pytest.raises(CheckpointError, match=r"2 is damaged: file info/metadata .* use another step .there: \[3\]"):
        load_weights(run)
    (run / "checkpoints/2/digests.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"steps \[2\] .* choose one of \[3\]"):
        load_weights(run)
    assert load_weights(run / "checkpoints/3")[1]["norm.mean"][0] == 3
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["2", "3"], "a reader renames nothing"


def test_a_folder_without_checkpoints_is_refused_with_what_was_looked_for(tmp_path):
    with pytest.raises(CheckpointError, match="checkpoints/N .* digests.json"):
        load_weights(tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"weights": np.zeros(1)}, {})
    with pytest.raises(CheckpointError, match="holds no params"):
        load_weights(tmp_path)
