"""The run's record, and the claim on its folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import jaxseg
from jaxseg.checkpoint import claim, read_record, write_record
from jaxseg.types import CheckpointError, ConfigError, MismatchError, StorageError

ROOT = Path(__file__).parents[2]
CONFIG = {"seed": 0, "data": {"size": (64, 64), "root": "/a"}, "optim": {"lr": 1e-4, "options": {}}}
RECORD = {
    "config": CONFIG,
    "recipe": {"size": (64, 64), "window": None},
    "labels": ["bleed"],
    "dataset": "ct_ich",
    "synthetic": True,
    "model": {"name": "segnext_test", "in_channels": 1, "num_classes": 1, "rank": 2, "options": {}},
}


@pytest.fixture
def workdir(tmp_path):
    yield tmp_path / "run"
    from jaxseg.checkpoint import record

    for held in list(record._held.values()):
        held.release()


def test_a_record_reads_back_as_written_with_format_and_version(tmp_path):
    write_record(tmp_path, RECORD | {"note": "kept"})
    record = read_record(tmp_path)
    assert record == json.loads(json.dumps(RECORD)) | {"note": "kept", "format": 1, "jaxseg": jaxseg.__version__}
    assert os.listdir(tmp_path) == ["run.json"]


def test_an_incomplete_record_is_neither_written_nor_read(tmp_path):
    with pytest.raises(ValueError, match=r"'labels' \(list\)"):
        write_record(tmp_path, {k: v for k, v in RECORD.items() if k != "labels"})
    with pytest.raises(ValueError, match=r"'model.rank' \(int\)"):
        write_record(tmp_path, RECORD | {"model": RECORD["model"] | {"rank": "2"}})
    with pytest.raises(ValueError, match="JSON-able"):
        write_record(tmp_path, RECORD | {"extra": object()})
    assert not os.listdir(tmp_path)
    write_record(tmp_path, RECORD)
    whole = json.loads((tmp_path / "run.json").read_text())
    for content, message in (
        ("{", "no JSON"),
        ("[1]", "no record of a run"),
        (json.dumps(whole | {"format": 2}), "upgrade"),
        (json.dumps(whole | {"recipe": None}), r"'recipe' \(dict\)"),
    ):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(CheckpointError, match=message):
            read_record(tmp_path)


def test_a_folder_without_a_record_is_named_with_what_a_run_folder_holds(tmp_path):
    with pytest.raises(CheckpointError, match="has no run.json; a run folder holds run.json and checkpoints/"):
        read_record(tmp_path)
    with pytest.raises(CheckpointError, match="it does not exist"):
        read_record(tmp_path / "typo")


def test_the_same_configuration_resumes_and_a_finished_run_is_recognised(workdir):
    held = claim(workdir, CONFIG)
    assert not held.resumed and held.finished is None
    write_record(workdir, RECORD)
    held.release()
    held = claim(workdir, json.loads(json.dumps(CONFIG)))
    assert held.resumed and held.finished is None
    held.finish(step=100, best=0.9)
    held.release()
    assert claim(workdir, CONFIG).finished["step"] == 100


def test_another_configuration_is_refused_by_the_keys_that_differ(workdir):
    claim(workdir, CONFIG).release()
    write_record(workdir, RECORD)
    other = {"seed": 0, "data": {"size": (64, 32), "root": "/b"}, "optim": {"lr": 1e-4, "options": {"b1": 0.8}}}
    message = 'data.root: "/a" there, "/b" now; data.size: .*; optim.options.b1: absent there, 0.8 now.*--workdir'
    with pytest.raises(MismatchError, match=message):
        claim(workdir, other)
    with pytest.raises(MismatchError) as caught:
        claim(workdir, other, ignored=["data.root", "data.size"])
    assert "data.size" not in str(caught.value) and "b1" in str(caught.value)
    claim(workdir, CONFIG | {"data": {"size": (64, 64), "root": "/b"}}, ignored=["data.root"])  # and the lock was given back
    with pytest.raises(ConfigError):
        claim(workdir, CONFIG)


def test_a_key_that_is_newer_than_the_run_counts_as_its_default_there(workdir):
    claim(workdir, CONFIG).release()
    write_record(workdir, RECORD)
    defaults = {"data": {"policy": "stop", "limits": (1, 2)}}
    with pytest.raises(MismatchError, match='data.policy: absent there, "skip" now'):
        claim(workdir, CONFIG | {"data": CONFIG["data"] | {"policy": "skip", "limits": (1, 2)}}, defaults=defaults)
    claim(workdir, CONFIG | {"data": CONFIG["data"] | {"policy": "stop", "limits": (1, 2)}}, defaults=defaults).release()


def test_more_than_ten_differences_are_counted(workdir):
    claim(workdir, CONFIG).release()
    write_record(workdir, RECORD)
    with pytest.raises(MismatchError, match="3 more") as caught:
        claim(workdir, CONFIG | {f"new{i:02d}": i for i in range(13)})
    assert str(caught.value).count("absent there") == 10


def test_checkpoints_without_a_record_are_not_built_upon(workdir):
    (workdir / "checkpoints/5").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="no run.json"):
        claim(workdir, CONFIG)


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
