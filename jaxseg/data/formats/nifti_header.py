"""Parse and check NIfTI headers; no memory is allocated by numbers that were not checked.

Source: the NIfTI-1 and NIfTI-2 standards (nifti1.h, nifti2.h). Differs from nibabel, which silently repairs or ignores most
errors that are refused here.
"""

import dataclasses
import functools
import math
from pathlib import Path

import nibabel
import numpy as np

from jaxseg.data.formats.refusal import refusal
from jaxseg.data.formats.remarks import recorded, remark
from jaxseg.types import DataError

TOLERANCE = 0.02  # of the smallest voxel: corners closer than this are one place; tools round what they write
SIZES = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
_MAGIC = {348: b"n+1\0", 540: b"n+2\0\r\n\x1a\n"}
_PAIR = {348: b"ni1\0", 540: b"ni2\0\r\n\x1a\n"}
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_EMPTY = {size: kind().binaryblock for size, kind in SIZES.items()}
_UNREAL = {1: "1-bit", 32: "complex", 128: "RGB", 1536: "128-bit float", 1792: "complex", 2048: "complex", 2304: "RGBA"}
_GEOMETRY = (
    "dim",
    "pixdim",
    "qform_code",
    "sform_code",
    "quatern_b",
    "quatern_c",
    "quatern_d",
    "qoffset_x",
    "qoffset_y",
    "qoffset_z",
    "srow_x",
    "srow_y",
    "srow_z",
    "xyzt_units",
)
SIZES_AGREE = 0.01  # relative difference of voxel sizes up to which sform and pixdim say the same
_MAX_OFFSET = 1 << 24  # bytes of header extensions that are skipped at most
_EXPORT = "export the file again"


@dataclasses.dataclass(frozen=True)
class VoxelLayout:
    """The layout of the voxels in a file, and their geometry.

    Attributes:
      header: nibabel header in native byte order with only the geometry fields (no free text, no extensions).
      dims: the file's dimensions, 1 to 5 of them.
      shape: the dimensions as [X, Y, Z] or [X, Y, Z, C].
      dtype: of the stored voxels, in the file's byte order.
      offset: position of the first voxel in the file, in bytes.
      slope, inter: value = slope * stored + inter, in float32; (1, 0) if not set.
      affine: 4x4 float64, voxel index -> mm in RAS+.
    """

    header: nibabel.Nifti1Header
    dims: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    slope: float
    inter: float
    affine: np.ndarray


def header_size(start: bytes, path: str | Path) -> tuple[int, str]:
    """Return (348 or 540, byte order "<" or ">") from the first four bytes of a file."""
    for order, name in (("<", "little"), (">", "big")):
        size = int.from_bytes(start[:4], name)
        if len(start) >= 4 and size in SIZES:
            return size, order
    raise refusal(
        "DATA_HEADER",
        path,
        f"the file starts with the bytes {bytes(start[:4]).hex()}",
        "a NIfTI file must start with the number 348 or 540",
        "check that this is a NIfTI file (.nii.gz: compressed, .nii: not)",
    )


def parse(block: bytes, path: str | Path, *, allow_missing_geometry: bool = False) -> VoxelLayout:
    """Parse a header of 348 or 540 bytes.

    Raises:
      DataError: fields are impossible or not supported (DATA_HEADER); the affine is missing, not finite or singular
        (DATA_GEOMETRY).
    """
    try:
        found, said = _parsed(bytes(block), allow_missing_geometry)
    except DataError:
        found, said = _parse(bytes(block), allow_missing_geometry, path), ()  # raises it with the path
    for text, _, *about in said:
        remark(text, path, *about)
    return dataclasses.replace(found, header=found.header.copy(), affine=found.affine.copy())


@functools.lru_cache(64)  # the files of a data set often have one and the same header
def _parsed(block: bytes, allow_missing_geometry: bool) -> tuple[VoxelLayout, list]:
    """Return (the layout, the remarks about it as arguments of `remark`)."""
    with recorded() as said:
        return _parse(block, allow_missing_geometry, ""), said


@np.errstate(invalid="ignore")  # NaN fields are looked for, not computed with
def _parse(block: bytes, allow_missing_geometry: bool, path: str | Path) -> VoxelLayout:
    bad = lambda found, rule, remedy=_EXPORT: refusal("DATA_HEADER", path, found, rule, remedy)
    size, order = header_size(block, path)
    raw = np.frombuffer(block, _dtype_of_header(size, order))[0]
    magic = block[344:348] if size == 348 else block[4:12]
    if magic == _PAIR[size]:
        raise bad("header of a .hdr/.img pair", "must be a single file", "convert it to one .nii.gz")
    if magic != _MAGIC[size]:
        raise bad(f"magic {magic!r}", f"must be {_MAGIC[size]!r}", "check that this is a NIfTI file")
    dims, shape = _dims(raw, bad)
    dtype = _dtype(raw, order, bad)
    offset = float(raw["vox_offset"])
    if not (math.isfinite(offset) and offset == int(offset) and size + 4 <= offset <= _MAX_OFFSET):
        raise bad(f"vox_offset = {offset:g}", f"must be a whole number in {size + 4}..{_MAX_OFFSET}")
    slope, inter = _scaling(raw, bad)
    clean = SIZES[size](_EMPTY[size], check=False)
    for name in _GEOMETRY:
        clean[name] = raw[name]
    affine = _affine(clean, len(dims), shape, path, bad, allow_missing_geometry)
    return VoxelLayout(clean, dims, shape, dtype, int(offset), slope, inter, affine)


@functools.cache
def _dtype_of_header(size: int, order: str) -> np.dtype:
    return SIZES[size].template_dtype.newbyteorder(order)


def _dims(raw, bad) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return (dimensions as declared, the same as [X, Y, Z] or [X, Y, Z, C])."""
    ndim = int(raw["dim"][0])
    if not 1 <= ndim <= 5:
        raise bad(f"dim[0] = {ndim}", "must have 1 to 5 dimensions", "extract one volume")
    dims = tuple(int(n) for n in raw["dim"][1 : ndim + 1])
    if min(dims) < 1:
        raise bad(f"dim = {dims}", "every dimension must be at least 1")
    shape = squeezed(dims)
    if len(shape) > 4:
        raise bad(f"dim = {dims}", "must have at most one dimension after the three spatial ones", "extract one volume")
    return dims, shape


def squeezed(dims: tuple[int, ...]) -> tuple[int, ...]:
    """Return a file's dimensions as [X, Y, Z] or [X, Y, Z, C]: filled up to three, without ones after the third."""
    return (*dims[:3], *(1,) * (3 - len(dims)), *(n for n in dims[3:] if n != 1))


def _dtype(raw, order: str, bad) -> np.dtype:
    code, bits = int(raw["datatype"]), int(raw["bitpix"])
    if code not in _TYPES:
        raise bad(
            f"datatype {code} ({_UNREAL.get(code, 'unknown')})",
            "must be real numbers of 8 to 64 bits",
            "convert it to int16 or float32",
        )
    dtype = np.dtype(order + _TYPES[code])
    if bits != 8 * dtype.itemsize:
        raise bad(f"bitpix = {bits} with datatype {code}", f"must be {8 * dtype.itemsize}")
    return dtype


def _scaling(raw, bad) -> tuple[float, float]:
    slope, inter = float(raw["scl_slope"]), float(raw["scl_inter"])
    largest = float(np.finfo(np.float32).max)
    for name, value in (("scl_slope", slope), ("scl_inter", inter)):
        if not abs(value) <= largest:
            raise bad(f"{name} = {value:g}", "must be a finite float32")
    return (slope, inter) if slope else (1.0, 0.0)  # slope 0 means "not scaled" in the standard


def _affine(header, ndim: int, shape: tuple[int, ...], path, bad, allow_missing: bool) -> np.ndarray:
    """Return the sform, else the qform, else (if allowed) nibabel's default from the voxel sizes; sets unused zooms to 1."""
    geometry = lambda found, rule, remedy=_EXPORT: refusal("DATA_GEOMETRY", path, found, rule, remedy)
    units = int(header["xyzt_units"]) & 7
    if units not in (0, 2):
        raise geometry(
            f"spatial units {({1: 'metre', 3: 'micrometre'}).get(units, units)}",
            "must be millimetres",
            "convert voxel sizes and affine to mm",
        )
    zooms = header["pixdim"]
    for i in range(1, 5):
        value = float(zooms[i])
        if i <= min(ndim, 3) and not 0 < value < math.inf or i == 4 and ndim > 3 and not math.isfinite(value):
            raise bad(f"pixdim[{i}] = {value:g}", "voxel sizes must be finite and above 0")
        if i > ndim and not 0 < value < math.inf:
            zooms[i] = 1.0
    if zooms[0] == 0:
        zooms[0] = 1.0  # the standard: 0 counts as qfac = 1
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    if not (0 <= sform <= 5 and 0 <= qform <= 5):
        raise bad(f"sform_code = {sform}, qform_code = {qform}", "both must be in 0..5")
    if not sform and not qform:
        if not allow_missing:
            raise geometry(
                "neither sform nor qform is set",
                "the image must have an affine",
                "set one, for instance with nibabel: image.set_sform(image.affine, 1), and save it",
            )
        return header.get_base_affine()
    affine = _chosen(header, sform, qform, path, geometry)
    if not np.isfinite(affine).all():
        raise geometry("the affine holds NaN or infinity", "must be finite")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if lengths.max() > 1e4 or np.abs(affine[:3, 3]).max() > 1e6:
        raise geometry(
            f"voxel sizes {[f'{v:.4g}' for v in lengths]} mm, origin {[f'{v:.4g}' for v in affine[:3, 3]]} mm",
            "must be at most 1e4 mm and 1e6 mm",
        )
    if is_singular(affine):
        raise geometry(f"singular affine {affine[:3, :3].tolist()}", "the three axes must be linearly independent")
    if sform and sform == qform:
        _compare(header, affine, shape, path)
    return affine


def _chosen(header, sform: int, qform: int, path, geometry) -> np.ndarray:
    """Return the affine to use: the sform, unless its voxel sizes contradict pixdim while those of the qform agree with it."""
    if not sform:
        affine = _qform(header)
        if affine is None:
            raise geometry("the qform's quaternion is not a rotation", "b, c, d must have length at most 1")
        return affine
    affine = header.get_sform()
    zooms, lengths = np.asarray(header["pixdim"][1:4], np.float64), np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(lengths).all() or np.all(np.abs(lengths - zooms) <= SIZES_AGREE * zooms):
        return affine
    shown = lambda sizes: " x ".join(f"{v:.5g}" for v in sizes)
    contradiction, sizes = "the sform's voxel sizes contradict pixdim", f"{shown(lengths)} mm against {shown(zooms)} mm"
    if _unset(zooms) and not _unset(lengths):
        remark(f"{contradiction}, which is not set; the sform's are used", path, detail=sizes)
        return affine
    by_qform = _qform(header) if qform else None
    if by_qform is not None and (_unset(lengths) or sform > 1):  # an affine to another scan or a template may scale
        remark(f"{contradiction}; qform and pixdim are used", path, detail=sizes)
        return by_qform
    if _unset(lengths) and not qform:
        remark(f"{contradiction}; the sform's directions are used with the sizes of pixdim", path, detail=sizes)
        return affine @ np.diag([*(zooms / lengths), 1.0])
    raise geometry(
        f"{contradiction}, {sizes}",
        "one of them is wrong, so sizes in mm are not known",
        "correct the header, or export the file again",
    )


def _unset(sizes: np.ndarray) -> bool:
    """Return whether voxel sizes look like those of a program that knows none: 1 x 1 x 1."""
    return bool(np.all(np.abs(sizes - 1) < 1e-6))


def is_singular(affine: np.ndarray) -> bool:
    """Return whether the three voxel axes are linearly dependent (volume of the unit axes at most 1e-4)."""
    (a, b, c), (d, e, f), (g, h, i) = affine[:3, :3].tolist()
    lengths = [math.hypot(*column) for column in ((a, d, g), (b, e, h), (c, f, i))]
    volume = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    return not (all(length > 1e-9 for length in lengths) and abs(volume) > 1e-4 * math.prod(lengths))


def corner_distance(a: np.ndarray, b: np.ndarray, shape: tuple[int, ...]) -> tuple[float, tuple[int, ...]]:
    """Return (largest distance in mm between the positions of a corner voxel by two affines, that corner's index)."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape[:3]], indexing="ij")).reshape(3, -1)
    distance = np.linalg.norm((a - b)[:3] @ np.vstack([corners, np.ones(corners.shape[1])]), axis=0)
    worst = int(np.argmax(distance))
    return float(distance[worst]), tuple(int(n) for n in corners[:, worst])


def tolerance(*affines: np.ndarray) -> float:
    """Return how many mm the corners of two volumes may differ and still match: TOLERANCE of the smallest voxel size."""
    return TOLERANCE * min(float(np.linalg.norm(a[:3, :3], axis=0).min()) for a in affines)


def _qform(header) -> np.ndarray | None:
    try:
        return header.get_qform()
    except (nibabel.spatialimages.HeaderDataError, ValueError):
        return None


def _compare(header, affine: np.ndarray, shape: tuple[int, ...], path) -> None:
    """Report if sform and qform claim the same space but disagree: programs that prefer the other one see another geometry."""
    other = _qform(header)
    distance = math.inf if other is None else corner_distance(affine, other, shape)[0]
    if not distance <= tolerance(affine):
        remark("sform and qform contradict each other, by {amount} mm; the sform is used", path, distance)
