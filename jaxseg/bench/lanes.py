"""Several benches on one GPU at once: they build and compile side by side, and each has the machine to itself while it is timed.

On a card that is at hand for minutes, compiling is most of the time, and one program compiles on a few of the host's cores.
"""

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

FOLDER = "JAXSEG_BENCH_LANES"  # environment variable: a folder with a file per lane, named after its process group


def join(folder: Path, group: int) -> Path:
    """Register the process group of a lane; remove the file when the lane has ended."""
    path = folder / str(group)
    path.touch()
    return path


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """A context in which the processes of all other lanes are stopped; one lane at a time. Does nothing without lanes."""
    folder = os.environ.get(FOLDER)
    if not folder:
        yield
        return
    with open(Path(folder) / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        others = [int(path.name) for path in Path(folder).iterdir() if path.name.isdigit() and int(path.name) != os.getpgrp()]
        try:
            for group in others:
                _signal(group, signal.SIGSTOP)
            time.sleep(0.1)  # what they had given to the card ends
            yield
        finally:
            for group in others:
                _signal(group, signal.SIGCONT)


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
        os.killpg(group, number)
