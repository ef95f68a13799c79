"""The .npy files of a store: written with their digest, opened as memory maps, extended row by row."""

import hashlib
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxseg.types import DataError, StorageError

_LOADING = threading.Lock()  # np.load parses headers with `ast`, which several threads may not before CPython 3.11.8 (gh-106905)
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


def write_array(path: Path, array: np.ndarray, *, sync: bool = True) -> tuple[int, str]:
    """Write a .npy file and, with `sync`, wait until it is on the disk; returns (its size in bytes, its `file_digest`)."""
    with open(path, "wb") as file:
        hashing = _Hashing(file)
        np.save(hashing, array, allow_pickle=False)
        if sync:
            file.flush()
            os.fsync(file.fileno())
        return file.tell(), hashing.digest.hexdigest()


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


class _Hashing:
    """A file object that computes a digest of all that is written to it."""

    def __init__(self, file):
        self._file, self.digest = file, hashlib.blake2b(digest_size=16)

    def write(self, data) -> int:
        self.digest.update(data)
        return self._file.write(data)


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
