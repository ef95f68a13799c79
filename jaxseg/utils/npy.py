"""Safe reading of .npy files: the header is checked, the array is a memory map."""

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np

from jaxseg.types import DataError
from jaxseg.utils import guard

KINDS = "biufc"  # of numeric dtypes
_AGAIN = "write an array of numbers with numpy.save"


def read_header(file: BinaryIO, kinds: str = KINDS) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """(shape, whether the order is Fortran's, dtype, bytes of the data) from the header at the file's position.

    Raises:
      DataError: DATA_UNSAFE for Python objects, DATA_HEADER for any other invalid header or kind of dtype.
    """
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version}")
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote
            shape, fortran, dtype = reader(file)
    except (DataError, OSError):
        raise
    except Exception as error:  # a header is Python source, whose parser can raise many exceptions
        raise DataError(f"has no .npy header ({type(error).__name__}: {str(error)[:80]}); {_AGAIN}", "DATA_HEADER") from error
    if dtype.hasobject:
        raise DataError(f"refused: holds Python objects; {_AGAIN}", "DATA_UNSAFE")
    if dtype.kind not in kinds or dtype.itemsize == 0 or dtype.subdtype is not None:
        raise DataError(f"has dtype {str(dtype)[:60]}; must be numeric; {_AGAIN}", "DATA_HEADER")
    return shape, fortran, dtype, guard.array_bytes(shape, dtype.itemsize)


def open_npy(path: str | Path) -> np.ndarray:
    """Open a .npy file of numbers as a read-only memory map, after checking its header against the file's size.

    Raises:
      DataError: DATA_MISSING, DATA_PATH (see `guard.open_regular`), DATA_UNSAFE, DATA_HEADER, or DATA_TRUNCATED.
    """
    with guard.reading(path, ".npy file"), guard.open_regular(path) as file:
        source = guard.Clamped(file)
        shape, fortran, dtype, size = read_header(source)
        start = file.tell()
        if start + size > source.size:
            raise DataError(
                f"must have {size:,} bytes of data for {dtype} {list(shape)}, but has {source.size - start:,}; copy it again",
                "DATA_TRUNCATED",
            )
        if size == 0:
            return np.zeros(shape, dtype)
        return np.memmap(file, dtype, "r", start, shape, "F" if fortran else "C")
