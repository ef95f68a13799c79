"""Run several benchmarks on one GPU: they compile in parallel, but each has the machine for itself while it is timed.

Most of the time of a benchmark is compilation, which uses only a few cores of the host.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

FOLDER = "JAXSEG_BENCH_LANES"  # environment variable: a folder with one file per lane, named after its process group


def join(folder: Path, group: int) -> Path:
    """Register the process group of a lane by a file, which is removed when the lane ends."""
    path = folder / str(group)
    path.touch()
    return path


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Stop the processes of all other lanes within the block, for one lane at a time. Does nothing without lanes."""
    folder = os.environ.get(FOLDER)
    if not folder:
        yield
        return
    import fcntl  # which Windows lacks

    with open(Path(folder) / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        others = [int(path.name) for path in Path(folder).iterdir() if path.name.isdigit() and int(path.name) != os.getpgrp()]
        try:
            for group in others:
                _signal(group, signal.SIGSTOP)
            time.sleep(0.1)  # the work that they have already queued on the GPU finishes
            yield
        finally:
            for group in others:
                _signal(group, signal.SIGCONT)


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
        os.killpg(group, number)
