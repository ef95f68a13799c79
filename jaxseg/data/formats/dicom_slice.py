"""Read one DICOM file: its geometry, then its pixels.

Only the attributes listed here are read: names, identifiers and dates of patients are never loaded or shown in a message.
"""

import contextlib
import dataclasses
import io
import logging
import math
import warnings
from pathlib import Path

import numpy as np

from jaxseg.data.formats.discover import lacks_preamble
from jaxseg.data.formats.refusal import refusal
from jaxseg.types import ConfigError, DataError
from jaxseg.utils import guard

_ENCODING = ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
_HEADER = [
    "SOPClassUID",
    "SeriesInstanceUID",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    *_ENCODING,
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
]
_PIXELS = [
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    *_ENCODING,
    "PlanarConfiguration",
    "PixelData",
]
_PLAIN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")  # uncompressed transfer syntaxes
_DEFLATED = "1.2.840.10008.1.2.1.99"
_RLE = "1.2.840.10008.1.2.5"
_DECODERS = {  # transfer syntaxes that pydicom decodes through another package: its name for the user, the package
    "1.2.840.10008.1.2.4.57": ("lossless JPEG", "pylibjpeg pylibjpeg-libjpeg"),
    "1.2.840.10008.1.2.4.70": ("lossless JPEG", "pylibjpeg pylibjpeg-libjpeg"),
    "1.2.840.10008.1.2.4.80": ("JPEG-LS", "pyjpegls"),
    "1.2.840.10008.1.2.4.81": ("JPEG-LS", "pyjpegls"),
    "1.2.840.10008.1.2.4.90": ("JPEG 2000", "pylibjpeg pylibjpeg-openjpeg"),
    "1.2.840.10008.1.2.4.91": ("JPEG 2000", "pylibjpeg pylibjpeg-openjpeg"),
    "1.2.840.10008.1.2.4.201": ("high-throughput JPEG 2000", "pylibjpeg pylibjpeg-openjpeg"),
    "1.2.840.10008.1.2.4.202": ("high-throughput JPEG 2000", "pylibjpeg pylibjpeg-openjpeg"),
    "1.2.840.10008.1.2.4.203": ("high-throughput JPEG 2000", "pylibjpeg pylibjpeg-openjpeg"),
}
_RLE_RATIO = 64  # PackBits: 128 bytes from 2
MAX_PIXELS = 1 << 25  # of a slice
_MAX_ELEMENT = 8 * MAX_PIXELS  # bytes that one element of a file can need
_EXPORT = "export the series again"


@dataclasses.dataclass(frozen=True)
class SliceGeometry:
    """The geometry of one file: position [3] and unit directions [3] in LPS mm, spacing (between rows, between columns)."""

    path: Path
    series: str
    size: tuple[int, int]  # rows, columns
    encoding: tuple[int, ...]  # bits allocated, bits stored, high bit, signed
    position: np.ndarray
    along_row: np.ndarray  # direction of growing column index
    along_column: np.ndarray
    spacing: np.ndarray
    thickness: float | None
    slope: float
    intercept: float


def import_pydicom():
    """Import pydicom, or raise a ConfigError that says how to install it."""
    try:
        import pydicom
    except ImportError:
        raise ConfigError("DICOM files need pydicom, which is not installed; run: pip install 'pydicom>=3'") from None
    return pydicom


@contextlib.contextmanager
def _quiet():
    """Suppress pydicom's warnings and log lines: they may quote fields about the patient."""
    log = logging.getLogger("pydicom")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _load(pydicom, path: Path, tags: list[str], *, pixels: bool):
    """Read the named attributes of a file. pydicom's error texts are not shown: they may quote fields about the patient."""
    deflated = lambda: refusal(
        "DATA_DICOM", path, "deflated transfer syntax", "its decompressed size cannot be limited", "export the series without it"
    )
    try:
        with guard.open_regular(path) as file:
            bare = lacks_preamble(file.read(132))
            file.seek(0)
            if bare:
                file = _with_preamble(file)
                if _DEFLATED.encode() in file.getvalue():
                    raise deflated()
            elif pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID") == _DEFLATED:
                raise deflated()
            data = pydicom.dcmread(
                file if bare else guard.Clamped(file, _MAX_ELEMENT), stop_before_pixels=not pixels, specific_tags=tags
            )
        if "TransferSyntaxUID" not in data.file_meta and bare:  # pydicom has seen which of the two it is
            data.file_meta.TransferSyntaxUID = pydicom.uid.UID(_PLAIN[0] if data.original_encoding[0] else _PLAIN[1])
        return data
    except DataError:
        raise
    except Exception as error:
        raise refusal(
            "DATA_DICOM", path, f"cannot be parsed ({type(error).__name__})", "must be a whole DICOM file", _EXPORT
        ) from None


def _with_preamble(file) -> io.BytesIO:
    """Return a complete DICOM file in memory for a file that begins after its preamble, or with its data set."""
    content = guard.Clamped(file, _MAX_ELEMENT).read()
    return io.BytesIO(b"\0" * 128 + b"DICM" + content.removeprefix(b"DICM"))


@_quiet()
def read_header(pydicom, path: Path) -> SliceGeometry | None:
    """Read the geometry of one file; None for DICOM objects without an image (a DICOMDIR, structures, reports)."""
    data = _load(pydicom, path, _HEADER, pixels=False)
    try:
        return _geometry(pydicom, data, path)
    except DataError:
        raise
    except Exception as error:  # attributes are converted when they are asked for, by code that trusts them
        raise refusal(
            "DATA_DICOM", path, f"an attribute cannot be parsed ({type(error).__name__})", "must be a whole DICOM file", _EXPORT
        ) from None


@_quiet()
def read_modality(pydicom, path: Path) -> str:
    """Read the attribute Modality of one file ("CT", "MR", ...), in capitals; "" where it has none."""
    try:
        return str(_load(pydicom, path, ["Modality"], pixels=False).get("Modality") or "").strip().upper()
    except DataError:
        return ""


def _geometry(pydicom, data, path: Path) -> SliceGeometry | None:
    bad = lambda found, rule, remedy=_EXPORT: refusal("DATA_DICOM", path, found, rule, remedy)

    def numbers(name: str, count: int, default=None) -> np.ndarray | None:
        try:
            value = data.get(name)
            if value is None or value == "":
                if default is None:
                    raise bad(f"no {name}", "needed for the geometry")
                return np.array(default, np.float64)
            array = np.atleast_1d(np.array(value, np.float64))
        except DataError:
            raise
        except Exception:
            raise bad(f"{name} is not a number", f"must be {count} numbers") from None
        if array.shape != (count,) or not np.isfinite(array).all():
            raise bad(f"{name} = {guard.shown(array.tolist())}", f"must be {count} finite numbers")
        return array

    if "Rows" not in data or "Columns" not in data:
        if not _is_other_object(pydicom, data):
            raise bad(
                "an image without Rows and Columns", "must be a whole DICOM image", "export the series again, or remove this file"
            )
        return None
    rows, columns, frames, samples = (
        int(numbers(n, 1, d)[0])
        for n, d in (("Rows", None), ("Columns", None), ("NumberOfFrames", [1]), ("SamplesPerPixel", [1]))
    )
    grey = data.get("PhotometricInterpretation", "MONOCHROME2") == "MONOCHROME2"
    if frames != 1:
        raise bad(f"{frames} frames in one file", "a file must hold one slice", "convert it to NIfTI")
    if samples != 1 or not grey:
        raise bad(
            f"{samples} samples per pixel" + (", not MONOCHROME2" if not grey else ""),
            "must be grey, MONOCHROME2",
            "convert it to NIfTI or PNG",
        )
    if "ModalityLUTSequence" in data:
        raise bad("values defined by a lookup table", "must be RescaleSlope and RescaleIntercept", "convert it to NIfTI")
    orientation, spacing = numbers("ImageOrientationPatient", 6), numbers("PixelSpacing", 2)
    along_row, along_column = orientation[:3], orientation[3:]
    if abs(np.array([along_row @ along_row - 1, along_column @ along_column - 1, along_row @ along_column])).max() > 1e-3:
        raise bad(f"ImageOrientationPatient = {orientation.tolist()}", "must be two perpendicular unit vectors")
    if rows * columns > MAX_PIXELS:
        raise refusal("DATA_TOO_LARGE", path, f"{rows} x {columns} pixels", f"a slice must have at most {MAX_PIXELS}", _EXPORT)
    if min(rows, columns) < 1 or spacing.min() <= 0:
        raise bad(f"{rows} rows, {columns} columns, PixelSpacing {spacing.tolist()}", "all must be above 0")
    gap = float(numbers("SpacingBetweenSlices", 1, [0])[0]) or float(numbers("SliceThickness", 1, [0])[0])
    encoding = tuple(int(numbers(n, 1)[0]) for n in _ENCODING)
    slope, intercept = numbers("RescaleSlope", 1, [1])[0], numbers("RescaleIntercept", 1, [0])[0]
    if slope == 0:
        raise bad("RescaleSlope = 0", "must not be 0")
    return SliceGeometry(
        path,
        str(data.get("SeriesInstanceUID", "")),
        (rows, columns),
        encoding,
        numbers("ImagePositionPatient", 3),
        along_row,
        along_column,
        spacing,
        abs(gap) or None,
        float(slope),
        float(intercept),
    )


def _is_other_object(pydicom, data) -> bool:
    """Return whether a file consistently states that it is a standard DICOM object without an image (report, DICOMDIR)."""
    found = {str(c) for c in (data.get("SOPClassUID"), data.file_meta.get("MediaStorageSOPClassUID")) if c}
    known = [pydicom.uid.UID_dictionary[c][0] for c in found if c in pydicom.uid.UID_dictionary]
    return len(found) == len(known) == 1 and "Image Storage" not in known[0]


@_quiet()
def read_pixels(pydicom, s: SliceGeometry) -> np.ndarray:
    """Return the stored values [rows, columns]."""
    bad = lambda found, rule, remedy=_EXPORT: refusal("DATA_DICOM", s.path, found, rule, remedy)
    data = _load(pydicom, s.path, _PIXELS, pixels=True)
    syntax = data.file_meta.get("TransferSyntaxUID")
    if "PixelData" not in data or syntax is None:
        raise bad("no pixel data" if syntax is not None else "no transfer syntax", "must hold one slice")
    packed = syntax not in _PLAIN
    try:
        expected, found = math.prod(s.size) * int(data.BitsAllocated) // 8, len(data.PixelData)
        if syntax == _RLE and expected > _RLE_RATIO * found:
            raise bad(
                f"{found} bytes of RLE pixels",
                f"{s.size[0]} x {s.size[1]} at {data.BitsAllocated} bits need {expected // _RLE_RATIO} or more",
            )
        if not packed:
            if found not in (expected, expected + expected % 2):
                raise bad(f"{found} bytes of pixels", f"{s.size[0]} x {s.size[1]} at {data.BitsAllocated} bits are {expected}")
        name, package = _DECODERS.get(syntax, ("", ""))
        if name and not pydicom.pixels.get_decoder(syntax).is_available:
            raise bad(f"pixels in {name}", "decoding needs another package", f"pip install {package}")
        array = data.pixel_array
    except (DataError, MemoryError):
        raise
    except Exception as error:
        remedy = "convert the series to an uncompressed transfer syntax" if packed else _EXPORT
        raise bad(f"pixels cannot be decoded ({type(error).__name__})", "must be whole and of a known encoding", remedy) from None
    if array.shape != s.size or array.dtype.kind not in "iu":
        raise bad(f"pixels {array.dtype}{list(array.shape)}", f"must be integers {list(s.size)}")
    return array
