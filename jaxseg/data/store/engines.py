"""How one array of an example lies on the disk: a .npy file that is mapped, or a compressed zarr array that is read by chunks.

| engine | on disk | reads of a patch |
|---|---|---|
| memmap | the array's bytes | the pages that it touches, from the system's cache where they were read before |
| zarr3 | chunks (32^3 voxels, 128^2 pixels), compressed by blosc with zstd, in one shard | the chunks that it touches |

Both keep every bit. `zarr3` is read and written by TensorStore; it is for disks and networks that are slower than a decoder.
"""

import abc
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.data.store.arrays import damaged, file_digest, open_array, write_array
from jaxseg.utils import files

CHUNK = {1: 65536, 2: 128, 3: 32}  # longest side of a chunk, by the number of axes without channels


class StoreEngine(abc.ABC):
    """How arrays are written and opened.

    Attributes:
      ending: of the file's or folder's name.
    """

    ending: str

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

    def size(self, path: Path) -> int:
        """Return the bytes on disk."""
        return sum(file.stat().st_size for file in self.files(path))


class MemoryMap(StoreEngine):
    """.npy files."""

    ending = ".npy"

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


class Chunks:
    """A zarr array: what is asked for is read and decoded, and nothing is kept."""

    def __init__(self, kvstore: dict, context=None):
        import tensorstore

        spec = {"driver": "zarr3", "kvstore": kvstore}
        self._array = tensorstore.open(spec, open=True, read=True, context=context).result()
        self.dtype, self.shape = np.dtype(self._array.dtype.numpy_dtype), tuple(self._array.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, box) -> np.ndarray:
        boxes = box if isinstance(box, tuple) else (box,)
        found = np.asarray(self._array[tuple(_inside(b, n) for b, n in zip(boxes, self.shape))].read().result())
        found.flags.writeable = False
        return found

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        found = self[()]
        return found if dtype is None else found.astype(dtype, copy=False)


def create(kvstore: dict, array: np.ndarray, context=None) -> None:
    """Write an array [*S] or [*S, C] into a key-value store of TensorStore, such as {"driver": "memory"} (of its context)."""
    import tensorstore

    side = CHUNK[min(max(array.ndim - (array.ndim > 1 and array.shape[-1] < 32), 1), 3)]
    inner = [min(side, max(n, 1)) for n in array.shape]
    shard = [-(-max(n, 1) // m) * m for n, m in zip(array.shape, inner)]
    plain = {"name": "bytes", "configuration": {"endian": "little"}}
    kind = {"cname": "zstd", "clevel": 3, "shuffle": "bitshuffle", "typesize": array.dtype.itemsize, "blocksize": 0}
    sharding = {
        "chunk_shape": inner,
        "codecs": [plain, {"name": "blosc", "configuration": kind}],
        "index_codecs": [plain, {"name": "crc32c"}],
    }
    metadata = {
        "shape": list(array.shape),
        "data_type": array.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }
    spec = {"driver": "zarr3", "kvstore": kvstore, "metadata": metadata}
    store = tensorstore.open(spec, create=True, delete_existing=True, context=context).result()
    store.write(array).result()


def remove(path: Path) -> None:
    """Remove an array, whichever engine wrote it."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _kvstore(path: Path) -> dict:
    return {"driver": "file", "path": f"{path}/"}


def _inside(box, length: int):
    """A slice clipped to the array, as numpy does and TensorStore refuses to."""
    if not isinstance(box, slice):
        return box
    start, stop, _ = box.indices(length)
    return slice(start, max(start, stop))


ENGINES: dict[str, StoreEngine] = {"memmap": MemoryMap(), "zarr3": Zarr()}
