"""Image files and folders made to harm: nothing hangs, grows or ends in another exception than DataError."""

import gzip
import io
import tracemalloc
import zlib

import nibabel
import numpy as np
import pytest
from PIL import Image

from jaxseg.data.formats import discover, volumes
from jaxseg.data.formats.photos import MAX_PIXELS
from jaxseg.types import DataError
from tests.fault_table import count
from tests.hostile import SPECIAL, mutations, one_line, special, within


def encoded(suffix: str) -> bytes:
    """A small good file of this kind."""
    values = np.random.default_rng(0).integers(0, 200, (12, 10, 3)).astype(np.uint8)
    if suffix.startswith(".nii"):
        content = nibabel.Nifti1Image(values.astype(np.int16), np.diag([1, 1, 2, 1.0])).to_bytes()
        return gzip.compress(content) if suffix == ".nii.gz" else content
    if suffix == ".dcm":
        return slice_file()
    file = io.BytesIO()
    Image.fromarray(values).save(file, {".png": "PNG", ".jpg": "JPEG", ".tif": "TIFF"}[suffix])
    return file.getvalue()


def slice_file(rows: int = 12, columns: int = 10, rle: bool = False) -> bytes:
    """A DICOM slice of 12 x 10 pixels whose header states rows x columns."""
    pydicom = pytest.importorskip("pydicom", reason="DICOM needs the extra [dicom]")
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds = pydicom.dataset.FileDataset("x", {}, file_meta=meta, preamble=bytes(128))
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3"
    ds.SeriesInstanceUID, ds.PatientName = "1.2", "Secret"
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness, ds.RescaleSlope, ds.RescaleIntercept = [1, 1], 2, 1, -1024
    array = np.arange(120, dtype=np.uint16).reshape(12, 10)
    ds.Rows, ds.Columns, ds.PixelData = 12, 10, array.tobytes()
    if rle:
        ds.compress(pydicom.uid.RLELossless, array)
    ds.Rows, ds.Columns = rows, columns
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()


def refused(path) -> DataError:
    """How reading ends: one line, quickly and with little memory."""
    tracemalloc.start()
    try:
        with within(10), pytest.raises(DataError) as caught:
            volumes.read_volume(path)
        assert tracemalloc.get_traced_memory()[1] < 200 << 20  # bytes
    finally:
        tracemalloc.stop()
    one_line(caught.value)
    return caught.value


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".png", ".jpg", ".tif", ".dcm"])
@pytest.mark.fault("D21", "P11")
def test_a_mutated_image_is_read_or_one_data_error_that_names_no_patient(tmp_path, suffix, record_property):
    path, whole = tmp_path / f"x{suffix}", encoded(suffix)
    path.write_bytes(whole)
    volumes.read_volume(path)
    for bad in mutations(whole, number := count(150, 700)):
        path.write_bytes(bad)
        try:
            with within(5):
                volumes.read_volume(path)
        except DataError as error:
            assert "Secret" not in one_line(error)
    record_property(f"mutated {suffix} files", f"{number}; each was read or refused by one line within 5 s")


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", ["x.nii.gz", "x.png", "x.dcm", "x"])
@pytest.mark.fault("D23")
def test_an_image_that_is_no_regular_file_is_refused_without_being_opened(tmp_path, kind, name):
    path = special(kind, tmp_path / name)
    with within(5), pytest.raises(DataError, match=name):
        volumes.read_volume(path)
    if kind not in ("folder", "nothing"):
        with within(5), pytest.raises(DataError):
            discover.find_inputs(tmp_path)  # the folder that holds it


@pytest.mark.parametrize(
    "rows, columns, rle",
    [
        (30000, 30000, True),
        (30000, 30000, False),
        (5000, 5000, True),
        (0, 10, False),
        (65535, 65535, True),
        (5000, 5000, False),
        (13, 10, True),
    ],
)
@pytest.mark.fault("D22")
def test_a_slice_that_states_more_pixels_than_it_holds_is_refused_before_it_is_decoded(tmp_path, rows, columns, rle):
    (tmp_path / "x.dcm").write_bytes(slice_file(rows, columns, rle))
    refused(tmp_path / "x.dcm")


def test_the_slice_of_this_test_is_read_where_its_header_is_true(tmp_path):
    for rle in (False, True):
        (tmp_path / "x.dcm").write_bytes(slice_file(rle=rle))
        found = volumes.read_volume(tmp_path / "x.dcm").array[..., 0].T
        np.testing.assert_array_equal(found, np.arange(120).reshape(12, 10) - 1024)


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG of 8-bit grey whose header states this size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("width, height", [(8192, 8192), (1 << 20, 60), (1 << 31, 1), (MAX_PIXELS + 1, 1), (60000, 60000)])
@pytest.mark.fault("D21")
def test_a_picture_that_states_more_pixels_than_its_bytes_can_hold_is_refused(tmp_path, width, height):
    (tmp_path / "x.png").write_bytes(png(width, height, zlib.compress(b"")))
    assert refused(tmp_path / "x.png").code == "DATA_IMAGE"


def test_an_empty_mask_that_compresses_well_is_still_read(tmp_path):
    for mode, suffix, options in (("1", "png", {}), ("L", "png", {}), ("1", "tif", {"compression": "group4"}), ("L", "jpg", {})):
        Image.new(mode, (1024, 1024)).save(tmp_path / f"x.{suffix}", **options)
        assert not volumes.read_volume(tmp_path / f"x.{suffix}").array.any()
