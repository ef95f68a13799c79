"""Reading a case and writing its result: NIfTI, NRRD, MetaImage, numpy arrays, and pictures where Pillow is installed.

Smaller and stricter than jaxseg's readers: ambiguous files are refused.
"""

import contextlib
import gzip
import io
import math
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxseg.data.exif import UPRIGHT, stored_order, upright
from jaxseg.data.text_headers import META, NRRD, meta_layout, nrrd_layout, stored_voxels


class Refused(ValueError):
    """An input that this model cannot use, or that is ambiguous."""


class CaseImage(NamedTuple):
    """An image as it is stored on disk.

    Attributes:
      array: [X, Y, Z] (or [X, Y, Z, C]); a picture [H, W] or [H, W, 3], upright.
      affine: 4 x 4, voxel index -> mm in RAS+; None for a picture.
      header: fields of the NIfTI header; None without one.
      turn: a picture's EXIF orientation, 0 for none.
      name: for messages.
    """

    array: np.ndarray
    affine: np.ndarray | None
    header: np.void | None = None
    turn: int = 0
    name: str = "the image"


def _header_type(size: int, fields: dict[str, tuple[str, int]]) -> np.dtype:
    names, formats, offsets = zip(*((name, kind, at) for name, (kind, at) in fields.items()))
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size})


_HEADERS = {  # sizeof_hdr -> fields of NIfTI-1 and NIfTI-2 (nifti1.h, nifti2.h)
    348: _header_type(
        348,
        {"sizeof_hdr": ("i4", 0), "dim": ("(8,)i2", 40), "datatype": ("i2", 70), "bitpix": ("i2", 72), "pixdim": ("(8,)f4", 76)}
        | {"vox_offset": ("f4", 108), "scl_slope": ("f4", 112), "scl_inter": ("f4", 116), "xyzt_units": ("u1", 123)}
        | {"qform_code": ("i2", 252), "sform_code": ("i2", 254), "quatern": ("(3,)f4", 256), "qoffset": ("(3,)f4", 268)}
        | {"srow": ("(3,4)f4", 280), "magic": ("S4", 344)},
    ),
    540: _header_type(
        540,
        {"sizeof_hdr": ("i4", 0), "magic": ("S8", 4), "datatype": ("i2", 12), "bitpix": ("i2", 14), "dim": ("(8,)i8", 16)}
        | {"pixdim": ("(8,)f8", 104), "vox_offset": ("i8", 168), "scl_slope": ("f8", 176), "scl_inter": ("f8", 184)}
        | {"qform_code": ("i4", 344), "sform_code": ("i4", 348), "quatern": ("(3,)f8", 352), "qoffset": ("(3,)f8", 376)}
        | {"srow": ("(3,4)f8", 400), "xyzt_units": ("i4", 500)},
    ),
}
_MAGIC = {348: b"n+1", 540: b"n+2\0\r\n\x1a\n"}
_VOXELS = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_CODES = {np.dtype("u1"): 2, np.dtype("u2"): 512, np.dtype("f4"): 16}
_KEPT = ("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern", "qoffset", "srow")
_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


def read_image(path: str | Path, spacing=None, affine=None) -> CaseImage:
    """Read an image file: .nii, .nii.gz, .nrrd, .mha, .mhd, .npy, or a picture.

    Args:
      spacing: for an array: mm along its axes, which then run to the patient's right, to the front and to the head.
      affine: instead of spacing, 4 x 4.
    """
    name = str(path).lower()
    if not name.endswith(".npy") and (spacing is not None or affine is not None):
        raise Refused(f"{path}: spacing and affine are of arrays; this file has its own: leave them out")
    if name.endswith((".nii", ".nii.gz")):
        return _read_nifti(Path(path))
    if name.endswith((*NRRD, *META)):
        return _read_text_header(Path(path))
    if name.endswith(".npy"):
        return image_of(np.load(path, allow_pickle=False), spacing, affine, str(path))
    if name.endswith(_PICTURES):
        return _read_picture(Path(path))
    kinds = ", ".join((".nii", ".nii.gz", *NRRD, *META, ".npy"))
    raise Refused(f"{path}: {kinds} and pictures ({', '.join(_PICTURES)}) are read; convert it to one of them")


def image_of(array, spacing=None, affine=None, name: str = "the array") -> CaseImage:
    """Return an array in memory as an image: a scan if `spacing` or `affine` is given, else a picture."""
    array = np.asarray(array)
    if array.dtype.kind not in "iuf" or not array.size:
        raise Refused(f"{name}: {array.dtype} of shape {array.shape}; must hold numbers")
    _check_values(array, name)
    if spacing is None and affine is None:
        if array.ndim == 2 or array.ndim == 3 and array.shape[-1] == 3 and array.dtype == np.uint8:
            return CaseImage(array, None, name=name)
        raise Refused(f"{name}: shape {array.shape}; a scan needs a spacing (--spacing X Y Z) or an affine; pictures are 2-D")
    if spacing is not None and affine is not None:
        raise Refused(f"{name}: give spacing or affine, not both")
    if spacing is not None and (len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing)):
        raise Refused(f"{name}: spacing {tuple(spacing)}; three distances in mm above 0")
    affine = np.diag([*map(float, spacing), 1.0]) if affine is None else np.asarray(affine, np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-12:
        raise Refused(f"{name}: the affine must be 4 x 4, finite and invertible")
    if array.ndim not in (3, 4):
        raise Refused(f"{name}: shape {array.shape}; a scan is [X, Y, Z] or [X, Y, Z, C]")
    return CaseImage(array, affine, name=name)


def _read_text_header(path: Path) -> CaseImage:
    """Read NRRD or MetaImage."""
    bad = lambda found, rule, code="": Refused(f"{path}: {found}; {rule}: export the file again, or convert it to .nii.gz")
    with open(path, "rb") as file:
        try:
            layout = (nrrd_layout if path.name.lower().endswith(NRRD) else meta_layout)(file, bad)
        except Refused:
            raise
        except (ValueError, LookupError, OverflowError) as error:
            raise bad(f"{type(error).__name__}: {error}", "the header must have the fields of its format") from error
        directions = layout.affine[:3, :3] / np.maximum(np.linalg.norm(layout.affine[:3, :3], axis=0), 1e-9)
        if layout.spatial not in (2, 3) or min(layout.shape) < 1 or math.prod(layout.shape) > 2**31:
            raise bad(f"sizes {layout.shape}", "two or three spatial axes, one of channels, and 2^31 voxels at most")
        if not np.isfinite(layout.affine).all() or abs(np.linalg.det(directions)) < 1e-4:
            raise bad("its axes are not linearly independent", "must be three independent, finite directions")
        with contextlib.nullcontext(file) if layout.file is None else open(path.parent / layout.file, "rb") as voxels:
            array = stored_voxels(voxels, layout, bad)
    _check_values(array, path)
    return CaseImage(array, layout.affine, name=str(path))


def _check_values(array: np.ndarray, name) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Refused(f"{name}: {np.count_nonzero(~np.isfinite(array))} values are NaN or infinite; replace them")


def _read_nifti(path: Path) -> CaseImage:
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            block = file.read(4)
            order = next((o for o in "<>" if len(block) == 4 and int(np.frombuffer(block, o + "i4")[0]) in _HEADERS), None)
            if order is None:
                raise Refused(f"{path}: no NIfTI file; it starts with {block!r}")
            size = int(np.frombuffer(block, order + "i4")[0])
            block += file.read(size - 4)
            header = np.frombuffer(block, _HEADERS[size].newbyteorder(order))[0]
            shape, dtype = _nifti_layout(header, size, path)
            offset, count = int(header["vox_offset"]), math.prod(shape)
            file.read(offset - size)
            voxels = file.read(count * dtype.itemsize)
            if len(voxels) != count * dtype.itemsize or file.read(1):
                raise Refused(f"{path}: header and content do not agree; copy or export the file again")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Refused(f"{path}: {error}; copy or export the file again") from error
    array = np.frombuffer(voxels, dtype.newbyteorder(order)).reshape(shape, order="F").astype(dtype)
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope and (slope, inter) != (1.0, 0.0):
        array = array.astype(np.float32) * np.float32(slope) + np.float32(inter)
    _check_values(array, path)
    return CaseImage(array, _nifti_affine(header, path), header, name=str(path))


def _nifti_layout(header: np.void, size: int, path: Path) -> tuple[tuple[int, ...], np.dtype]:
    """Return ([X, Y, Z] or [X, Y, Z, C], dtype in native order) of a header, after checking it."""
    count = int(header["dim"][0])
    dims = tuple(int(n) for n in header["dim"][1 : count + 1])
    shape = (*dims[:3], *(1,) * (3 - len(dims)), *(n for n in dims[3:] if n != 1))
    offset = float(header["vox_offset"])
    for found, wrong in (
        (f"magic {header['magic']!r}", header["magic"] != _MAGIC[size]),
        (f"dim {dims}", not 1 <= count <= 5 or min(dims, default=0) < 1 or len(shape) > 4 or math.prod(shape) > 2**31),
        (f"datatype {int(header['datatype'])}", int(header["datatype"]) not in _VOXELS),
        (f"vox_offset {offset:g}", not (offset == int(offset) and size + 4 <= offset <= 1 << 24)),
        (f"spatial units {int(header['xyzt_units']) & 7}", int(header["xyzt_units"]) & 7 not in (0, 2)),
        (f"scl_slope {header['scl_slope']}", not np.isfinite([header["scl_slope"], header["scl_inter"]]).all()),
    ):
        if wrong:
            raise Refused(f"{path}: {found} cannot be read; export the volume as a plain NIfTI file in mm")
    return shape, np.dtype(_VOXELS[int(header["datatype"])])


def _nifti_affine(header: np.void, path: Path) -> np.ndarray:
    """The sform, else the qform."""
    sizes = np.asarray(header["pixdim"][1:4], np.float64)
    if not (np.isfinite(sizes).all() and sizes.min() > 0):
        raise Refused(f"{path}: voxel sizes {sizes.tolist()}; must be above 0")
    affine = np.eye(4)
    if header["sform_code"] > 0:
        affine[:3] = header["srow"]
        if not np.allclose(np.linalg.norm(affine[:3, :3], axis=0), sizes, rtol=0.01):
            raise Refused(f"{path}: the voxel sizes of its sform contradict pixdim; correct the header")
    elif header["qform_code"] > 0:
        b, c, d = (float(v) for v in header["quatern"])
        a = math.sqrt(max(1 - (b * b + c * c + d * d), 0.0))
        turned = np.array(
            [
                [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
                [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
                [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
            ]
        )
        affine[:3, :3] = turned * sizes * [1, 1, -1 if header["pixdim"][0] < 0 else 1]
        affine[:3, 3] = header["qoffset"]
    else:
        raise Refused(f"{path}: neither sform nor qform is set, so its position in space is not known; set one")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise Refused(f"{path}: its affine is not finite or singular; export the file again")
    return affine


def _read_picture(path: Path) -> CaseImage:
    try:
        from PIL import Image as pillow
    except ImportError as error:
        raise Refused(f"{path}: pictures need Pillow (pip install pillow); a .npy array does not") from error
    with pillow.open(path) as picture:
        deep = picture.format == "PNG" and path.read_bytes()[24:26] in (b"\x10\x02", b"\x10\x04", b"\x10\x06")
        if getattr(picture, "n_frames", 1) > 1 or deep or picture.mode not in ("1", "L", "RGB", "LA", "RGBA", "I;16", "I;16B"):
            raise Refused(f"{path}: mode {picture.mode}; one frame of grey (8 or 16 bits) or RGB (8 bits) is read")
        stated = picture.getexif().get(274, 0)
        turn = stated if stated in UPRIGHT else 0
        array = np.array(picture.convert("L") if picture.mode == "1" else picture)
        left = (
            picture.getexif().get(274, 0) if picture.format == "TIFF" else turn
        )  # newer versions of Pillow turn TIFF themselves
    if picture.mode in ("LA", "RGBA"):
        if array[..., -1].min() < 255:
            raise Refused(f"{path}: it has transparent pixels; flatten it onto a background")
        array = array[..., 0] if picture.mode == "LA" else array[..., :3]
    array = array.astype(np.uint16) if array.dtype.itemsize > 1 else array
    return CaseImage(np.ascontiguousarray(upright(array, left)), None, turn=turn, name=str(path))


def write_result(path: str | Path, result: np.ndarray, like: CaseImage) -> None:
    """Write labels or probability maps with the geometry of their image: .nii, .nii.gz, .npy, of a picture's labels .png."""
    name = str(path).lower()
    stored = result.astype(np.float32 if result.dtype.kind == "f" else np.uint8 if result.max(initial=0) < 256 else np.uint16)
    if name.endswith(".npy"):
        content = io.BytesIO()
        np.save(content, stored)
        Path(path).write_bytes(content.getvalue())
    elif name.endswith((".nii", ".nii.gz")) and like.affine is not None:
        content = _nifti_bytes(stored, like)
        Path(path).write_bytes(gzip.compress(content, 6, mtime=0) if name.endswith(".gz") else content)
    elif name.endswith(".png") and like.affine is None and stored.dtype.kind == "u" and stored.ndim == 2:
        from PIL import Image as pillow

        exif = pillow.Exif()
        if like.turn:
            exif[274] = like.turn
            stored = np.ascontiguousarray(stored_order(stored, like.turn))
        pillow.fromarray(stored).save(path, exif=exif)
    else:
        kinds = ".nii, .nii.gz or .npy" if like.affine is not None else ".png or .npy, maps .npy"
        raise Refused(f"{path}: results of {like.name} are written as {kinds}; change the suffix")


def _nifti_bytes(array: np.ndarray, like: CaseImage) -> bytes:
    """Return the bytes of a NIfTI-1 file, little-endian, with the geometry of `like`."""
    if max(array.shape) > 32767:
        raise Refused(f"a result of shape {array.shape}; NIfTI-1 has at most 32767 voxels along an axis: write .npy")
    header = np.zeros((), _HEADERS[348].newbyteorder("<"))
    if like.header is not None:
        for field in _KEPT:
            header[field] = like.header[field]
    else:
        header["pixdim"][:4] = (1, *np.linalg.norm(like.affine[:3, :3], axis=0))
        header["srow"], header["sform_code"], header["xyzt_units"] = like.affine[:3], 1, 2
    header["pixdim"][4:] = 1
    header["dim"] = (array.ndim, *array.shape, *(1,) * (7 - array.ndim))
    header["datatype"], header["bitpix"] = _CODES[array.dtype], 8 * array.dtype.itemsize
    header["sizeof_hdr"], header["vox_offset"], header["scl_slope"], header["magic"] = 348, 352, 1, b"n+1"
    return header.tobytes() + b"\0\0\0\0" + array.astype(array.dtype.newbyteorder("<")).tobytes(order="F")
