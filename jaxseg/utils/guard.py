"""Files that others wrote: opened only where they are regular files, read in bounded amounts, never believed.

Every reader goes through here, so that a pipe, a device, a lie about a size or a tree without an end is one line.
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

MAX_JSON = 64 << 20  # bytes of a JSON file
MAX_ENTRIES = 1_000_000  # of a tree, whatever it is written in
MAX_DEPTH = 60  # of nesting
MAX_AXES = 32  # of an array
MAX_AXIS = 1 << 62  # its longest axis: what a 64-bit index can count


def one_line(text: str) -> str:
    """The text with every character that cannot be printed, line ends too, as its \\x code."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def shown(value: Any, limit: int = 60) -> str:
    """A few words on a value from a file, at a cost that does not depend on what the file made of it."""
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


def check_regular(path: str | Path, *, folder_too: bool = False) -> None:
    """Refuse, without opening it, what is no regular file (or folder, if allowed). Links are followed.

    Raises:
      DataError: DATA_MISSING when nothing is there, DATA_PATH for pipes, devices and sockets.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise DataError(
            one_line(
                f"{path}: cannot be found ({getattr(error, 'strerror', None) or error}); must be a file"
                f"{' or folder' if folder_too else ''}; check the path"
            ),
            "DATA_MISSING",
        ) from None
    if not (stat.S_ISREG(mode) or folder_too and stat.S_ISDIR(mode)):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, device or socket"
        raise DataError(
            one_line(f"{path}: {kind}; must be a regular file{' or a folder' if folder_too else ''}; give the file itself"),
            "DATA_PATH",
        )


class Clamped:
    """A binary file whose `read` allocates no more than the file holds, whatever length is asked for.

    Attributes:
      limit: most bytes of one read; more is refused.
    """

    def __init__(self, file: BinaryIO, limit: int | None = None):
        self._file, self.limit = file, limit
        self.size = os.fstat(file.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        left = max(self.size - self._file.tell(), 0)
        size = left if size is None or size < 0 else min(size, left)
        if self.limit is not None and size > self.limit:
            raise DataError(f"asks for {size:,} bytes at once; at most {self.limit:,} are read", "DATA_TOO_LARGE")
        return self._file.read(size)

    def readline(self, size: int = -1) -> bytes:
        return self._file.readline(size)

    def __getattr__(self, name: str):
        return getattr(self._file, name)


def open_regular(path: str | Path) -> BinaryIO:
    """`open(path, "rb")` of a regular file.

    Raises:
      DataError: DATA_MISSING, DATA_PATH (see `check_regular`), or DATA_PATH where the system refuses.
    """
    check_regular(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # should it have become a pipe since
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError("it is no regular file any more")
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
    """Turns whatever a parser throws at a broken file into one line.

    Args:
      path: the file.
      what: what it should have been ("PyTorch weight file").
      quote: repeat the parser's own words, which may hold what stands in the file.
    Raises:
      DataError: with the path in front, DATA_FORMAT where the parser gave up in a way of its own; other errors of ours as
        they are.
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
            one_line(f"{path}: needs more memory than there is; no whole {what}, or too large for this machine"), "DATA_TOO_LARGE"
        ) from error
    except Exception as error:  # parsers of binary formats fail in every way there is; all mean the same
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL, errno.EOVERFLOW):  # those: a seek to nowhere
            raise unreadable(path, error) from error
        detail = one_line(str(error))[:120] if quote else ""
        raise DataError(
            one_line(
                f"{path}: is no whole {what} ({type(error).__name__}{': ' if detail else ''}{detail}); copy or export it again"
            ),
            "DATA_FORMAT",
        ) from error


def array_bytes(shape: Any, itemsize: int) -> int:
    """Bytes of an array whose shape a file states.

    Raises:
      DataError: it is no shape: not a sequence of at most MAX_AXES whole numbers of 0..MAX_AXIS.
    """
    sizes = shape if isinstance(shape, tuple | list) and len(shape) <= MAX_AXES else [-1]
    if not all(type(n) is int and 0 <= n <= MAX_AXIS for n in sizes):
        raise DataError(
            f"states the shape {shown(shape)}; a shape has at most {MAX_AXES} sizes, none negative; export it again",
            "DATA_HEADER",
        )
    return math.prod(shape) * itemsize


def read_bytes(path: str | Path, limit: int) -> bytes:
    """All of a regular file of at most `limit` bytes.

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
            one_line(f"{path}: is longer than {limit:,} bytes; must be a file of text; check the path"), "DATA_TOO_LARGE"
        )
    return content


def read_text(path: str | Path, limit: int = MAX_JSON) -> str:
    """All of a regular file in UTF-8 (with or without its mark), line ends as \\n.

    Raises:
      DataError: as `read_bytes`, and DATA_FORMAT for other encodings.
    """
    content = read_bytes(path, limit)
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise DataError(
            one_line(f"{path}: is no text in UTF-8 (byte {error.start}); must be UTF-8; save it as such"), "DATA_FORMAT"
        ) from error


def read_json(path: str | Path, limit: int = MAX_JSON) -> Any:
    """A JSON file of at most `limit` bytes, MAX_ENTRIES entries and MAX_DEPTH levels.

    Raises:
      DataError: as `read_bytes`, and DATA_FORMAT.
    """
    content = read_bytes(path, limit)
    try:
        return parse_json(content)
    except ValueError as error:
        code = error.code if isinstance(error, DataError) else "DATA_FORMAT"
        raise DataError(one_line(f"{path}: is no JSON that can be read ({error}); restore it from a copy"), code) from error


def parse_json(content: bytes) -> Any:
    """The value of a JSON text, bounded as in `read_json`.

    Raises:
      ValueError: no JSON, a key twice in one object, too deep or too many entries.
    """
    if sum(map(content.count, (b",", b"[", b"{"))) > MAX_ENTRIES:
        raise DataError(f"more than {MAX_ENTRIES:,} entries", "DATA_TOO_LARGE")
    try:
        value = json.loads(content, object_pairs_hook=_unique)
    except RecursionError:
        raise DataError(f"more than {MAX_DEPTH} levels", "DATA_FORMAT") from None
    level, depth = [value] if isinstance(value, dict | list) else [], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise DataError(f"more than {MAX_DEPTH} levels", "DATA_FORMAT")
        level = [x for v in level for x in (v.values() if isinstance(v, dict) else v) if isinstance(x, dict | list)]
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))
        raise ValueError(f"the key {shown(twice)} stands twice in one object")
    return found
