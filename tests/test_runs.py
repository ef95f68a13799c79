"""Whole runs as a user starts them: real processes, real kills, and the same bits at the end."""

import csv
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from PIL import Image

from launch.local import free_port
from tests import fault_table
from tests.forked import Program, Run, quickly

ROOT = Path(__file__).parent.parent
# The quick run with the smallest network and two transforms, so that a process costs seconds; two devices, so that processes
# can share them.
FLAGS = [
    "--config=configs/ich_segnext.py:quick",
    '--config.train.augment=[["hflip", 0.5, {}], ["rotate", 0.5, {"degrees": [-45.0, 45.0]}]]',
    "--config.model.name=unet_test",
    "--config.data.size=(32, 32)",
    "--config.train.epochs=3",
    "--config.optim.ema=0.9",
    "--config.train.log_every=1",
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def ended(cache, program):
    """run(*flags, code=, **environment) -> standard output and error of a run that ended with `code`."""

    def run(*flags: str, code: int = 0, **more: str) -> str:
        done = program.run(*flags, environment=environment(cache, **more))
        assert done.returncode == code, (done.stdout + done.stderr)[-3000:]
        return done.stdout + done.stderr

    return run


def environment(cache: Path, devices: int = 2, **more: str) -> dict[str, str]:
    return {
        **quickly(),
        "JAXSEG_CACHE": str(cache),
        "JAX_PLATFORMS": "cpu",
        "PYTHONUNBUFFERED": "1",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        **more,
    }


def start(
    workdir: Path, cache: Path, *flags: str, launcher: tuple[str, ...] = ("-m", "jaxseg.main"), devices: int = 2, **more: str
) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *launcher, *FLAGS, f"--workdir={workdir}", *flags],
        cwd=ROOT,
        text=True,
        env=environment(cache, devices, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process: subprocess.Popen, code: int = 0, seconds: float = 300) -> str:
    output, _ = process.communicate(timeout=seconds)
    assert process.returncode == code, output[-3000:]
    return output


def several(
    program: Program,
    cache: Path,
    workdir: Path,
    *flags: str,
    count: int = 2,
    devices: int = 1,
    faults: Mapping[int, str] = MappingProxyType({}),
    before: str = "",
    seconds: int = 400,
) -> list[Run]:
    """The processes of one run, each with so many devices; `faults` by their numbers, each lives so many seconds at most."""
    command = (*FLAGS, f"--workdir={workdir}", f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={count}", *flags)
    places = [environment(cache, devices, JAXSEG_FAULT=faults.get(i, "")) for i in range(count)]
    return [
        program.start(*command, f"--process_id={i}", environment=place, before=before, seconds=seconds)
        for i, place in enumerate(places)
    ]


def pair(program: Program, cache: Path, workdir: Path, *flags: str, fault: str = "", before: str = "") -> list[Run]:
    """Two processes of one run with a device each; the second one has the fault."""
    return several(program, cache, workdir, *flags, faults={1: fault}, before=before)


def result(workdir: Path) -> dict[str, str]:
    """Digests of every array of the last checkpoint, and the CSV of the epochs."""
    newest = max((p for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    manifest = json.loads((newest / "digests.json").read_text())
    rows = list(csv.DictReader((workdir / "epochs.csv").open()))
    return {"step": newest.name, "leaves": json.dumps(manifest["leaves"], sort_keys=True), "epochs": json.dumps(rows)}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, ended):
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    output = ended(*FLAGS, f"--workdir={workdir}")
    assert "SYNTHETIC" in output and "pooled foreground Dice" in output and "compilations:" in output
    return workdir, result(workdir)


@pytest.mark.fault("F1", "F2", "F7")
def test_a_run_killed_again_and_again_ends_with_the_same_bits(tmp_path, ended, uninterrupted):
    workdir = tmp_path / "killed"
    faults = ((0, "kill@3:before_next"), (0, "kill@5:before_save"), (1, "kill@5:after_save"), (0, "kill@12:after_step"))
    for workers, fault in faults:
        ended(*FLAGS, f"--workdir={workdir}", f"--config.data.workers={workers}", JAXSEG_FAULT=fault, code=-signal.SIGKILL)
    ended(*FLAGS, f"--workdir={workdir}", "--config.data.workers=1")
    assert result(workdir) == uninterrupted[1]


@pytest.mark.full
@pytest.mark.fault("F1")
def test_kills_at_random_moments_change_no_bit(tmp_path, cache, program, uninterrupted, record_property):
    rng, wanted, kills, whole, longest = random.Random(0), fault_table.count(3, 30), 0, 0, 8.0
    while True:
        process = program.start(*FLAGS, f"--workdir={tmp_path / str(whole)}", environment=environment(cache))
        begin, after = time.monotonic(), rng.uniform(0.5, longest)
        while kills < wanted and time.monotonic() < begin + after and not process.ended():
            time.sleep(0.02)
        done = process.kill() if kills < wanted else process.end()
        kills += done.returncode == -signal.SIGKILL
        if done.returncode == -signal.SIGKILL:
            continue
        assert done.returncode == 0 and result(tmp_path / str(whole)) == uninterrupted[1], done
        whole, longest = whole + 1, min(longest, time.monotonic() - begin)
        if kills >= wanted:
            break
    record_property("kills at random moments", f"{kills}; all {whole} runs that came to their end have the same bits")


@pytest.mark.fault("F8")
def test_sigterm_saves_ends_with_42_and_the_same_command_resumes(tmp_path, cache, ended, uninterrupted):
    workdir = tmp_path / "stopped"
    process = start(workdir, cache)
    for line in process.stdout:
        if "step 2 epoch" in line:
            process.send_signal(signal.SIGTERM)
            break
    rest = finish(process, code=42)
    assert "stopped by SIGTERM" in rest
    output = ended(*FLAGS, f"--workdir={workdir}")
    assert "resumed from step" in output and result(workdir) == uninterrupted[1]


@pytest.mark.fault("F11")
def test_sigterm_in_validation_and_evaluation_ends_with_42_and_the_next_start_resumes_to_the_same_bits(
    tmp_path, ended, uninterrupted
):
    workdir = tmp_path / "run"
    for fault in ("0:before_next", "5:in_eval", "15:in_eval", "0:before_report"):
        said = ended(*FLAGS, f"--workdir={workdir}", JAXSEG_FAULT=f"term@{fault}", code=42)
        assert "stopped by SIGTERM" in said and "Traceback" not in said
    assert "pooled foreground Dice" in ended(*FLAGS, f"--workdir={workdir}")
    assert result(workdir) == uninterrupted[1]


@pytest.mark.fault("F5", "F9")
def test_sigterm_to_one_of_two_processes_saves_both_and_the_resumed_run_is_one_process_with_two_devices(
    tmp_path, cache, program, uninterrupted
):
    workdir = tmp_path / "two"
    both = pair(program, cache, workdir)
    both[0].until("step 2 ")
    both[1].send_signal(signal.SIGTERM)
    assert [process.end().returncode for process in both] == [42, 42], [process.said() for process in both]
    output = finish(start(workdir, cache, launcher=("launch/local.py", "--processes=2", "--cpu_devices=1", "--")))
    assert "2 x cpu in 2 processes" in output and "resumed from step" in output
    assert result(workdir) == uninterrupted[1]


@pytest.mark.fault("P9")
def test_a_finished_run_is_reported_and_another_config_is_refused(ended, uninterrupted):
    workdir, _ = uninterrupted
    assert "finished run" in ended(*FLAGS, f"--workdir={workdir}")
    output = ended(*FLAGS, f"--workdir={workdir}", "--config.optim.lr=0.1", code=78)
    assert "optim.lr" in output and "another --workdir" in output


def test_a_finished_run_goes_on_to_more_epochs_by_the_flag_that_its_refusal_names(tmp_path, ended, uninterrupted):
    workdir = tmp_path / "longer"
    shutil.copytree(uninterrupted[0], workdir)
    command = (*FLAGS, f"--workdir={workdir}", "--config.train.epochs=4")
    refused = ended(*command, code=78)
    assert "train.epochs: 3 recorded, 4 now" in refused
    (flag,) = set(re.findall("--extend", refused))
    said = ended(*command, flag)
    best = min((p for p in (workdir / "checkpoints").iterdir()), key=lambda p: int(p.name)).name
    assert f"step {best} stays the best checkpoint (by val_dice)" in said
    rate = 1e-3 * (1 + math.cos(math.pi * 15 / 20)) / 2
    assert f"schedule 'cosine' is one of 20 steps instead of 15, the learning rate at step 15 is {rate:.3g} instead of 0;" in said
    before, after = json.loads(uninterrupted[1]["epochs"]), json.loads(result(workdir)["epochs"])
    assert after[:3] == before and [row["epoch"] for row in after] == ["1", "2", "3", "4"]
    record = json.loads((workdir / "run.json").read_text())
    assert [entry["train.epochs"] for entry in record["history"]] == [[3, 4]] and record["config"]["train"]["epochs"] == 4
    assert "finished run" in ended(*command)
    assert "holds no run;" in ended(*FLAGS, f"--workdir={tmp_path / 'new'}", "--extend", code=64)


@pytest.mark.parametrize(
    "mode, flag, words",
    [
        ("train", "checkpoint=X", "to start training from its weights, give --config.model.init"),
        ("train", "input=X", "can be given with --mode=evaluate and --mode=predict"),
        ("evaluate", "output=X", "can be given with --mode=predict"),
        ("predict", "extend", "can be given with --mode=train"),
        ("summary", "overwrite", "can be given with --mode=evaluate, not with --mode=summary"),
    ],
)
def test_a_flag_that_a_mode_does_not_take_is_refused(ended, uninterrupted, mode, flag, words):
    run = (f"--workdir={uninterrupted[0]}",) if mode in ("evaluate", "predict") else FLAGS
    assert words in ended(*run, f"--mode={mode}", f"--{flag}", code=64)


def test_a_run_is_scored_again_by_its_folder_alone(ended, uninterrupted):
    workdir, _ = uninterrupted
    flags = ("--mode=evaluate", f"--workdir={workdir}")
    before = (workdir / "evaluation.json").read_bytes()
    assert "pooled foreground Dice" in ended(*flags, "--config.eval.split=val", "--config.eval.threshold=0.3")
    scores = json.loads(next((workdir / "evaluations").glob("val@*/evaluation.json")).read_text())
    assert scores["options"]["eval.threshold"] == 0.3 and (workdir / "evaluation.json").read_bytes() == before
    assert "did you mean" in ended(*flags, "--config.eval.thershold=0.3", code=64).lower()
    assert "config.data.window" in ended(*flags, "--config.data.window=(20, 30)", code=78)
    assert "config.data.root=''" not in ended(*flags, "--config.eval.threshold=0.3", code=78)  # the test split has other options
    assert len(ended("--mode=evaluate", code=64).strip().splitlines()) == 1


def test_a_run_starts_from_another_runs_weights(tmp_path, ended, uninterrupted):
    workdir, _ = uninterrupted
    output = ended(*FLAGS, f"--workdir={tmp_path / 'chained'}", f"--config.model.init={workdir}", "--config.train.epochs=1")
    assert f"weights from {workdir}" in output and f"images are prepared as for {workdir}" in output


def test_predict_needs_only_the_run_and_the_input(tmp_path, cache, ended, uninterrupted):
    nibabel = pytest.importorskip("nibabel")
    workdir, _ = uninterrupted
    scans = next(cache.glob("phantom-ct-ich-*-quick")) / "ct_scans"
    moved = tmp_path / "elsewhere"
    os.rename(workdir, moved)
    try:
        flags = ("--mode=predict", f"--workdir={moved}", f"--output={tmp_path / 'out'}")
        ended(*flags, f"--input={scans}")
        written = sorted((tmp_path / "out").glob("*.nii.gz"))
        assert len(written) == len(list(scans.glob("*.nii")))
        for path in written:
            source, labels = nibabel.load(scans / path.name.removesuffix(".gz")), nibabel.load(path)
            assert source.shape == labels.shape and (source.affine == labels.affine).all()
            assert set(map(int, set(labels.dataobj[:].ravel()))) <= {0, 1}
        picture = tmp_path / "slice.png"
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70), dtype=np.uint8)).save(picture)
        ended(*flags, f"--input={picture}")
        assert Image.open(tmp_path / "out" / "slice.png").size == (70, 50)
        empty = tmp_path / "empty"
        empty.mkdir()
        assert len(ended(*flags, f"--input={empty}", code=65).strip().splitlines()) == 1
    finally:
        os.rename(moved, workdir)


@pytest.mark.full
@pytest.mark.fault("F3", "F4", "F5")
@pytest.mark.parametrize("lost", [0, 1])
def test_after_a_loss_the_other_ends_with_75_and_one_process_goes_on_to_the_same_bits(
    tmp_path, cache, program, ended, uninterrupted, lost
):
    both = pair(program, cache, tmp_path / "run")
    both[0].until("step 7 ")
    both[lost].kill()
    assert both[1 - lost].end(120).returncode == 75, both[1 - lost].said()
    ended(*FLAGS, f"--workdir={tmp_path / 'run'}")
    assert result(tmp_path / "run") == uninterrupted[1]


@pytest.mark.fault("F22")
def test_a_second_run_in_the_same_folder_is_refused_while_the_first_trains(tmp_path, cache, program, ended):
    command = (*FLAGS, f"--workdir={tmp_path / 'busy'}", "--config.train.epochs=500")
    first = program.start(*command, environment=environment(cache))
    try:
        first.until("first step")
        assert "in use" in ended(*command, code=64)
    finally:
        first.kill()
