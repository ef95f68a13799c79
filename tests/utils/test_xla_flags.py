"""The flags that XLA gets where there is a GPU, and nowhere else."""

import subprocess
import sys

import pytest

from jaxseg.utils import process
from jaxseg.utils.process import NHWC, convolve_channels_last


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(process, "DEVICES", (str(tmp_path / "nvidiactl"),))


@pytest.mark.parametrize(
    "before, after",
    [
        ({}, f"{NHWC}=true"),
        ({"XLA_FLAGS": "--xla_gpu_autotune_level=0"}, f"--xla_gpu_autotune_level=0 {NHWC}=true"),
        ({"XLA_FLAGS": f"{NHWC}=false"}, f"{NHWC}=false"),  # the user's word
        ({"JAX_PLATFORMS": "cpu"}, None),
    ],
)
def test_a_gpu_convolves_channels_last_by_default(gpu, before, after):
    env = dict(before)
    convolve_channels_last(env)
    assert env.get("XLA_FLAGS") == after


def test_without_a_gpu_nothing_is_set(monkeypatch):
    monkeypatch.setattr(process, "DEVICES", ("/dev/no_such_device",))
    env = {}
    convolve_channels_last(env)
    assert env == {}


def test_xla_knows_the_flag():
    """An unknown one would end every process on a GPU."""
    code = "import jax; assert jax.jit(lambda x: x + 1)(1) == 2"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{NHWC}=true"},
        timeout=120,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
