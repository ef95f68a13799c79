"""How one array of an example lies on the disk: a .npy file that is mapped, or a compressed zarr array that is read by chunks.

| engine | on disk | reads of a patch |
|---|---|---|
| memmap | the array's bytes | the pages that it touches, from the system's cache where they were read before |
| zarr3 | chunks (32^3 voxels, 128^2 pixels), compressed by blosc with zstd, in one shard | the chunks that it touches |

Both keep every bit. `zarr3` is read and written by TensorStore; it is for disks and networks that are slower than a decoder, and
for object storage: its arrays may lie at any address that TensorStore knows (`Remote`).
"""

import abc
import contextlib
import functools
import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.data.store.arrays import Growing, damaged, file_digest, open_array, sync_files, write_array
from jaxseg.types import JaxsegError, StorageError
from jaxseg.utils import files

PATIENCE = 60.0  # seconds for an answer of object storage
SHARD = 16 << 20  # bytes of stacked examples that share a file
CHUNK = {1: 65536, 2: 128, 3: 32}  # longest side of a chunk, by the number of axes without channels


class StoreEngine(abc.ABC):
    """How arrays are written and opened.

    Attributes:
      ending: of the file's or folder's name.
      joins: whether small examples of a store share a file, which is mapped.
      growing: class of an array that is written example by example.
    """

    ending: str
    joins = False
    growing: type

    @abc.abstractmethod
    def write(self, path: Path, array: np.ndarray, *, sync: bool = True) -> tuple[int, str]:
        """Write an array; returns (its size on disk in bytes, its digest as from `digest`)."""

    @abc.abstractmethod
    def open(self, path: Path, dtype: np.dtype, shape: tuple[int, ...], whose: str = "") -> Any:
        """Open an array, which is read by indexing with slices and by `np.asarray`.

        Raises:
          DataError: it is missing, or has another dtype or shape (DATA_CHANGED).
        """

    @abc.abstractmethod
    def digest(self, path: Path) -> str:
        """Return the digest of what is on the disk.

        Raises:
          DataError: it cannot be read (DATA_CHANGED).
        """

    @abc.abstractmethod
    def files(self, path: Path) -> list[Path]:
        """Return the files of an array, sorted."""

    def take(self, source: Path, path: Path) -> None:
        """Move an array that this engine wrote to another place."""
        os.replace(source, path)

    def reach(self) -> None:
        """Check that the place of the arrays answers; on a local disk writing them shows that."""
        return

    def size(self, path: Path) -> int:
        """Return the bytes on disk."""
        return sum(file.stat().st_size for file in self.files(path))


class MemoryMap(StoreEngine):
    """.npy files."""

    ending = ".npy"
    joins = True
    growing = Growing

    def write(self, path: Path, array: np.ndarray, *, sync: bool = True) -> tuple[int, str]:
        return write_array(path, array, sync=sync)

    def open(self, path: Path, dtype: np.dtype, shape: tuple[int, ...], whose: str = "") -> np.ndarray:
        return open_array(path, dtype, shape, whose)

    def digest(self, path: Path) -> str:
        return file_digest(path)

    def files(self, path: Path) -> list[Path]:
        return [path]


class Zarr(StoreEngine):
    """zarr arrays of format 3, each a folder with its description and one shard, through TensorStore."""

    ending = ".zarr"

    def write(self, path: Path, array: np.ndarray, *, sync: bool = True) -> tuple[int, str]:
        create(_kvstore(path), array)
        if sync:
            for file in self.files(path):
                with open(file, "rb+") as opened:
                    os.fsync(opened.fileno())
        return self.size(path), self.digest(path)

    def open(self, path: Path, dtype: np.dtype, shape: tuple[int, ...], whose: str = "") -> "Chunks":
        try:
            found = Chunks(_kvstore(path))
        except ValueError as error:
            why = " ".join(str(error).split())[:200]
            raise damaged(path.parent, f"{path.name}{whose}: {why}") from error
        return self._checked(found, path, dtype, shape, whose)

    def _checked(self, found: "Chunks", path: Path, dtype: np.dtype, shape: tuple[int, ...], whose: str) -> "Chunks":
        if (found.dtype, found.shape) != (np.dtype(dtype), tuple(shape)):
            raise damaged(path.parent, f"{path.name}{whose} is {found.dtype} {found.shape}, not {np.dtype(dtype)} {tuple(shape)}")
        return found

    def digest(self, path: Path) -> str:
        return files.digest(*(part for file in self.files(path) for part in (str(file.relative_to(path)), file_digest(file))))

    def files(self, path: Path) -> list[Path]:
        found = sorted(file for file in path.rglob("*") if file.is_file())
        if not found:
            raise damaged(path.parent, f"{path.name} is gone")
        return found


class Remote(Zarr):
    """zarr arrays below an address of TensorStore, under the last two parts of their paths ("000/000000.image.zarr").

    Args:
      address: "gs://bucket/folder", "s3://bucket/folder", "file:///folder".
    Raises (from all methods):
      StorageError: the address cannot be reached.
    """

    def __init__(self, address: str):
        self.address = address.rstrip("/")

    def take(self, source: Path, path: Path) -> None:
        """Move an array that `Zarr` wrote to a local folder to the address."""
        found = {str(file.relative_to(source)): file.read_bytes() for file in super().files(source)}
        with self._reached():
            store = self._open(path)
            for pending in [store.write(name, content) for name, content in found.items()]:
                pending.result(timeout=PATIENCE)
        remove(source)

    def reach(self) -> None:
        self._names(Path("000/none"))

    def open(self, path: Path, dtype: np.dtype, shape: tuple[int, ...], whose: str = "") -> "Chunks":
        if not self._names(path):
            raise damaged(path.parent, f"{path.name}{whose} is not at {self.address}")
        with self._reached():
            found = Chunks(self._kvstore(path), _context(), self._reached)
        return self._checked(found, path, dtype, shape, whose)

    def digest(self, path: Path) -> str:
        parts = []
        for name, content in self._content(path):
            parts += [name, hashlib.blake2b(content, digest_size=16).hexdigest()]
        return files.digest(*parts)

    def size(self, path: Path) -> int:
        return sum(len(content) for _, content in self._content(path))

    def files(self, path: Path) -> list[Path]:
        return []  # none on this machine

    def _content(self, path: Path) -> list[tuple[str, bytes]]:
        names = self._names(path)
        with self._reached():
            store = self._open(path)
            return [(name, bytes(store.read(name).result(timeout=PATIENCE).value)) for name in names]

    def _names(self, path: Path) -> list[str]:
        with self._reached():
            return sorted(name.decode() for name in self._open(path).list().result(timeout=PATIENCE))

    def _kvstore(self, path: Path) -> str:
        return f"{self.address}/{'/'.join(path.parts[-2:])}/"

    def _open(self, path: Path):
        import tensorstore

        return tensorstore.KvStore.open(self._kvstore(path), context=_context()).result(timeout=PATIENCE)

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, OSError, TimeoutError) as error:
            if isinstance(error, JaxsegError):
                raise
            why = " ".join(str(error).split())[:200] or f"no answer within {PATIENCE:.0f} s"
            raise StorageError(
                f"{self.address}: {why}; check the address, the network and the credentials of this machine (Google: "
                "GOOGLE_APPLICATION_CREDENTIALS; S3: AWS_ACCESS_KEY_ID or ~/.aws)"
            ) from error


@functools.cache
def _context() -> Any:
    """Return one TensorStore context for all addresses, with few tries: a wrong address is to be found out soon."""
    import tensorstore

    few = {"max_retries": 4}
    return tensorstore.Context({"gcs_request_retries": few, "s3_request_retries": few})


class Chunks:
    """A zarr array: what is asked for is read and decoded, and nothing is kept."""

    def __init__(self, kvstore: dict | str, context=None, reached: Callable = contextlib.nullcontext):
        import tensorstore

        spec = {"driver": "zarr3", "kvstore": kvstore}
        self._array = tensorstore.open(spec, open=True, read=True, context=context).result()
        self._reached = reached  # turns errors of a read into one line
        self.dtype, self.shape = np.dtype(self._array.dtype.numpy_dtype), tuple(self._array.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, box) -> np.ndarray:
        boxes, axis = [], 0
        for b in box if isinstance(box, tuple) else (box,):
            boxes.append(_inside(b, self.shape[axis]) if isinstance(b, slice) else b)
            axis = axis + 1 if b is not ... else len(self.shape) + 1 - len(box)
        with self._reached():
            found = np.asarray(self._array[tuple(boxes)].read().result())
        found.flags.writeable = False
        return found

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        found = self[()]
        return found if dtype is None else found.astype(dtype, copy=False)


def create(kvstore: dict, array: np.ndarray, context=None) -> None:
    """Write an array [*S] or [*S, C] into a key-value store of TensorStore, such as {"driver": "memory"} (of its context)."""
    side = CHUNK[min(max(array.ndim - (array.ndim > 1 and array.shape[-1] < 32), 1), 3)]
    inner = [min(side, max(n, 1)) for n in array.shape]
    shard = [-(-max(n, 1) // m) * m for n, m in zip(array.shape, inner)]
    _created(kvstore, array.shape, array.dtype, inner, shard, context).write(array).result()


def _created(kvstore: dict, shape: Sequence[int], dtype: np.dtype, inner: list[int], shard: list[int], context=None):
    """Return a new zarr array of TensorStore, with chunks `inner` in files `shard`."""
    import tensorstore

    plain = {"name": "bytes", "configuration": {"endian": "little"}}
    kind = {"cname": "zstd", "clevel": 3, "shuffle": "bitshuffle", "typesize": np.dtype(dtype).itemsize, "blocksize": 0}
    sharding = {
        "chunk_shape": inner,
        "codecs": [plain, {"name": "blosc", "configuration": kind}],
        "index_codecs": [plain, {"name": "crc32c"}],
    }
    metadata = {
        "shape": list(shape),
        "data_type": np.dtype(dtype).name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }
    spec = {"driver": "zarr3", "kvstore": kvstore, "metadata": metadata}
    return tensorstore.open(spec, create=True, delete_existing=True, context=context).result()


class GrowingChunks:
    """As `arrays.Growing`, a zarr array [n, *shape] that grows along its first axis, each example a chunk or more of its own.

    Args:
      path: the folder of the array.
      shape: of an example; () for numbers.
      dtype: of the array.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type):
        self.shape, self.dtype, self.count, self._path = tuple(shape), np.dtype(dtype), 0, path
        self._waiting: list[np.ndarray] = []
        inner = [1, *(min(CHUNK[2], n) for n in shape)] if shape else [CHUNK[1]]
        each = inner[0] * math.prod(self.shape) * self.dtype.itemsize  # bytes along the first axis of a chunk
        self._together = inner[0] * max(1, SHARD // max(1, each))
        shard = [self._together, *(-(-n // m) * m for n, m in zip(shape, inner[1:]))]
        self._store = _created(_kvstore(path), (0, *self.shape), self.dtype, inner, shard)

    def extend(self, arrays: np.ndarray) -> None:
        """Append several arrays, [m, *shape]."""
        if arrays.shape[1:] != self.shape:
            raise ValueError(f"got {arrays.shape[1:]} for an array of {self.shape}")
        self._waiting.append(np.array(arrays, self.dtype))  # a copy: it is written later
        self.count += len(arrays)
        if sum(map(len, self._waiting)) >= self._together:
            self._write(self._together)

    def _write(self, multiple: int) -> None:
        """Write what waits, but for the rest of a file that would be written again."""
        waiting = np.concatenate(self._waiting) if self._waiting else np.empty((0, *self.shape), self.dtype)
        ready = len(waiting) // multiple * multiple
        first = self.count - len(waiting)
        self._store = self._store.resize(exclusive_max=[first + ready, *self.shape]).result()
        if ready:
            self._store[first : first + ready].write(waiting[:ready]).result()
        self._waiting = [waiting[ready:]]

    def __enter__(self) -> "GrowingChunks":
        return self

    def __exit__(self, *_) -> None:
        self._write(1)
        sync_files(ENGINES["zarr3"].files(self._path))


def rows_of(array: "np.ndarray | Chunks", rows: np.ndarray) -> np.ndarray:
    """Return a copy of some examples of an array [N, ...], whichever engine opened it."""
    return array[rows] if isinstance(array, Chunks) else np.take(np.asarray(array), rows, axis=0)


def remove(path: Path) -> None:
    """Remove an array, whichever engine wrote it."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _kvstore(path: Path) -> dict:
    return {"driver": "file", "path": f"{path}/"}


def _inside(box: slice, length: int) -> slice:
    """A slice clipped to the array, as numpy does and TensorStore refuses to."""
    start, stop, _ = box.indices(length)
    return slice(start, max(start, stop))


Zarr.growing = GrowingChunks
ENGINES: dict[str, StoreEngine] = {"memmap": MemoryMap(), "zarr3": Zarr()}


def engine_at(engine: str, address: str = "", store: str = "") -> StoreEngine:
    """Return an engine by its name; with an address that of the arrays of a store there."""
    return Remote(f"{address.rstrip('/')}/{store}") if address else ENGINES[engine]
