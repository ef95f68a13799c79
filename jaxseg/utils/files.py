"""Atomic writing of files, building a folder once under a lease, digests, and the cache folder."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

from jaxseg.types import StorageError
from jaxseg.utils.machine import lease as leases


def write_atomic(path: str | Path, content: bytes | str) -> None:
    """Write a file atomically: other processes, and a power cut, leave either the old or the new content.

    Raises:
      StorageError: the file cannot be written (disk full, read-only or missing).
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise StorageError(f"cannot write {path}: {error.strerror or error}; free space or choose another folder") from error


def make_folder(path: Path, flag: str) -> None:
    """Create a folder if it does not exist, and check that it is writable.

    Args:
      path: the folder.
      flag: the flag that named it, for the message ("--output=out").
    Raises:
      StorageError: the folder cannot be created or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(b"0")
    except OSError as error:
        raise StorageError(
            f"{flag}: the folder cannot be created or written ({error.strerror or error}); choose another folder"
        ) from error


def write_json(path: str | Path, value) -> None:
    """Write an indented JSON file with sorted keys atomically; NaN and infinities, which JSON lacks, become null."""
    text = lambda value: json.dumps(value, indent=2, sort_keys=True, default=str, allow_nan=False)
    try:
        content = text(value)
    except ValueError:
        content = text(json.loads(json.dumps(value, default=str), parse_constant=lambda constant: None))
    write_atomic(path, content + "\n")


def build_folder(final: str | Path, build: Callable[[Path], None]) -> Path:
    """Build a folder unless it exists: `build` fills a temporary folder under a lease, which is then renamed to `final`.

    Processes that call this at the same time, on one host or several, build the folder once. A build that fails leaves no folder
    `final`.

    Args:
      final: path of the folder.
      build: function that fills the empty folder it is given.
    Returns:
      `final` as a Path; the folder is complete.
    Raises:
      StorageError: the folder cannot be created or written.
    """
    final = Path(final)
    if final.is_dir():
        return final
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        while not final.is_dir():
            with leases.held(final.parent / f".{final.name}.lock") as lease:
                if not final.is_dir():
                    _build(final, build, lease)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"cannot build {final}: {error}; free space or set JAXSEG_CACHE to another folder") from error
    return final


def _build(final: Path, build: Callable[[Path], None], lease: leases.Lease) -> None:
    """Fill a temporary folder and rename it; returns without `final` if another process has taken the lease over."""
    for left in final.parent.glob(f".{final.name}.*.building"):
        shutil.rmtree(left, ignore_errors=True)  # its builder's lease has ended: the process is gone, or has been stopped
    temporary = final.parent / f".{final.name}.{lease.token[:8]}.building"
    temporary.mkdir()
    try:
        build(temporary)
        os.rename(temporary, final)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not isinstance(error, OSError) or lease.held and not final.is_dir():  # else: built, or being built, by another process
            raise


def digest(*parts: bytes | str) -> str:
    """Hexadecimal blake2b digest (16 bytes) of several parts; ("ab","c") and ("a","bc") have different digests."""
    h = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else bytes(part)
        h.update(len(data).to_bytes(8, "little"))
        h.update(data)
    return h.hexdigest()


def digests(first: str, others: Iterable[str]) -> list[str]:
    """Return digest(first, other) for each of many others, in less than half the time."""
    length = lambda data: len(data).to_bytes(8, "little")
    begun = hashlib.blake2b(length(first.encode()) + first.encode(), digest_size=16)
    found = []
    for data in map(str.encode, others):
        (h := begun.copy()).update(length(data) + data)
        found.append(h.hexdigest())
    return found


def file_digest(path: str | Path) -> str:
    """Hexadecimal blake2b digest (16 bytes) of a file's bytes, read piece by piece.

    Raises:
      OSError: the file cannot be read.
    """
    h = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            h.update(part)
    return h.hexdigest()


def plain_name(text: str) -> str:
    """A text that can be part of a file name: other characters than letters, digits, dots, dashes become underscores."""
    return re.sub(r"[^\w.-]", "_", text)


def cache_root() -> Path:
    """Folder for derived data: $JAXSEG_CACHE, else $XDG_CACHE_HOME/jaxseg, else ~/.cache/jaxseg.

    Raises:
      StorageError: neither variable is set, and this user has no home folder.
    """
    ours = os.environ.get("JAXSEG_CACHE")
    try:
        return Path(ours).expanduser() if ours else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxseg"
    except RuntimeError as error:  # HOME is not set, and the system does not know this user
        raise StorageError("this user has no home folder for cached data; set JAXSEG_CACHE to a folder") from error
