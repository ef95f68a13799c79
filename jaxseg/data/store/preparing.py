"""Prepare the cases of a store one after another, or several at once in worker processes, on one host or several.

Workers (`python -m jaxseg.data.store.preparing`) are fresh interpreters rather than forks, because jax's threads do not survive a
fork, and rather than those of `multiprocessing`, which would run the user's script again. A worker reads from its standard input
what all cases share, then some cases at a time (pickled by cloudpickle, which supports functions without a module), writes parts
(`parts.py`), and reports each one. The main process itself prepares the cases at which a worker failed or was killed, in their
order, so that messages are the same for any number of workers.
"""

import contextlib
import itertools
import math
import os
import pickle
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxseg.data.formats import own
from jaxseg.data.records import Case
from jaxseg.data.store.arrays import check_space, gib
from jaxseg.data.store.cases import Tally
from jaxseg.data.store.parts import Loose, PartIndex, Parts, PreparedCase
from jaxseg.types import ConfigError
from jaxseg.utils.machine import memory
from jaxseg.utils.machine.cores import cores

WORTH = 6.0  # seconds of work left for which workers are started; one needs some 2 s to start
INTERPRETER = 250 << 20  # bytes of a worker before its first case
PASSES = 8  # memory of preparing a case, in units of its prepared arrays (measured: 3.5 to 4.6 where the grid is kept or refined)
TOGETHER = 0.2  # seconds of work that a worker is given at once
EVERY = 5.0  # seconds between lines about the progress
FOLDERS, NOUNS = {2: "pictures", 3: "volumes"}, {2: "slices", 3: "volumes"}  # by the number of axes
OWN, FAILED = "own", "failed"  # what a worker answers about a case that is in no pack
_Length = struct.Struct(">Q")


class HostShare(NamedTuple):
    """The cases that a process of a run prepares (every `count`-th), and a function that waits for the other processes."""

    index: int
    count: int
    wait: Callable[[], None]


ALONE = HostShare(0, 1, lambda: None)


def folder_of(store: Path, name: str) -> Path:
    """Return the folder of the parts of a data set, beside its stores."""
    return store.parent / f".{name}.parts"


def spread(parts: Parts, final: Path, share: HostShare, workers: int | None) -> None:
    """Prepare this process's share of the cases unless the store exists, and wait for the other processes.

    If the processes share the folder, the one that builds the store finds all cases there; otherwise it prepares the others
    itself.
    """
    if share.count == 1:
        return
    if not final.is_dir():
        numbers = range(share.index, len(parts.dataset.cases), share.count)
        with CasePreparation(parts, workers=workers, numbers=numbers) as prepared:
            prepared.help()
    share.wait()


class CasePreparation:
    """The parts of a data set's cases in order; close it, or use it in a `with` block.

    Args:
      parts: the folder of the parts, and how cases are prepared.
      workers: number of processes; 1: only this one; None: as many as the cores and the memory allow, if that saves time.
      numbers: the cases to prepare; None: all.
    """

    def __init__(self, parts: Parts, *, workers: int | None = None, numbers: range | None = None):
        if workers is not None and workers < 1:
            raise ConfigError(f"got {workers} workers; must be at least 1")
        self._parts, self._asked = parts, workers
        self._numbers = numbers if numbers is not None else range(len(parts.dataset.cases))
        self._index = {case.id: i for i, case in enumerate(parts.dataset.cases)}
        self._found = PartIndex(parts)
        self._loose, self._bound = Loose(parts), time.monotonic()
        self._used: set[Path] = set()
        self._pool: _Pool | None = None
        self._decided, self._each, self._done = workers == 1, math.inf, 0

    def __call__(self, case: Case, tally: Tally) -> PreparedCase:
        """Return the part of a case, prepared now unless it is there, and add its counts.

        Raises:
          DataError: as `Parts.prepare` and `PreparedCase.report`.
        """
        part = self._part(self._index[case.id])
        part.report(tally, case.id)
        return part

    def _part(self, i: int) -> PreparedCase:
        if self._pool is not None and (name := self._pool.wait(i)) is not None:
            self._found.add(i, name)
        part = self._found.get(i)
        if part is not None:
            self._used.add(part.marker)
        else:
            if self._asked not in (None, 1) and not self._decided:
                self._start(i, self._asked)
                return self._part(i)
            part = self._timed(i)
        return part

    def help(self) -> None:
        """Prepare all cases of `numbers` for another process, which will report those that cannot be used."""
        for i in self._numbers:
            try:
                self._part(i)
            except Exception:  # noqa: S112 -- the process that builds the store gets the same error, and reports it
                continue
        self._loose.bind()

    def clear(self) -> None:
        """Remove the parts, once the store is complete."""
        self._parts.clear(self._used | self._loose.packs)

    def close(self) -> None:
        """End the workers."""
        self._found.close()
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def __enter__(self) -> "CasePreparation":
        return self

    def __exit__(self, kind, *_) -> None:
        self.close()
        if kind is not None:  # for the next start
            with contextlib.suppress(OSError):
                self._loose.bind()

    def _timed(self, i: int) -> PreparedCase:
        """Prepare a case here, and start workers for the rest if the fastest so far took long enough."""
        began = time.monotonic()
        part = self._parts.prepare(i, 1 if self._done else len(self._numbers))
        self._each, self._done = min(self._each, time.monotonic() - began), self._done + 1
        if self._loose.add(i, part):
            if self._loose.full or time.monotonic() - self._bound > TOGETHER:
                self._loose.bind()
                self._bound = time.monotonic()
        else:
            self._used.add(part.marker)
        if not self._decided and self._done > 1:
            left = len(self._numbers) - self._numbers.index(i) - 1 if i in self._numbers else 0
            if self._each * left > WORTH:
                self._start(i + 1, allowed(part, self._bytes(i), max(map(self._bytes, self._numbers)), left))
        return part

    def _start(self, first: int, workers: int) -> None:
        self._decided = True
        if workers > 1:
            numbers = [i for i in self._numbers if i >= first and i not in self._found]
            self._pool = _Pool(self._parts, numbers, workers) if numbers else None

    def _bytes(self, i: int) -> int:
        case = self._parts.dataset.cases[i]
        return sum(_size(path) for path in (*case.images, *case.parts))


def allowed(part: PreparedCase, of: int, largest: int, left: int) -> int:
    """Return how many workers fit: the cores, the cases left, and the memory, by the size of the largest case.

    Args:
      part: a prepared case.
      of: bytes of its files.
      largest: bytes of the largest case's files.
      left: number of cases left.
    """
    need = INTERPRETER + PASSES * part.bytes * max(1.0, largest / max(1, of))
    return int(max(1, min(cores(), left, memory.available() // 2 // need)))


class CaseProgress:
    """Bytes and cases so far: lines of progress, and whether the rest fits on the disk."""

    def __init__(self, name: str, count: int, log: Callable[[str], None]):
        self._name, self._count, self._log = name, count, log
        self._bytes, self._done, self._rank = 0, 0, 3
        self._started = self._said = time.monotonic()
        self._looked = -math.inf

    def add(self, size: int, rank: int, folder: Path | None = None) -> None:
        """Add a case of `size` bytes; with a folder, check once a second that the remaining ones fit there, this one included."""
        left, self._rank = self._count - self._done, rank
        self._bytes, self._done = self._bytes + size, self._done + 1
        now = time.monotonic()
        if folder is not None and now - self._looked > 1.0:
            self._looked = now
            check_space(folder, self._bytes * left // self._done, f"the remaining {left} of {self._count} cases need about")
        if now - self._said > EVERY:
            self._said = now
            kind = FOLDERS[self._rank]
            so_far = f"{kind}: {self._done}/{self._count} cases of {self._name}, {gib(self._bytes)}"
            self._log(f"{so_far}, {now - self._started:.0f} s")

    def end(self, examples: int) -> None:
        """Say what was made."""
        kind, noun = FOLDERS[self._rank], "slices" if self._rank == 2 else "cases"
        self._log(f"{kind}: {self._name}, {examples} {noun}, {gib(self._bytes)}, {time.monotonic() - self._started:.1f} s")


class _Pool:
    """Worker processes, each with a thread that assigns cases to it and reads its reports."""

    def __init__(self, parts: Parts, numbers: Sequence[int], workers: int):
        import cloudpickle

        self._waiting, self._names = set(numbers), {}  # cases that are not finished; where the others are
        self._left, self._changed, self._closed = iter(numbers), threading.Condition(), False
        self._parts, self._pickled = parts, cloudpickle.dumps
        content = cloudpickle.dumps((parts.of(()), own.registered()))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        command = [sys.executable, "-m", __name__]
        self._processes = [subprocess.Popen(command, env=environment, **pipes) for _ in range(min(workers, len(numbers)))]
        self._serving = len(self._processes)
        for process in self._processes:
            threading.Thread(target=self._serve, args=(process, content), name="preparing", daemon=True).start()

    def wait(self, i: int) -> str | None:
        """Wait until a worker has prepared case i, and return where (`PartIndex.add`), or None if no worker will."""
        with self._changed:
            self._changed.wait_for(lambda: i not in self._waiting)
            return self._names.pop(i, None)

    def close(self) -> None:
        self._closed = True
        for process in self._processes:
            process.kill()
            process.wait()

    def _serve(self, process: subprocess.Popen, content: bytes) -> None:
        given: dict[int, int] = {}  # number in what the worker was sent -> case
        try:
            _send(process, content)
            count, began = 1, time.monotonic()
            while not self._closed:
                with self._changed:
                    given = dict(enumerate(itertools.islice(self._left, count)))
                if not given:
                    break
                numbers = given.values()
                cases, texts = self._parts.dataset.cases, self._parts.sources.cases
                _send(process, self._pickled(([cases[i] for i in numbers], [texts[i] for i in numbers])))
                while given:
                    if not (answer := process.stdout.readline().decode().split()):
                        return  # killed: by the system for want of memory, or from outside
                    i = given.pop(int(answer[0]))
                    with self._changed:
                        self._waiting.discard(i)
                        if answer[1] != FAILED:
                            self._names[i] = "" if answer[1] == OWN else answer[1]
                        self._changed.notify_all()
                took, began = time.monotonic() - began, time.monotonic()
                count = max(1, min(2 * count, int(count * TOGETHER / max(took, 1e-6))))
        except OSError:  # it has ended, and its pipe with it
            pass
        finally:
            self._leave(process, given.values())

    def _leave(self, process: subprocess.Popen, given: Iterable[int]) -> None:
        """Give a worker's unfinished cases back to the main process; after the last worker, all unfinished cases."""
        try:
            process.stdin.close()
        except OSError:
            pass
        with self._changed:
            self._serving -= 1
            self._waiting = self._waiting.difference(given) if self._serving else set()
            self._changed.notify_all()


def _size(path: Path) -> int:
    try:
        about = path.stat()
        return sum(p.stat().st_size for p in path.iterdir()) if stat.S_ISDIR(about.st_mode) else about.st_size
    except OSError:
        return 0


def _send(process: subprocess.Popen, content: bytes) -> None:
    process.stdin.write(_Length.pack(len(content)) + content)
    process.stdin.flush()


def _received() -> Iterator[Any]:
    """Yield what the process that started this one sends, until it closes the pipe or ends."""
    while len(head := sys.stdin.buffer.read(_Length.size)) == _Length.size:
        (length,) = _Length.unpack(head)
        if len(content := sys.stdin.buffer.read(length)) < length:
            return
        yield pickle.loads(content)


def main() -> None:
    """Prepare the cases that the main process sends, until it closes the pipe or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's
    received = _received()
    shared, readers = next(received)
    own.restore(readers)
    answers, sys.stdout = sys.stdout, sys.stderr

    def bind(loose: Loose) -> None:
        try:
            found = [(i, path.name) for i, path in loose.bind()]
        except OSError:  # such as a full disk, which the main process meets too, and says so
            found = [(i, FAILED) for i in loose.drop()]
        answers.write("".join(f"{i} {name}\n" for i, name in found))
        answers.flush()

    for cases, texts in received:
        parts = shared.of(cases, texts)
        loose = Loose(parts)
        for i in range(len(cases)):
            try:
                held = loose.add(i, parts.prepare(i))
            except Exception:  # the main process meets it too, and says so
                answers.write(f"{i} {FAILED}\n")
                continue
            if not held:
                answers.write(f"{i} {OWN}\n")
            if not held or loose.full:
                bind(loose)
        bind(loose)


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # the main process was killed
        os._exit(0)
