"""Whole runs where the surroundings are against them: Ctrl-C with reading processes, a bare environment, a reader that leaves."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.local import free_port
from tests.test_runs import FLAGS, ROOT, environment


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def listening(pid: int) -> set[str]:
    """Addresses, in the kernel's hexadecimal words, on which a process waits for connections."""
    inodes = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            inodes |= set(re.findall(r"^socket:\[(\d+)\]$", os.readlink(path)))
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]]
    return {words[1].partition(":")[0] for words in lines if words[3] == "0A" and words[9] in inodes}


def children(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended since it was listed
            found += [int(n) for n in path.read_text().split()]
    return found


def alive(pid: int) -> bool:
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())  # empty: it has ended
    except OSError:
        return False


def gone(pids: list[int]) -> None:
    """Asserts that these processes end within ten seconds."""
    end = time.monotonic() + 10
    while left := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() < end, left
        time.sleep(0.02)


@pytest.mark.fault("P12")
def test_ctrl_c_ends_a_run_with_reading_processes_and_its_coordinator_listens_on_the_given_address(tmp_path, cache, program):
    process = program.start(
        *FLAGS,
        f"--workdir={tmp_path / 'run'}",
        "--config.train.epochs=500",
        "--config.data.workers=2",
        f"--coordinator=127.0.0.1:{free_port()}",
        "--num_processes=1",
        "--process_id=0",
        environment=environment(cache),
    )
    try:
        process.until("step 2 ")
        workers = children(process.pid)
        assert workers and listening(process.pid) <= {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1, in IPv6 too
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        done = process.end(60)
    finally:
        process.kill()
    output = done.stdout + done.stderr
    assert done.returncode == 130 and "Traceback" not in output, output
    assert [line[:25] for line in output.splitlines() if line.startswith("jaxseg: ")] == ["jaxseg: interrupted after"]
    gone(workers)


@pytest.mark.full
@pytest.mark.fault("F10")
def test_sigterm_twice_to_a_run_with_reading_processes_saves_and_leaves_none_of_them(tmp_path, cache, program):
    more = (f"--workdir={tmp_path / 'run'}", "--config.train.epochs=500", "--config.data.workers=2")
    process = program.start(*FLAGS, *more, environment=environment(cache))
    try:
        process.until("step 2 ")
        workers = children(process.pid)
        for _ in range(2):
            os.killpg(process.pid, signal.SIGTERM)
            time.sleep(0.01)
        done = process.end(60)
    finally:
        process.kill()
    output = done.stdout + done.stderr
    assert workers and done.returncode == 42 and "stopped by SIGTERM" in output and "Traceback" not in output, output
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdigit()]
    gone(workers)


@pytest.mark.fault("P12")
def test_a_run_without_home_locale_or_listener_that_keeps_its_files_private(tmp_path, cache):
    bare = {k: v for k, v in environment(cache).items() if k not in ("HOME", "USER", "LOGNAME", "LANG")}
    bare |= {"LC_ALL": "C", "JAXSEG_UMASK": "077", "XDG_CACHE_HOME": ""}
    workdir = tmp_path / "l\u00e4uft"
    command = [sys.executable, "-m", "jaxseg.main", *FLAGS, f"--workdir={workdir}", "--config.train.epochs=1"]
    process = subprocess.Popen(command, cwd=ROOT, env=bare, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()  # `| head -1`
    errors = process.stderr.read().decode()
    assert process.wait(200) == 0 and "Traceback" not in errors and "BrokenPipe" not in errors, errors
    made = [workdir, *workdir.rglob("*")]
    assert (workdir / "evaluation.json").exists() and not [p for p in made if p.stat().st_mode & 0o077]


def test_a_user_without_a_home_folder_is_asked_for_a_cache(tmp_path, program):
    bare = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME", "JAXSEG_CACHE")}
    unknown = "import pwd\ndef unknown(number): raise KeyError(number)\npwd.getpwuid = unknown\n"  # as in many containers
    done = program.start(*FLAGS, f"--workdir={tmp_path / 'run'}", environment=bare, before=unknown).end()
    assert done.returncode == 74 and "set JAXSEG_CACHE" in done.stderr and "Traceback" not in done.stderr, done.stderr
