"""Runs of two real processes of which one is lost, hangs or never comes; and SIGTERM at every stage of a run of one."""

import os
import signal
import subprocess
import sys
import time

import pytest

from launch.local import free_port
from tests.test_runs import FLAGS, ROOT, environment, finish, start


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def pair(workdir, cache, *flags: str, fault: str = "") -> list[subprocess.Popen]:
    """Two processes of one run with a device each; the second one has the fault."""
    command = [
        sys.executable,
        "-m",
        "jaxseg.main",
        *FLAGS,
        f"--workdir={workdir}",
        f"--coordinator=127.0.0.1:{free_port()}",
        "--num_processes=2",
        *flags,
    ]
    return [
        subprocess.Popen(
            [*command, f"--process_id={i}"],
            cwd=ROOT,
            env=environment(cache, 1, JAXSEG_FAULT=fault if i else ""),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for i in range(2)
    ]


def ends_with_75(process: subprocess.Popen, seconds: float) -> str:
    """What a process said that had to end with 75 within so many seconds, one line of it by us."""
    begin = time.monotonic()
    try:
        output = process.communicate(timeout=seconds)[0]
    finally:
        process.kill()
    assert process.returncode == 75, (process.returncode, time.monotonic() - begin, output[-3000:])
    lines = [line for line in output.splitlines() if line.startswith("jaxseg: ")]
    assert len(lines) == 1 and "start them again" in lines[0] and "Traceback" not in output, output[-3000:]
    return lines[0]


@pytest.mark.parametrize("lost", [0, pytest.param(1, marks=pytest.mark.full)])
def test_a_lost_process_ends_the_other_at_once(tmp_path, cache, lost):
    both = pair(tmp_path / "run", cache, "--config.train.epochs=500")
    for line in both[0].stdout:
        if "step 2 " in line:
            break
    both[lost].kill()
    assert "lost" in ends_with_75(both[1 - lost], 60)
    both[lost].communicate()


@pytest.mark.parametrize("point", [pytest.param("0:before_next", marks=pytest.mark.full), "5:in_eval"])
def test_a_process_that_hangs_ends_both_within_the_watchdogs_time(tmp_path, cache, point):
    (tmp_path / "short.py").write_text(
        "import sys\nfrom jaxseg.utils import clock\nwatch = clock.Watchdog.__init__\n"
        "clock.Watchdog.__init__ = lambda self, seconds, folder: watch(self, 2, folder, longer=25)\n"
        "import jaxseg.main\njaxseg.main.run()\n"
    )
    command = [
        sys.executable,
        str(tmp_path / "short.py"),
        *FLAGS,
        f"--workdir={tmp_path / 'run'}",
        "--num_processes=2",
        f"--coordinator=127.0.0.1:{free_port()}",
    ]
    faults = ({}, {"JAXSEG_FAULT": f"hang@{point}"})
    both = [
        subprocess.Popen(
            [*command, f"--process_id={i}"],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(cache, 1, PYTHONPATH=str(ROOT), **faults[i]),
        )
        for i in range(2)
    ]
    for process in both:
        ends_with_75(process, 120)
    assert list((tmp_path / "run").glob("hang.*.txt"))


@pytest.mark.parametrize("present", [0, pytest.param(1, marks=pytest.mark.full)])
def test_a_process_that_never_comes_ends_the_other_in_the_stated_time(tmp_path, cache, present):
    begin = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "jaxseg.main",
        *FLAGS,
        f"--workdir={tmp_path / 'run'}",
        "--num_processes=2",
        f"--coordinator=127.0.0.1:{free_port()}",
        f"--process_id={present}",
        "--config.mesh.join=4",
    ]
    process = subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment(cache, 1)
    )
    words = ("process 1 of 2 did not connect to 127.0.0.1", "cannot reach process 0 at 127.0.0.1")[present]
    assert words in ends_with_75(process, 90)
    assert time.monotonic() - begin > 4


def test_sigterm_before_the_first_step_ends_with_42(tmp_path, cache):
    process = start(tmp_path / "run", cache)
    time.sleep(1.0)  # while modules are imported
    process.send_signal(signal.SIGTERM)
    assert "stopped by SIGTERM" in finish(process, code=42)
    process = start(tmp_path / "run", cache)
    for line in process.stdout:
        if "parameters" in line:  # the network is built, the step is not compiled
            break
    process.send_signal(signal.SIGTERM)
    assert "stopped by SIGTERM" in finish(process, code=42)


def test_sigterm_to_one_of_two_processes_saves_both_and_the_resumed_run_gives_the_same_bits(tmp_path, cache):
    both = pair(tmp_path / "run", cache)
    for line in both[0].stdout:
        if "step 2 " in line:
            break
    both[1].send_signal(signal.SIGTERM)
    for process in both:
        assert process.communicate(timeout=120) and process.returncode == 42, os.getpid()
    again = pair(tmp_path / "run", cache)
    assert all(process.communicate(timeout=200) and process.returncode == 0 for process in again)


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_in_the_final_evaluation_ends_both_and_the_same_command_finishes(tmp_path, cache):
    both = pair(tmp_path / "run", cache, fault="term@0:before_report")
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [42, 42], said
    assert "run the same command again to resume" in said[0] and not (tmp_path / "run" / "evaluation.json").exists()
    again = pair(tmp_path / "run", cache)
    said = [process.communicate(timeout=300)[0] for process in again]
    assert [process.returncode for process in again] == [0, 0], said
    assert (tmp_path / "run" / "evaluation.json").is_file()
