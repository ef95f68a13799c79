"""Read images of all formats, write results with the geometry of their image, and check that two files have the same grid.

`discover.find_inputs` lists the readable inputs under a path.
"""

import dataclasses
from collections.abc import Collection
from pathlib import Path

import nibabel
import numpy as np

from jaxseg.data.exif import stored_order, upright
from jaxseg.data.formats import dicom, nifti, own, photos, raw_voxels
from jaxseg.data.formats.discover import find_inputs, has_suffix, is_dicom
from jaxseg.data.formats.nifti_header import TOLERANCE, corner_distance, tolerance
from jaxseg.data.formats.refusal import refusal
from jaxseg.data.formats.remarks import remark
from jaxseg.data.records import Photo, Volume
from jaxseg.types import ConfigError
from jaxseg.utils import files, guard

VERSION = 2  # of what readers make of a file: raise it when they would read one otherwise, so that stores are built anew

__all__ = ["check_labels", "check_pair", "find_inputs", "is_photo", "paired", "read_volume", "write_like"]


def read_volume(
    path: str | Path,
    *,
    max_voxels: int = 2**30,
    max_pixels: int = photos.MAX_PIXELS,
    allow_missing_geometry: bool = False,
    allow_nonfinite: bool = False,
    palette_indices: bool = False,
) -> Volume:
    """Read an image file, or a folder with one DICOM series, with checks of every byte.

    Args:
      path: a file with one of the SUFFIXES of `nifti` or `photos`, a DICOM file, or a DICOM folder.
      max_voxels: the largest accepted number of voxels of a volume.
      max_pixels: the largest accepted number of pixels of a picture.
      allow_missing_geometry: for NIfTI without sform and qform: use nibabel's default affine.
      allow_nonfinite: for NIfTI: return NaN and infinite voxels instead of refusing them (`check_labels` checks masks).
      palette_indices: for palette pictures: return their indices instead of refusing them.
    Returns:
      The volume; see the readers of each format for dtype and axis order.
    Raises:
      DataError: the path or the content cannot be used; `code` says why.
      ConfigError: DICOM without pydicom.
    """
    folder = guard.check_regular(path, folder_too=True)
    with guard.reading(path, "image", quote=False):
        if folder:
            return dicom.read_dicom(path, max_voxels=max_voxels)
        if has_suffix(path, nifti.SUFFIXES):
            return nifti.read_nifti(
                path, max_voxels=max_voxels, allow_missing_geometry=allow_missing_geometry, allow_nonfinite=allow_nonfinite
            )
        if has_suffix(path, photos.SUFFIXES):
            return photos.read_photo(path, max_pixels=max_pixels, palette_indices=palette_indices)
        if has_suffix(path, raw_voxels.SUFFIXES):
            return raw_voxels.read(path, max_voxels=max_voxels)
        if function := own.reader_of(path):
            return own.read(function, path, max_voxels=max_voxels)
        if is_dicom(Path(path)):
            return dicom.read_dicom(path, max_voxels=max_voxels)
    raise refusal(
        "DATA_HEADER",
        path,
        "unknown kind of file",
        f"must be one of {', '.join(own.readable())} or DICOM",
        "convert it to .nii.gz or .png",
    )


def is_photo(volume: Volume) -> bool:
    """Return whether the volume is a 2-D picture without an affine: [H, W] or [H, W, C]."""
    return isinstance(volume.header, Photo)


def write_like(path: str | Path, array: np.ndarray, like: Volume, *, scale_for_view: bool = False) -> None:
    """Write a result with the geometry of the image that it belongs to, completely or not at all.

    For NIfTI and DICOM images, the file is .nii or .nii.gz with the image's dimensions, affine (bit for bit), sform and qform
    codes, voxel sizes and units, and without its free text. For photographs, it is .png, or NIfTI (columns, rows, 1) for float
    maps, in the order of the photograph's pixels; a .png also has its EXIF orientation, so that both overlay in every viewer.
    The same input always gives the same bytes.

    Args:
      path: the file; its suffix chooses the format.
      array: integer labels of like.array's spatial shape, or float maps of that shape with an optional last axis; in the axis
        order of like.array (the file's axes; photographs upright).
      like: the image.
      scale_for_view: only for labels in PNG: spread the class numbers over 0..255.
    Raises:
      ConfigError: the suffix does not fit.
      DataError: labels outside of 0..65535, or maps with NaN or Inf.
      StorageError: the file cannot be written.
    """
    photo = is_photo(like)
    rank = 2 if photo else 3
    if array.shape[:rank] != like.array.shape[:rank] or array.ndim not in (rank, rank + 1):
        raise ValueError(
            f"got an array of shape {array.shape} for {like.path} of shape {like.array.shape}; "
            f"the first {rank} axes must agree, one more may follow"
        )
    if has_suffix(path, nifti.SUFFIXES):
        if scale_for_view:
            raise ConfigError(f"{path}: scale_for_view is only for .png files; leave it out")
        if photo:
            array = np.swapaxes(stored_order(array, like.header.turn), 0, 1)[:, :, None]
        usable = isinstance(like.header, (nibabel.Nifti1Header, nibabel.Nifti2Header))
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) if photo else like.affine  # columns go left, rows back
        header = like.header if usable else nifti.header_for(affine, array.shape)
        content = nifti.encode(array, header, packed=has_suffix(path, (".gz",)), path=path)
    elif has_suffix(path, (".png",)) and photo and array.dtype.kind in "biu":
        content = photos.encode_png(array, path, scale_for_view=scale_for_view, turn=like.header.turn)
    else:
        rule = "labels of photographs are .png, everything else" if photo else "volumes"
        raise ConfigError(f"{path}: cannot hold {array.dtype} of {like.path}; {rule} .nii or .nii.gz; change the suffix")
    files.write_atomic(path, content)


def paired(image: Volume, other: Volume) -> Volume:
    """Return the mask or further channel of an image in the image's orientation, after `check_pair`.

    A photograph with an EXIF orientation may have a mask without this tag, drawn either on the upright view or on the file's
    pixels. The shape tells which, unless both have the same shape. An array without a header (.npy) is a mask on the pixels of an
    upright photograph.

    Raises:
      DataError: as `check_pair`; or the orientation of the mask cannot be determined (DATA_TURNED).
    """
    if is_photo(image) and other.header is None and not image.header.turned:
        other = dataclasses.replace(other, header=image.header, affine=image.affine)
    if is_photo(image) and is_photo(other) and image.header.turned and not other.header.turn:
        turn, shape = image.header.turn, other.array.shape[:2]
        there = upright(other.array, turn)
        if shape != image.array.shape[:2] and there.shape[:2] == image.array.shape[:2]:
            other = dataclasses.replace(other, array=np.ascontiguousarray(there), header=image.header)
        elif shape == there.shape[:2] == image.array.shape[:2] and not np.array_equal(there, other.array):
            raise refusal(
                "DATA_TURNED",
                other.path,
                f"it has no EXIF orientation, and its image {image.path} has orientation {turn}",
                "whether it was drawn on the turned view or on the file's own pixels cannot be told from its shape",
                f"give it the tag 274 too ({turn} if drawn on the file's own pixels, 1 if on the turned view), or save both "
                "upright without the tag",
            )
    check_pair(image, other)
    return other


def check_pair(image: Volume, mask: Volume) -> None:
    """Refuse two volumes that do not have the same grid; report small differences (`remarks`).

    Raises:
      DataError: the spatial shapes differ, or corner voxels differ by more than 2 % of the smallest voxel size (DATA_MISMATCH).
    """
    rank = 2 if is_photo(image) else 3
    a, b = image.array.shape[:rank], mask.array.shape[:rank]
    if a != b or is_photo(image) != is_photo(mask):
        raise refusal(
            "DATA_MISMATCH",
            mask.path,
            f"shape {mask.array.shape}, but {image.path} has {image.array.shape}",
            "mask and image must have the same spatial shape",
            "check that they belong together, or resample the mask",
        )
    same = image.affine.dtype == mask.affine.dtype and image.affine.tobytes() == mask.affine.tobytes()
    if rank == 2 or same and np.isfinite(image.affine).all():
        return
    (distance, corner), allowed = corner_distance(image.affine, mask.affine, a), tolerance(image.affine, mask.affine)
    if not distance <= allowed:
        there = lambda v: (v.affine[:3] @ [*corner, 1]).round(3).tolist()
        raise refusal(
            "DATA_MISMATCH",
            mask.path,
            f"voxel {corner} lies at {there(mask)} mm ({_axcodes(mask)}), but in {image.path} at {there(image)} mm "
            f"({_axcodes(image)}), {distance:.4g} mm apart",
            f"must be at most {TOLERANCE:.0%} of the smallest voxel size, {allowed:.4g} mm",
            "check that they belong together; resample or fix the header of one",
        )
    if distance > 1e-3:
        remark(
            f"voxels up to {{amount}} mm off those of the image, as in rounded headers; {TOLERANCE:.0%} of a voxel is accepted",
            mask.path,
            distance,
        )


def _axcodes(volume: Volume) -> str:
    """Return the directions of the axes ("LAS"), "?" if the affine has none."""
    return "".join(c or "?" for c in nibabel.aff2axcodes(volume.affine)) if np.isfinite(volume.affine).all() else "?"


def _span(numbers: list[int]) -> str:
    """Return the list as text, or "0 to 300" for many consecutive numbers."""
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 8 and numbers[-1] - numbers[0] + 1 == len(numbers) else str(numbers)


def check_labels(array: np.ndarray, allowed: Collection[int], path: str | Path) -> None:
    """Refuse a mask with other values than the allowed ones, such as NaN or fractions.

    Raises:
      DataError: there are such values (DATA_LABEL); the message lists the most frequent ones with their counts.
    """
    in_a_row = len(allowed) and max(allowed) - min(allowed) + 1 == len(set(allowed))
    if array.dtype.kind in "iub" and in_a_row and array.size and min(allowed) <= array.min() and array.max() <= max(allowed):
        return
    unexpected = ~np.isin(array, np.asarray(sorted(allowed)))
    if not unexpected.any():
        return
    values, counts = np.unique(array[unexpected], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:8]
    listed = ", ".join(f"{values[i]:g} ({counts[i]}x)" for i in order) + (", ..." if len(values) > 8 else "")
    raise refusal(
        "DATA_LABEL",
        path,
        f"{len(values)} unexpected label values in {counts.sum()} of {array.size} voxels: {listed}",
        f"labels are {_span(sorted(allowed))}",
        "map them to classes, or check that this is the mask",
    )
