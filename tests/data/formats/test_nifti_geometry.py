"""The affine of a NIfTI file: refused where it is impossible, chosen where sform, qform and voxel sizes disagree."""

import struct

import nibabel
import numpy as np
import pytest

from jaxseg.data.formats.volumes import read_volume
from tests.data.formats.nifti_files import SRC, nifti_bytes, patched, refused, write_file

GEOMETRY = {
    "zero affine": (280, "12f", [0.0] * 12),
    "nan affine": (280, "f", [np.nan]),
    "inf origin": (292, "f", [np.inf]),
    "singular": (280, "12f", [1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0]),
    "no codes": (252, "hh", [0, 0]),
    "giant": (280, "f", [1e30]),
    "far away": (292, "f", [1e9]),
    "bad quaternion": (252, "hhfff", [1, 0, 0.9, 0.9, 0.9]),
    "nan quaternion": (252, "hhf", [1, 0, np.nan]),
    "micrometres": (123, "B", [3]),
    "metres": (123, "B", [1]),
}


@pytest.mark.parametrize("case", GEOMETRY)
@pytest.mark.fault("D12", "D13")
def test_impossible_geometry_is_refused(tmp_path, case):
    offset, fmt, values = GEOMETRY[case]
    assert refused(write_file(tmp_path, patched(nifti_bytes(), offset, fmt, *values))).code == "DATA_GEOMETRY"


@pytest.mark.fault("D13")
def test_missing_geometry_is_nibabels_guess_when_allowed(tmp_path):
    path = write_file(tmp_path, patched(nifti_bytes(), 252, "hh", 0, 0))
    volume = read_volume(path, allow_missing_geometry=True)
    np.testing.assert_array_equal(volume.affine, nibabel.load(path).affine)


def test_the_qform_counts_where_the_sform_is_not_set(tmp_path):
    path = write_file(tmp_path, patched(nifti_bytes(), 254, "h", 0))
    np.testing.assert_array_equal(read_volume(path).affine, nibabel.load(path).affine)
    unset = patched(patched(nifti_bytes(affine=np.diag([1.0, 1, 2, 1])), 254, "h", 0), 76, "f", 0.0)
    np.testing.assert_array_equal(read_volume(write_file(tmp_path, unset)).affine, np.diag([1.0, 1, 2, 1]))  # qfac 0 counts as 1


def _geometry(tmp_path, *, zooms, sform, sform_code, qform_code=1):
    """A volume whose pixdim (and qform) and sform say different sizes."""
    image = nibabel.Nifti1Image(SRC, None)
    image.header.set_xyzt_units("mm")
    image.header.set_zooms(zooms)
    image.set_qform(np.diag([-zooms[0], -zooms[1], zooms[2], 1]), qform_code, update_affine=False)
    image.header["sform_code"] = sform_code
    for row, values in zip(("srow_x", "srow_y", "srow_z"), np.diag([*sform, 1.0])):
        image.header[row] = values
    path = tmp_path / "v.nii"
    nibabel.save(image, path)
    return path


SIZES = (1.3158, 1.3158, 10.0)


@pytest.mark.parametrize(
    "zooms, sform, codes, expected",
    [
        (SIZES, (-1, -1, 1), (2, 1), SIZES),  # ACDC: the sform knows no sizes
        (SIZES, (-1, -1, 1), (1, 1), SIZES),
        (SIZES, (-1, -1, 1), (2, 0), SIZES),
        ((1, 1, 1), (-0.7, -0.7, 5), (1, 1), (0.7, 0.7, 5)),  # pixdim knows none
        ((1, 1, 1), (-0.7, -0.7, 5), (1, 0), (0.7, 0.7, 5)),
        (SIZES, (-1.5, -1.5, 11), (4, 1), SIZES),  # to a template, which is larger
        (SIZES, (-1.5, -1.5, 11), (1, 1), None),
        (SIZES, (-1.5, -1.5, 11), (2, 0), None),
    ],
)
@pytest.mark.fault("D11")
def test_voxel_sizes_that_contradict_each_other(tmp_path, caplog, zooms, sform, codes, expected):
    path = _geometry(tmp_path, zooms=zooms, sform=sform, sform_code=codes[0], qform_code=codes[1])
    if expected is None:
        error = refused(path)
        assert error.code == "DATA_GEOMETRY" and "1.5 x 1.5 x 11" in str(error) and "1.3158 x 1.3158 x 10" in str(error)
        return
    volume = read_volume(path)
    np.testing.assert_allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), expected, rtol=1e-6)
    assert (np.sign(np.diag(volume.affine)) == [-1, -1, 1, 1]).all() and "contradict" in caplog.text


def test_a_sform_and_qform_that_contradict_each_other_are_named_in_a_warning(tmp_path, caplog):
    read_volume(write_file(tmp_path, nifti_bytes()))
    assert not caplog.records
    smallest = float(min(struct.unpack_from("<3f", nifti_bytes(), 80)))
    first = struct.unpack_from("<f", nifti_bytes(), 292)[0]  # srow_x[3]
    moved = lambda part: patched(nifti_bytes(), 292, "f", first + part * smallest)
    read_volume(write_file(tmp_path, moved(0.019)))
    assert not caplog.records  # rounded
    read_volume(write_file(tmp_path, moved(0.03)))
    assert len(caplog.records) == 1 and "contradict" in caplog.text
    name = next(iter(tmp_path.iterdir()))
    again = name.with_name(f"again_{name.name}")
    again.write_bytes(moved(0.03))
    read_volume(again)
    assert len(caplog.records) == 2 and again.name in caplog.records[1].message  # a header that was seen before, of another file


def test_volumes_with_equal_headers_share_neither_header_nor_affine(tmp_path):
    path = write_file(tmp_path, nifti_bytes())
    first, expected = read_volume(path), nibabel.load(path)
    first.affine[:], first.header["pixdim"] = 0, 7
    second = read_volume(path)
    np.testing.assert_array_equal(second.affine, expected.affine)
    np.testing.assert_array_equal(second.header["pixdim"], expected.header["pixdim"])
