"""The text headers of NRRD and MetaImage files, and the voxels after them; numpy only, for the library and exported models.

Both formats have an affine in mm: NRRD in the space that its header names, MetaImage in LPS, as ITK; here it is in RAS.
`bad`, which every function takes, returns the error to raise for what was found, the rule and optionally a code of DataError.
Sources: teem.sourceforge.net/nrrd/format.html; itk.org/Wiki/ITK/MetaIO/Documentation.
"""

import math
import os
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

NRRD = (".nrrd",)
META = (".mha", ".mhd")
MAX_HEADER = 1 << 20  # bytes

_TO_RAS = {"right-anterior-superior": (1, 1, 1), "left-anterior-superior": (-1, 1, 1), "left-posterior-superior": (-1, -1, 1)}
_TO_RAS |= {"".join(word[0].upper() for word in name.split("-")): signs for name, signs in _TO_RAS.items()}
_NRRD_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    "float": "f4",
    "double": "f8",
}
_META_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_VECTOR = re.compile(r"\(([^()]*)\)|(none)")


class StoredArray(NamedTuple):
    """The content of a header.

    Attributes:
      shape: shape of the stored array, first axis fastest.
      dtype: dtype of its numbers, with their byte order.
      vector: the axis of the channels; None if there is none.
      affine: [4, 4] voxel index -> mm in RAS.
      packed: whether the voxels are compressed.
      file: the file that holds the voxels; None: this file, after the header.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    vector: int | None
    affine: np.ndarray
    packed: bool
    file: str | None = None

    @property
    def spatial(self) -> int:
        """Number of spatial axes."""
        return len(self.shape) - (self.vector is not None)


def stored_voxels(file, layout: StoredArray, bad: Callable) -> np.ndarray:
    """Return the voxels [X, Y, Z] or [X, Y, Z, C] from where `file` stands on, in native byte order; Z is 1 for 2-D images."""
    size, left = math.prod(layout.shape) * layout.dtype.itemsize, os.fstat(file.fileno()).st_size - file.tell()
    if layout.packed:
        inflate = zlib.decompressobj(47)  # with the header of zlib or of gzip
        try:
            content = inflate.decompress(file.read(), size + 1)
        except zlib.error as error:
            raise bad(f"the compressed data are damaged ({error})", "deflated voxels", "DATA_CRC") from error
        if len(content) == size and not inflate.eof:  # the check sum comes last
            content += inflate.decompress(inflate.unconsumed_tail, 1)
    else:
        content = file.read(size + 1)
    if len(content) != size:
        found = f"{len(content)} of {size} bytes of voxels" if len(content) < size else f"more than {size} bytes of voxels"
        raise bad(f"{found} ({left} in the file)", "header and content must agree", "DATA_TRUNCATED")
    array = np.frombuffer(bytearray(content), layout.dtype).reshape(layout.shape, order="F")
    array = array.astype(layout.dtype.newbyteorder("="), copy=False)
    if layout.vector is not None:
        array = np.moveaxis(array, layout.vector, -1)
        array = array[..., 0] if array.shape[-1] == 1 else array
    return array[:, :, None] if layout.spatial == 2 else array


def _header_lines(file, end: Callable[[str], bool], bad: Callable) -> list[str]:
    """The header's lines up to the one that ends it, which is kept."""
    lines, taken = [], 0
    while True:
        line = file.readline(MAX_HEADER)
        taken += len(line)
        if not line.endswith(b"\n") or taken > MAX_HEADER:
            raise bad("the header does not end", f"the header must be at most {MAX_HEADER} bytes of text")
        lines.append(line.decode("utf-8", "replace").strip())
        if end(lines[-1]):
            return lines


def _header_numbers(text: str, count: int) -> list[float]:
    found = [float(word) for word in text.replace(",", " ").split()]
    if len(found) != count:
        raise ValueError(f"{len(found)} numbers instead of {count}")
    return found


def nrrd_layout(file, bad: Callable) -> StoredArray:
    """Read the header of an NRRD file, up to its voxels."""
    lines = _header_lines(file, lambda line: not line, bad)
    if not lines[0].startswith("NRRD000"):
        raise bad("not an NRRD file", "must begin with NRRD000")
    fields = dict(line.split(": ", 1) for line in lines[1:] if ": " in line and not line.startswith("#") and ":=" not in line)
    fields = {key.strip().lower(): value.strip() for key, value in fields.items()}
    beside = fields.get("data file", fields.get("datafile"))
    if beside is not None or "line skip" in fields or "byte skip" in fields:
        raise bad("the voxels are in another file", "the voxels must follow the header in the same file")
    encoding = fields["encoding"].lower()
    if encoding not in ("raw", "gz", "gzip"):
        raise bad(f"encoding {encoding}", "must be raw or gzip")
    shape = tuple(int(n) for n in fields["sizes"].split())
    code = _NRRD_TYPES[fields["type"].lower()]
    order = {"little": "<", "big": ">"}[fields["endian"].lower()] if code[1] != "1" else "|"
    if "space directions" not in fields or fields.get("space", "") not in _TO_RAS:
        raise bad(
            f"space {fields.get('space', 'none')!r}",
            f"space must be one of {', '.join(_TO_RAS)}, with space directions",
            "DATA_GEOMETRY",
        )
    directions = [m.group(1) for m in _VECTOR.finditer(fields["space directions"])]
    vectors = [axis for axis, d in enumerate(directions) if d is None]
    if len(directions) != len(shape) or len(vectors) > 1:
        raise bad(
            f"{len(directions)} space directions for {len(shape)} axes",
            "must be one for each axis, and none for that of the channels",
        )
    affine = np.eye(4)
    for column, direction in enumerate(d for d in directions if d is not None):
        affine[:3, column] = _header_numbers(direction, 3)
    affine[:3, 3] = _header_numbers(fields.get("space origin", "(0,0,0)").strip("()"), 3)
    affine[:3] *= np.array(_TO_RAS[fields["space"]])[:, None]
    return StoredArray(shape, np.dtype(order + code), vectors[0] if vectors else None, affine, encoding != "raw")


def meta_layout(file, bad: Callable) -> StoredArray:
    """Read the header of a MetaImage file, up to its voxels or the name of the file that has them."""
    lines = _header_lines(file, lambda line: line.split("=")[0].strip() == "ElementDataFile", bad)
    fields = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    true = lambda *keys: any(fields.get(key, "False").lower() == "true" for key in keys)
    if not true("BinaryData"):
        raise bad("the voxels are stored as text", "must have BinaryData = True")
    rank = int(fields["NDims"])
    shape, channels = tuple(int(n) for n in fields["DimSize"].split()), int(fields.get("ElementNumberOfChannels", 1))
    if rank not in (2, 3) or len(shape) != rank:
        raise bad(f"{rank} axes with sizes {shape}", "must have two or three spatial axes")
    if "ElementSpacing" not in fields:
        raise bad("no ElementSpacing", "must have the voxel spacing in mm", "DATA_GEOMETRY")
    matrix = fields.get("TransformMatrix", " ".join(map(str, np.eye(rank).ravel())))
    of_axis = np.array(_header_numbers(matrix, rank * rank)).reshape(rank, rank)
    affine = np.eye(4)
    affine[:rank, :rank] = of_axis.T * _header_numbers(fields["ElementSpacing"], rank)
    place = next((fields[key] for key in ("Offset", "Position", "Origin") if key in fields), " ".join("0" * rank))
    affine[:rank, 3] = _header_numbers(place, rank)
    affine[:2] *= -1  # LPS
    order = ">" if true("BinaryDataByteOrderMSB", "ElementByteOrderMSB") else "<"
    name = fields["ElementDataFile"]
    if name != "LOCAL" and (Path(name).name != name or name.startswith(".") or " " in name and "%" in name or name == "LIST"):
        raise bad(f"voxels in {name[:60]!r}", "the voxels must be in this file, or in one file in the same folder")
    whole = (channels, *shape) if channels > 1 else shape
    dtype = np.dtype(order + _META_TYPES[fields["ElementType"]])
    return StoredArray(
        whole, dtype, 0 if channels > 1 else None, affine, true("CompressedData"), None if name == "LOCAL" else name
    )
