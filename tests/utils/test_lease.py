"""Leases: one owner among processes and hosts, ended by the owner's death, never by another's impatience."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxseg.utils import files
from jaxseg.utils.machine import lease

ROOT = Path(__file__).parents[2]
FAST = """
import sys, time
from pathlib import Path
from jaxseg.utils import files
from jaxseg.utils.machine import lease
lease.BEAT, lease.STALE = 0.1, 1.0
"""
ELSEWHERE = "lease.machine = lambda: 'another host'\n"  # its processes cannot be seen from here


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.1)
    monkeypatch.setattr(lease, "STALE", 1.0)


@contextlib.contextmanager
def process(script: str, *arguments):
    """A process that runs the script, once it has printed a line."""
    command = [sys.executable, "-c", FAST + script, *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline()
            yield other
        finally:
            other.kill()


HOLD = "held = lease.take(sys.argv[1])\nprint('held', flush=True)\nsys.stdin.read()\nheld.release()\n"


@pytest.mark.parametrize("where", ["here", "elsewhere"])
@pytest.mark.fault("F22")
def test_a_living_owner_is_named_and_a_dead_ones_lease_ends(tmp_path, where):
    path = tmp_path / "lease"
    with process((ELSEWHERE if where == "elsewhere" else "") + HOLD, path) as other:
        for _ in range(2 if where == "here" else 1):
            with pytest.raises(lease.Taken, match=f"process {other.pid} on .* since 20"):
                lease.take(path)
        other.send_signal(signal.SIGKILL)
        other.wait()
        began = time.monotonic()
        mine = lease.take(path)
        assert (time.monotonic() - began < 0.9) == (where == "here")  # what cannot be seen is waited for
    assert mine.held
    mine.release()
    assert not list(tmp_path.iterdir())


def test_a_number_that_another_process_now_has_does_not_keep_a_lease(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "_began", lambda process: "1")
    held = lease.take(tmp_path / "lease")
    held._ended.set()
    monkeypatch.setattr(lease, "_began", lambda process: "2")
    lease.take(tmp_path / "lease").release()


def test_an_owner_that_was_stopped_learns_that_it_has_lost_its_lease(tmp_path):
    path = tmp_path / "lease"
    lost = "held = lease.take(sys.argv[1], lost=lambda: print('lost', flush=True))\nprint('held', flush=True)\nsys.stdin.read()\n"
    with process(ELSEWHERE + lost, path) as other:
        os.kill(other.pid, signal.SIGSTOP)
        mine = lease.take(path)
        os.kill(other.pid, signal.SIGCONT)
        assert other.stdout.readline() == "lost\n" and mine.held
    mine.release()


BUILD = """
def build(folder):
    (folder / "half").write_text(sys.argv[2])
    print("building", flush=True)
    sys.stdin.readline()
    (folder / "whole").write_text(sys.argv[2])

files.build_folder(sys.argv[1], build)
print("done", (Path(sys.argv[1]) / "whole").read_text(), flush=True)
"""


def test_two_hosts_that_build_one_folder_end_with_one_and_neither_fails(tmp_path):
    final = tmp_path / "store"
    with process(ELSEWHERE + BUILD, final, "first") as other:
        os.kill(other.pid, signal.SIGSTOP)  # long enough to count as dead
        files.build_folder(final, lambda folder: [(folder / name).write_text("second") for name in ("half", "whole")])
        os.kill(other.pid, signal.SIGCONT)
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.stdout.readline() == "done second\n"
    assert [p.name for p in tmp_path.iterdir()] == ["store"] and (final / "half").read_text() == "second"


def test_a_folder_that_is_already_there_at_the_end_is_taken(tmp_path):
    final = tmp_path / "store"

    def build(folder: Path) -> None:
        (folder / "x").write_text("late")
        final.mkdir()
        (final / "x").write_text("early")

    assert files.build_folder(final, build) == final and (final / "x").read_text() == "early"
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


def test_nothing_needs_the_locks_that_windows_lacks():
    modules = "jaxseg.checkpoint, jaxseg.utils.files, jaxseg.data.store.per_case, jaxseg.bench.__main__"
    code = f"import sys; sys.modules['fcntl'] = None; import {modules}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)
