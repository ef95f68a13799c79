"""Safe reading of untrusted files: only regular files are opened, and sizes, counts and depths are bounded.

All readers use these functions, so that a pipe, a device, a wrong size or endless nesting gives a one-line error.
"""

import contextlib
import errno
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from jaxseg.types import DataError, JaxsegError

# what the system has of these; without O_NONBLOCK a path that has become a pipe would be waited for
READ = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
MAX_JSON = 64 << 20  # bytes of a JSON file
MAX_ENTRIES = 1_000_000  # of nested content in any format
MAX_DEPTH = 60  # of nesting
MAX_AXES = 32  # of an array
MAX_AXIS = 1 << 62  # the longest axis that a 64-bit index can count
POINTER_BYTES = 1024  # pointers are shorter
POINTERS = (
    (b"version https://git-lfs.github.com/", "Git LFS", "git lfs pull"),
    (b"/annex/objects/", "git-annex", "git annex get"),
)


def one_line(text: str) -> str:
    """The text with all characters that cannot be printed, including line ends, replaced by \\x codes."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def shown(value: Any, limit: int = 60) -> str:
    """A short text for a value from a file, for messages; its cost does not depend on the value's size or nesting."""
    if isinstance(value, str | bytes):
        return repr(value[:limit]) + ("..." if len(value) > limit else "")
    if isinstance(value, bool | float | None):
        return repr(value)
    if isinstance(value, int):
        return repr(value) if value.bit_length() <= 64 else f"an integer of {value.bit_length():,} bits"
    if isinstance(value, tuple | list) and len(value) <= 8 and all(isinstance(v, bool | int | float | None) for v in value):
        return "[" + ", ".join(shown(v) for v in value) + "]"
    if isinstance(value, tuple | list | set | frozenset | Mapping):
        return f"a {type(value).__name__} of {len(value):,}"
    return f"a {type(value).__name__}"


def check_regular(path: str | Path, *, folder_too: bool = False) -> bool:
    """Refuse a path that is not a regular file (or folder, if `folder_too`), without opening it; returns whether it is a folder.

    Links are followed.

    Raises:
      DataError: DATA_MISSING if it does not exist or is the pointer of a file that was not fetched, DATA_PATH for pipes, devices
        and sockets.
    """
    try:
        about = os.stat(path)
    except (OSError, ValueError) as error:
        raise DataError(
            one_line(
                f"{path}: cannot be found ({getattr(error, 'strerror', None) or error}); must be a file"
                f"{' or folder' if folder_too else ''}; check the path"
            ),
            "DATA_MISSING",
        ) from None
    mode = about.st_mode
    if not (stat.S_ISREG(mode) or folder_too and stat.S_ISDIR(mode)):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, device or socket"
        raise DataError(
            one_line(f"{path}: is {kind}; must be a regular file{' or a folder' if folder_too else ''}; give the file itself"),
            "DATA_PATH",
        )
    if stat.S_ISREG(mode) and about.st_size < POINTER_BYTES:
        _check_there(path)
    return stat.S_ISDIR(mode)


def _check_there(path: str | Path) -> None:
    """Refuse the pointers that Git LFS and git-annex leave where a file's content was not fetched."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        begin = file.read(POINTER_BYTES)
        for mark, what, remedy in POINTERS:
            if begin.startswith(mark):
                text = f"{path}: is a pointer of {what}, the file itself is not there; fetch it with {remedy}"
                raise DataError(one_line(text), "DATA_MISSING")


class Clamped:
    """A binary file whose `read` never allocates more memory than the file is long.

    Attributes:
      limit: largest number of bytes in one read; a longer read is refused.
    """

    def __init__(self, file: BinaryIO, limit: int | None = None):
        self._file, self.limit = file, limit
        self.size = os.fstat(file.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        left = max(self.size - self._file.tell(), 0)
        size = left if size is None or size < 0 else min(size, left)
        if self.limit is not None and size > self.limit:
            raise DataError(f"needs a read of {size:,} bytes at once; at most {self.limit:,} are allowed", "DATA_TOO_LARGE")
        return self._file.read(size)

    def readline(self, size: int = -1) -> bytes:
        return self._file.readline(size)

    def __getattr__(self, name: str):
        return getattr(self._file, name)


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading in binary mode.

    Raises:
      DataError: DATA_MISSING or DATA_PATH (see `check_regular`), also DATA_PATH if the system does not allow it.
    """
    check_regular(path)
    try:
        descriptor = os.open(path, READ)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError("it is not a regular file any more")
            return os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: str | Path, error: OSError) -> DataError:
    """The error for a file that the system does not let this process read."""
    return DataError(
        one_line(f"{path}: cannot be read ({error.strerror or error}); must be a readable file; check permissions and disk"),
        "DATA_PATH",
    )


@contextlib.contextmanager
def reading(path: str | Path, what: str, *, quote: bool = True) -> Iterator[None]:
    """Turn any exception of a parser within the block into a one-line error.

    Args:
      path: the file.
      what: the expected kind of file, for the message ("PyTorch weight file").
      quote: include the parser's message, which may contain parts of the file.
    Raises:
      DataError: starts with the path; DATA_FORMAT for the parser's own exceptions. Other errors of jaxseg are not changed.
    """
    try:
        yield
    except DataError as error:
        text = str(error)
        raise DataError(one_line(text if str(path) in text else f"{path}: {text}"), error.code) from error
    except JaxsegError:
        raise
    except MemoryError as error:
        raise DataError(
            one_line(f"{path}: needs more memory than available; broken {what}, or too large for this machine"), "DATA_TOO_LARGE"
        ) from error
    except Exception as error:  # parsers of binary formats can raise any exception; all mean the same
        if isinstance(error, OSError) and error.errno not in (
            None,
            errno.EINVAL,
            errno.EOVERFLOW,
        ):  # these come from a seek to an impossible position
            raise unreadable(path, error) from error
        detail = one_line(str(error))[:120] if quote else ""
        raise DataError(
            one_line(
                f"{path}: is not a whole {what} ({type(error).__name__}{': ' if detail else ''}{detail}); copy or export it again"
            ),
            "DATA_FORMAT",
        ) from error


def array_bytes(shape: Any, itemsize: int) -> int:
    """Number of bytes of an array, from a shape in a file.

    Raises:
      DataError: the shape is not a sequence of at most MAX_AXES whole numbers in 0..MAX_AXIS.
    """
    sizes = shape if isinstance(shape, tuple | list) and len(shape) <= MAX_AXES else [-1]
    if not all(type(n) is int and 0 <= n <= MAX_AXIS for n in sizes):
        raise DataError(
            f"has the shape {shown(shape)}; must have at most {MAX_AXES} sizes, none negative; export it again", "DATA_HEADER"
        )
    return math.prod(shape) * itemsize


def read_bytes(path: str | Path, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes.

    Raises:
      DataError: DATA_MISSING, DATA_PATH, or DATA_TOO_LARGE.
    """
    with open_regular(path) as file:
        try:
            content = file.read(limit + 1)
        except OSError as error:
            raise unreadable(path, error) from error
    if len(content) > limit:
        raise DataError(
            one_line(f"{path}: is longer than {limit:,} bytes; must be a shorter text file; check the path"), "DATA_TOO_LARGE"
        )
    return content


def read_text(path: str | Path, limit: int = MAX_JSON) -> str:
    """Read a regular text file in UTF-8 (with or without a byte order mark); line ends become \\n.

    Raises:
      DataError: see `read_bytes`, and DATA_FORMAT for other encodings.
    """
    content = read_bytes(path, limit)
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise DataError(
            one_line(f"{path}: is not UTF-8 text (byte {error.start}); save it in the encoding UTF-8"), "DATA_FORMAT"
        ) from error


def read_json(path: str | Path, limit: int = MAX_JSON) -> Any:
    """Read a JSON file of at most `limit` bytes, MAX_ENTRIES entries and MAX_DEPTH levels.

    Raises:
      DataError: see `read_bytes`, and DATA_FORMAT for content that is not JSON.
    """
    content = read_bytes(path, limit)
    try:
        return parse_json(content)
    except ValueError as error:
        code = error.code if isinstance(error, DataError) else "DATA_FORMAT"
        raise DataError(one_line(f"{path}: is not readable JSON ({error}); restore it from a copy"), code) from error


def parse_json(content: bytes) -> Any:
    """The value of a JSON text, with the limits of `read_json`.

    Raises:
      ValueError: the text is not JSON, an object has a key twice, or there are too many levels or entries.
    """
    if sum(map(content.count, (b",", b"[", b"{"))) > MAX_ENTRIES:
        raise DataError(f"it has more than {MAX_ENTRIES:,} entries", "DATA_TOO_LARGE")
    try:
        value = json.loads(content, object_pairs_hook=_unique)
    except RecursionError:
        raise DataError(f"it has more than {MAX_DEPTH} levels", "DATA_FORMAT") from None
    level, depth = [value] if isinstance(value, dict | list) else [], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise DataError(f"it has more than {MAX_DEPTH} levels", "DATA_FORMAT")
        level = [x for v in level for x in (v.values() if isinstance(v, dict) else v) if isinstance(x, dict | list)]
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))
        raise ValueError(f"the key {shown(twice)} occurs twice in one object")
    return found
