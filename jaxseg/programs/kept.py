"""Compiled programs on disk: what this machine compiled before is read, not traced again.

jax's compilation cache is asked with the lowered program, so that a start from it still traces and lowers, which takes a third of
a training step's start. Here the question is everything that a program depends on: versions and code of the library, environment,
jax's settings, processor, what the caller says of the computation, and the arrays' shapes and places.
"""

import contextlib
import functools
import hashlib
import json
import os
import pickle
import stat
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxseg.programs import conditions, parts
from jaxseg.programs.conditions import SWITCH
from jaxseg.programs.program import Program
from jaxseg.types import ConfigError, StorageError
from jaxseg.utils import files
from jaxseg.utils.lookup import is_path

MODES = ("on", "off")
MOST = 32  # kept programs; the one that was used longest ago makes room


class Ready(NamedTuple):
    """A compiled program, and how it came about.

    Attributes:
      program: to be called with the arguments.
      found: whether it was read instead of compiled.
      tracing: seconds for tracing and lowering.
    """

    program: Program
    found: bool
    tracing: float


class Kept:
    """The place on disk of the programs of one computation, one for each set of arguments' shapes.

    Not kept are programs with code that `about` names by "module:Name", those of several processes, and those for other devices
    than CPUs. Reading unpickles, as jax's format asks for: files that other users own or may write are not read. With
    `JAXSEG_KEEP_PROGRAMS=off` nothing is kept or read.

    Args:
      about: everything of this library's options that the program depends on, by name; values are compared by their `repr`.
      learnt: what the program takes from elsewhere, such as regions that the data set names; its `repr` is compared.
      folder: the folder of kept programs; None: the one in the cache.
    """

    def __init__(self, about: Mapping[str, Any], learnt: Any = (), folder: Path | None = None):
        self._about = {name: repr(value) for name, value in about.items()}
        self._learnt, self._folder, self._ahead = repr(learnt), folder, None
        self._own_code = any(map(_names_code, about.values()))

    def usable(self) -> bool:
        """Whether a program of this process can be kept.

        Raises:
          ConfigError: JAXSEG_KEEP_PROGRAMS is neither "on" (the default) nor "off".
        """
        switch = os.environ.get(SWITCH) or MODES[0]
        if switch not in MODES:
            raise ConfigError(f"got {SWITCH}={switch!r}; must be {' or '.join(MODES)}")
        alone = jax.process_count() == 1 and {d.platform for d in jax.devices()} == {"cpu"}
        return alone and not self._own_code and switch == "on"

    def learns(self, learnt: Any) -> "Kept":
        """Set `learnt`, which is only known when the data are; returns itself."""
        self._learnt = repr(learnt)
        return self

    def begin(self) -> "Kept":
        """Read on a thread, while data and network are made, the program that this computation took last; returns itself.

        `load` uses it if it turns out to be the right one.
        """
        if self.usable() and len(jax.devices()) == 1:
            with contextlib.suppress(StorageError):  # no home folder
                self._ahead = _Reading(self._last(), jax.devices())
        return self

    def ready(self, program: Program, *arguments) -> Ready:
        """The compiled program for these arguments, read if it was kept; else compiled, and kept if that is possible."""
        usable, begin = self.usable(), time.perf_counter()
        compiled = self.load(program, *arguments) if usable else None
        if compiled is not None:
            return Ready(compiled, True, 0.0)
        lowered = program.lower(*arguments, whole=False)
        traced = time.perf_counter() - begin
        compiled = lowered.compile()
        if usable:
            self.save(program, compiled, *arguments)
        return Ready(compiled, False, traced)

    def load(self, program: Program, *arguments) -> Program | None:
        """The compiled program for these arguments, ready to be called; None if it is not there or cannot be read."""
        try:
            path = self._path(program, arguments)
        except StorageError:  # no home folder: nothing is kept
            return None
        ahead, self._ahead = self._ahead, None
        compiled = ahead.result(path) if ahead else None
        if compiled is None:
            compiled = _read(path, _devices(arguments))
        if compiled is None:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        _point(self._last(), path)
        return program.with_program(compiled)

    def save(self, program: Program, compiled: Program, *arguments) -> None:
        """Keep a compiled program; does nothing if jax cannot write it or the disk is full.

        On a CPU jax writes a program that came from its own cache without its machine code: whoever reads it ends at the first
        call with "NOT_FOUND: Function ... not found" (jax 0.10.2).
        """
        if compiled.fetched or parts.has_constants(compiled.program):  # jax would lose them
            return
        with contextlib.suppress(Exception):
            path = self._path(program, arguments)
            body = pickle.dumps(parts.dump(compiled.program))
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            try:
                with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(hashlib.sha256(body).digest() + body)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
            _point(self._last(), path)
            for old in sorted(path.parent.glob("*.program"), key=lambda p: p.stat().st_mtime)[:-MOST]:
                old.unlink()

    def _path(self, program: Program, arguments: tuple) -> Path:
        shapes, tree = jax.tree.flatten(program.arguments(*arguments))
        return self._file({"learnt": self._learnt, "arrays": [str(tree), *map(_described, shapes)]}, "program")

    def _last(self) -> Path:
        """The file that names the program which this computation took last."""
        return self._file({}, "last")

    def _file(self, more: Mapping[str, Any], ending: str) -> Path:
        name = hashlib.sha256(json.dumps({**self._question, **more}, sort_keys=True, default=repr).encode()).hexdigest()[:40]
        return (self._folder or files.cache_root() / "programs") / f"{name}.{ending}"

    @functools.cached_property
    def _question(self) -> dict[str, Any]:
        """All that the program depends on, besides the arrays and what is learnt from the data."""
        return {**conditions.of_programs(), "about": self._about}


class KeptCalls:
    """Calls a function like `jax.jit(function, donate_argnums=donated)`, from programs that are kept for the next start.

    Its arguments may be trees with functions in them, such as `jax.tree_util.Partial`: a program takes their arrays alone. It
    serves a command, which sets jax's options once: what changes them later, such as `jax.default_matmul_precision`, is not asked
    for before each call.

    Args:
      function: of trees of arrays.
      kept: where its programs are kept; its `about` says what functions among the arguments compute.
      donated: positions of the arguments whose memory may be taken for the results.
    """

    def __init__(self, function: Callable, kept: Kept, donated: Sequence[int] = ()):
        self._function, self._kept, self._donated = function, kept, donated
        self._jitted = jax.jit(function, donate_argnums=tuple(donated))
        self._ready: dict[tuple, Program] = {}

    def __call__(self, *arguments):
        if not self._kept.usable():
            return self._jitted(*arguments)
        leaves, tree = jax.tree.flatten(arguments)
        shapes = (tree, *((a.shape, str(a.dtype)) for a in leaves))
        if shapes not in self._ready:
            of_leaves = lambda *leaves: self._function(*jax.tree.unflatten(tree, leaves))
            numbers = [i for i, argument in enumerate(arguments) for _ in jax.tree.leaves(argument)]
            donated = tuple(k for k, i in enumerate(numbers) if i in self._donated)
            program = Program(jax.jit(of_leaves, donate_argnums=donated))
            self._ready[shapes] = self._kept.ready(program, *leaves).program
        return self._ready[shapes](*leaves)


class _Reading:
    """A thread that reads the program which a file names."""

    def __init__(self, last: Path, devices: list[jax.Device]):
        self._path: Path | None = None
        self._compiled: Any = None
        self._thread = threading.Thread(target=self._read, args=(last, devices), name="kept program")
        self._thread.start()  # it ends before the process does

    def _read(self, last: Path, devices: list[jax.Device]) -> None:
        with contextlib.suppress(OSError, ValueError):
            path = last.with_name(last.read_text())
            self._compiled, self._path = _read(path, devices), path

    def result(self, path: Path) -> Any:
        """Wait for it; the compiled program, if it was read from this file."""
        self._thread.join()
        return self._compiled if self._path == path else None


def _read(path: Path, devices: list[jax.Device]) -> Any:
    """The compiled program in a file; None if it is not there, not ours, or cannot be read (then it is removed)."""
    try:
        about = path.stat()
        own = os.geteuid() if hasattr(os, "geteuid") else about.st_uid  # Windows knows no such number
        if about.st_uid not in (own, 0) or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return None
        content = path.read_bytes()
        head, body = content[:32], content[32:]
        if hashlib.sha256(body).digest() != head:
            raise ValueError("not as it was written")
        return parts.load(pickle.loads(body), devices)
    except FileNotFoundError:
        return None
    except Exception:  # damaged, or of a jax that reads it no longer: compiled and written anew
        with contextlib.suppress(OSError):
            path.unlink()
        return None


def _point(last: Path, path: Path) -> None:
    """Write the name of a program, and remove the names of programs that are gone."""
    with contextlib.suppress(OSError, ValueError):
        files.write_atomic(last, path.name)
        for other in last.parent.glob("*.last"):
            if not other.with_name(other.read_text()).exists():
                other.unlink()


def _described(array: Any) -> str:
    """Shape, dtype and place of an array; on one device all shardings are the same."""
    sharding = getattr(array, "sharding", None)
    alone = sharding is not None and len(sharding.device_set) == 1
    return f"{array.shape} {array.dtype} {sharding.device_set if alone else sharding}"


def _devices(arguments: tuple) -> list[jax.Device]:
    """The devices of a program's arguments, in their order in the mesh."""
    places = (a.sharding for a in jax.tree.leaves(arguments) if isinstance(a, jax.Array))
    found = [list(p.mesh.devices.flat) if isinstance(p, jax.NamedSharding) else list(p.device_set) for p in places]
    return max(found, key=len, default=jax.local_devices()[:1])


def _names_code(value: Any) -> bool:
    """Whether a value of the config, or a part of it, is a path "module:Name"."""
    if isinstance(value, Mapping):
        return any(map(_names_code, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_names_code, value))
    return is_path(value)
