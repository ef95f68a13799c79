"""What commands print: for people, for logs, for machines."""

import json
import os
import pty
import subprocess
import sys

import numpy as np
import pytest

from jaxseg.utils import output

WORK = """
from jaxseg.utils import output
with output.working("epoch 1/3", 4) as advance:
    with output.working("compiling"):
        output.say("a line " + "x" * 200)
    for _ in range(4):
        advance()
print("after")
"""


@pytest.fixture(autouse=True)
def plain():
    yield
    output.choose()


def test_quiet_keeps_warnings_and_results(capsys):
    def everything():
        output.say("step 1 loss 0.5", head="12:00:00 ")
        output.say("WARNING voxels up to 0.1 mm off", head="12:00:00 ")
        output.say("FAILED case 3")
        output.say("mean Dice 0.9", result=True)

    everything()
    assert len(capsys.readouterr().out.splitlines()) == 4
    output.choose(quiet=True)
    everything()
    assert capsys.readouterr().out.splitlines() == ["12:00:00 WARNING voxels up to 0.1 mm off", "FAILED case 3", "mean Dice 0.9"]


def test_json_puts_one_object_a_line_on_the_output_and_lines_on_the_error_stream(capsys):
    output.event("step", loss=1.0)
    assert capsys.readouterr() == ("", "")
    output.choose(as_json=True)
    output.say("WARNING dark", head="12:00:00 ")
    output.event("epoch", loss=float("nan"), dice=np.float32(0.5), sizes=np.arange(2), path=os.path)
    out, err = capsys.readouterr()
    warning, epoch = (json.loads(line) for line in out.splitlines())
    assert warning == {"event": "warning", "text": "WARNING dark"} and err == "12:00:00 WARNING dark\n"
    assert epoch["loss"] is None and epoch["dice"] == 0.5 and epoch["sizes"] == [0, 1]


def test_bars_are_drawn_on_a_terminal_alone():
    piped = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, timeout=60)
    assert piped.stdout == f"a line {200 * 'x'}\nafter\n" and piped.stderr == "" and piped.returncode == 0
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", WORK], stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait(timeout=60) == 0
    text = shown.decode()
    assert all(words in text for words in ("epoch 1/3", "compiling", "a line " + 200 * "x", "0/4", "\x1b[", "after"))
