"""A lease: a file that says which process owns a folder, on any file system that several hosts share (NFS, Lustre, FUSE, SMB).

    {"process": 4711, "host": "node1", "machine": boot and process namespace, "began": ticks, "token": ..., "since": ...}

The file is created exclusively, which is atomic where locks (flock) are missing or only local. Its owner updates its time stamp
every BEAT seconds. On the owner's machine the lease ends with its process, whatever ended it. On other machines it ends when its
time stamp has not changed for STALE seconds; it is compared with that of a file that was just written to the same folder, so that
the clocks of hosts and servers need not agree.
"""

import contextlib
import datetime
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

BEAT = 5.0  # seconds between two signs of life
STALE = 60.0  # seconds without one after which a lease of another machine has ended
_POLL = 0.2  # seconds


class Taken(Exception):
    """Another process owns the lease; `holder` names it in words."""

    def __init__(self, holder: str):
        self.holder = holder
        super().__init__(holder)


class Lease:
    """A lease that this process owns until `release`.

    Attributes:
      path: its file.
      token: distinguishes it from every other lease.
    """

    def __init__(self, path: Path, token: str, lost: Callable[[], None] | None):
        self.path, self.token = path, token
        self._lost, self._ended = lost, threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    @property
    def held(self) -> bool:
        """Whether the file still belongs to this process."""
        return not self._ended.is_set() and _read(self.path).get("token") == self.token

    def release(self) -> None:
        """End the lease, so that other processes need not wait until it is stale."""
        self._ended.set()
        if _read(self.path).get("token") == self.token:
            with contextlib.suppress(OSError):
                self.path.unlink()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            token = _read(self.path).get("token")
            if token == self.token:
                with contextlib.suppress(OSError):  # a disk that fails now may work at the next beat
                    os.utime(self.path)
            elif token is not None and not self._ended.is_set():  # this process was stopped for so long that another took over
                self._ended.set()
                if self._lost is not None:
                    self._lost()


def take(path: str | Path, *, wait: bool = False, lost: Callable[[], None] | None = None) -> Lease:
    """Acquire a lease.

    Args:
      path: its file; the folder must exist.
      wait: wait while another process owns it; otherwise wait only until it is certain whether its owner lives.
      lost: called, in another thread, if another process has taken the lease over because this one showed no sign of life.
    Raises:
      Taken: another process owns it, and `wait` is not set.
      OSError: the file cannot be written.
    """
    path = Path(path)
    seen, since = None, time.monotonic()
    while True:
        token = uuid.uuid4().hex
        if _create(path, token):
            return Lease(path, token, lost)
        state = _state(path)
        if state is None:
            continue  # it has just been given up
        content, moved = state
        if _ended(content) or not _here(content) and _age(path) > STALE:
            _remove(path, content)
            continue
        if not wait and (_here(content) or seen is not None and moved != seen):
            raise Taken(_name(content))
        if moved != seen:
            seen, since = moved, time.monotonic()
        elif not _here(content) and time.monotonic() - since > STALE:  # also where a file's time cannot be set
            _remove(path, content)
            continue
        time.sleep(_POLL)


@contextlib.contextmanager
def held(path: str | Path) -> Iterator[Lease]:
    """Hold a lease within the block; waits while another process holds it."""
    lease = take(path, wait=True)
    try:
        yield lease
    finally:
        lease.release()


def machine() -> str:
    """Identify the boot of the machine and the process namespace: within them, a process can be found by its number."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _create(path: Path, token: str) -> bool:
    """Create the file unless it exists; returns whether it was created."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    content = {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "machine": machine(),
        "began": _began(os.getpid()),
        "token": token,
        "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(json.dumps(content))
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise
    return True


def _read(path: Path) -> dict:
    """Return the content of a lease; {} if it cannot be read, or is not (yet) one."""
    try:
        content = json.loads(path.read_bytes()[:10_000])
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _state(path: Path) -> tuple[dict, tuple] | None:
    """Return (content, a value that changes with every heartbeat); None if there is no file."""
    try:
        with open(path, "rb") as file:  # opening it makes a network file system ask its server
            about = os.fstat(file.fileno())
    except FileNotFoundError:
        return None
    return _read(path), (about.st_mtime_ns, about.st_ino)


def _age(path: Path) -> float:
    """Return the seconds since the last heartbeat, by the clock of the file system."""
    probe = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.now")
    try:
        probe.write_bytes(b"")
        return (probe.stat().st_mtime_ns - path.stat().st_mtime_ns) / 1e9
    except OSError:
        return 0.0
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def _here(content: dict) -> bool:
    """Return whether the owner runs on this machine, so that it can be checked directly."""
    return os.name == "posix" and content.get("machine") == machine() and isinstance(content.get("process"), int)


def _ended(content: dict) -> bool:
    """Return whether the owner ran here and has ended."""
    if not _here(content):
        return False
    try:
        os.kill(content["process"], 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's
        pass
    return content.get("began", "") != _began(content["process"])


def _began(process: int) -> str:
    """Return when a process began, in Linux's ticks, so that a number that is used again is recognised; "" elsewhere."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _remove(path: Path, content: dict) -> None:
    """Remove a lease that has ended, but not one that another process has taken meanwhile."""
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.ended")
    try:
        os.rename(path, aside)  # one process alone succeeds
    except OSError:
        return
    if _read(aside).get("token") != content.get("token"):
        with contextlib.suppress(OSError):
            os.link(aside, path)
    with contextlib.suppress(OSError):
        aside.unlink()


def _name(content: dict) -> str:
    if not content:
        return "another process"
    return f"process {content.get('process')} on {content.get('host')} since {content.get('since')}"
