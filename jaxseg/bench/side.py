"""One side of a comparison, in a process of its own: `python -m jaxseg.bench.side SUITE NAME SIDE OPTIONS`.

jax and PyTorch never share a process (both bring a thread pool and, on a GPU, a cuDNN). The parent, `pair.Pair`, asks
over stdin, one JSON object a line, and reads the answers from what was stdout; whatever libraries print goes to stderr.
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
    """How the parent wants a side.

    Attributes:
      folder: where the two sides of a pair leave weights and results for each other.
      gpu: the table is of a GPU: its sizes, bfloat16.
      quick: the smallest sizes, for tests.
      peers: the other side runs too (and has left its weights).
      modes: how PyTorch may run; the fastest of them is timed.
    """

    folder: str
    gpu: bool = False
    quick: bool = False
    peers: bool = False
    modes: tuple[str, ...] = ()

    def path(self, name: str) -> Path:
        return Path(self.folder) / name


class TimedCall(NamedTuple):
    """Something to be timed.

    Attributes:
      run: makes one call; the result may still be in the making.
      finish: waits for a result.
      facts: fields of the row known beforehand; with "value" that is the row's figure, and nothing is to be timed.
    """

    run: Callable[[], Any]
    finish: Callable[[Any], Any]
    facts: dict


def serve(suite: str, name: str, which: str, options: Options, requests, replies) -> None:
    """Answer "prepare CALL" with the call's facts and "time CALL RUNS" with milliseconds, until the input ends."""
    if options.gpu and which == "ours":
        import jax

        if jax.default_backend() != "gpu":
            raise ConfigError(
                f"this machine has a GPU and jax runs on {jax.default_backend()!r}; install jax[cuda13], or set "
                "JAX_PLATFORMS=cpu for a table of the CPU"
            )
    builds = getattr(importlib.import_module(f"jaxseg.bench.{suite}"), which)(name, options)
    calls: dict[str, TimedCall] = {}
    for line in requests:
        request = json.loads(line)
        call = request["call"]
        try:
            if request["do"] == "prepare":
                start = time.perf_counter()
                calls.clear()  # what the last work held is free for the next
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
