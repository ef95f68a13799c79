"""Runs of four real processes, also with a shared state and with shared rows, of which one is lost, hangs, is stopped or never
comes; after it one process with as many devices goes on to the bits of a run that nothing happened to."""

import re
import signal

import pytest

from launch.local import free_port
from tests import test_runs as runs
from tests.forked import Run
from tests.test_runs import FLAGS, environment, result

pytestmark = pytest.mark.full

LIMIT = 1500  # seconds that any of these processes may live: eight of them share two cores
PATIENT = """
from jaxseg.utils import clock
watch = clock.Watchdog.__init__
clock.Watchdog.__init__ = lambda self, seconds, folder: watch(self, 60, folder, longer=240)
"""  # a watchdog for processes that share two cores
# (flags, devices of each process)
KINDS = {
    "copies": ((), 1),
    "shared state": (("--config.mesh.shard_state=True",), 1),
    "shared rows": (("--config.model.name=roi_unet3d_test", "--config.mesh.space=2"), 2),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def alone(tmp_path_factory, cache, program):
    """alone(kind, workdir) -> what one process with the devices of four ends with, from wherever the run in workdir stands."""
    whole = {}

    def run(kind: str, workdir=None) -> dict[str, str]:
        if workdir is None:
            if kind not in whole:
                whole[kind] = run(kind, tmp_path_factory.mktemp("whole") / "run")
            return whole[kind]
        flags, devices = KINDS[kind]
        place = environment(cache, 4 * devices)
        done = program.run(*FLAGS, *flags, f"--workdir={workdir}", environment=place, seconds=LIMIT)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        return result(workdir)

    return run


@pytest.fixture
def four(tmp_path, cache, program):
    """Four processes of one run in tmp_path/run, which end with the test."""
    begun = []

    def begin(kind: str, *flags: str, **options) -> list[Run]:
        more, devices = KINDS[kind]
        flags = (*more, *flags, "--config.mesh.join=600")  # they start within minutes of each other where cores are few
        run = runs.several(program, cache, tmp_path / "run", *flags, count=4, devices=devices, seconds=LIMIT, **options)
        begun.extend(run)
        return run

    yield begin
    for process in begun:
        process.kill()


def said_in_one_line(process: Run, code: int) -> str:
    """The one line of ours of a process that ends with this code."""
    done = process.end(LIMIT)
    output = done.stdout + done.stderr
    assert done.returncode == code, (done.returncode, output[-3000:])
    lines = [line for line in output.splitlines() if line.startswith("jaxseg: ")]
    assert len(lines) == 1 and "Traceback" not in output, output[-3000:]
    return lines[0]


@pytest.mark.parametrize("kind, lost", [("copies", 0), ("copies", 3), ("shared state", 2), ("shared rows", 1)])
@pytest.mark.fault("F3", "F4", "F5")
def test_a_lost_process_ends_the_three_others_and_one_goes_on_to_the_same_bits(tmp_path, four, alone, kind, lost):
    processes = four(kind)
    processes[0].until("step 7 ", LIMIT)
    processes[lost].kill()
    for process in (p for i, p in enumerate(processes) if i != lost):
        assert re.search("start (them again|process 0)", said_in_one_line(process, 75))
    assert alone(kind, tmp_path / "run") == alone(kind)


@pytest.mark.parametrize("kind", ["shared state", "shared rows"])
@pytest.mark.fault("F9", "F5")
def test_sigterm_to_one_saves_all_four_and_one_goes_on_to_the_same_bits(tmp_path, four, alone, kind):
    processes = four(kind)
    processes[0].until("step 2 ", LIMIT)
    processes[3].send_signal(signal.SIGTERM)
    assert [process.end(LIMIT).returncode for process in processes] == [42] * 4, [process.said() for process in processes]
    assert alone(kind, tmp_path / "run") == alone(kind)


@pytest.mark.parametrize("kind", ["shared state", "shared rows"])
@pytest.mark.fault("F17")
def test_one_that_hangs_ends_all_four(tmp_path, four, kind):
    lines = [said_in_one_line(process, 75) for process in four(kind, faults={2: "hang@5:in_eval"}, before=PATIENT)]
    assert all(re.search("start (them again|process 0)", line) for line in lines), lines
    assert list((tmp_path / "run").glob("hang.*.txt")), lines


@pytest.mark.parametrize("absent", [0, 2])
@pytest.mark.fault("F18")
def test_one_that_never_comes_is_named_by_the_three_others(tmp_path, cache, program, absent):
    flags = (f"--workdir={tmp_path / 'run'}", f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=4")
    processes = [
        program.start(
            *(*FLAGS, *flags, f"--process_id={i}", "--config.mesh.join=30"), environment=environment(cache, 1), seconds=LIMIT
        )
        for i in range(4)
        if i != absent
    ]
    words = "process 2 of 4 did not connect to 127.0.0.1" if absent else "cannot reach process 0 at 127.0.0.1"
    for process in processes:
        assert words in said_in_one_line(process, 75)
