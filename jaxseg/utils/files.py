"""Atomic writing of files, building a folder once under a lock, digests, and the cache folder."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxseg.types import StorageError


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


@contextlib.contextmanager
def lock(path: str | Path) -> Iterator[None]:
    """Hold an exclusive lock on the file `path`, which is created if absent, during the block; it ends if the process dies."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


def build_folder(final: str | Path, build: Callable[[Path], None]) -> Path:
    """Build a folder unless it exists: `build` fills a temporary folder under a lock, which is then renamed to `final`.

    Two processes that call this at the same time build the folder once. A build that fails leaves no folder `final`.

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
        with lock(final.parent / f".{final.name}.lock"):
            if final.is_dir():
                return final
            for left in final.parent.glob(f".{final.name}.*.building"):
                shutil.rmtree(
                    left, ignore_errors=True
                )  # left by a killed process: the lock is free, so no other process is building
            temporary = final.parent / f".{final.name}.{uuid.uuid4().hex[:8]}.building"
            temporary.mkdir()
            try:
                build(temporary)
                os.replace(temporary, final)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"cannot build {final}: {error}; free space or set JAXSEG_CACHE to another folder") from error
    return final


def digest(*parts: bytes | str) -> str:
    """Hexadecimal blake2b digest (16 bytes) of several parts; ("ab","c") and ("a","bc") have different digests."""
    h = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else bytes(part)
        h.update(len(data).to_bytes(8, "little"))
        h.update(data)
    return h.hexdigest()


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
