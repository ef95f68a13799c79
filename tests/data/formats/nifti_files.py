"""NIfTI files for tests: whole ones, ones with changed bytes, and how they are refused."""

import struct

import nibabel
import numpy as np
import pytest

from jaxseg.data.formats.volumes import read_volume
from jaxseg.types import DataError

SHAPE = (7, 6, 5)
SRC = np.random.default_rng(3).integers(-1000, 2000, SHAPE).astype(np.int16)
C, S = np.cos(0.1), np.sin(0.1)
AFFINE = np.array([[-0.5 * C, 0, 3 * S, 40], [0, 0.75, 0, -30], [0.5 * S, 0, 3 * C, 20], [0, 0, 0, 1]])  # tilted by 0.1 rad


def nifti_image(array=SRC, affine=AFFINE, kind=nibabel.Nifti1Image, order="<"):
    image = kind(array, affine, header=kind.header_class(endianness=order))
    image.header.set_data_dtype(array.dtype)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    return image


def nifti_bytes(**options) -> bytes:
    return nifti_image(**options).to_bytes()


def patched(content: bytes, offset: int, fmt: str, *values) -> bytes:
    changed = bytearray(content)
    struct.pack_into("<" + fmt, changed, offset, *values)
    return bytes(changed)


def write_file(folder, content: bytes, name="v.nii"):
    path = folder / name
    path.write_bytes(content)
    return path


def refused(path, **options) -> DataError:
    with pytest.raises(DataError) as caught:
        read_volume(path, **options)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text and text.count("; ") >= 2, text
    return caught.value
