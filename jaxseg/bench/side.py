"""One side of a comparison in a separate process: `python -m jaxseg.bench.side SUITE NAME SIDE OPTIONS`.

jax and PyTorch never share a process, because each has a thread pool and, on a GPU, its own cuDNN. The parent (`pair.Process`)
sends requests to stdin, one JSON object per line, and reads the answers from stdout; the output of libraries goes to stderr.
"""

import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jaxseg.bench import clock
from jaxseg.types import ConfigError


class Options(NamedTuple):
    """Options of a side, from the parent process.

    Attributes:
      folder: folder in which the two sides of a pair exchange weights and results.
      gpu: measure on a GPU, with its sizes and bfloat16.
      quick: use the smallest sizes, for tests.
      peers: whether the other side runs too (and has saved its weights).
      modes: PyTorch's execution modes to try; the fastest is timed.
    """

    folder: str
    gpu: bool = False
    quick: bool = False
    peers: bool = False
    modes: tuple[str, ...] = ()

    def path(self, name: str) -> Path:
        return Path(self.folder) / name


class TimedCall(NamedTuple):
    """A call to be timed.

    Attributes:
      run: function that starts one call and returns its result, which need not be finished.
      finish: function that waits for a result.
      facts: known fields of the row; if it has "value", this is the row's figure and nothing is timed.
    """

    run: Callable[[], Any]
    finish: Callable[[Any], Any]
    facts: dict


def serve(suite: str, name: str, which: str, options: Options, requests, replies) -> None:
    """Answer requests until the input ends: "prepare CALL" with the call's facts, "time CALL RUNS" with milliseconds."""
    if options.gpu and which == "ours":
        import jax

        if jax.default_backend() != "gpu":
            raise ConfigError(
                f"this machine has a GPU, but jax runs on {jax.default_backend()!r}; install jax[cuda13], or set "
                "JAX_PLATFORMS=cpu to measure the CPU"
            )
    builds = getattr(importlib.import_module(f"jaxseg.bench.suites.{suite}"), which)(name, options)
    calls: dict[str, TimedCall] = {}
    for line in requests:
        request = json.loads(line)
        call = request["call"]
        try:
            if request["do"] == "prepare":
                start = time.perf_counter()
                calls.clear()  # free the memory of the previous task
                calls[call] = builds[call]()
                answer = {"prepare_s": time.perf_counter() - start, **calls[call].facts}
            else:
                answer = {"ms": clock.block(calls[call].run, request["runs"], calls[call].finish)}
        except Exception as error:
            traceback.print_exc()
            answer = {"failure": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]}
        replies.write(json.dumps(answer) + "\n")
        replies.flush()


def main() -> None:
    suite, name, which, options = sys.argv[1:]
    with os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)
        fields = json.loads(options)
        serve(suite, name, which, Options(**{**fields, "modes": tuple(fields["modes"])}), sys.stdin, replies)


if __name__ == "__main__":
    main()
