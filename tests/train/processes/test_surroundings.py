"""What the last bits depend on is recorded, and a resumed run says in one line what has changed."""

import os
import subprocess
import sys

import pytest

from jaxseg import checkpoint
from jaxseg.programs import conditions
from jaxseg.train.log import Log
from jaxseg.train.processes import surroundings
from tests.records import RECORD


@pytest.mark.parametrize(
    "change, words",
    [
        ({}, None),
        ({"cpu_threads": 1000}, "CPU threads of XLA 1000 before, "),
        ({"devices": 3}, "devices 3 before, 8 now"),
        ({"jaxlib": "0.1"}, "jaxlib 0.1 before, "),
        ({"platform": "gpu", "processor": "H100"}, "platform gpu before, cpu now; processor"),
    ],
)
@pytest.mark.fault("F6")
def test_a_resumed_run_says_in_one_line_what_has_changed(tmp_path, capsys, change, words):
    checkpoint.write_record(tmp_path, {**RECORD, surroundings.NAME: conditions.hardware() | change})
    surroundings.compare(tmp_path, Log(tmp_path), resumed=True)
    said = capsys.readouterr().out
    if words is None:
        assert said == ""
    else:
        assert said.count("\n") == 1 and words in said and "last digits" in said


def test_a_new_run_says_nothing(tmp_path, capsys):
    surroundings.compare(tmp_path, Log(tmp_path), resumed=False)
    assert capsys.readouterr().out == ""


def test_a_module_of_other_content_than_before_is_named(tmp_path, capsys):
    here = {surroundings.NAME: conditions.hardware(), "code": {"tests.records": "0" * 64}}
    checkpoint.write_record(tmp_path, {**RECORD, **here})
    surroundings.compare(tmp_path, Log(tmp_path), resumed=True)
    assert "WARNING the module 'tests.records' has changed" in capsys.readouterr().out


def test_the_threads_are_those_that_xla_has():
    code = "from jaxseg.programs.conditions import cpu_threads; print(cpu_threads())"
    for number in (1, 5):
        environment = {**os.environ, "PJRT_NPROC": str(number), "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
        assert done.stdout.split() == [str(number)], done.stderr
