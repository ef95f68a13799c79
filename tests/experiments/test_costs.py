"""The table of costs without training: the project's columns first, sizes that fit the network, one line for each network."""

import json
import subprocess

import pytest

from jaxseg import checkpoint, dispatch
from jaxseg.experiments import costs, measures
from jaxseg.types import ConfigError
from tests.records import RECORD

FOUND = {
    "pam_train": 3,
    "pam_inference": 2,
    "inference_latency_ms": 1.5,
    "latency_p99_ms": "",
    "runs": 20,
    "shape": [1],
    "stages": {},
}


def test_the_row_of_a_network_has_the_columns_of_the_project_first(monkeypatch):
    monkeypatch.setattr(measures, "of_network", lambda model, shape, dtype: FOUND)
    monkeypatch.setattr(measures, "memory", lambda model, shape, dtype: (30, shape[0]))
    given = {"batch": 4, "channels": 2, "classes": 3, "dtype": "float32"}
    row = costs.measure("unet_test", (32, 40), **given)
    assert list(row) == [*costs.COLUMNS, "stages"] and costs.COLUMNS[:6] == costs.FIRST
    assert (
        row["pam_inference_of_batch"] == 4
        and row["shape"] == "1 x 32 x 40 x 2"
        and row["mega_bytes"] == round(row["total_params"] * 4e-6, 3)
    )
    with pytest.raises(ConfigError, match="--size=30,30: .*divisible by"):
        costs.measure("unet_test", (30, 30), **given)
    with pytest.raises(ConfigError, match="takes 3 numbers"):
        costs.measure("quadbranch_4modal_attention_unet_test", (32, 32), **given)


def test_the_network_of_a_run_is_measured_as_its_record_says_in_a_process_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(measures, "of_network", lambda model, shape, dtype: FOUND)
    monkeypatch.setattr(measures, "memory", lambda model, shape, dtype: (30, shape[0]))
    checkpoint.write_record(tmp_path, RECORD | {"model": RECORD["model"] | {"name": "unet_test"}})
    row = costs.measure(str(tmp_path), (), batch=4, channels=0, classes=0, dtype="auto")
    height, width = RECORD["config"]["data"]["size"]
    assert (row["model_name"], row["shape"], row["batch"]) == ("unet_test", f"1 x {height} x {width} x 1", 4)
    asked = []

    def started(command, **_):
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, stdout=json.dumps(row), stderr="")

    monkeypatch.setattr(subprocess, "run", started)
    assert costs.of_run(tmp_path) == row
    batch = RECORD["config"]["train"]["batch_size"]
    assert asked[0][1:] == ["-m", "jaxseg", "zoo", "--measure", str(tmp_path), "--alone", f"--batch={batch}"]


def test_options_of_measuring_are_refused_without_it():
    with pytest.raises(ConfigError, match="--size: is for jaxseg zoo --measure"):
        dispatch.TOOLS["zoo"](["unet", "--size=64,64"])
    with pytest.raises(ConfigError, match="--size=a: must be whole numbers"):
        dispatch.TOOLS["zoo"](["unet_test", "--measure", "--size=a"])
