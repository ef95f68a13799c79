"""SIGTERM to one of two processes in a long validation: both leave it at the same case, and so does a final evaluation."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxseg.evaluate import scoring
from jaxseg.train.processes.interrupt import Preemption, Stopped
from jaxseg.utils import turns
from launch.local import free_port

ROOT = Path(__file__).parents[3]
SCRIPT = """
import os, signal, sys
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=1"
import jax, numpy as np
from jaxseg.evaluate import scoring
from jaxseg.train.processes.interrupt import Preemption, Stopped
from jaxseg.utils import turns

port, me, receiver = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
jax.distributed.initialize(f"127.0.0.1:{port}", 2, me, initialization_timeout=60)
mask, seen, stretched = np.zeros((2, 2), np.uint8), [], []

def examine(case):
    seen.append(case)
    if me == receiver and len(seen) == 20:
        os.kill(os.getpid(), signal.SIGTERM)
    return [scoring.Example({"case": str(case), "patient": "p"}, mask, mask, (1.0, 1.0))]

preemption = Preemption()
try:
    with preemption, turns.at_each(lambda: stretched.append(1)), preemption.at_once():
        scoring.score(range(10**9), examine, scoring.Rules(("a",)))
except Stopped:
    print("left after", len(seen), len(stretched), flush=True)
"""


@pytest.mark.parametrize("receiver", [1])
def test_two_processes_leave_a_validation_at_the_same_case(receiver):
    port = str(free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, port, str(i), str(receiver)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    try:
        said = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    counts = [next(line.split()[2:] for line in text.splitlines() if line.startswith("left after")) for text in said]
    assert counts[0] == counts[1] and int(counts[0][0]) >= 20 and int(counts[0][1]) == int(counts[0][0]) + 1


def test_one_process_leaves_at_once_and_what_watches_the_turns_is_called_before_each():
    mask, seen, watched, preemption = np.zeros((2, 2), np.uint8), [], [], Preemption()

    def examine(case):
        seen.append(case)
        if case == 3:
            signal.raise_signal(signal.SIGTERM)
        yield scoring.Example({"case": str(case), "patient": "p"}, mask, mask, (1.0, 1.0))

    with pytest.raises(Stopped), turns.at_each(lambda: watched.append(len(seen))), preemption, preemption.at_once():
        scoring.score(range(10), examine, scoring.Rules(("a",)))
    assert seen == [0, 1, 2, 3] and watched == [0, 1, 2, 3] and preemption.asked
    turns.turn()
    assert watched == [0, 1, 2, 3]  # nobody watches any more
