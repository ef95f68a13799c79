"""DICOM series: the geometry of the standard, whole and evenly spaced or refused; nothing of the patient is shown."""

import logging

import numpy as np
import pytest

from jaxseg.data.formats import dicom
from jaxseg.data.formats.volumes import find_inputs, read_volume, write_like
from jaxseg.data.geometry import to_slices
from jaxseg.types import ConfigError, DataError
from tests.fault_table import count

pydicom = pytest.importorskip("pydicom", reason="DICOM needs the extra [dicom]")
from pydicom.dataset import FileDataset, FileMetaDataset  # noqa: E402
from pydicom.uid import BasicTextSRStorage, CTImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, generate_uid  # noqa: E402

ROWS, COLUMNS, SLICES = 6, 4, 5
STORED = np.random.default_rng(5).integers(0, 3000, (SLICES, ROWS, COLUMNS)).astype(np.uint16)
UID = generate_uid()
SECRET = "Doe^Jane"
C, S = np.cos(0.3), np.sin(0.3)
OBLIQUE = (np.array([C, S, 0.0]), np.array([-S * C, C * C, -S]))  # along a row, along a column
AXIAL = (np.array([1.0, 0, 0]), np.array([0.0, 1, 0]))


def _write(path, k, *, directions=AXIAL, gap=2.5, position=None, stored=None, syntax=ExplicitVRLittleEndian, **changes):
    stored = STORED[k] if stored is None else stored
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = syntax
    data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    data.PatientName, data.PatientID, data.PatientBirthDate = SECRET, "ID-4711", "19700101"
    data.SOPClassUID, data.SOPInstanceUID, data.SeriesInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID, UID
    data.Rows, data.Columns = stored.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    data.PixelSpacing = [0.8, 0.5]  # between rows, between columns
    data.SliceThickness = gap
    data.ImageOrientationPatient = [float(f"{v:.10f}") for v in np.concatenate(directions)]
    normal = np.cross(*directions)
    place = np.array([-50.0, 30, 100]) + k * gap * normal if position is None else position
    data.ImagePositionPatient = [float(f"{v:.8f}") for v in place]
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    data.PixelData = stored.tobytes()
    for name, value in changes.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)


def _report(path):
    """A DICOM object that is no image."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = BasicTextSRStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SeriesInstanceUID, data.PatientName = BasicTextSRStorage, generate_uid(), SECRET
    data.save_as(path, enforce_file_format=True)


def _series(folder, order=range(SLICES), **options):
    """Slice k under a name that sorts by `order`."""
    folder.mkdir(exist_ok=True)
    for rank, k in enumerate(order):
        _write(folder / f"IM{rank:03d}.dcm", k, **options)
    return folder


def _refused(folder, code="DATA_DICOM", **options):
    with pytest.raises(DataError) as caught:
        read_volume(folder, **options)
    text = str(caught.value)
    assert caught.value.code == code and "\n" not in text and text.startswith(str(folder)), text
    assert not any(word in text for word in (SECRET, "Jane", "4711", "1970", UID)), text
    return text


@pytest.mark.parametrize("directions", [AXIAL, OBLIQUE])
@pytest.mark.parametrize("order", [range(SLICES), (3, 0, 4, 2, 1)])
def test_geometry_is_the_standards_whatever_the_file_names(tmp_path, directions, order):
    volume = read_volume(_series(tmp_path / "ct", order, directions=directions))
    assert volume.array.shape == (COLUMNS, ROWS, SLICES) and volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array, STORED.transpose(2, 1, 0).astype(int) - 1024)
    normal = np.cross(*directions)
    for column, row, k in ((0, 0, 0), (3, 0, 0), (0, 5, 0), (0, 0, 4), (3, 5, 4)):  # equation C.7.6.2.1-1, pixel by pixel
        lps = np.array([-50.0, 30, 100]) + k * 2.5 * normal + column * 0.5 * directions[0] + row * 0.8 * directions[1]
        found = volume.affine @ [column, row, k, 1]
        np.testing.assert_allclose(found[:3], lps * [-1, -1, 1], atol=2e-5)  # the affine is rounded to float32


def test_an_axial_series_becomes_upright_slices_without_a_flip(tmp_path):
    slices, orientation = to_slices(read_volume(_series(tmp_path / "ct")))
    np.testing.assert_array_equal(slices, STORED.astype(int) - 1024)
    np.testing.assert_allclose(orientation.spacing, (2.5, 0.8, 0.5), rtol=1e-6)


def test_a_tilted_gantry_gives_a_sheared_affine(tmp_path):
    folder = tmp_path / "ct"
    folder.mkdir()
    for k in range(SLICES):
        _write(folder / f"{k}", k, position=np.array([0, k * 1.0, k * 3.0]))
    volume = read_volume(folder)
    np.testing.assert_allclose(volume.affine[:3, 2], [0, -1, 3], atol=1e-6)
    nibabel = pytest.importorskip("nibabel")
    write_like(tmp_path / "out.nii.gz", np.zeros(volume.array.shape, np.uint8), volume)
    np.testing.assert_array_equal(nibabel.load(tmp_path / "out.nii.gz").affine, volume.affine)


def test_results_are_written_as_nifti_with_the_series_geometry(tmp_path, caplog):
    volume = read_volume(_series(tmp_path / "ct", directions=OBLIQUE))
    labels = (volume.array > 500).astype(np.int64)
    write_like(tmp_path / "labels.nii.gz", labels, volume)
    back = read_volume(tmp_path / "labels.nii.gz")
    np.testing.assert_array_equal(back.affine, volume.affine)
    np.testing.assert_array_equal(back.array, labels)
    assert back.array.dtype == np.uint8 and not caplog.records
    assert SECRET.encode() not in (tmp_path / "labels.nii.gz").read_bytes()


def test_fractional_rescaling_is_float32_and_large_values_int32(tmp_path):
    volume = read_volume(_series(tmp_path / "a", RescaleSlope="0.5", RescaleIntercept="-10.25"))
    assert volume.array.dtype == np.float32
    expected = STORED.transpose(2, 1, 0).astype(np.float32) * np.float32(0.5) - np.float32(10.25)
    np.testing.assert_array_equal(volume.array, expected)
    volume = read_volume(_series(tmp_path / "b", RescaleSlope="1000", RescaleIntercept="0"))
    assert volume.array.dtype == np.int32 and volume.array.max() == int(STORED.max()) * 1000


def test_slope_and_intercept_are_those_of_each_slice(tmp_path):
    scales = [(1, -1024), (2, -1000), (1, 0), (3, 7), (1, -1024)]
    (tmp_path / "ct").mkdir()
    for k, (slope, intercept) in enumerate(scales):
        _write(tmp_path / "ct" / f"{k}.dcm", k, RescaleSlope=slope, RescaleIntercept=intercept)
    expected = np.stack([STORED[k].T.astype(int) * slope + intercept for k, (slope, intercept) in enumerate(scales)], -1)
    np.testing.assert_array_equal(read_volume(tmp_path / "ct").array, expected)


def _data_set_alone(path) -> bytes:
    """A file from its data set on, in implicit little endian, as old archives keep them."""
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, True
    data = pydicom.dcmread(path)
    write_dataset(out, pydicom.Dataset({e.tag: e for e in data}))
    return out.getvalue()


@pytest.mark.parametrize("cut", ["preamble", "preamble and mark", "all before the data set"])
def test_files_without_their_preamble_are_the_same_series(tmp_path, cut):
    folder = _series(tmp_path / "ct", directions=OBLIQUE)
    whole = read_volume(folder)
    for path in folder.iterdir():
        content = _data_set_alone(path) if cut.startswith("all") else path.read_bytes()[132 if "mark" in cut else 128 :]
        path.write_bytes(content)
    assert find_inputs(folder) == [folder] and find_inputs(tmp_path) == [folder]
    bare = read_volume(folder)
    np.testing.assert_array_equal(bare.array, whole.array)
    np.testing.assert_array_equal(bare.affine, whole.affine)


def test_deflated_files_are_refused_without_their_preamble_too(tmp_path):
    folder = tmp_path / "ct"
    folder.mkdir()
    _write(folder / "a.dcm", 0, syntax=DeflatedExplicitVRLittleEndian)
    (folder / "a.dcm").write_bytes((folder / "a.dcm").read_bytes()[132:])
    assert "deflated" in _refused(folder)


@pytest.mark.parametrize(
    "name, package",
    [("JPEGLSLossless", "pyjpegls"), ("JPEGLosslessSV1", "pylibjpeg-libjpeg"), ("JPEGLossless", "pylibjpeg-libjpeg")],
)
def test_pixels_that_another_package_decodes_name_it(tmp_path, monkeypatch, name, package):
    syntax = getattr(pydicom.uid, name)
    decoder = pydicom.pixels.get_decoder(syntax)
    assert any(package in line for line in (*decoder.missing_dependencies, *decoder.available_plugins)), "pydicom knows it"
    monkeypatch.setattr(type(decoder), "is_available", False)
    folder = tmp_path / "ct"
    folder.mkdir()
    _write(folder / "a.dcm", 0)
    data = pydicom.dcmread(folder / "a.dcm")
    data.file_meta.TransferSyntaxUID = syntax
    data.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8" + b"\0" * 30])
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    data.save_as(folder / "a.dcm", enforce_file_format=True)
    assert f"pip install {package}" in _refused(folder) or f" {package}" in _refused(folder)


def test_other_files_are_ignored_and_counted(tmp_path, caplog):
    folder = _series(tmp_path / "ct")
    (folder / "readme.txt").write_text("not DICOM")
    (folder / "preview.jpg").write_bytes(b"\xff\xd8")
    (folder / ".hidden").write_bytes(b"x")
    _report(folder / "report.dcm")
    with caplog.at_level(logging.INFO):
        assert read_volume(folder).array.shape == (COLUMNS, ROWS, SLICES)
    assert "3 of 8 files" in caplog.text
    assert find_inputs(folder) == [folder]


def test_a_single_file_is_a_volume_of_one_slice(tmp_path):
    _write(tmp_path / "one.dcm", 2)
    volume = read_volume(tmp_path / "one.dcm")
    assert volume.array.shape == (COLUMNS, ROWS, 1) and volume.affine[2, 2] == 2.5
    _write(tmp_path / "two.dcm", 2, SliceThickness=None)
    _refused(tmp_path / "two.dcm")


@pytest.mark.fault("D22")
def test_a_missing_slice_is_named_by_its_neighbours(tmp_path):
    text = _refused(_series(tmp_path / "ct", (0, 1, 3, 4)))
    assert "5 mm between IM001.dcm and IM002.dcm" in text and "2.5 mm between most" in text


@pytest.mark.fault("D22")
def test_duplicates_are_refused(tmp_path):
    assert "same position" in _refused(_series(tmp_path / "ct", (0, 1, 2, 2, 3)))


def _second(folder, **changes):
    """A whole series whose fourth slice differs."""
    _series(folder)
    _write(folder / "IM003.dcm", 3, **changes)
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"directions": OBLIQUE, "position": np.array([-50, 30, 107.5])},
        {"stored": STORED[3][:5]},
        {"PixelSpacing": [0.8, 0.6]},
        {"position": np.array([-45, 30, 107.5])},
        {"SeriesInstanceUID": generate_uid()},
        {"ImagePositionPatient": None},
        {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]},
        {"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]},
        {"PixelSpacing": [0, 0.5]},
        {"PixelSpacing": None},
        {"RescaleSlope": 0},
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"NumberOfFrames": 2},
        {"SamplesPerPixel": 3},
        {"PixelData": STORED[3].tobytes()[:-2]},
        {"PixelData": STORED[3].tobytes() + b"\0\0"},
        {"PixelData": None},
        {"BitsAllocated": 32},
        {"PixelRepresentation": 1},
        {"syntax": DeflatedExplicitVRLittleEndian},
    ],
    ids=lambda c: "-".join(c),
)
@pytest.mark.fault("D22")
def test_an_inconsistent_slice_is_refused(tmp_path, changes):
    _refused(_second(tmp_path / "ct", **changes))


def test_several_series_are_counted_not_named(tmp_path):
    assert "2 series of" in _refused(_second(tmp_path / "ct", SeriesInstanceUID=generate_uid()))


@pytest.mark.fault("D22")
def test_files_cut_anywhere_are_refused(tmp_path):
    folder = _series(tmp_path / "ct")
    whole = (folder / "IM004.dcm").read_bytes()  # the last one: its loss leaves no gap
    for keep in (*range(0, len(whole) - 1, 5), len(whole) - 2):
        (folder / "IM004.dcm").write_bytes(whole[:keep])
        _refused(folder)


@pytest.mark.fault("D22", "P11")
def test_no_corruption_ends_in_another_error(tmp_path, caplog, recwarn, record_property):
    """120 times (more in `make faults`) an outer slice with changed bytes: DataError, or a volume of the same shape."""
    folder = _series(tmp_path / "ct", range(3))
    whole = (folder / "IM002.dcm").read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(number := count(120, 1000)):
        broken = bytearray(whole)
        for at in rng.integers(132, len(whole) - STORED[0].nbytes, 2):
            broken[at] = rng.integers(256)
        (folder / "IM002.dcm").write_bytes(bytes(broken))
        try:
            assert read_volume(folder).array.shape == (COLUMNS, ROWS, 3)
        except DataError as error:
            assert SECRET not in str(error) and str(error).isprintable()
            refused += 1
    assert 20 < refused < number
    record_property("DICOM slices with changed bytes", f"{number}; {refused} refused, the others of the right shape")
    assert not recwarn.list and not caplog.records  # pydicom's warnings quote what fields hold


def test_too_many_voxels_are_refused_before_pixels_are_read(tmp_path):
    _refused(_series(tmp_path / "ct"), code="DATA_TOO_LARGE", max_voxels=ROWS * COLUMNS * SLICES - 1)


@pytest.mark.fault("D22")
def test_a_folder_without_dicom_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    _refused(tmp_path, code="DATA_MISSING")


def test_without_pydicom_the_message_says_what_to_install(tmp_path, monkeypatch):
    import sys

    _write(tmp_path / "one.dcm", 0)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ConfigError, match="pip install 'pydicom>=3'"):
        read_volume(tmp_path / "one.dcm")


def test_the_modality_is_that_of_the_first_file(tmp_path):
    _series(tmp_path / "mr", Modality="MR")
    _series(tmp_path / "none")
    (tmp_path / "scan.nii").write_bytes(b"\0" * 400)
    found = [dicom.modality(tmp_path / name) for name in ("mr", "none", "scan.nii")]
    assert found == ["MR", "", ""] and dicom.modality(sorted((tmp_path / "mr").iterdir())[0]) == "MR"
