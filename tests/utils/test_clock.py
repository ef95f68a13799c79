"""The progress line's figures and the watchdog."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxseg.utils.clock import Meter, Rates, Watchdog, duration

ROOT = Path(__file__).parents[2]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_rates_are_of_the_window_and_leave_pauses_out():
    clock = Clock()
    meter = Meter(10, start=2, now=clock)
    clock.now = 100.0  # compilation
    meter.step(8)
    assert meter.read() == Rates(0.08, 0.0, None)
    for _ in range(3):
        with meter.waiting():
            clock.now += 0.5
        clock.now += 1.5
        meter.step(8)
    with meter.paused():
        clock.now += 3.0
    rates = meter.read()
    assert rates == Rates(24 / 6, 0.25, (6 + 3) / 3 * 4), "4 steps left at 3 s a step, validation included, compilation not"
    assert str(rates) == "4 images/s, input wait 25 %, 12 s left"


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.4, "0 s"),
        (59.6, "1 min 00 s"),
        (187, "3 min 07 s"),
        (3599.9, "1 h 00 min"),
        (5 * 3600 + 150, "5 h 02 min"),
        (51 * 3600, "2 d 03 h"),
    ],
)
def test_durations_have_two_units_at_most(seconds, text):
    assert duration(seconds) == text


STUCK = """
import sys, threading, time
from jaxseg.utils.clock import Watchdog
dog = Watchdog(0.4, sys.argv[1], longer=5).__enter__()
time.sleep(0.6)          # before the first tick, compilation may take longer
for _ in range(4):
    dog.tick()
    time.sleep(0.2)
dog.stretch()
time.sleep(0.6)          # so may validation
dog.pause()
time.sleep(0.6)          # paused
dog.tick()
print("stuck", flush=True)
def wait_for_peer():
    threading.Event().wait()
wait_for_peer()
"""


def test_a_stuck_process_ends_with_75_and_names_the_line(tmp_path):
    done = subprocess.run([sys.executable, "-c", STUCK, str(tmp_path)], capture_output=True, text=True, timeout=30, cwd=ROOT)
    assert done.returncode == 75 and done.stdout == "stuck\n" and "end all processes" in done.stderr
    (dump,) = tmp_path.iterdir()
    assert dump.name.startswith("hang.") and "in wait_for_peer" in dump.read_text()


@pytest.mark.parametrize("before", ["", "dog.tick(); dog.stretch()"])
def test_what_may_take_longer_has_its_own_limit(tmp_path, before):
    script = (
        "import sys, time\nfrom jaxseg.utils.clock import Watchdog\n"
        f"with Watchdog(0.1, sys.argv[1], longer=0.5) as dog:\n    {before}\n    time.sleep(30)"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert done.returncode == 75 and "for 0.5 s" in done.stderr


def test_a_loop_that_ticks_or_has_no_watchdog_ends_as_it_would(tmp_path):
    script = (
        "import sys, time\nfrom jaxseg.utils.clock import Watchdog\n"
        "a, b = Watchdog(0.3, sys.argv[1]), Watchdog(0, sys.argv[1])\n"
        "a.__enter__(); b.__enter__(); b.tick()\nfor _ in range(4):\n"
        "    a.tick(); time.sleep(0.1)\na.close()\ntime.sleep(0.6)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT).returncode == 0 and not os.listdir(tmp_path)
    with pytest.raises(ValueError, match="seconds=-1"):
        Watchdog(-1, tmp_path)
