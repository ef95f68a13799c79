"""train.dtype="auto": the run's own dtype, else the device's; the record holds what it came to."""

from pathlib import Path

import jax
import pytest

from configs import _base
from jaxseg import modes
from jaxseg.config import resolve
from jaxseg.ops import precision


@pytest.mark.parametrize("backend, dtype", [("cpu", "float32"), ("gpu", "bfloat16"), ("tpu", "bfloat16")])
def test_auto_is_what_the_device_is_made_for(backend, dtype, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert precision.compute_dtype("auto") == dtype
    assert precision.compute_dtype("float32") == "float32" and precision.compute_dtype("bfloat16") == "bfloat16"
    assert dtype in precision.describe(dtype) and "\n" not in precision.describe(dtype)


def test_float32_on_a_gpu_is_said_to_be_tf32(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "TF32" in precision.describe("float32") and "--config.train.dtype=bfloat16" in precision.describe("float32")


@pytest.mark.parametrize("recorded", ["float32", "bfloat16"])
def test_a_run_that_is_resumed_elsewhere_keeps_its_dtype(recorded, monkeypatch):
    call = modes.Call(config=resolve(_base.base()), workdir=Path("run"))
    monkeypatch.setattr(modes.checkpoint, "read_record", lambda run: {"config": {"train": {"dtype": recorded}}})
    settled = modes._settled(call)
    assert settled.config.train.dtype == recorded and call.config.train.dtype == "auto"


def test_a_new_run_takes_the_devices_dtype_and_a_given_one_stays(tmp_path):
    config = resolve(_base.base())
    assert modes._settled(modes.Call(config=config, workdir=tmp_path)).config.train.dtype == "float32"
    base = _base.base()
    base.train.dtype = "bfloat16"
    call = modes.Call(config=resolve(base), workdir=tmp_path)
    assert modes._settled(call) is call
