"""The progress line's figures and the watchdog."""

import subprocess
import sys
import threading
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
import sys, threading
from jaxseg.utils.clock import Watchdog
def wait_for_peer():
    threading.Event().wait()
with Watchdog(0.2, sys.argv[1], longer=0.5):
    print("stuck", flush=True)
    wait_for_peer()
"""


@pytest.mark.fault("F17")
def test_a_stuck_process_ends_with_75_and_names_the_line(tmp_path):
    done = subprocess.run([sys.executable, "-c", STUCK, str(tmp_path)], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 75 and done.stdout == "stuck\n"
    assert "for 0.5 s" in done.stderr and "end all processes" in done.stderr
    (dump,) = tmp_path.iterdir()
    assert dump.name.startswith("hang.") and "in wait_for_peer" in dump.read_text()


def test_a_step_has_its_limit_and_what_may_take_longer_another(tmp_path):
    clock = Clock()
    dog = Watchdog(100.0, tmp_path, longer=1000.0, now=clock)

    def expires_after(seconds: float) -> None:
        clock.now += seconds
        assert dog.expired() is None
        clock.now += 1.0
        assert dog.expired() == seconds

    assert dog.expired() is None  # not entered: its thread would end this process
    dog.stretch()
    expires_after(1000.0)
    dog.tick()
    expires_after(100.0)
    dog.tick()
    clock.now += 99.0
    dog.tick()
    expires_after(100.0)
    dog.pause()
    clock.now += 1e6
    assert dog.expired() is None
    dog.tick()
    expires_after(100.0)


def test_a_watchdog_of_0_seconds_never_expires_and_a_negative_one_is_refused(tmp_path):
    clock, threads = Clock(), set(threading.enumerate())
    with Watchdog(0, tmp_path, now=clock) as dog:
        dog.tick()
        clock.now += 1e6
        assert dog.expired() is None and "watchdog" not in [t.name for t in set(threading.enumerate()) - threads]
    with pytest.raises(ValueError, match="seconds=-1"):
        Watchdog(-1, tmp_path)
