"""Runs of two real processes of which one is lost, hangs or never comes; and SIGTERM at every stage of a run of one."""

import re
import signal
import time
from pathlib import Path

import pytest

from launch.local import free_port
from tests import test_runs as runs
from tests.forked import Run
from tests.test_runs import FLAGS, environment, finish, start


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def pair(tmp_path, cache, program):
    """Two processes of one run, which end with the test."""
    begun = []

    def begin(*flags: str, **options: str) -> list[Run]:
        begun.extend(both := runs.pair(program, cache, tmp_path / "run", *flags, **options))
        return both

    yield begin
    for process in begun:
        process.kill()


def ends_with_75(process: Run, seconds: float) -> str:
    """What a process said that had to end with 75 within so many seconds, one line of it by us."""
    begin = time.monotonic()
    done = process.end(seconds)
    output = done.stdout + done.stderr
    assert done.returncode == 75, (done.returncode, time.monotonic() - begin, output[-3000:])
    lines = [line for line in output.splitlines() if line.startswith("jaxseg: ")]
    assert len(lines) == 1 and re.search("start (them again|process 0)", lines[0]) and "Traceback" not in output, output[-3000:]
    return lines[0]


@pytest.mark.parametrize("lost", [0, pytest.param(1, marks=pytest.mark.full)])
@pytest.mark.fault("F3", "F4")
def test_a_lost_process_ends_the_other_at_once(pair, lost):
    both = pair("--config.train.epochs=500")
    both[0].until("step 2 ")
    both[lost].kill()
    assert "lost" in ends_with_75(both[1 - lost], 60)


SHORT = """
from jaxseg.utils import clock
watch = clock.Watchdog.__init__
clock.Watchdog.__init__ = lambda self, seconds, folder: watch(self, 2, folder, longer=25)
"""


@pytest.mark.parametrize("point", [pytest.param("0:before_next", marks=pytest.mark.full), "5:in_eval"])
@pytest.mark.fault("F17")
def test_a_process_that_hangs_ends_both_within_the_watchdogs_time(tmp_path, pair, point):
    for process in pair(fault=f"hang@{point}", before=SHORT):
        ends_with_75(process, 120)
    assert list((tmp_path / "run").glob("hang.*.txt"))


SLOW = """
import time
import jax
from jaxseg.programs.kept import Kept
ready = Kept.ready
def late(*arguments):
    found = ready(*arguments)
    time.sleep(45 * jax.process_index())
    return found
Kept.ready = late
"""


@pytest.mark.full
def test_a_process_that_compiles_for_longer_is_waited_for(tmp_path, cache, program):
    """With two devices each: before the first step they have not exchanged anything over all devices."""
    both = runs.several(program, cache, tmp_path / "run", devices=2, before=SLOW, seconds=900)
    try:
        both[0].until("first step", 800)
    finally:
        for process in both:
            process.kill()


@pytest.mark.parametrize("present", [0, pytest.param(1, marks=pytest.mark.full)])
@pytest.mark.fault("F18")
def test_a_process_that_never_comes_ends_the_other_in_the_stated_time(tmp_path, cache, program, present):
    begin = time.monotonic()
    flags = (f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2", f"--process_id={present}", "--config.mesh.join=4")
    process = program.start(*FLAGS, f"--workdir={tmp_path / 'run'}", *flags, environment=environment(cache, 1))
    words = ("process 1 of 2 did not connect to 127.0.0.1", "cannot reach process 0 at 127.0.0.1")[present]
    assert words in ends_with_75(process, 90)
    assert time.monotonic() - begin > 4


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler of its own for a signal."""
    mask = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(mask[1], 16) >> number - 1 & 1)


@pytest.mark.fault("F11")
def test_sigterm_before_the_first_step_ends_with_42(tmp_path, cache, program):
    process = start(tmp_path / "run", cache, GLIBC_TUNABLES="glibc.malloc.hugetlb=1")  # so that it does not start itself anew
    while not catches(process.pid, signal.SIGTERM):  # then modules are imported
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert "stopped by SIGTERM" in finish(process, code=42)
    process = program.start(*FLAGS, f"--workdir={tmp_path / 'run'}", environment=environment(cache))
    process.until("parameters")  # the network is built, the step is not compiled
    process.send_signal(signal.SIGTERM)
    done = process.end()
    assert done.returncode == 42 and "stopped by SIGTERM" in done.stdout, done


@pytest.mark.slow
@pytest.mark.fault("F9", "F11")
def test_sigterm_to_one_of_two_processes_in_the_final_evaluation_ends_both_and_the_same_command_finishes(tmp_path, pair):
    both = pair(fault="term@0:before_report")
    assert [process.end().returncode for process in both] == [42, 42], [process.said() for process in both]
    assert "run the same command again to resume" in both[0].said() and not (tmp_path / "run" / "evaluation.json").exists()
    again = pair()
    assert [process.end().returncode for process in again] == [0, 0], [process.said() for process in again]
    assert (tmp_path / "run" / "evaluation.json").is_file()
