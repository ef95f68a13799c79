"""Hostile NIfTI files are refused by name before memory is taken; whole ones are read as nibabel reads them."""

import gzip
import struct
import tracemalloc
import zlib

import nibabel
import numpy as np
import pytest

from jaxseg.data.formats.volumes import read_volume
from jaxseg.types import DataError
from tests.data.formats.nifti_files import SHAPE, SRC, nifti_bytes, nifti_image, patched, refused, write_file
from tests.fault_table import count


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8", "i8", "u8"])
@pytest.mark.fault("P3")
def test_every_real_dtype_reads_as_nibabel_reads_it(tmp_path, name, dtype):
    array = np.random.default_rng(0).integers(0, 120, SHAPE).astype(dtype)
    path = tmp_path / name
    nibabel.save(nifti_image(array), path)
    volume, reference = read_volume(path), nibabel.load(path)
    assert volume.array.dtype == np.dtype(dtype) and volume.array.dtype.isnative
    np.testing.assert_array_equal(volume.array, np.asarray(reference.dataobj))
    np.testing.assert_array_equal(volume.affine, reference.affine)
    assert volume.path == path


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("dtype", ["i2", "f4"])
@pytest.mark.fault("P3")
def test_big_endian_files_become_native(tmp_path, kind, dtype):
    path = write_file(tmp_path, nifti_bytes(array=SRC.astype(dtype), kind=kind, order=">"))
    assert nibabel.load(path).header.endianness == ">"
    volume = read_volume(path)
    assert volume.array.dtype == np.dtype(dtype) and volume.array.dtype.isnative
    np.testing.assert_array_equal(volume.array, SRC)
    np.testing.assert_array_equal(volume.affine, nibabel.load(path).affine)


def test_scaling_is_applied_in_float32_and_only_when_asked(tmp_path):
    plain = nifti_bytes()
    assert read_volume(write_file(tmp_path, plain)).array.dtype == np.int16
    unset = read_volume(write_file(tmp_path, patched(plain, 112, "ff", 0.0, 5.0)))  # slope 0: the pair is unset
    np.testing.assert_array_equal(unset.array, SRC)
    scaled = read_volume(write_file(tmp_path, patched(plain, 112, "ff", 0.5, -1024.0))).array
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled, SRC.astype(np.float32) * np.float32(0.5) - np.float32(1024))


@pytest.mark.parametrize(
    "dims, expected",
    [
        ((7, 6, 5, 1), (7, 6, 5)),
        ((7, 6, 5, 2), (7, 6, 5, 2)),
        ((7, 6), (7, 6, 1)),
        ((7,), (7, 1, 1)),
        ((7, 6, 5, 1, 2), (7, 6, 5, 2)),
        ((1, 6, 5), (1, 6, 5)),
    ],
)
@pytest.mark.fault("P3")
def test_dimensions_become_three_of_space_and_at_most_one_more(tmp_path, dims, expected):
    array = np.arange(np.prod(dims), dtype=np.int16).reshape(dims)
    path = tmp_path / "v.nii.gz"
    nibabel.save(nifti_image(array), path)
    np.testing.assert_array_equal(read_volume(path).array, array.reshape(expected))


@pytest.mark.fault("D7")
def test_two_series_axes_are_refused(tmp_path):
    assert refused(write_file(tmp_path, nifti_bytes(array=np.zeros((3, 3, 3, 2, 2), np.int16)))).code == "DATA_HEADER"


def test_several_gzip_members_and_header_extensions_are_read(tmp_path):
    image = nifti_image()
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"x" * 100))
    content = image.to_bytes()
    np.testing.assert_array_equal(read_volume(write_file(tmp_path, content)).array, SRC)
    packed = gzip.compress(content[:500]) + gzip.compress(content[500:]) + gzip.compress(b"")
    np.testing.assert_array_equal(read_volume(write_file(tmp_path, packed, "v.nii.gz")).array, SRC)


def test_highly_compressible_volumes_are_read(tmp_path):
    """The compression bound is deflate's own: a volume of zeros must pass it."""
    path = write_file(tmp_path, gzip.compress(nifti_bytes(array=np.zeros((128, 128, 64), np.int16)), 9), "v.nii.gz")
    assert path.stat().st_size < 5000
    assert read_volume(path).array.shape == (128, 128, 64)


# ------------------------------------------------------------------ compressed streams
@pytest.mark.fault("D1")
def test_a_shortened_gzip_is_truncated_wherever_it_is_cut(tmp_path):
    packed = gzip.compress(nifti_bytes())
    for keep in (*range(0, 40, 7), len(packed) // 2, len(packed) - 9, len(packed) - 8, len(packed) - 4, len(packed) - 1):
        assert refused(write_file(tmp_path, packed[:keep], "v.nii.gz")).code == "DATA_TRUNCATED", keep


@pytest.mark.fault("D2")
def test_a_wrong_checksum_or_length_is_noticed(tmp_path):
    packed = bytearray(gzip.compress(nifti_bytes()))
    for at in (-8, -5, -4, -1):  # CRC-32, then the length
        broken = bytearray(packed)
        broken[at] ^= 0x10
        assert refused(write_file(tmp_path, bytes(broken), "v.nii.gz")).code == "DATA_CRC", at


@pytest.mark.parametrize("tail", [b"\0", b"garbage", b"\0" * 512])
@pytest.mark.fault("D4")
def test_bytes_after_the_stream_are_refused(tmp_path, tail):
    assert refused(write_file(tmp_path, gzip.compress(nifti_bytes()) + tail, "v.nii.gz")).code == "DATA_CRC"


@pytest.mark.fault("D3")
def test_no_flipped_bit_of_a_gzip_changes_a_voxel_silently(tmp_path):
    rng = np.random.default_rng(1)
    for level in (0, 6):  # stored and Huffman-coded
        packed = gzip.compress(nifti_bytes(), level, mtime=0)
        codes = set()
        for at in rng.choice(np.arange(12, len(packed) - 8), 60, replace=False):
            broken = bytearray(packed)
            broken[at] ^= 1 << int(rng.integers(8))
            path = write_file(tmp_path, bytes(broken), "v.nii.gz")
            codes.add(refused(path).code)
        assert "DATA_CRC" in codes
    voxel = bytearray(gzip.compress(nifti_bytes(), 0, mtime=0))
    voxel[-60] ^= 1  # inside the last stored voxels: only the checksum knows
    assert refused(write_file(tmp_path, bytes(voxel), "v.nii.gz")).code == "DATA_CRC"


def _peak(path, **options) -> tuple[str, int]:
    """(code of the refusal, peak of traced memory in bytes)."""
    tracemalloc.start()
    try:
        code = refused(path, **options).code
        return code, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "dims, packed, code",
    [
        ((32767, 32767, 32767), False, "DATA_TOO_LARGE"),
        ((32767, 32767, 32767), True, "DATA_TOO_LARGE"),
        ((1024, 1024, 512), True, "DATA_TRUNCATED"),
        ((1024, 1024, 512), False, "DATA_TRUNCATED"),
        ((8, 6, 5), True, "DATA_TRUNCATED"),
        ((8, 6, 5), False, "DATA_TRUNCATED"),
        ((6, 6, 5), True, "DATA_TOO_LARGE"),
        ((6, 6, 5), False, "DATA_TOO_LARGE"),
    ],
)
@pytest.mark.fault("D5")
def test_lying_dimensions_are_refused_without_allocation(tmp_path, dims, packed, code):
    content = patched(nifti_bytes(), 42, "hhh", *dims)
    path = write_file(tmp_path, gzip.compress(content), "v.nii.gz") if packed else write_file(tmp_path, content)
    found, peak = _peak(path)
    assert found == code
    assert peak < 2**20


@pytest.mark.fault("D6")
def test_a_gzip_bomb_stops_one_byte_after_the_declared_size(tmp_path):
    deflate = zlib.compressobj(9, zlib.DEFLATED, 31)
    content = [deflate.compress(nifti_bytes())] + [deflate.compress(bytes(2**20)) for _ in range(256)] + [deflate.flush()]
    path = write_file(tmp_path, b"".join(content), "v.nii.gz")
    assert path.stat().st_size < 2**19  # becomes 256 MiB
    code, peak = _peak(path)
    assert code == "DATA_TOO_LARGE" and peak < 2**21


@pytest.mark.fault("D6")
def test_a_bomb_whose_header_agrees_stops_at_max_voxels(tmp_path):
    path = write_file(tmp_path, gzip.compress(patched(nifti_bytes(), 42, "hhh", 300, 300, 300) + bytes(2**20)), "v.nii.gz")
    code, peak = _peak(path, max_voxels=10**6)
    assert code == "DATA_TOO_LARGE" and peak < 2**20


# ------------------------------------------------------------------ header fields
HEADER = {
    "dim 0": (42, "h", 0),
    "dim negative": (44, "h", -5),
    "ndim 0": (40, "h", 0),
    "ndim 6": (40, "h", 6),
    "ndim 3000": (40, "h", 3000),
    "vox_offset 0": (108, "f", 0.0),
    "vox_offset 348": (108, "f", 348.0),
    "vox_offset nan": (108, "f", np.nan),
    "vox_offset negative": (108, "f", -352.0),
    "vox_offset fraction": (108, "f", 352.5),
    "vox_offset inf": (108, "f", np.inf),
    "vox_offset huge": (108, "f", 1e12),
    "unknown dtype": (70, "h", 5),
    "complex": (70, "h", 32),
    "rgb": (70, "h", 128),
    "rgba": (70, "h", 2304),
    "longdouble": (70, "h", 1536),
    "bitpix": (72, "h", 8),
    "slope nan": (112, "f", np.nan),
    "slope inf": (112, "f", np.inf),
    "inter nan": (116, "f", np.nan),
    "inter inf": (116, "f", -np.inf),
    "pixdim nan": (80, "f", np.nan),
    "pixdim 0": (84, "f", 0.0),
    "pixdim negative": (88, "f", -3.0),
    "pixdim inf": (88, "f", np.inf),
    "magic": (344, "4s", b"abcd"),
    "pair": (344, "4s", b"ni1\0"),
    "sizeof_hdr": (0, "i", 349),
    "sform_code": (254, "h", 77),
}


@pytest.mark.parametrize("case", HEADER)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.fault("D7", "D8", "D9", "D10", "D11")
def test_impossible_header_fields_are_refused(tmp_path, case, packed):
    offset, fmt, value = HEADER[case]
    content = patched(nifti_bytes(), offset, fmt, value)
    path = write_file(tmp_path, gzip.compress(content), "v.nii.gz") if packed else write_file(tmp_path, content)
    assert refused(path).code == "DATA_HEADER"


def test_suffix_and_content_must_agree(tmp_path):
    assert refused(write_file(tmp_path, nifti_bytes(), "v.nii.gz")).code == "DATA_HEADER"
    assert refused(write_file(tmp_path, gzip.compress(nifti_bytes()), "v.nii")).code == "DATA_HEADER"
    assert refused(write_file(tmp_path, b"", "v.nii")).code == "DATA_TRUNCATED"
    assert refused(write_file(tmp_path, b"\1\2", "v.nii")).code == "DATA_HEADER"
    assert refused(write_file(tmp_path, nifti_bytes()[:200], "v.nii")).code == "DATA_TRUNCATED"


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.fault("D20")
def test_nonfinite_voxels_are_counted_and_the_first_is_named(tmp_path, dtype):
    array = SRC.astype(dtype)
    array[2, 1, 1], array[1, 2, 1], array[0, 0, 4] = np.nan, np.inf, -np.inf
    path = write_file(tmp_path, nifti_bytes(array=array))
    error = refused(path)
    assert error.code == "DATA_NONFINITE" and "3 of 210" in str(error) and "(2, 1, 1)" in str(error)
    np.testing.assert_array_equal(read_volume(path, allow_nonfinite=True).array, array)


@pytest.mark.fault("D10")
def test_a_scaling_that_overflows_is_nonfinite(tmp_path):
    assert refused(write_file(tmp_path, patched(nifti_bytes(), 112, "ff", 3e38, 0.0))).code == "DATA_NONFINITE"


def test_a_message_stays_on_one_line_and_keeps_the_path_as_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open("evil\nname\x1b[31m.nii", "wb") as file:
        file.write(b"x" * 400)
    with pytest.raises(DataError) as caught:
        read_volume("evil\nname\x1b[31m.nii")
    assert str(caught.value).startswith("evil\\x0aname\\x1b[31m.nii: ") and str(caught.value).isprintable()


# ------------------------------------------------------------------ fuzz
@pytest.mark.fault("D7", "D8", "D9")
def test_corrupted_headers_are_refused_or_read_as_they_stand(tmp_path, caplog, record_property):
    """400 headers (more in `make faults`) with 1 to 4 random bytes changed. Nothing but DataError is raised, memory stays
    small, and what is read equals the original; scaling alone has no second witness in the file, so its new value is taken as
    written."""
    good = nifti_bytes()
    original = read_volume(write_file(tmp_path, good))
    corners = np.array([[x, y, z, 1] for x in (0, 6) for y in (0, 5) for z in (0, 4)]).T
    rng = np.random.default_rng(7)
    refused = equal = warned = rescaled = 0
    tracemalloc.start()
    for trial in range(number := count(400, 2500)):
        broken = bytearray(good)
        for at in rng.integers(0, 352, rng.integers(1, 5)):
            broken[at] = rng.integers(256)
        path = (
            write_file(tmp_path, bytes(broken))
            if trial % 2
            else write_file(tmp_path, gzip.compress(bytes(broken), 1), "v.nii.gz")
        )
        caplog.clear()
        tracemalloc.reset_peak()
        try:
            volume = read_volume(path)
        except DataError as error:
            assert error.code.startswith("DATA_") and str(error).isprintable()
            refused += 1
            continue
        finally:
            assert tracemalloc.get_traced_memory()[1] - tracemalloc.get_traced_memory()[0] < 2**20
        slope, inter = struct.unpack_from("<ff", broken, 112)
        if (slope, inter) != (1, 0) and slope != 0:
            np.testing.assert_array_equal(volume.array, SRC.astype(np.float32) * np.float32(slope) + np.float32(inter))
            rescaled += 1
        else:
            np.testing.assert_array_equal(volume.array, SRC)
        moved = np.abs((volume.affine - original.affine)[:3] @ corners).max()
        if moved > 0.25:  # mm: half of the smallest voxel size, below which the header is not contradictory
            assert caplog.records, (trial, moved)
            warned += 1
        equal += 1
    tracemalloc.stop()
    record_property("NIfTI headers with changed bytes", f"{number}; {refused} refused, no silent change, each within 1 MiB")
    assert refused > 60 and equal > 150 and warned > 5, (refused, equal, warned, rescaled)
