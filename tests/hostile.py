"""What tests of readers share: special files, a bound on time, and small mutations of good files."""

import contextlib
import os
import random
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

SPECIAL = ("pipe", "device", "socket", "folder", "nothing", "broken link")
_PIECES = (
    b"\x00",
    b"\xff",
    b"\x7f\xff\xff\xff",
    b"\xff" * 8,
    b"(",
    b"]",
    b"}",
    b".",
    b"R",
    b"[",
    b"{",
    b",",
    b'"',
    b"-1",
    b"1e9",
)


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fails a block that takes more seconds of this process, or ten times as many on the clock, as a reader that hangs does.

    The process's own time counts, for on busy cores a block may wait for its turn.
    """

    def late(signum, frame):
        raise AssertionError(f"took more than {seconds} s")

    before = {kind: signal.signal(kind, late) for kind in (signal.SIGALRM, signal.SIGPROF)}
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 10 * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for kind, handler in before.items():
            signal.signal(kind, handler)


def special(kind: str, path: Path) -> Path:
    """Something at `path` that is no regular file."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's name has at most 108 bytes
        try:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(path.name)
        finally:
            os.chdir(here)
    elif kind == "folder":
        path.mkdir()
    elif kind == "broken link":
        path.symlink_to(path.with_name("nowhere"))
    return path


def mutations(data: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """`count` copies of a file with one to four places changed, cut, doubled or taken out; the same ones every time."""
    rng = random.Random(seed)
    for _ in range(count):
        bad = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            at, n = rng.randrange(len(bad)), rng.choice((1, 2, 4, 8, 40))
            kind = rng.randrange(6)
            if kind == 0:
                bad[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                bad[at : at + n] = rng.randbytes(n)
            elif kind == 2:
                piece = rng.choice(_PIECES)
                bad[at : at + len(piece)] = piece
            elif kind == 3:
                bad[at:at] = bad[max(0, at - n) : at]
            elif kind == 4:
                del bad[at : at + n]
            else:
                del bad[max(at, len(bad) // 2) :]
            bad = bad or bytearray(b"\0")
        yield bytes(bad)


def one_line(error: BaseException) -> str:
    """The message of an error, checked to be one printable line of bearable length."""
    text = str(error)
    assert text.isprintable() and len(text) < 700, text[:2000]
    return text
