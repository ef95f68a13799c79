"""Start and end of every command: signals, streams and file permissions, one-line errors and exit codes."""

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
from jaxseg.utils.machine import memory

INTERRUPTED = 130  # exit code of Ctrl-C
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_pressed = 0  # number of times that Ctrl-C was pressed
_saying, _said = threading.Lock(), False  # whether the reason why the process ends has been written


def end_now(message: str, code: int) -> NoReturn:
    """Write one line to stderr and end the process at once, from any thread; nothing is cleaned up."""
    last_line(f"jaxseg: {message}")
    os._exit(code)


def last_line(line: str, *, directly: bool = False) -> None:
    """Write the line that says why the process ends, unless another thread has done so: a lost process is often noticed twice.

    Args:
      line: the text, without its end.
      directly: write to the descriptor, past Python's stream, which another thread may hold.
    """
    global _said
    free = _saying.acquire(timeout=1)  # in vain: two lines are better than none
    if not _said:
        _said = True
        with contextlib.suppress(OSError):
            if directly:
                os.write(2, f"{line}\n".encode())
            else:
                print(line, file=sys.stderr, flush=True)
    if free:
        _saying.release()


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are those of jaxseg: one line, exit code 64."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"command line: {message}; {self.prog} --help lists the arguments")


def begin(*, stop_code: int | None = None) -> None:
    """Prepare streams and signals; call it before anything slow is imported.

    Closed standard streams are replaced by /dev/null, so that no file gets their numbers, and Ctrl-C prints one line.

    Args:
      stop_code: exit code for SIGTERM until another handler is set; None: the system's default.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, so that no file opened later becomes "stdout"
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, lambda *_: end_now("interrupted", INTERRUPTED))
        if stop_code is not None:
            signal.signal(signal.SIGTERM, lambda *_: end_now("stopped by SIGTERM before anything was done", stop_code))


def _note(signum, frame) -> None:
    global _pressed
    _pressed += 1
    if _pressed > 2:  # the process does not react
        os._exit(INTERRUPTED)
    raise KeyboardInterrupt


def check_interrupt() -> None:
    """Raise KeyboardInterrupt if Ctrl-C was pressed; long loops call this in every turn.

    Python's own KeyboardInterrupt is lost if it is raised inside a callback or a destructor.
    """
    if _pressed:
        raise KeyboardInterrupt


def run(name: str, main: Callable[[], int | None], *, leave: Callable[[int], NoReturn] = sys.exit) -> NoReturn:
    """Run a command and end the process with its exit code; errors that a user can cause are one line on the error stream.

    A closed output pipe (`| head`) does not stop the command. JAXSEG_UMASK (octal, such as 077) sets the umask for new files and
    folders; without it the umask of the process is used.

    Args:
      name: start of the error line.
      main: the command; returns its exit code.
      leave: function that ends the process with a code.
    """
    global _pressed, _said
    start, _pressed, _said = time.perf_counter(), 0, False
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
        elif memory.exhausted(error):
            code = _end(
                f"{name}: memory is full ({' '.join(str(error).split())[:160] or type(error).__name__}); training: set "
                "train.remat=blocks, or halve train.batch_size and double optim.accumulate, or lower data.size; prediction: "
                "lower infer.batch_size or infer.windows",
                ConfigError.exit_code,
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
    last_line(line)
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
                f"JAXSEG_UMASK={text}: must be octal and keep all rights of the owner, such as 077 (private) or 022"
            ) from None
        os.umask(mask)


def python_alone() -> None:
    """Keep the standard output for what Python prints; C++ libraries print there too (gloo does)."""
    if isinstance(sys.stdout, _Steady):  # the process is a command's own
        sys.stdout.move()


class _Steady:
    """A text stream that drops text which cannot be written (closed pipe, full disk) instead of raising an error.

    Attributes:
      lost: the first error, or None.
    """

    def __init__(self, stream):
        self._stream, self.lost = stream, None
        with contextlib.suppress(AttributeError, ValueError):
            if stream.errors == "strict" or "utf" not in stream.encoding.lower():
                stream.reconfigure(errors="backslashreplace")  # file names that the terminal's encoding cannot show

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

    def move(self) -> None:
        """Write through a descriptor of its own from now on, and let what others write to the old one go to the error stream."""
        self._stream.flush()
        old = self._stream.fileno()
        moved = os.fdopen(os.dup(old), "w", encoding=self._stream.encoding, errors=self._stream.errors)
        os.dup2(sys.stderr.fileno(), old)
        self._stream = moved

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
