"""Runs of jaxseg.main that cost no imports: one process imports the program and is forked for each of them.

Each run is a process of its own, with its arguments, environment and exit code; the parent has touched no device and has
one thread, so that a fork starts where `python -m jaxseg.main` stands after its imports.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
_SERVER = """
import json, os, signal, sys
import jaxseg.main
import jaxseg.modes  # noqa: F401 -- what a run imports once its config is sound
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        signal.alarm(order["seconds"])
        os.environ.clear()
        os.environ.update(order["environment"])
        for number, path in enumerate(("/dev/null", order["stdout"], order["stderr"])):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
        sys.argv = ["jaxseg.main", *order["flags"]]
        try:
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
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Done(NamedTuple):
    """How a run ended."""

    returncode: int
    stdout: str
    stderr: str


class Program:
    """jaxseg.main, imported once. Use as a context manager."""

    def __enter__(self):
        self._scratch = tempfile.TemporaryDirectory()
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )
        return self

    def __exit__(self, *error):
        self._server.stdin.close()
        self._server.wait(timeout=60)
        self._server.stdout.close()
        self._scratch.cleanup()

    def run(self, *flags: str, environment: dict[str, str], seconds: int = 240) -> Done:
        """`python -m jaxseg.main FLAGS` in this environment, to its end; after so many seconds it is killed (code -14)."""
        files = [os.path.join(self._scratch.name, name) for name in ("stdout", "stderr")]
        order = {
            "flags": list(map(str, flags)),
            "environment": environment,
            "stdout": files[0],
            "stderr": files[1],
            "seconds": seconds,
        }
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        code = self._server.stdout.readline()
        assert code, "the process that holds the program has ended"
        return Done(int(code), *(Path(file).read_text() for file in files))
