"""Read NRRD and MetaImage files (a text header, then raw or compressed voxels), and .npy arrays, which have no geometry.

Both formats have an affine in mm: NRRD in the space that its header names, MetaImage in LPS, as ITK; a Volume is in RAS.
Sources: teem.sourceforge.net/nrrd/format.html; itk.org/Wiki/ITK/MetaIO/Documentation.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxseg.data import text_headers
from jaxseg.data.formats import nifti
from jaxseg.data.formats.nifti_header import is_singular
from jaxseg.data.formats.refusal import refusal
from jaxseg.data.geometry import Photo
from jaxseg.data.records import Volume
from jaxseg.types import DataError
from jaxseg.utils import guard, npy

ARRAY = (".npy",)
SUFFIXES = (*text_headers.NRRD, *text_headers.META, *ARRAY)
CHANNELS = 4  # at most, of an array that is a picture


def read(path: str | Path, *, max_voxels: int) -> Volume:
    """Read a volume [X, Y, Z] or [X, Y, Z, C]; an array with two axes, or with 8-bit colours, is a picture.

    Args:
      path: the file.
      max_voxels: the largest accepted number of voxels.
    Raises:
      DataError: the header cannot be used (DATA_HEADER) or has no affine (DATA_GEOMETRY); voxels are missing (DATA_TRUNCATED),
        too many (DATA_TOO_LARGE), or NaN or Inf (DATA_NONFINITE).
    """
    path = Path(path)
    if path.name.lower().endswith(ARRAY):
        return _read_array(path, max_voxels)
    kind = text_headers.nrrd_layout if path.name.lower().endswith(text_headers.NRRD) else text_headers.meta_layout
    bad = lambda found, rule, code="DATA_HEADER": refusal(
        code, path, found, rule, "export the file again, or convert it to .nii.gz"
    )
    with guard.reading(path, "image"), guard.open_regular(path) as file:
        try:
            layout = kind(file, bad)
        except DataError:
            raise
        except (ValueError, LookupError, OverflowError) as error:
            raise bad(
                f"the header cannot be read ({type(error).__name__}: {str(error)[:80]})", "must have the fields of its format"
            ) from error
        _check(layout, max_voxels, bad)
        if layout.file is None:
            array = text_headers.stored_voxels(file, layout, bad)
        else:
            with guard.open_regular(path.parent / layout.file) as beside:
                array = text_headers.stored_voxels(beside, layout, bad)
    nifti.check_finite(array, path)
    return Volume(array, layout.affine, nifti.header_for(layout.affine, array.shape[:3]), path)


def _read_array(path: Path, max_voxels: int) -> Volume:
    array = npy.open_npy(path)
    if array.ndim not in (2, 3, 4) or 0 in array.shape or array.size > max_voxels or array.dtype.kind == "c":
        rule = (
            f"must be a picture [H, W] or [H, W, C], or a volume [X, Y, Z] or [X, Y, Z, C] of at most {max_voxels} real numbers"
        )
        raise refusal("DATA_IMAGE", path, f"{array.dtype} {list(array.shape)}", rule, "save it in this form")
    array = np.array(array, array.dtype.newbyteorder("="))
    array = array.astype(np.float32) if array.dtype.kind == "f" else array.astype(np.uint8) if array.dtype.kind == "b" else array
    nifti.check_finite(array, path)
    if array.ndim == 2 or array.ndim == 3 and array.shape[2] in (1, 3, CHANNELS):
        return Volume(array[..., 0] if array.shape[2:] == (1,) else array, np.eye(4), Photo("NPY"), path)
    return Volume(array, np.eye(4), None, path)


def _check(layout: text_headers.StoredArray, max_voxels: int, bad: Callable) -> None:
    if layout.spatial not in (2, 3) or min(layout.shape) < 1:
        raise bad(f"sizes {layout.shape}", "must have two or three spatial axes, and at most one of channels")
    if math.prod(layout.shape) > max_voxels:
        raise bad(f"{math.prod(layout.shape)} voxels", f"at most {max_voxels} are read", "DATA_TOO_LARGE")
    if not np.isfinite(layout.affine).all() or is_singular(layout.affine):
        raise bad(
            "the directions of its axes are not linearly independent",
            "must be three independent, finite directions",
            "DATA_GEOMETRY",
        )
