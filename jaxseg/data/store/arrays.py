"""The .npy files of a store: written with their digest, opened as memory maps, extended row by row."""

import functools
import hashlib
import io
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.types import DataError, StorageError

_LOADING = threading.Lock()  # np.load parses headers with `ast`, which several threads may not before CPython 3.11.8 (gh-106905)
THOUSAND = 1000  # examples in a folder: directories of some 100,000 files are slow on network file systems
ALIGNED = 64  # arrays that share a file start at multiples of so many bytes
KEPT = 64  # examples or files whose maps stay open for `PerCase.kept`; each holds three file descriptors
PIECE = 1 << 22  # bytes of a file that are read at once


def damaged(folder: Path, why: str) -> DataError:
    """Return the error for a store whose content has changed since it was written."""
    return DataError(f"{folder} is damaged: {why}; delete the folder, it is then built again", "DATA_CHANGED")


def open_array(path: Path, dtype: np.dtype, shape: tuple[int, ...], whose: str = "") -> np.ndarray:
    """Open a .npy file as a memory map and check its dtype and shape.

    Args:
      path: the file.
      dtype, shape: the expected dtype and shape.
      whose: for the message: " of case x".
    Raises:
      DataError: the file is missing, or has another dtype or shape (DATA_CHANGED).
    """
    if 0 in shape:
        return np.empty(shape, dtype)  # an empty file cannot be mapped
    try:
        with _LOADING:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise damaged(path.parent, f"{path.name}{whose}: {error}") from error
    if array.dtype != dtype or array.shape != tuple(shape) or not array.flags.c_contiguous:
        raise damaged(path.parent, f"{path.name}{whose} is {array.dtype} {array.shape}, not {np.dtype(dtype)} {tuple(shape)}")
    return array


def open_bytes(path: Path) -> np.ndarray:
    """Map a file's bytes, uint8 [n].

    Raises:
      DataError: it is missing (DATA_CHANGED).
    """
    try:
        return np.memmap(path, np.uint8, "r")
    except (OSError, ValueError) as error:
        raise damaged(path.parent, f"{path.name}: {error}") from error


def write_array(path: Path, array: np.ndarray, *, sync: bool = True) -> tuple[int, str]:
    """Write a .npy file and, with `sync`, wait until it is on the disk; returns (its size in bytes, its `file_digest`)."""
    array = np.ascontiguousarray(array)
    header, digest = _header(array.dtype.str, array.shape), hashlib.blake2b(digest_size=16)
    with open(path, "wb", buffering=0) as file:
        for content in (header, memoryview(array.reshape(-1).view(np.uint8))):
            digest.update(content)
            while content:  # the system writes at most 2 GiB at once
                content = content[file.write(content) :]
        if sync:
            os.fsync(file.fileno())
    return len(header) + array.nbytes, digest.hexdigest()


@functools.lru_cache(1024)  # masks and images of one size have two
def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Return the first bytes of a .npy file, as `np.save` writes them."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def check_space(folder: Path, needed: int, what: str) -> None:
    """Refuse to write more bytes than the disk has free.

    Args:
      folder: where they would be written.
      needed: bytes.
      what: the start of the message: "case x needs".
    Raises:
      StorageError: they do not fit.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(
            f"{what} {gib(needed)}, and {folder.parent} has {gib(free)} free; free space or set JAXSEG_CACHE to another folder"
        )


def gib(n: int) -> str:
    """Bytes as text."""
    return f"{n / 2**30:.2f} GiB"


def sync_files(paths: Sequence[Path]) -> None:
    """Wait until files that were written without it are on the disk: one by one, or for very many the whole system's at once."""
    if len(paths) > 100 and hasattr(os, "sync"):
        os.sync()
        return
    for path in paths:
        with open(path, "rb+") as file:
            os.fsync(file.fileno())


def as_half(image: np.ndarray, case: str) -> tuple[np.ndarray, float]:
    """Return an image in float16, and the largest change of a value.

    Raises:
      DataError: a value is beyond float16's largest (DATA_IMAGE).
    """
    largest = np.abs(image).max(initial=0)
    if largest > np.finfo(np.float16).max:
        raise DataError(
            f"case {case}: prepared values up to {largest:g}; float16 holds at most 65504: leave data.store_dtype at 'float32'",
            "DATA_IMAGE",
        )
    return (half := image.astype(np.float16)), float(np.abs(image - half).max(initial=0))


def content_digest(array: np.ndarray) -> str:
    """Return the blake2b digest (16 bytes) of an array's bytes in C order."""
    return hashlib.blake2b(np.ascontiguousarray(array).reshape(-1).view(np.uint8), digest_size=16).hexdigest()


def file_digest(path: Path) -> str:
    """Return the blake2b digest (16 bytes) of a file, which is read in pieces to save memory.

    Raises:
      DataError: the file cannot be read (DATA_CHANGED).
    """
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open(path, "rb", buffering=0) as file:
            while piece := file.read(PIECE):
                digest.update(piece)
    except OSError as error:
        raise damaged(path.parent, f"{path.name}: {error}") from error
    return digest.hexdigest()


class Growing:
    """A .npy file [n, *shape] that grows along its first axis; numpy leaves space for n in the header."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type):
        self.shape, self.dtype, self.count, self._file = tuple(shape), np.dtype(dtype), 0, open(path, "wb")
        self._start = self._header()

    def append(self, array: np.ndarray) -> None:
        """Append one array [*shape]."""
        self.extend(np.asarray(array)[None])

    def extend(self, arrays: np.ndarray) -> None:
        """Append several arrays, [m, *shape]."""
        if arrays.shape[1:] != self.shape:
            raise ValueError(f"got {arrays.shape[1:]} for a file of {self.shape}")
        self._file.write(np.ascontiguousarray(arrays, self.dtype).data)
        self.count += len(arrays)

    def _header(self) -> int:
        spec = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.count, *self.shape)}
        np.lib.format.write_array_header_1_0(self._file, spec)
        return self._file.tell()

    def __enter__(self) -> "Growing":
        return self

    def __exit__(self, *_) -> None:
        with self._file:
            self._file.seek(0)
            if self._header() != self._start:
                raise RuntimeError(f"the header of {self._file.name} grew over the data: {self.count} examples")
            self._file.flush()
            os.fsync(self._file.fileno())


class OpenMaps:
    """A cache of the memory maps of the KEPT examples or files opened last, shared by the threads that read batches and patches.

    A copy (for example for another process) starts empty.
    """

    def __init__(self):
        self._maps: dict[int | Path, Any] = {}
        self._lock = threading.Lock()

    def get(self, i: int | Path, open_maps: Callable[[], Any]) -> Any:
        """Return the maps of example or file i: from the cache, else from `open_maps()`; new maps replace the oldest ones."""
        with self._lock:
            maps = self._maps.get(i)
        if maps is None:
            opened = open_maps()  # outside the lock: a slow disk holds up no thread that reads another example
            with self._lock:
                maps = self._maps.setdefault(i, opened)
                while len(self._maps) > KEPT:
                    del self._maps[next(iter(self._maps))]
        return maps

    def __len__(self) -> int:
        with self._lock:
            return len(self._maps)

    def __reduce__(self):
        return OpenMaps, ()


def thousand_of(folder: Path, i: int) -> str:
    """Return the folder of example i."""
    return f"{folder}/{i // THOUSAND:03d}"


def joined_path(folder: Path, i: int) -> Path:
    """Return the file that example i shares with others of its thousand."""
    return Path(f"{thousand_of(folder, i)}/joined.bin")


class Joined:
    """Writes small examples in ascending order to the file of their thousand.

    Args:
      folder: the store's folder.
    Attributes:
      paths: the files.
    """

    def __init__(self, folder: Path):
        self.paths: list[Path] = []
        self._folder, self._file, self._thousand = folder, None, -1

    def write(self, i: int, arrays: Iterable[np.ndarray]) -> list[int]:
        """Write the arrays of example i; returns where each starts in the file."""
        starts = []
        if i // THOUSAND != self._thousand:
            self.close()
            path, self._thousand = joined_path(self._folder, i), i // THOUSAND
            path.parent.mkdir(exist_ok=True)
            self._file = open(path, "wb")
            self.paths.append(path)
        for array in arrays:
            starts.append(self._file.tell())
            self._file.write(array.tobytes() + bytes(-array.nbytes % ALIGNED))
        return starts

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> "Joined":
        return self

    def __exit__(self, *_) -> None:
        self.close()
