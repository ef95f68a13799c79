"""Write weight files without PyTorch: .pth and .pt as torch.save writes a state dict, and .safetensors.

The pickle of a .pth file is written opcode by opcode; its only globals are torch._utils._rebuild_tensor_v2, the storage types
and collections.OrderedDict, so that torch.load(weights_only=True) and `torch_files` can read it.
Formats: pytorch torch/serialization.py and caffe2/serialize/inline_container.h; safetensors' format section.
"""

import io
import json
import math
import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxseg.types import ConfigError, DataError
from jaxseg.utils.files import write_atomic
from jaxseg.weights import torch_files, torch_pickle

_STORAGE = {dtype: name for name, dtype in torch_pickle.STORAGES.items() if name != "Untyped"}  # "float32" -> "Float"
_TYPE = {dtype: name for name, dtype in torch_files.SAFETENSORS.items()}  # "float32" -> "F32"


def write(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name to a file whose suffix gives the format; an interrupted write leaves no incomplete file.

    Raises:
      ConfigError: the suffix is not .pth, .pt or .safetensors.
      DataError: the format does not support an array's dtype.
      StorageError: the file cannot be written.
    """
    kind = {".pth": _pth, ".pt": _pth, ".safetensors": _safetensors}.get(Path(path).suffix)
    if kind is None:
        raise ConfigError(f"{path}: the name of a weight file must end in .pth, .pt or .safetensors")
    # numpy's ascontiguousarray turns a scalar into shape [1]
    write_atomic(path, kind({name: np.asarray(a, order="C") for name, a in arrays.items()}))


def write_checkpoint(path: str | os.PathLike, tree: Mapping) -> None:
    """Write a .pth file (atomically) of nested dicts, lists and tuples of arrays, strings, numbers, booleans and None.

    Raises:
      DataError: the format does not support an array's dtype.
      TypeError: there is another kind of value.
      StorageError: the file cannot be written.
    """
    write_atomic(path, _pth(tree))


def _pth(tree: Mapping) -> bytes:
    arrays: list[np.ndarray] = []
    pickled = _pickled(tree, "", arrays)
    records = {"data.pkl": b"\x80\x02" + pickled + b".", "byteorder": b"little", "version": b"3\n"}
    records |= {f"data/{i}": _bytes(a) for i, a in enumerate(arrays)}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in records.items():
            archive.writestr(f"archive/{name}", data)
    return file.getvalue()


def _pickled(value, name: str, arrays: list[np.ndarray]) -> bytes:
    """Opcodes of a value; its arrays are appended to `arrays`, whose order numbers their records."""
    if isinstance(value, np.ndarray):
        arrays.append(np.asarray(value, order="C"))
        return _tensor(str(len(arrays) - 1), arrays[-1], name)
    if isinstance(value, Mapping):
        items = (_pickled(k, name, arrays) + _pickled(v, f"{name}.{k}".lstrip("."), arrays) for k, v in value.items())
        return b"}(" + b"".join(items) + b"u"
    if isinstance(value, list | tuple):
        items = b"".join(_pickled(v, name, arrays) for v in value)
        return b"(" + items + b"t" if isinstance(value, tuple) else b"](" + items + b"e"
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return _int(value)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    raise TypeError(f"{name or 'the checkpoint'} has a {type(value).__name__}, which cannot be written")


def _tensor(key: str, array: np.ndarray, name: str) -> bytes:
    """_rebuild_tensor_v2(storage, 0, shape, strides in numbers, False, OrderedDict())."""
    kind = _word(array, _STORAGE, name)
    storage = b"(" + _text("storage") + f"ctorch\n{kind}Storage\n".encode() + _text(key) + _text("cpu") + _int(array.size) + b"tQ"
    strides = [math.prod(array.shape[i + 1 :]) for i in range(array.ndim)]
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + _int(0)
        + _tuple(array.shape)
        + _tuple(strides)
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def _safetensors(arrays: Mapping[str, np.ndarray]) -> bytes:
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, a in arrays.items():
        header[name] = {"dtype": _word(a, _TYPE, name), "shape": list(a.shape), "data_offsets": [at, at + a.nbytes]}
        at += a.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers are aligned
    return struct.pack("<Q", len(text)) + text + b"".join(map(_bytes, arrays.values()))


def _word(array: np.ndarray, words: Mapping[str, str], name: str) -> str:
    if array.dtype.name not in words:
        raise DataError(
            f"{name} has dtype {array.dtype.name}, which this file format does not support; convert it to float32",
            code="DATA_FORMAT",
        )
    return words[array.dtype.name]


def _bytes(array: np.ndarray) -> bytes:
    """The array's numbers in little-endian byte order."""
    return (array if array.dtype.byteorder != ">" else array.astype(array.dtype.newbyteorder("<"))).tobytes()


def _text(word: str) -> bytes:
    data = word.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _int(n: int) -> bytes:
    return b"J" + struct.pack("<i", n) if n < 1 << 31 else b"\x8a\x08" + struct.pack("<q", n)


def _tuple(numbers) -> bytes:
    return b"(" + b"".join(map(_int, numbers)) + b"t"
