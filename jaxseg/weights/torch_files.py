"""Weight files read without PyTorch: .pth and .pt (zip, the format before 1.6, TorchScript), .safetensors, .npz.

Nothing of a file is run (see `torch_pickle`), and nothing is allocated on a file's word: every size that it states is
compared with the bytes that are there first. The kind is recognised by content, not by the file's name.
Formats: pytorch torch/serialization.py; safetensors' format section; numpy.lib.format.
"""

import io
import json
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxseg.types import DataError
from jaxseg.weights import torch_pickle
from jaxseg.weights.torch_pickle import Tensor, refuse

MAX_ENTRIES = 1_000_000  # of a file's tree; a pickle can describe 2^50 of them in a hundred bytes
MAX_DEPTH = 60  # of nesting
MAX_HEADER = 100 << 20  # bytes of a safetensors header, the format's own limit
MAX_RATIO = 100  # of an .npz: unpacked over packed size
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
SAFETENSORS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32", "I16": "int16",
    "I8": "int8", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """All tensors of a weight file, under dotted names ("state_dict.encoder.0.weight" where dictionaries are nested).

    Raises:
      DataError: DATA_MISSING, DATA_FORMAT (no known kind), DATA_TRUNCATED (fewer bytes than stated) or DATA_UNSAFE
        (the file wants to run something, or states sizes that it does not hold).
    """
    return flatten(load(path))


def load(path: str | os.PathLike) -> Any:
    """What a weight file holds, as it is nested: dict, list, tuple, str, numbers and numpy arrays.

    Arrays may be views of one buffer; bfloat16 is ml_dtypes'. Raises as `read`.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            head = file.read(16)
            file.seek(0)
            if head.startswith(b"PK"):
                return _zip(file)
            if head.startswith(b"\x80"):
                return _legacy(file)
            if len(head) >= 9 and head[8:9] == b"{":
                return _safetensors(file)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}", code="DATA_MISSING") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(f"{path} is damaged: {error}; copy it again", code="DATA_TRUNCATED") from error
    except DataError as error:
        raise DataError(f"{path}: {error}", code=error.code) from error
    raise DataError(f"{path} is no weight file that is known here: PyTorch (.pth, .pt, TorchScript), .safetensors or .npz",
                    code="DATA_FORMAT")


def flatten(tree: Any) -> dict[str, np.ndarray]:
    """The arrays of a tree of mappings and sequences under dotted names; numbers, words and None are left out.

    Tensors of PyTorch and of jax count as arrays.
    Raises:
      DataError: more than MAX_ENTRIES entries, or a tree that contains itself.
    """
    found: dict[str, np.ndarray] = {}
    todo, seen = [("", tree)], 0
    while todo:
        prefix, value = todo.pop()
        seen += 1
        if seen > MAX_ENTRIES or prefix.count(".") > 4 * MAX_DEPTH:
            raise refuse(f"the file's tree has more than {MAX_ENTRIES} entries or contains itself")
        if isinstance(value, Mapping):
            todo += [(f"{prefix}.{k}" if prefix else str(k), v) for k, v in reversed(value.items())]
        elif isinstance(value, list | tuple):
            todo += [(f"{prefix}.{i}" if prefix else str(i), v) for i, v in reversed(list(enumerate(value)))]
        elif hasattr(value, "shape") and hasattr(value, "dtype"):
            found[prefix] = to_numpy(value)
    return found


def to_numpy(value) -> np.ndarray:
    """A numpy array of a numpy, jax or PyTorch array, without importing PyTorch."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        return value.float().numpy() if str(value.dtype) == "torch.bfloat16" else value.numpy()
    return np.asarray(value)


def dtype_of(name: str) -> np.dtype:
    """The numpy dtype called `name`, ml_dtypes' for bfloat16 and float8."""
    return np.dtype(getattr(ml_dtypes, name, name))


def _zip(file) -> Any:
    with zipfile.ZipFile(file) as archive:
        names = set(archive.namelist())
        roots = sorted((n.removesuffix("data.pkl") for n in names if n == "data.pkl" or n.endswith("/data.pkl")), key=len)
        if not roots:
            return _npz(archive)
        stated = sum(i.file_size for i in archive.infolist() if i.filename.startswith(roots[0] + "data"))
        size = os.fstat(file.fileno()).st_size
        if stated > size:
            raise refuse(f"the archive states {stated:,} bytes of tensors and is {size:,} bytes long (a zip bomb)")

        def record(name: str) -> bytes:
            if roots[0] + name not in names:
                raise DataError(f"the archive lacks {name}", code="DATA_TRUNCATED")
            info = archive.getinfo(roots[0] + name)
            if info.compress_type != zipfile.ZIP_STORED:
                raise refuse(f"record {name} is compressed, which PyTorch never does")
            return archive.read(info)

        order = ">" if roots[0] + "byteorder" in names and record("byteorder").strip() == b"big" else "<"
        tree = torch_pickle.interpret(io.BytesIO(record("data.pkl")))
        cached: dict[str, bytes] = {}

        def storage(key: str) -> bytes:
            if key not in cached:
                cached[key] = record(f"data/{key}")
            return cached[key]

        return _resolve(tree, storage, order)


def _legacy(file) -> Any:
    """Before 1.6: magic number, version, system, the pickle, keys of the storages, then (count, bytes) of each."""
    magic, version, system = (torch_pickle.interpret(file) for _ in range(3))
    if magic != _LEGACY_MAGIC or version != 1001:
        raise DataError("a pickle, but none that PyTorch wrote", code="DATA_FORMAT")
    order = "<" if system.get("little_endian", True) else ">"
    tree, keys = torch_pickle.interpret(file), torch_pickle.interpret(file)
    sizes = {s.key: (s.numel, dtype_of(s.dtype).itemsize) for s in _storages(tree)}
    stored: dict[str, bytes] = {}
    for key in keys:
        if key not in sizes:
            raise DataError(f"storage {key!r} belongs to no tensor", code="DATA_FORMAT")
        numel, itemsize = sizes[key]
        head = file.read(8)
        count = struct.unpack(f"{order}q", head)[0] if len(head) == 8 else -1
        left = os.fstat(file.fileno()).st_size - file.tell()
        if count < numel or count * itemsize > left:
            raise refuse(f"storage {key!r} states {count:,} numbers of {numel:,}; {left:,} bytes are left in the file")
        stored[key] = file.read(count * itemsize)
    return _resolve(tree, stored.__getitem__, order)


def _safetensors(file) -> dict[str, np.ndarray]:
    size = os.fstat(file.fileno()).st_size
    n = struct.unpack("<Q", file.read(8))[0]
    if n > min(size - 8, MAX_HEADER):
        raise refuse(f"the header states {n:,} bytes; the file has {size:,}")
    try:
        header = json.loads(file.read(n), object_pairs_hook=_unique)
        entries = {k: (SAFETENSORS[v["dtype"]], tuple(v["shape"]), *v["data_offsets"])
                   for k, v in header.items() if k != "__metadata__"}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"the safetensors header is broken: {type(error).__name__} {error}", code="DATA_FORMAT") from error
    data, at, tensors = size - 8 - n, 0, {}
    for name, (dtype, shape, begin, end) in sorted(entries.items(), key=lambda e: e[1][2:]):
        itemsize = dtype_of(dtype).itemsize
        fits = all(type(v) is int and v >= 0 for v in (*shape, begin, end)) and end - begin == math.prod(shape) * itemsize
        if not fits or begin != at or end > data:
            raise refuse(f"{name} {dtype}{list(shape)} at bytes {begin}..{end} does not fit {data:,} bytes without gaps")
        tensors[name] = np.frombuffer(file.read(end - begin), dtype_of(dtype)).reshape(shape)
        at = end
    if at != data:
        raise refuse(f"{data - at:,} bytes belong to no tensor")
    return {name: tensors[name] for name in entries}


def _npz(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    infos = archive.infolist()
    if not infos or not all(i.filename.endswith(".npy") for i in infos):
        raise DataError("a zip archive, but neither of PyTorch nor .npz", code="DATA_FORMAT")
    packed, unpacked = sum(i.compress_size for i in infos), sum(i.file_size for i in infos)
    if unpacked > MAX_RATIO * (packed + 1024):
        raise refuse(f"{packed:,} bytes unpack to {unpacked:,} (a zip bomb)")
    arrays = {}
    for info in infos:
        with archive.open(info) as member:
            try:
                version = np.lib.format.read_magic(member)
                reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, fortran, dtype = reader(member)
            except ValueError as error:
                raise DataError(f"{info.filename} has no .npy header: {error}", code="DATA_FORMAT") from error
            if dtype.hasobject:
                raise refuse(f"{info.filename} holds Python objects")
            data = member.read()
        if len(data) != math.prod(shape) * dtype.itemsize:
            raise refuse(f"{info.filename} states {dtype}{list(shape)} and holds {len(data):,} bytes")
        arrays[info.filename.removesuffix(".npy")] = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    return arrays


def _resolve(tree: Any, storage, order: str) -> Any:
    """`tree` with every Tensor replaced by its array; the bytes of a storage come from storage(key)."""
    return _walk(tree, lambda t: _view(t, storage(t.storage.key), order) if isinstance(t, Tensor) else t)


def _storages(tree: Any) -> list:
    found = []
    _walk(tree, lambda t: found.append(t.storage if isinstance(t, Tensor) else t)
          if isinstance(t, Tensor | torch_pickle.Storage) else None)
    return found


def _walk(tree: Any, leaf) -> Any:
    """A copy of the tree with leaf(x) in place of every x that is no dict, list or plain tuple."""
    seen = 0

    def visit(value, depth: int):
        nonlocal seen
        seen += 1
        if seen > MAX_ENTRIES or depth > MAX_DEPTH:
            raise refuse(f"the file's tree has more than {MAX_ENTRIES} entries or contains itself")
        if isinstance(value, dict):
            return {k: visit(v, depth + 1) for k, v in value.items()}
        if isinstance(value, list) or type(value) is tuple:
            return type(value)(visit(v, depth + 1) for v in value)
        return leaf(value)

    return visit(tree, 0)


def _view(tensor: Tensor, data: bytes, order: str) -> np.ndarray:
    """The array of a tensor description, after comparing what it claims with the bytes there are."""
    dtype, store = dtype_of(tensor.dtype), tensor.storage
    stated = store.numel * dtype_of(store.dtype).itemsize
    start = store.start * dtype_of(store.dtype).itemsize
    room = (min(len(data), start + stated) - start) // dtype.itemsize
    last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides))
    if stated > len(data):
        raise refuse(f"storage {store.key!r} states {stated:,} bytes and holds {len(data):,}")
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, dtype)
    if last >= room or math.prod(tensor.shape) > room:
        raise refuse(f"a tensor of shape {tensor.shape}, strides {tensor.strides}, offset {tensor.offset} reaches beyond "
                     f"its storage of {room:,} numbers")
    if dtype.itemsize > 1 and dtype.kind in "iufc":
        dtype = dtype.newbyteorder(order)
    flat = np.frombuffer(data, dtype, room, start)[tensor.offset:]
    view = np.lib.stride_tricks.as_strided(flat, tensor.shape, [s * dtype.itemsize for s in tensor.strides], writeable=False)
    return view if dtype.isnative else view.astype(dtype.newbyteorder("="))


def _unique(pairs: list) -> dict:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError("a name occurs twice")
    return names
