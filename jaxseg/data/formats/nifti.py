"""Read NIfTI files, with checks of every byte; write results with the geometry of their image."""

import math
import os
import zlib
from pathlib import Path

import nibabel
import numpy as np

from jaxseg.data.formats import inflate, nifti_header
from jaxseg.data.formats.refusal import refusal
from jaxseg.data.records import Volume
from jaxseg.types import DataError
from jaxseg.utils import guard

SUFFIXES = (".nii", ".nii.gz")


def read_nifti(
    path: str | Path, *, max_voxels: int, allow_missing_geometry: bool = False, allow_nonfinite: bool = False
) -> Volume:
    """Read a NIfTI-1 or NIfTI-2 file, big- or little-endian, to values in native byte order.

    Stored integers are returned unchanged if the file has no scaling; else values are float32. Dimensions of length 1 after the
    third are removed; 1-D and 2-D files get a third axis of length 1.

    Args:
      path: .nii or .nii.gz.
      max_voxels: the largest accepted number of voxels.
      allow_missing_geometry: if neither sform nor qform is set, use nibabel's default (centred, x flipped).
      allow_nonfinite: return NaN and infinite voxels instead of refusing them.
    Raises:
      DataError: see `nifti_header.parse` and `inflate.Gzip`; more voxels than allowed or more bytes than declared
        (DATA_TOO_LARGE), fewer bytes (DATA_TRUNCATED), NaN or Inf (DATA_NONFINITE).
    """
    packed = str(path).lower().endswith(".gz")
    with guard.reading(path, "NIfTI file"), guard.open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        _check_compression(file.read(2), packed, path)
        file.seek(0)
        source = inflate.Gzip(file, path) if packed else inflate.Plain(file, path)
        layout, buffer = _read(source, size, packed, path, max_voxels, allow_missing_geometry)
    array = np.ndarray(layout.shape, layout.dtype, buffer=buffer, order="F")
    if not layout.dtype.isnative:
        array = array.byteswap(inplace=True).view(layout.dtype.newbyteorder("="))
    if (layout.slope, layout.inter) != (1.0, 0.0):
        with np.errstate(over="ignore", invalid="ignore"):  # an overflow becomes inf, which is refused below
            array = array.astype(np.float32)
            array *= np.float32(layout.slope)
            array += np.float32(layout.inter)
    if not allow_nonfinite:
        check_finite(array, path)
    return Volume(array, layout.affine, layout.header, Path(path))


def _check_compression(start: bytes, packed: bool, path) -> None:
    if not start:
        raise refusal("DATA_TRUNCATED", path, "the file is empty", "must hold a volume", "copy or export the file again")
    if packed != (start == inflate.MAGIC):
        found, name = ("not gzip-compressed", ".nii") if packed else ("gzip-compressed", ".nii.gz")
        raise refusal(
            "DATA_HEADER",
            path,
            f"the content is {found}",
            "suffix and content must agree",
            f"name it {name} if it is a NIfTI file",
        )


def _read(source, size: int, packed: bool, path, max_voxels: int, allow_missing: bool):
    """Return (layout, bytes of the voxels); the source is read to its end."""
    short = lambda found: refusal("DATA_TRUNCATED", path, found, "header and content must agree", "copy or export the file again")
    start = source.take(4)
    block = start + source.take(nifti_header.header_size(start, path)[0] - 4)
    if len(block) < nifti_header.header_size(start, path)[0]:
        raise short(f"only {len(block)} bytes of a header")
    layout = nifti_header.parse(block, path, allow_missing_geometry=allow_missing)
    voxels = math.prod(layout.dims)
    if voxels > max_voxels:
        raise refusal(
            "DATA_TOO_LARGE",
            path,
            f"the header declares {' x '.join(map(str, layout.dims))} = {voxels} voxels",
            f"at most {max_voxels} are read",
            "check the header; a larger scan must be cropped, or resampled to larger voxels",
        )
    count = voxels * layout.dtype.itemsize
    declared, holds = layout.offset + count, size * inflate.MAX_RATIO if packed else size
    if declared > holds:
        raise short(f"the header declares {declared} bytes, the file of {size} bytes holds at most {holds}")
    source.take(layout.offset - len(block))
    buffer = source.take(count)
    if len(buffer) < count:
        raise short(f"{len(buffer)} of {count} bytes of voxels")
    if source.take(1):
        raise refusal(
            "DATA_TOO_LARGE",
            path,
            f"content goes on after the {declared} bytes that the header declares",
            "header and content must agree",
            "copy or export the file again",
        )
    return layout, buffer


def check_finite(array: np.ndarray, path: str | Path) -> None:
    """Raise a DataError (DATA_NONFINITE) with the count and the first index (first axis fastest) of NaN and infinite values."""
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return
    bad = ~np.isfinite(array)
    first = tuple(int(i) for i in np.unravel_index(np.argmax(bad.ravel("F")), array.shape, order="F"))
    raise refusal(
        "DATA_NONFINITE",
        path,
        f"{np.count_nonzero(bad)} of {bad.size} voxels are NaN or infinite, the first at {first}: {array[first]}",
        "must be finite",
        "replace them by the value of air or background",
    )


def header_for(affine: np.ndarray, shape: tuple[int, ...]) -> nibabel.Nifti1Header:
    """Return a NIfTI-1 header with this affine as its sform (scanner coordinates), and as its qform if it has no shear."""
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape)
    header.set_qform(affine, code=1, strip_shears=True)
    header.set_sform(affine, code=1)
    if not nifti_header.corner_distance(header.get_qform(), affine, shape)[0] <= nifti_header.tolerance(affine):
        header["qform_code"] = 0
    header.set_xyzt_units("mm")
    return header


def encode(array: np.ndarray, header, *, packed: bool, path: str | Path) -> bytes:
    """Return the bytes of a NIfTI file with the geometry of `header`; the same input always gives the same bytes.

    Args:
      array: [X, Y, Z] or [X, Y, Z, C]: integers and booleans become uint8 or uint16, floats float32.
      header: header of the volume that the array belongs to.
      packed: compress with gzip (without time stamp and name).
      path: the file, for messages.
    Raises:
      DataError: integers outside of 0..65535 (DATA_LABEL), NaN or Inf (DATA_NONFINITE).
    """
    array = as_stored(array, path)
    out = header.copy()
    dims = tuple(int(n) for n in header["dim"][1 : 1 + int(header["dim"][0])])
    # The file's own dimensions where they hold the same voxels: [X, Y, Z, 1] and [X, Y] come back as they were.
    dims = dims if nifti_header.squeezed(dims) == array.shape else array.shape
    out.set_data_shape(dims)
    for axis in range(4, len(dims) + 1):
        if not 0 < out["pixdim"][axis] < math.inf:
            out["pixdim"][axis] = 1.0
    out.set_data_dtype(array.dtype)
    out.set_slope_inter(1, 0)
    out["vox_offset"] = out.sizeof_hdr + 4
    content = out.binaryblock + b"\0\0\0\0" + array.tobytes(order="F")
    if not packed:
        return content
    deflate = zlib.compressobj(6, zlib.DEFLATED, 31)
    return deflate.compress(content) + deflate.flush()


def as_stored(array: np.ndarray, path: str | Path) -> np.ndarray:
    """Return labels in the smallest of uint8 and uint16 that holds them, floats as float32; both are checked."""
    if array.dtype.kind == "f":
        array = array.astype(np.float32, copy=False)
        check_finite(array, path)
        return array
    if array.dtype.kind not in "biu":
        raise TypeError(f"got an array of {array.dtype}; labels must be integers, probability maps floats")
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if low < 0 or high > 65535:
        raise DataError(f"{path}: labels from {low} to {high}; must be in 0..65535; renumber the classes", "DATA_LABEL")
    return array.astype(np.uint8 if high < 256 else np.uint16)
