"""Read weight files without PyTorch: .pth and .pt (zip, the format before 1.6, TorchScript), .safetensors, .npz.

No code in a file is run (see `torch_pickle`), and every size that a file states is compared with its actual bytes before memory
is allocated. The format is recognised by the content, not by the file's name.
Formats: pytorch torch/serialization.py; safetensors' format section; numpy.lib.format.
"""

import io
import math
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxseg.types import DataError
from jaxseg.utils import guard, npy
from jaxseg.utils.guard import MAX_DEPTH, shown
from jaxseg.weights import torch_pickle
from jaxseg.weights.torch_pickle import Tensor, refuse

MAX_ENTRIES = 400_000  # of the nested content of a file; a pickle of a hundred bytes can describe 2^50 entries
MAX_TENSORS = 100_000  # among them
MAX_NAMES = 64 << 20  # total characters of their names: nested dictionaries can share long keys
MAX_HEADER = 16 << 20  # bytes of a safetensors header; the format allows 100 MB, 100,000 tensors need about 10
MAX_DIRECTORY = 16 << 20  # bytes of a zip archive's directory
MAX_RATIO = 20  # of an .npz: unpacked over packed size
NATIVE = "<" if sys.byteorder == "little" else ">"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
SAFETENSORS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read all tensors of a weight file, by dotted name ("state_dict.encoder.0.weight" for nested dictionaries).

    Raises:
      DataError: DATA_MISSING, DATA_FORMAT (unknown format), DATA_TRUNCATED (fewer bytes than stated) or DATA_UNSAFE
        (the file would run code, or states sizes that exceed its content).
    """
    return flatten(load(path))


def load(path: str | os.PathLike) -> Any:
    """Read the nested content of a weight file: dict, list, tuple, str, numbers and numpy arrays.

    Arrays may be views of one buffer; bfloat16 arrays have the dtype of ml_dtypes. Raises the same errors as `read`.
    """
    path = Path(path)
    with guard.reading(path, "weight file"), guard.open_regular(path) as file:
        head = file.read(16)
        file.seek(0)
        try:
            if head.startswith(b"PK"):
                return _zip(guard.Clamped(file))
            if head.startswith(b"\x80"):
                return _legacy(guard.Clamped(file))
            if len(head) >= 9 and head[8:9] == b"{":
                return _safetensors(guard.Clamped(file))
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise DataError(f"is damaged: {str(error)[:100]}; copy it again", code="DATA_TRUNCATED") from error
        raise DataError(
            "is not a weight file of a known format: PyTorch (.pth, .pt, TorchScript), .safetensors or .npz", code="DATA_FORMAT"
        )


def flatten(tree: Any) -> dict[str, np.ndarray]:
    """The arrays in nested mappings and sequences, by dotted name; numbers, strings and None are left out.

    Tensors of PyTorch and of jax count as arrays.

    Raises:
      DataError: there are more than MAX_ENTRIES entries or MAX_NAMES characters of names, or the tree contains itself.
    """
    found: dict[str, np.ndarray] = {}
    todo, seen, written = [("", tree)], 0, 0
    while todo:
        prefix, value = todo.pop()
        seen, written = seen + 1, written + len(prefix)
        if seen > MAX_ENTRIES or written > MAX_NAMES or prefix.count(".") > 4 * MAX_DEPTH:
            raise refuse(
                f"the file has more than {MAX_ENTRIES:,} nested entries or {MAX_NAMES:,} characters of names, or an entry that "
                "contains itself"
            )
        if isinstance(value, Mapping):
            todo += [(f"{prefix}.{k}" if prefix else str(k), v) for k, v in reversed(value.items())]
        elif isinstance(value, list | tuple):
            todo += [(f"{prefix}.{i}" if prefix else str(i), v) for i, v in reversed(list(enumerate(value)))]
        elif hasattr(value, "shape") and hasattr(value, "dtype"):
            found[prefix] = to_numpy(value)
    return found


def to_numpy(value) -> np.ndarray:
    """Convert a numpy, jax or PyTorch array to numpy, without importing PyTorch."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        return value.float().numpy() if str(value.dtype) == "torch.bfloat16" else value.numpy()
    return np.asarray(value)


def dtype_of(name: str) -> np.dtype:
    """The numpy dtype called `name`; bfloat16 and float8 are those of ml_dtypes."""
    return np.dtype(getattr(ml_dtypes, name, name))


def _zip(file: guard.Clamped) -> Any:
    file.limit = MAX_DIRECTORY  # Python reads it in one piece and needs 20 times its size
    with zipfile.ZipFile(file) as archive:
        file.limit = None
        names = set(archive.namelist())
        roots = sorted((n.removesuffix("data.pkl") for n in names if n == "data.pkl" or n.endswith("/data.pkl")), key=len)
        if not roots:
            return _npz(archive)
        stated = sum(i.file_size for i in archive.infolist() if i.filename.startswith(roots[0] + "data"))
        if stated > file.size:
            raise refuse(f"the archive claims {stated:,} bytes of tensors but has only {file.size:,} bytes (a zip bomb)")

        def record(name: str) -> bytes:
            if roots[0] + name not in names:
                raise DataError(f"the archive lacks {shown(name)}", code="DATA_TRUNCATED")
            info = archive.getinfo(roots[0] + name)
            if info.compress_type != zipfile.ZIP_STORED:
                raise refuse(f"record {shown(name)} is compressed, which PyTorch never does")
            return archive.read(info)

        order = ">" if roots[0] + "byteorder" in names and record("byteorder").strip() == b"big" else "<"
        tree = torch_pickle.interpret(io.BytesIO(record("data.pkl")))
        cached: dict[str, bytes] = {}

        def storage(key: str) -> bytes:
            if key not in cached:
                cached[key] = record(f"data/{key}")
            return cached[key]

        return _resolve(tree, storage, order)


def _legacy(file: guard.Clamped) -> Any:
    """Read the format before PyTorch 1.6: magic number, version, system, pickle, storage keys, then (count, bytes) of each."""
    magic, version, system = (torch_pickle.interpret(file) for _ in range(3))
    if magic != _LEGACY_MAGIC or version != 1001 or not isinstance(system, dict):
        raise DataError("is a pickle, but not one that PyTorch wrote", code="DATA_FORMAT")
    order = "<" if system.get("little_endian", True) else ">"
    tree, keys = torch_pickle.interpret(file), torch_pickle.interpret(file)
    sizes = {s.key: (s.numel, dtype_of(s.dtype).itemsize) for s in _storages(tree)}
    if not isinstance(keys, list):
        raise DataError(f"the keys of its storages are {shown(keys)}", code="DATA_FORMAT")
    stored: dict[str, bytes] = {}
    for key in keys:
        if not isinstance(key, str) or key not in sizes or key in stored:
            raise DataError(f"storage {shown(key)} belongs to no tensor, or appears twice", code="DATA_FORMAT")
        numel, itemsize = sizes[key]
        head = file.read(8)
        count = struct.unpack(f"{order}q", head)[0] if len(head) == 8 else -1
        left = file.size - file.tell()
        if count < numel or count * itemsize > left:
            raise refuse(
                f"storage {shown(key)} claims {count:,} of {shown(numel)} numbers, but only {left:,} bytes are left in the file"
            )
        stored[key] = file.read(count * itemsize)
    return _resolve(tree, stored.__getitem__, order)


def _safetensors(file: guard.Clamped) -> dict[str, np.ndarray]:
    n = struct.unpack("<Q", file.read(8))[0]
    if n > min(file.size - 8, MAX_HEADER):
        raise refuse(f"the header claims {n:,} bytes, but the file has {file.size:,} and at most {MAX_HEADER:,} are allowed")
    try:
        header = guard.parse_json(file.read(n))
        header.pop("__metadata__", None)
        entries = {k: (SAFETENSORS[v["dtype"]], v["shape"], *map(_offset, v["data_offsets"])) for k, v in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"the safetensors header is broken: {type(error).__name__} {str(error)[:80]}", code="DATA_FORMAT"
        ) from error
    if len(entries) > MAX_TENSORS or any(len(e) != 4 for e in entries.values()):
        raise DataError(
            f"the safetensors header has {len(entries):,} entries; must be at most {MAX_TENSORS:,}, each with two offsets",
            code="DATA_FORMAT",
        )
    data, at, tensors = file.size - 8 - n, 0, {}
    for name, (dtype, shape, begin, end) in sorted(entries.items(), key=lambda e: e[1][2:]):
        if end - begin != guard.array_bytes(shape, dtype_of(dtype).itemsize) or begin != at or end > data:
            raise refuse(f"{shown(name)} {dtype}{shown(shape)} at bytes {begin}..{end} does not fit {data:,} bytes without gaps")
        tensors[name] = np.frombuffer(file.read(end - begin), dtype_of(dtype)).reshape(shape)
        at = end
    if at != data:
        raise refuse(f"{data - at:,} bytes belong to no tensor")
    return {name: tensors[name] for name in entries}


def _offset(value) -> int:
    if type(value) is not int or not 0 <= value <= guard.MAX_AXIS:
        raise ValueError(f"the offset {shown(value)}")
    return value


def _npz(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    infos = archive.infolist()
    if not infos or not all(i.filename.endswith(".npy") for i in infos):
        raise DataError("is a zip archive, but neither a PyTorch file nor .npz", code="DATA_FORMAT")
    packed, unpacked = sum(i.compress_size for i in infos), sum(i.file_size for i in infos)
    if unpacked > MAX_RATIO * (packed + 1024):
        raise refuse(f"{packed:,} bytes would unpack to {unpacked:,} (a zip bomb)")
    arrays = {}
    for info in infos:
        name = info.filename.removesuffix(".npy")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise refuse(f"{shown(name)} is compressed by method {info.compress_type}, which numpy never uses")
        with archive.open(info) as member:
            try:
                shape, fortran, dtype, size = npy.read_header(member, kinds=npy.KINDS + "SUV")
            except DataError as error:
                raise DataError(f"{shown(name)}: {error}", error.code) from error
            data = member.read()
        if len(data) != size:
            raise refuse(f"{shown(name)} claims to be {dtype}{list(shape)} but has {len(data):,} bytes")
        arrays[name] = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    return arrays


def _resolve(tree: Any, storage, order: str) -> Any:
    """A copy of the tree with every Tensor replaced by its array; storage(key) gives the bytes of a storage."""
    native: dict[tuple[str, str], bytes] = {}  # storages turned into this machine's byte order, once each

    def leaf(value):
        if not isinstance(value, Tensor):
            return value
        key, dtype = value.storage.key, dtype_of(value.dtype)
        data = storage(key)
        if dtype.itemsize > 1 and order != NATIVE:
            if (key, value.dtype) not in native:
                native[key, value.dtype] = _turned(data, dtype)
            data = native[key, value.dtype]
        return _view(value, data)

    return _walk(tree, leaf)


def _turned(data: bytes, dtype: np.dtype) -> bytes:
    """Reverse the byte order of the numbers; the two halves of a complex number are reversed separately."""
    part = dtype.itemsize // (2 if dtype.kind == "c" else 1)
    whole = len(data) // part * part
    return np.frombuffer(data, f"V{part}", whole // part).view(np.uint8).reshape(-1, part)[:, ::-1].tobytes() + data[whole:]


def _storages(tree: Any) -> list:
    found = []
    _walk(
        tree,
        lambda t: (
            found.append(t.storage if isinstance(t, Tensor) else t)
            if isinstance(t, Tensor | torch_pickle.TensorStorage)
            else None
        ),
    )
    return found


def _walk(tree: Any, leaf) -> Any:
    """A copy of the tree in which every x that is not a dict, list or plain tuple is replaced by leaf(x)."""
    seen = tensors = 0

    def visit(value, depth: int):
        nonlocal seen, tensors
        seen, tensors = seen + 1, tensors + isinstance(value, Tensor)
        if seen > MAX_ENTRIES or tensors > MAX_TENSORS or depth > MAX_DEPTH:
            raise refuse(
                f"the file has more than {MAX_ENTRIES:,} nested entries, {MAX_TENSORS:,} tensors or {MAX_DEPTH} levels, or an "
                "entry that contains itself"
            )
        if isinstance(value, dict):
            return {k: visit(v, depth + 1) for k, v in value.items()}
        if isinstance(value, list) or type(value) is tuple:
            return type(value)(visit(v, depth + 1) for v in value)
        return leaf(value)

    return visit(tree, 0)


def _view(tensor: Tensor, data: bytes) -> np.ndarray:
    """The array of a tensor description, after checking the described size against the actual bytes."""
    dtype, store = dtype_of(tensor.dtype), tensor.storage
    stated = store.numel * dtype_of(store.dtype).itemsize
    start = store.start * dtype_of(store.dtype).itemsize
    room = (min(len(data), start + stated) - start) // dtype.itemsize
    last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides))
    if stated > len(data):
        raise refuse(f"storage {shown(store.key)} claims {stated:,} bytes but has {len(data):,}")
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, dtype)
    if last >= room or math.prod(tensor.shape) > room:
        raise refuse(
            f"a tensor of shape {shown(tensor.shape)}, strides {shown(tensor.strides)}, offset {tensor.offset} reaches "
            f"beyond its storage of {room:,} numbers"
        )
    flat = np.frombuffer(data, dtype, room, start)[tensor.offset :]
    return np.lib.stride_tricks.as_strided(flat, tensor.shape, [s * dtype.itemsize for s in tensor.strides], writeable=False)
