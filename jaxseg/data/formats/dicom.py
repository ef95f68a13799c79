"""Read a folder of DICOM slices as one volume; it must be one complete, evenly spaced series.

Needs pydicom (`pip install 'pydicom>=3'`). Source of the geometry: DICOM PS3.3 C.7.6.2.1.1.
"""

import logging
import math
from pathlib import Path

import numpy as np

from jaxseg.data.formats.dicom_slice import SliceGeometry, import_pydicom, read_header, read_modality, read_pixels
from jaxseg.data.formats.discover import has_suffix, is_dicom, visible_entries
from jaxseg.data.formats.nifti import header_for
from jaxseg.data.formats.nifti_header import is_singular
from jaxseg.data.formats.refusal import refusal
from jaxseg.data.records import Volume

_log = logging.getLogger(__name__)
_EXPORT = "export the series again"


def read_dicom(path: str | Path, *, max_voxels: int) -> Volume:
    """Read one DICOM series as [X, Y, Z] = [column, row, slice], in HU for CT (each slice's own slope * stored + intercept).

    Slices are sorted by their position along the normal, not by their file names. The dtype is int16 (int32 if values need it)
    if slopes and intercepts are integers, else float32. Files that are not DICOM, and DICOM objects without an image, are
    ignored; their number is logged.

    Args:
      path: a folder with the files of one series, or a single file.
      max_voxels: the largest accepted number of voxels.
    Returns:
      The volume; its affine is in RAS mm, rounded to float32 like that of a NIfTI header.
    Raises:
      ConfigError: pydicom is not installed.
      DataError: the series cannot be used (DATA_DICOM), is too large (DATA_TOO_LARGE), or holds no image (DATA_MISSING).
    """
    pydicom = import_pydicom()
    path = Path(path)
    files = [e for e in visible_entries(path) if e.is_file()] if path.is_dir() else [path]
    found = [f for f in files if is_dicom(f)]
    lost = [f for f in set(files) - set(found) if has_suffix(f, (".dcm", ".dicom", ".ima"))]
    if lost:
        raise refusal(
            "DATA_DICOM",
            min(lost),
            "the name ends in .dcm, but the content is not DICOM",
            "a DICOM file must have DICM at byte 128, or begin with its first element",
            "copy or export the series again, or rename files that do not belong to it",
        )
    slices = [s for s in (read_header(pydicom, f) for f in found) if s is not None]
    if len(slices) < len(files):
        _log.info("%s: %d of %d files hold no DICOM image and are ignored", path, len(files) - len(slices), len(files))
    if not slices:
        raise refusal(
            "DATA_MISSING",
            path,
            f"no DICOM image among {len(files)} files",
            "must hold one series",
            "give the folder that holds the slices",
        )
    slices, affine = _arrange(slices, path)
    rows, columns = slices[0].size
    shape = (columns, rows, len(slices))
    if math.prod(shape) > max_voxels:
        raise refusal(
            "DATA_TOO_LARGE",
            path,
            f"{columns} x {rows} x {len(slices)} voxels",
            f"at most {max_voxels} are read",
            "check the files; a larger scan must be cropped, or resampled to larger voxels",
        )
    whole = all(
        s.slope.is_integer() and s.intercept.is_integer() and abs(s.slope) < 2**15 and abs(s.intercept) < 2**30 for s in slices
    )
    array = np.empty(shape, np.int32 if whole else np.float32, order="F")
    for k, s in enumerate(slices):
        stored = read_pixels(pydicom, s)  # [rows, columns]
        values, scale = stored.astype(np.int64 if whole else np.float32), int if whole else np.float32
        values *= scale(s.slope)
        values += scale(s.intercept)
        if not (np.isfinite(values).all() and -(2.0**31) <= values.min() and values.max() < 2.0**31):
            raise refusal("DATA_DICOM", s.path, f"values from {values.min()} to {values.max()}", "must fit 32 bits", _EXPORT)
        array[:, :, k] = values.T
    if whole and -(2**15) <= array.min() and array.max() < 2**15:
        array = array.astype(np.int16, order="F")
    return Volume(array, affine, header_for(affine, shape), path)


def modality(path: Path) -> str:
    """Return what made a series, as its first file says ("CT", "MR", ...); "" for files of other formats."""
    files = [e for e in visible_entries(path) if e.is_file()] if path.is_dir() else [path]
    first = next(filter(is_dicom, files), None)
    return read_modality(import_pydicom(), first) if first is not None else ""


def _arrange(slices: list[SliceGeometry], path: Path) -> tuple[list[SliceGeometry], np.ndarray]:
    """Return (slices sorted along their normal, affine voxel [column, row, slice] -> RAS mm)."""
    bad = lambda found, rule, remedy=_EXPORT: refusal("DATA_DICOM", path, found, rule, remedy)
    series = sorted({s.series for s in slices})
    if len(series) > 1:
        counts = [sum(s.series == u for s in slices) for u in series]
        raise bad(
            f"{len(series)} series of {', '.join(map(str, counts))} slices",
            "a folder must hold one series",
            "put each series into its own folder",
        )
    first = slices[0]
    for s in slices[1:]:
        if s.size != first.size:
            raise bad(
                f"{s.path.name} has {s.size[0]} x {s.size[1]} pixels, {first.path.name} {first.size[0]} x {first.size[1]}",
                "all slices must have the same size",
            )
        if s.encoding != first.encoding:  # slope and intercept may differ: PET scales each slice
            raise bad(
                f"{s.path.name} has {s.encoding}, {first.path.name} {first.encoding}",
                "bits allocated, stored, high and sign must be the same in all slices",
            )
        turned = max(abs(s.along_row - first.along_row).max(), abs(s.along_column - first.along_column).max())
        if turned > 1e-4 or abs(s.spacing - first.spacing).max() > 1e-4 * first.spacing.min():
            raise bad(
                f"{s.path.name} has another orientation or pixel spacing than {first.path.name}",
                "all slices must have the same orientation and spacing",
                "remove scouts and reformatted slices",
            )
    normal = np.cross(first.along_row, first.along_column)
    slices = sorted(slices, key=lambda s: float(s.position @ normal))
    positions = np.array([s.position for s in slices])
    if len(slices) == 1:
        if slices[0].thickness is None:
            raise bad("a single slice without SliceThickness", "its thickness must be known")
        step = normal * slices[0].thickness
    else:
        step = _even_step(slices, positions, positions @ normal, bad)
    lps = np.eye(4)
    lps[:3, 0] = first.along_row * first.spacing[1]
    lps[:3, 1] = first.along_column * first.spacing[0]
    lps[:3, 2], lps[:3, 3] = step, positions[0]
    affine = (np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps).astype(np.float32).astype(np.float64)
    if not np.isfinite(affine).all() or is_singular(affine):
        raise bad("the slices do not span a volume", "slices must be stacked along their normal")
    return slices, affine


def _even_step(slices: list[SliceGeometry], positions: np.ndarray, heights: np.ndarray, bad) -> np.ndarray:
    """Return the vector from a slice to the next, [3] in LPS mm; sheared if the gantry was tilted."""
    gaps = np.diff(heights)
    typical = float(np.median(gaps))
    name = lambda k: f"{slices[k].path.name} and {slices[k + 1].path.name}"
    k = int(np.argmin(gaps))
    if gaps[k] < 1e-3:
        raise bad(f"{name(k)} lie at the same position", "every slice must have its own position", "remove the duplicates")
    tolerance = 0.1 * typical + 0.01
    k = int(np.argmax(abs(gaps - typical)))
    if abs(gaps[k] - typical) > tolerance:
        raise bad(
            f"{gaps[k]:.4g} mm between {name(k)}, {typical:.4g} mm between most slices",
            "slices must be evenly spaced, with none missing",
        )
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    drift = np.linalg.norm(positions - positions[0] - np.arange(len(slices))[:, None] * step, axis=1)
    if drift.max() > tolerance:
        k = int(np.argmax(drift))
        raise bad(
            f"{slices[k].path.name} lies {drift[k]:.4g} mm off the line of the others", f"must be at most {tolerance:.4g} mm"
        )
    return step
