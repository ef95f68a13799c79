"""The claim on a run's folder: one run, one process, the same configuration."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxseg.checkpoint import Checkpoints, claim, claims, read_record
from jaxseg.types import CheckpointError, ConfigError, MismatchError, StorageError
from tests.records import CONFIG, RECORD

ROOT = Path(__file__).parents[2]


def changed(**changes) -> dict:
    """CONFIG with other values: data__root="/b"."""
    config = copy.deepcopy(CONFIG)
    for key, value in changes.items():
        group, _, leaf = key.partition("__")
        config[group][leaf] = value
    return config


def begun(workdir: Path) -> None:
    """A run that has begun there and whose process has ended."""
    held = claim(workdir, CONFIG)
    held.begin(RECORD)
    held.release()


@pytest.fixture
def workdir(tmp_path):
    yield tmp_path / "run"
    for held in list(claims._held.values()):
        held.release()


def test_the_same_configuration_resumes_and_a_finished_run_is_recognised(workdir):
    held = claim(workdir, CONFIG)
    assert not held.resumed and held.finished is None
    held.begin(RECORD)
    held.release()
    held = claim(workdir, json.loads(json.dumps(CONFIG)))
    assert held.resumed and held.finished is None
    held.finish(step=100, best=0.9)
    (workdir / "checkpoints/100").mkdir()
    held.release()
    assert claim(workdir, CONFIG).finished["step"] == 100


@pytest.mark.fault("P9")
def test_another_configuration_is_refused_by_the_keys_that_differ(workdir):
    begun(workdir)
    other = changed(data__root="/b", data__size=(64, 32), optim__options={"b1": 0.8})
    message = r'data.root: "" recorded, "/b" now; data.size: .*; optim.options.b1: absent recorded, 0.8 now.*--workdir'
    with pytest.raises(MismatchError, match=message):
        claim(workdir, other)
    with pytest.raises(MismatchError) as caught:
        claim(workdir, other, ignored=["data.root", "data.size"])
    assert "data.size" not in str(caught.value) and "b1" in str(caught.value)
    claim(workdir, changed(data__root="/b"), ignored=["data.root"])  # and the lock was given back
    with pytest.raises(ConfigError):
        claim(workdir, CONFIG)


def test_a_key_that_is_newer_than_the_run_counts_as_its_default_there(workdir):
    begun(workdir)
    defaults = {"data": {"policy": "stop", "limits": (1, 2)}}
    with pytest.raises(MismatchError, match='data.policy: absent recorded, "skip" now'):
        claim(workdir, changed(data__policy="skip", data__limits=(1, 2)), defaults=defaults)
    claim(workdir, changed(data__policy="stop", data__limits=(1, 2)), defaults=defaults).release()


def test_more_than_ten_differences_are_counted(workdir):
    begun(workdir)
    with pytest.raises(MismatchError, match="3 more") as caught:
        claim(workdir, CONFIG | {f"new{i:02d}": i for i in range(13)})
    assert str(caught.value).count("absent recorded") == 10


@pytest.mark.parametrize("left", ["checkpoints/5/", "state.json", "epochs.csv", "evaluation.json"])
def test_what_a_run_left_without_its_record_is_not_built_upon(workdir, left):
    (workdir / left).parent.mkdir(parents=True)
    (workdir / left).mkdir() if left.endswith("/") else (workdir / left).write_text("{}")
    with pytest.raises(CheckpointError, match="of a run but no run.json"):
        claim(workdir, CONFIG)


@pytest.mark.parametrize("rows, emptied", [(0, False), (1, False), (2, True), (3, True)])
@pytest.mark.fault("F13")
def test_a_run_that_has_begun_and_has_lost_its_checkpoints_is_not_started_anew(workdir, rows, emptied):
    begun(workdir)
    claim(workdir, CONFIG).release()  # killed before its first save
    (workdir / "epochs.csv").write_text("epoch,step\n" + "".join(f"{i},{5 * i}\n" for i in range(1, rows + 1)))
    if not emptied:
        claim(workdir, CONFIG).release()  # killed in its first save
        (workdir / "checkpoints").rmdir()
    with pytest.raises(CheckpointError, match=f"{rows} epochs in epochs.csv.*{'holds no step' if emptied else 'is gone'}"):
        claim(workdir, CONFIG)
    (workdir / "checkpoints/5").mkdir(parents=True)
    assert claim(workdir, CONFIG).resumed


def test_a_finished_run_is_extended_to_more_epochs_alone_and_its_history_says_so(workdir):
    begun(workdir)
    (workdir / "checkpoints/5").mkdir()
    held = claim(workdir, CONFIG)
    held.finish(step=5)
    held.release()
    epochs = CONFIG["train"]["epochs"]
    longer = changed(train__epochs=epochs + 2)
    with pytest.raises(MismatchError, match="train.epochs: .* to resume; add --extend"):
        claim(workdir, longer, hints={"train.epochs": "add --extend"})
    for other in (changed(train__epochs=epochs - 1), changed(train__epochs=epochs + 2, train__batch_size=7)):
        with pytest.raises(MismatchError):
            claim(workdir, other, raising=["train.epochs"])
    held = claim(workdir, longer, raising=["train.epochs"])
    assert held.finished and held.raised == {"train.epochs": (epochs, epochs + 2)}
    held.begin({**RECORD, "config": longer})
    assert held.finished is None and not (workdir / "state.json").exists()
    held.release()
    held = claim(workdir, longer, raising=["train.epochs"])  # the same command again
    assert held.resumed and not held.raised and not held.finished
    held.begin({**RECORD, "config": longer})
    (entry,) = read_record(workdir)["history"]
    assert entry["train.epochs"] == [epochs, epochs + 2] and entry["jaxseg"]


@pytest.mark.fault("F22")
def test_two_runs_at_once_are_refused_and_a_killed_run_leaves_no_lock(workdir):
    script = (
        "import sys\nfrom jaxseg.checkpoint import claim\nclaim(sys.argv[1], {})\nprint('held', flush=True)\nsys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(workdir)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match=f"in use by process {other.pid} on .*--workdir"):
            claim(workdir, {})
        other.kill()
        other.wait()
    claim(workdir, {})
    with pytest.raises(ConfigError, match=f"in use by process {os.getpid()} "):
        claim(workdir, {})


@pytest.mark.parametrize("options", ["ro,size=1m", "size=4k"])
@pytest.mark.fault("F16")
def test_a_read_only_or_full_folder_is_refused_at_the_start(tmp_path, options):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        with pytest.raises(StorageError, match="--workdir"):
            claim(disk, CONFIG)
        assert set(os.listdir(disk)) <= {".lock"}
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.fault("F16")
def test_a_run_folder_that_was_taken_away_is_not_made_again_by_a_save(tmp_path):
    (tmp_path / "run").mkdir()
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        checkpoints.save(1, {"a": np.zeros(2)}, {})
        checkpoints.wait()
        (tmp_path / "run").rename(tmp_path / "elsewhere")
        checkpoints.save(2, {"a": np.zeros(2)}, {})
        with pytest.raises(StorageError, match="checkpoint 2 was not written"):
            checkpoints.wait()
    assert os.listdir(tmp_path) == ["elsewhere"]
