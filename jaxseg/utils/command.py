"""The two ends of every command: signals, streams and file permissions before it, one line and an exit code after it."""

import argparse
import contextlib
import errno
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from jaxseg.types import ConfigError, JaxsegError, StorageError
from jaxseg.utils import output

INTERRUPTED = 130  # exit code of Ctrl-C
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_pressed = 0  # how often Ctrl-C was pressed


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes end as everywhere in jaxseg: one line, code 64."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"command line: {message}; {self.prog} --help lists what it takes")


def begin(*, stop_code: int | None = None) -> None:
    """To be called before anything heavy is imported: a closed stream is no file of ours, Ctrl-C is one line.

    Args:
      stop_code: with which SIGTERM ends the process, until another handler is set; None: as the system does.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: no file that is opened later becomes "stdout"
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, lambda *_: _leave("interrupted", INTERRUPTED))
        if stop_code is not None:
            signal.signal(signal.SIGTERM, lambda *_: _leave("stopped by SIGTERM before anything was done", stop_code))


def _leave(what: str, code: int) -> NoReturn:
    print(f"jaxseg: {what}", file=sys.stderr, flush=True)
    os._exit(code)


def _note(signum, frame) -> None:
    global _pressed
    _pressed += 1
    if _pressed > 2:  # whoever keeps it busy does not let go
        os._exit(INTERRUPTED)
    raise KeyboardInterrupt


def check_interrupt() -> None:
    """Raise KeyboardInterrupt if Ctrl-C was pressed: the one that Python raised may have met a callback or a destructor, whose
    exceptions are printed and forgotten. Loops ask once a turn.
    """
    if _pressed:
        raise KeyboardInterrupt


def run(name: str, main: Callable[[], int | None], *, leave: Callable[[int], NoReturn] = sys.exit) -> NoReturn:
    """Run a command to its exit code. What a user can cause is one line on the error stream.

    A reader of the output who leaves (`| head`) stops nothing. JAXSEG_UMASK (octal, such as 077) is the mask of the files and
    folders that are made; without it the process's own counts.

    Args:
      name: in front of the line.
      main: the command.
      leave: ends the process with its code.
    """
    global _pressed
    start, _pressed = time.perf_counter(), 0
    out, err = sys.stdout, sys.stderr = _Steady(sys.stdout), _Steady(sys.stderr)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _note)
    try:
        _set_umask()
        code = main() or 0
        check_interrupt()
    except JaxsegError as error:
        output.event("error", code=error.exit_code, kind=type(error).__name__, message=str(error))
        code = _end(f"{name}: {error}", error.exit_code)
    except KeyboardInterrupt:
        code = _end(f"{name}: interrupted after {time.perf_counter() - start:.0f} s", INTERRUPTED)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _FULL:
            code = _end(
                f"{name}: cannot write {error.filename or 'a file'}: {error.strerror}; free space or choose another folder",
                StorageError.exit_code,
            )
        else:
            traceback.print_exc()
            code = 1
    output.event("end", code=code, seconds=time.perf_counter() - start)
    out.flush()
    if code == 0 and out.lost is not None and out.lost.errno != errno.EPIPE:
        code = _end(f"{name}: cannot write to the standard output: {out.lost.strerror}; free space", StorageError.exit_code)
    err.flush()
    leave(code)


def _end(line: str, code: int) -> int:
    print(line, file=sys.stderr)
    return code


def _set_umask() -> None:
    text = os.environ.get("JAXSEG_UMASK")
    if text:
        try:
            mask = int(text, 8)
            if not 0 <= mask <= 0o777 or mask & 0o700:
                raise ValueError
        except ValueError:
            raise ConfigError(
                f"JAXSEG_UMASK={text}: must be octal and leave the owner all rights, such as 077 (private) or 022"
            ) from None
        os.umask(mask)


class _Steady:
    """A text stream whose reader or disk may vanish: what cannot be written is dropped.

    Attributes:
      lost: the first error.
    """

    def __init__(self, stream):
        self._stream, self.lost = stream, None
        with contextlib.suppress(AttributeError, ValueError):
            if stream.errors == "strict" or "utf" not in stream.encoding.lower():
                stream.reconfigure(errors="backslashreplace")  # names in other encodings than the terminal's

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        self.lost = self.lost or error
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str):
        return getattr(self._stream, name)
