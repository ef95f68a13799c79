"""The bits of a run depend on the number of devices, not on that of the processes that drive them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch.local import free_port
from tests.train import counts_of_processes

ROOT = Path(__file__).parents[2]


def run(folder: Path, count: int) -> list[dict]:
    """What each of `count` processes found."""
    port = str(free_port())
    command = [sys.executable, counts_of_processes.__file__, str(folder), port, str(count)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    begun = [subprocess.Popen([*command, str(i)], cwd=ROOT, env=environment) for i in range(count)]
    try:
        assert [process.wait(3000) for process in begun] == [0] * count
    finally:
        for process in begun:
            process.kill()
    return [json.loads((folder / f"{count}.{i}.json").read_text()) for i in range(count)]


@pytest.mark.full
def test_one_two_and_four_processes_give_the_same_bits(tmp_path):
    (one,), two, four = (run(tmp_path, count) for count in (1, 2, 4))
    assert set(one) == set(counts_of_processes.CASES) and all(one.values())
    for found in (*two, *four):
        assert set(found) >= {name for name, case in counts_of_processes.CASES.items() if case[-1] == 1}
        for name, leaves in found.items():
            assert leaves == one[name], (name, [key for key in leaves if leaves[key] != one[name][key]][:5])
