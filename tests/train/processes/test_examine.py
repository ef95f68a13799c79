"""`jaxseg doctor --distributed`: what every host says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from launch.local import free_port

ROOT = Path(__file__).parents[3]


def doctor(*flags: str, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "jaxseg", "doctor", "--distributed", *flags]
    own = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2", **environment}
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=-1, stderr=-2, env={**os.environ, **own})


@pytest.mark.full
def test_both_hosts_name_all_devices_and_a_sum_over_them_comes_back():
    place = f"127.0.0.1:{free_port()}"
    both = [doctor(f"--coordinator={place}", "--num_processes=2", f"--process_id={i}") for i in range(2)]
    for process in both:
        out = process.communicate(timeout=100)[0]
        assert process.returncode == 0, out
        assert "roll call: 2 processes with equal versions and code" in out and "sum over 4 devices" in out
        assert len(re.findall(r"process [01] on .*: 2 x cpu", out)) == 2


@pytest.mark.full
def test_one_process_alone_is_told_what_to_give():
    process = doctor()
    assert "give each --coordinator=HOST:PORT" in process.communicate(timeout=100)[0] and process.returncode == 64
