"""A store's .npy files: written with their digest, opened as memory maps, extended row by row."""

import hashlib
import os
import threading
from pathlib import Path

import numpy as np

from jaxseg.types import DataError

_LOADING = threading.Lock()  # np.load parses headers with `ast`, which several threads may not before CPython 3.11.8 (gh-106905)
PIECE = 1 << 22  # bytes of a file that are read at once


def damaged(folder: Path, why: str) -> DataError:
    """The error for a store that is not what was written."""
    return DataError(f"{folder} is damaged: {why}; delete the folder and it is built again", "DATA_CHANGED")


def open_array(path: Path, dtype: np.dtype, shape: tuple[int, ...], whose: str = "") -> np.ndarray:
    """A .npy file as a memory map, which must hold what was written.

    Args:
      whose: for the error: " of case x".
    Raises:
      DataError: DATA_CHANGED for a file that is gone, or of another type or shape.
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


def write_array(path: Path, array: np.ndarray) -> tuple[int, str]:
    """Write a .npy file through to the disk: (its size in bytes, its digest as `file_digest` finds it)."""
    with open(path, "wb") as file:
        hashing = _Hashing(file)
        np.save(hashing, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
        return file.tell(), hashing.digest.hexdigest()


def file_digest(path: Path) -> str:
    """blake2b (16 bytes) of a file, read in pieces: a volume that is checked takes no memory.

    Raises:
      DataError: DATA_CHANGED where it cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open(path, "rb", buffering=0) as file:
            while piece := file.read(PIECE):
                digest.update(piece)
    except OSError as error:
        raise damaged(path.parent, f"{path.name}: {error}") from error
    return digest.hexdigest()


class _Hashing:
    """A file whose digest grows with it."""

    def __init__(self, file):
        self._file, self.digest = file, hashlib.blake2b(digest_size=16)

    def write(self, data) -> int:
        self.digest.update(data)
        return self._file.write(data)


class Growing:
    """A .npy file [n, *shape] that grows along its first axis; numpy leaves room in the header for n."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type):
        self.shape, self.dtype, self.count, self._file = tuple(shape), np.dtype(dtype), 0, open(path, "wb")
        self._start = self._header()

    def append(self, array: np.ndarray) -> None:
        """One more [*shape]."""
        self.extend(np.asarray(array)[None])

    def extend(self, arrays: np.ndarray) -> None:
        """As many more as there are: [m, *shape]."""
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
