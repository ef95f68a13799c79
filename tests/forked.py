"""Runs of jaxseg.main that cost no imports: one process imports the program and is forked for each of them.

Each run is a process of its own, with its arguments, environment and exit code; the parent has touched no device and has
one thread, so that a fork starts where `python -m jaxseg.main` stands after its imports.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
_SERVER = """
import json, os, signal, sys
import grain  # noqa: F401 -- as jaxseg's own below
import jaxseg.main
import jaxseg.modes, jaxseg.train.events  # noqa: F401 -- what a run imports once its config is sound
for line in sys.stdin:
    order = json.loads(line)
    if "pid" in order:
        print(os.waitstatus_to_exitcode(os.waitpid(order["pid"], 0)[1]), flush=True)
        continue
    child = os.fork()
    if child == 0:
        os.setsid()
        signal.alarm(order["seconds"])
        os.environ.clear()
        os.environ.update(order["environment"])
        for number, path in enumerate(("/dev/null", order["stdout"], order["stderr"])):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
        sys.argv = ["jaxseg.main", *order["flags"]]
        try:
            exec(order["before"])
            jaxseg.main.run()
        except SystemExit as end:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code or 0)
        except BaseException:
            import traceback
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(1)
    print(child, flush=True)
"""


def quickly() -> dict[str, str]:
    """The environment of a run that compiles in half the time, and what another has compiled not at all."""
    return {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", **os.environ, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


class Done(NamedTuple):
    """How a run ended."""

    returncode: int
    stdout: str
    stderr: str


class Run:
    """A run that goes on: the leader of a session of its own. `pid` is its process."""

    def __init__(self, pid: int, files: tuple[Path, Path], wait: Callable[[int], int]):
        self.pid, self._files, self._wait, self._done = pid, files, wait, None

    def said(self) -> str:
        """What it has written to standard output and error until now."""
        return "".join(file.read_text() for file in self._files if file.exists())

    def until(self, words: str, seconds: float = 240) -> None:
        """Wait until it has said this; AssertionError if it does not come."""
        end = time.monotonic() + seconds
        while words not in self.said():
            alive = not self.ended()
            assert alive and time.monotonic() < end, f"{words!r} does not come: {self.said()[-3000:]}"
            time.sleep(0.02)

    def send_signal(self, number: int) -> None:
        if self._done is None:
            with contextlib.suppress(ProcessLookupError):  # a test was interrupted while it waited for the end
                os.kill(self.pid, number)

    def end(self, seconds: float | None = None) -> Done:
        """Wait for its end; after these seconds it is killed (code -9), after those that it was given too (code -14)."""
        limit = None if seconds is None else time.monotonic() + seconds
        while limit and self._done is None and not self.ended():
            if time.monotonic() > limit:
                self.send_signal(signal.SIGKILL)
            time.sleep(0.02)
        if self._done is None:
            code = self._wait(self.pid)
            self._done = Done(code, *(file.read_text() for file in self._files))
        return self._done

    def kill(self) -> Done:
        self.send_signal(signal.SIGKILL)
        return self.end()

    def ended(self) -> bool:
        """Whether it has come to its end; `end` says how."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


class Program:
    """jaxseg.main, imported once. Use as a context manager."""

    def __enter__(self):
        self._scratch, self._begun = tempfile.TemporaryDirectory(), []
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**quickly(), "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )
        return self

    def __exit__(self, *error):
        for run in self._begun:
            run.send_signal(signal.SIGKILL)
        self._server.stdin.close()
        self._server.wait(timeout=60)
        self._server.stdout.close()
        self._scratch.cleanup()

    def start(self, *flags: str, environment: dict[str, str], seconds: int = 300, before: str = "") -> Run:
        """Begin `python -m jaxseg.main FLAGS` in this environment, after the Python program `before`."""
        files = tuple(Path(self._scratch.name, f"{name}.{len(self._begun)}") for name in ("stdout", "stderr"))
        order = {
            "flags": list(map(str, flags)),
            "environment": environment,
            "stdout": str(files[0]),
            "stderr": str(files[1]),
            "seconds": seconds,
            "before": before,
        }
        self._begun.append(run := Run(self._ask(order), files, lambda pid: self._ask({"pid": pid})))
        return run

    def run(self, *flags: str, environment: dict[str, str], seconds: int = 300) -> Done:
        """`python -m jaxseg.main FLAGS` in this environment, to its end; after so many seconds it is killed (code -14)."""
        return self.start(*flags, environment=environment, seconds=seconds).end()

    def _ask(self, order: dict) -> int:
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        assert answer, "the process that holds the program has ended"
        return int(answer)
