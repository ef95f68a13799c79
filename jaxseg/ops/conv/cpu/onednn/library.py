"""Find oneDNN, an optional dependency, and compile the handler through which XLA calls it on first use.

The extra `onednn` (`pip install -e '.[onednn]'`) installs oneDNN and its headers; a C++ compiler (CXX, c++, g++ or clang++) must
be on the system. The compiled handler is kept in the cache folder under a digest of everything it is built from, together with a
digest of its bytes, so that several processes may start at once and a damaged file is compiled again. If something is missing,
one warning is printed and the ordinary lowerings are used.
"""

import contextlib
import ctypes
import functools
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jaxlib

from jaxseg.types import ConfigError, StorageError
from jaxseg.utils import files

MODES = ("auto", "off")
SOURCE = Path(__file__).with_name("conv.cc")
_PACKAGES = ("onednn-cpu-gomp", "onednn-devel-cpu-gomp")
_SYMBOL = "jaxseg_onednn_conv"


class Wheels(NamedTuple):
    """The files of the two packages, and their version."""

    library: Path  # libdnnl.so.3
    headers: Path  # the folder that has oneapi/dnnl/dnnl.hpp
    version: str


class Engine(NamedTuple):
    """The handler, loaded and registered with XLA."""

    target: str  # the name under which XLA calls it
    version: str  # oneDNN's
    pieces: ctypes._CFuncPtr


_registered_as: dict[str, Engine] = {}


def wanted() -> bool:
    """Whether oneDNN should be used: it is installed, and JAXSEG_ONEDNN is not "off".

    Raises:
      ConfigError: JAXSEG_ONEDNN is neither "auto" (the default) nor "off".
    """
    mode = os.environ.get("JAXSEG_ONEDNN", "auto")
    if mode not in MODES:
        raise ConfigError(f"got JAXSEG_ONEDNN={mode!r}; must be {' or '.join(MODES)}")
    return mode == "auto" and wheels() is not None


def engine() -> str:
    """The library for dense convolutions on one CPU device: "oneDNN 3.2.0" or "XLA". Compiles the handler if necessary.

    The last bits of a result depend on this, as they do on the number of threads.
    """
    found = load() if wanted() else None
    return "XLA" if found is None else f"oneDNN {found.version}"


@functools.cache
def wheels() -> Wheels | None:
    """The two packages of the extra; None if they are not installed, or are for another architecture."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None
    try:
        library, headers = (importlib.metadata.distribution(name) for name in _PACKAGES)
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [
        [Path(file.locate()).resolve() for file in package.files or () if file.name == name]
        for package, name in ((library, "libdnnl.so.3"), (headers, "dnnl.hpp"))
    ]
    headers_at = [path.parents[2] for path in found[1] if path.parent.name == "dnnl"]
    if not found[0] or not headers_at or library.version != headers.version:
        return None
    return Wheels(found[0][0], headers_at[0], library.version)


@functools.cache
def load() -> Engine | None:
    """Load and register the handler, compiling it if necessary; if this fails, print a warning and return None."""
    found = wheels()
    if found is None:
        return None
    try:
        return _registered(_verified(found))
    except (OSError, StorageError, subprocess.SubprocessError, AttributeError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        warnings.warn(
            f"oneDNN is installed but cannot be used: {reason[0]}; convolutions use the ordinary implementation "
            "(set JAXSEG_ONEDNN=off to hide this warning)",
            stacklevel=2,
        )
        return None


def _registered(path: Path) -> Engine:
    library = ctypes.CDLL(str(path))
    version, pieces = library.jaxseg_onednn_version, library.jaxseg_onednn_pieces
    ints = ctypes.POINTER(ctypes.c_int64)
    version.restype = pieces.restype = ctypes.c_int64
    pieces.argtypes = (ctypes.c_int64, ctypes.c_int64, ints, ints, ints, ints, ctypes.c_int64)
    number = version()
    if number == 0:
        raise OSError("the libdnnl.so.3 that this process has loaded differs in version from the headers")
    one, few = (ctypes.c_int64 * 4)(1, 8, 8, 16), (ctypes.c_int64 * 4)(3, 3, 16, 16)
    if not pieces(0, 2, one, few, one, (ctypes.c_int64 * 9)(1, 1, 1, 1, 1, 1, 1, 1, 1), 1):
        raise OSError("this CPU has no AVX-512, the only instruction set for which oneDNN was measured")
    target = f"{_SYMBOL}_{path.parent.name[:8]}"  # a program in the compilation cache finds the handler it was made with
    if target not in _registered_as:  # XLA takes a name once
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, _SYMBOL)), platform="cpu")
        _registered_as[target] = Engine(target, f"{number // 10000}.{number // 100 % 100}.{number % 100}", pieces)
    return _registered_as[target]


def _verified(found: Wheels) -> Path:
    """The compiled handler, with the bytes that the compiler wrote."""
    source = SOURCE.read_bytes()
    stamp = found.library.stat()
    name = files.digest(source, jaxlib.__version__, found.version, str(found.library), str((stamp.st_size, stamp.st_mtime_ns)))
    folder = files.cache_root() / "onednn" / name
    for _ in range(2):
        files.build_folder(folder, functools.partial(_compile, found))
        path, written = folder / "conv.so", folder / "digest"
        if path.is_file() and written.is_file() and files.digest(path.read_bytes()) == written.read_text():
            return path
        damaged = folder.with_name(f".{name}.{os.getpid()}.damaged")
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            os.replace(folder, damaged)
        shutil.rmtree(damaged, ignore_errors=True)
    raise OSError(f"{folder} was damaged again right after it was built; remove it, or set JAXSEG_CACHE to another folder")


def _compile(found: Wheels, folder: Path) -> None:
    compiler = next(filter(None, map(shutil.which, filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")))), None)
    if compiler is None:
        raise OSError("there is no C++ compiler (install g++, or set CXX to a compiler)")
    path = folder / "conv.so"
    run = subprocess.run(
        [compiler, *flags(found), str(SOURCE), "-o", str(path), str(found.library), f"-Wl,-rpath,{found.library.parent}"],
        capture_output=True,
        text=True,
    )
    if run.returncode != 0:
        errors = [line for line in run.stderr.splitlines() if "error" in line] or run.stderr.splitlines() or ["no message"]
        raise OSError(f"{compiler} ended with {run.returncode}: {errors[0]}")
    files.write_atomic(folder / "digest", files.digest(path.read_bytes()))


def flags(found: Wheels) -> Sequence[str]:
    """The compiler's options."""
    return ("-O2", "-std=c++17", "-shared", "-fPIC", "-w", f"-I{found.headers}", f"-I{jax.ffi.include_dir()}")
