"""A jitted function whose last arguments are per-run constants, such as the seed and the learning rate; and its place on disk.

Values in the closure of a jitted function become constants of the compiled program: with the seed or the length of the schedule
as constants, every seed and every number of epochs would compile again. Passed as arguments, runs that differ only in them share
one entry of the compilation cache: for example the folds of a cross-validation, or a run that is extended.
"""

import contextlib
import functools
import hashlib
import json
import os
import pickle
import platform
import stat
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable

from jaxseg.config import as_dict, flatten
from jaxseg.data.store.preparing import cores
from jaxseg.ops.conv.cpu.onednn import library
from jaxseg.train.processes import roll_call, surroundings
from jaxseg.types import ConfigError, StorageError
from jaxseg.utils import files
from jaxseg.utils.lookup import is_path
from jaxseg.utils.process import uncollected

SWITCH, MODES = "JAXSEG_KEEP_STEPS", ("on", "off")
CACHE_HIT = "/jax/compilation_cache/cache_hits"
MOST = 16  # kept steps; the one that was used longest ago makes room
# groups and keys that the program does not depend on: seed and learning rate are arguments of it (`program`)
APART = ("eval", "infer", "report", "explain", "compare", "search", "plan", "schedule")
APART_KEYS = ("seed", "optim.lr", "train.epochs", "name", "variant")
PREFIXES = ("JAX", "XLA", "PJRT", "OMP", "DNNL", "ONEDNN", "TF_")  # of variables that change what is compiled
PLACES = ("JAX_COMPILATION_CACHE_DIR", "JAXSEG_CACHE", SWITCH)  # variables that say where files lie


class Program:
    """Calls `program(*arguments, *own, *derive(*arguments))`, before or after compilation.

    Args:
      own: arrays that are the same in every call.
      derive: computes further arrays from the arguments; a separate small program.

    Attributes:
      program: the result of `jax.jit`, or of its `.lower` and `.compile`.
      fetched: whether `compile` found it in jax's compilation cache.
    """

    fetched = False

    def __init__(self, program: Callable, *own, derive: Callable[..., tuple] = lambda *arguments: ()):
        self.program, self._own, self._derive = program, own, derive

    def __call__(self, *arguments):
        with uncollected():  # the first call traces
            return self.program(*arguments, *self._own, *self._derive(*arguments))

    def lower(self, *arguments) -> "Program":
        """Trace the program for these arguments."""
        with uncollected():
            derived = jax.eval_shape(self._derive, *arguments)
            return Program(self.program.lower(*arguments, *self._own, *derived), *self._own, derive=self._derive)

    def compile(self) -> "Program":
        """Compile the program after `lower`."""
        hits = []
        note = lambda event, **_: hits.append(event) if event == CACHE_HIT else None
        jax.monitoring.register_event_listener(note)
        try:
            with uncollected():
                compiled = Program(self.program.compile(), *self._own, derive=self._derive)
        finally:
            jax.monitoring.unregister_event_listener(note)
        compiled.fetched = bool(hits)
        return compiled

    def arguments(self, *arguments) -> tuple:
        """Everything that the program is called with, the derived arrays as shapes."""
        return *arguments, *self._own, *jax.eval_shape(self._derive, *arguments)

    def with_program(self, program: Callable) -> "Program":
        """The same with another program for the same arguments, such as this one compiled in an earlier process."""
        return Program(program, *self._own, derive=self._derive)

    def memory_analysis(self):
        """Return XLA's memory estimate of the compiled program."""
        return self.program.memory_analysis()

    def as_text(self) -> str:
        """Return the optimised HLO of the compiled program."""
        return self.program.as_text()


class KeptStep:
    """The place on disk of one configuration's compiled step: one that this machine compiled before is read, not traced again.

    jax's compilation cache is asked with the lowered program, so that a start from it still traces the step. Here the question
    is everything that the program depends on: versions and code of the library, configuration, environment, jax's settings,
    processor, and the arrays' shapes and places. Not kept are steps with code that the configuration names by "module:Name",
    those of several processes, and those for other devices than CPUs.

    Reading unpickles, as jax's format asks for: files that other users own or may write are not read. With
    `JAXSEG_KEEP_STEPS=off` nothing is kept or read.

    Args:
      config: the resolved config.
      learnt: what the program takes from elsewhere, such as regions that the data set names; its `repr` is compared.
      folder: the folder of kept steps; None: the one in the cache.
    """

    def __init__(self, config, learnt: Any = (), folder: Path | None = None):
        self._learnt, self._folder, self._ahead = repr(learnt), folder, None
        tree = flatten(as_dict(config))
        self._about = {k: v for k, v in tree.items() if k.partition(".")[0] not in APART and k not in APART_KEYS}
        self._own_code = any(map(_names_code, self._about.values()))

    def usable(self) -> bool:
        """Whether a step of this process can be kept.

        Raises:
          ConfigError: JAXSEG_KEEP_STEPS is neither "on" (the default) nor "off".
        """
        switch = os.environ.get(SWITCH) or MODES[0]
        if switch not in MODES:
            raise ConfigError(f"got {SWITCH}={switch!r}; must be {' or '.join(MODES)}")
        alone = jax.process_count() == 1 and {d.platform for d in jax.devices()} == {"cpu"}
        return alone and not self._own_code and switch == "on"

    def learns(self, learnt: Any) -> "KeptStep":
        """Set `learnt`, which is only known when the data are; returns itself."""
        self._learnt = repr(learnt)
        return self

    def begin(self) -> "KeptStep":
        """Read on a thread, while data and network are made, the step that this configuration took last; returns itself.

        `load` uses it if it turns out to be the right one.
        """
        if self.usable() and len(jax.devices()) == 1:
            with contextlib.suppress(StorageError):  # no home folder
                self._ahead = _Reading(self._last(), jax.devices())
        return self

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
        step with "NOT_FOUND: Function ... not found" (jax 0.10.2).
        """
        if compiled.fetched or getattr(getattr(compiled.program, "_params", None), "const_args", ()):  # jax would lose them
            return
        with contextlib.suppress(Exception):
            path = self._path(program, arguments)
            body = pickle.dumps(serialize_executable.serialize(compiled.program))
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            try:
                with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(hashlib.sha256(body).digest() + body)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
            _point(self._last(), path)
            for old in sorted(path.parent.glob("*.step"), key=lambda p: p.stat().st_mtime)[:-MOST]:
                old.unlink()

    def _path(self, program: Program, arguments: tuple) -> Path:
        shapes, tree = jax.tree.flatten(program.arguments(*arguments))
        arrays = [str(tree), *(f"{a.shape} {a.dtype} {getattr(a, 'sharding', None)}" for a in shapes)]
        return self._file({"learnt": self._learnt, "arrays": arrays}, "step")

    def _last(self) -> Path:
        """The file that names the step which this configuration took last."""
        return self._file({}, "last")

    def _file(self, more: Mapping[str, Any], ending: str) -> Path:
        name = hashlib.sha256(json.dumps({**self._question, **more}, sort_keys=True, default=repr).encode()).hexdigest()[:40]
        return (self._folder or files.cache_root() / "steps") / f"{name}.{ending}"

    @functools.cached_property
    def _question(self) -> dict[str, Any]:
        """All that the program depends on, besides the arrays and what is learnt from the data."""
        environment = {k: v for k, v in os.environ.items() if k.startswith(PREFIXES)}
        return {
            **roll_call.about(self._about),
            "environment": {k: v for k, v in sorted(environment.items()) if k not in PLACES},
            "jax": {k: repr(v) for k, v in sorted(jax.config.values.items()) if "cache" not in k},
            "machine": [platform.machine(), _processor(), cores(), surroundings.current()],
            "convolutions": library.engine(),  # registers oneDNN's calls before a program that holds them is read
        }


class _Reading:
    """A thread that reads the step which a file names."""

    def __init__(self, last: Path, devices: list[jax.Device]):
        self._path: Path | None = None
        self._compiled: Any = None
        self._thread = threading.Thread(target=self._read, args=(last, devices), name="kept step")  # ended before the process is
        self._thread.start()

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
        return serialize_executable.deserialize_and_load(*pickle.loads(body), execution_devices=devices)
    except FileNotFoundError:
        return None
    except Exception:  # damaged, or of a jax that reads it no longer: compiled and written anew
        with contextlib.suppress(OSError):
            path.unlink()
        return None


def _point(last: Path, path: Path) -> None:
    """Write the name of a step, and remove the names of steps that are gone."""
    with contextlib.suppress(OSError, ValueError):
        files.write_atomic(last, path.name)
        for other in last.parent.glob("*.last"):
            if not other.with_name(other.read_text()).exists():
                other.unlink()


def _devices(arguments: tuple) -> list[jax.Device]:
    """The devices of a program's arguments, in their order in the mesh."""
    places = (a.sharding for a in jax.tree.leaves(arguments) if isinstance(a, jax.Array))
    found = [list(p.mesh.devices.flat) if isinstance(p, jax.NamedSharding) else list(p.device_set) for p in places]
    return max(found, key=len)


def _names_code(value: Any) -> bool:
    """Whether a value of the config, or a part of it, is a path "module:Name"."""
    if isinstance(value, Mapping):
        return any(map(_names_code, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_names_code, value))
    return is_path(value)


def _processor() -> str:
    """What the kernel says of the first core: model and instruction sets."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        return "\n".join(line for line in lines if line.startswith(("model", "flags", "Features", "vendor", "CPU ")))
    return platform.processor()
