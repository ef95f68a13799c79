"""Labels of DICOM series come back from a DICOM Segmentation as they are, on the slices that they were found in."""

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="DICOM needs the extra [dicom]")
highdicom = pytest.importorskip("highdicom", reason="the extra [dicomseg]")

from pydicom.dataset import FileDataset, FileMetaDataset  # noqa: E402
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid  # noqa: E402

from jaxseg import checkpoint  # noqa: E402
from jaxseg.data.formats.volumes import read_volume  # noqa: E402
from jaxseg.exporting import dicom_seg  # noqa: E402
from jaxseg.infer.predict import predict  # noqa: E402
from jaxseg.types import ConfigError, DataError  # noqa: E402
from tests import untrained  # noqa: E402

ROWS, COLUMNS, SLICES = 11, 9, 7
ALONG = [0.8, 0.6, 0.0, -0.6, 0.8, 0.0]  # turned about the body's axis


def write_series(folder, **changes):
    """A CT whose files are named against their order."""
    folder.mkdir()
    random, study, series, place = np.random.default_rng(0), generate_uid(), generate_uid(), generate_uid()
    for k in range(SLICES):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, place
        data.PatientName, data.PatientID, data.PatientBirthDate, data.PatientSex = "Doe^Jane", "4711", "19700101", "F"
        data.StudyDate, data.StudyTime, data.StudyID, data.AccessionNumber = "20260101", "120000", "1", "1"
        data.ReferringPhysicianName, data.Modality, data.SeriesNumber, data.InstanceNumber = "", "CT", 1, k + 1
        data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = ROWS, COLUMNS, 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.PixelSpacing, data.SliceThickness = [1.0, 1.0], 2.0
        data.ImageOrientationPatient, data.ImagePositionPatient = ALONG, [0.0, 0.0, 2.0 * k]
        data.RescaleSlope, data.RescaleIntercept = 1, 0
        values = random.integers(0, 30, (ROWS, COLUMNS))
        values[3:8, 2:7] += 14 * (1 < k < 6)
        data.PixelData = values.astype(np.int16).tobytes()
        for name, value in changes.items():
            delattr(data, name) if value is None else setattr(data, name, value)
        data.save_as(folder / f"IM{SLICES - k}.dcm", enforce_file_format=True)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    top = tmp_path_factory.mktemp("seg")
    return untrained.make(top / "run", untrained.config(untrained.write(top / "set", 3), 3))


def test_a_series_comes_back_from_its_segmentation_object(run, tmp_path):
    source = write_series(tmp_path / "ct")
    series = dicom_seg.series_of(run, source)
    settings, lines = checkpoint.find_record(run)["config"]["infer"], []
    assert predict(run, source, tmp_path / "out", settings=settings, say=lambda line: None) == 0
    dicom_seg.write_all(run, series, tmp_path / "out", lines.append)
    labels = read_volume(tmp_path / "out" / "ct.nii.gz").array  # [column, row, slice]
    assert 0.2 < labels.mean() < 0.8 and lines == [f"ct.seg.dcm: foreground {(labels > 0).sum()} voxels"]
    found = pydicom.dcmread(tmp_path / "out" / "ct.seg.dcm")
    assert found.Modality == "SEG" and found.SegmentSequence[0].SegmentLabel == "foreground"
    frames = np.atleast_3d(found.pixel_array).reshape(-1, ROWS, COLUMNS)
    positions = [tuple(f.PlanePositionSequence[0].ImagePositionPatient) for f in found.PerFrameFunctionalGroupsSequence]
    by_height = {float(position[2]): frame for position, frame in zip(positions, frames)}
    for k in range(SLICES):  # frames without a voxel may be left out
        np.testing.assert_array_equal(by_height.get(2.0 * k, np.zeros((ROWS, COLUMNS))), labels[:, :, k].T)
    first = pydicom.dcmread(source / f"IM{SLICES}.dcm")
    for name in ("StudyInstanceUID", "PatientID", "FrameOfReferenceUID"):
        assert found[name].value == first[name].value
    content = dicom_seg.encoded({"a": labels > 0}, source, checkpoint.find_record(run))
    again = dicom_seg.encoded({"a": labels > 0}, source, checkpoint.find_record(run))
    assert pydicom.dcmread(__import__("io").BytesIO(content)).SOPInstanceUID in again.decode("latin-1")


def test_several_structures_are_segments_that_may_overlap(run, tmp_path):
    source, random = write_series(tmp_path / "ct"), np.random.default_rng(1)
    masks = {
        name: random.random((COLUMNS, ROWS, SLICES)) < share for name, share in (("liver", 0.5), ("vessel", 0.2), ("none", 0))
    }
    (tmp_path / "seg.dcm").write_bytes(dicom_seg.encoded(masks, source, checkpoint.find_record(run)))
    found = highdicom.seg.segread(tmp_path / "seg.dcm")
    uids = [pydicom.dcmread(source / f"IM{SLICES - k}.dcm").SOPInstanceUID for k in range(SLICES)]
    pixels = found.get_pixels_by_source_instance(uids, ignore_spatial_locations=True, assert_missing_frames_are_empty=True)
    for segment, (name, mask) in enumerate(masks.items()):
        assert found.get_segment_description(segment + 1).segment_label == name
        np.testing.assert_array_equal(pixels[..., segment], mask.transpose(2, 1, 0))


def test_what_cannot_be_written_is_refused_in_one_line(run, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="none of 8 cases .* is a DICOM series"):
        dicom_seg.series_of(run, run.parent / "set" / "images")
    source = write_series(tmp_path / "ct", StudyInstanceUID=None)
    with pytest.raises(DataError, match="lack .*StudyInstanceUID"):
        dicom_seg.encoded({"a": np.ones((COLUMNS, ROWS, SLICES), bool)}, source, checkpoint.find_record(run))
    monkeypatch.setattr(dicom_seg.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install 'highdicom>=0.25'"):
        dicom_seg.series_of(run, source)
