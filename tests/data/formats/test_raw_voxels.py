"""NRRD, MetaImage and .npy against the NIfTI file of the same array, and against pynrrd and SimpleITK where they are there."""

import gzip
import zlib

import nibabel
import numpy as np
import pytest

from jaxseg.data.formats.volumes import read_volume, write_like
from jaxseg.data.geometry import to_volume
from jaxseg.exporting.runner import images
from jaxseg.types import DataError

ARRAY = np.random.default_rng(0).integers(-500, 500, (5, 4, 3)).astype(np.int16)
TURN = np.array([[0.0, -0.8, 0.6], [1.0, 0.0, 0.0], [0.0, 0.6, 0.8]])  # directions of the axes in RAS, as columns
AFFINE = np.eye(4)
AFFINE[:3, :3], AFFINE[:3, 3] = TURN * (0.7, 0.9, 2.5), (-31.5, 12.25, 7.0)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0]) @ AFFINE


def vector(v):
    return "(" + ",".join(f"{x!r}" for x in map(float, v)) + ")"


def nrrd(array, affine, space, *, packed=False, endian="little", vector_axis=None, more=""):
    directions = [vector(affine[:3, k]) for k in range(3)]
    if vector_axis is not None:
        directions.insert(vector_axis, "none")
    stored = array.astype(array.dtype.newbyteorder("<" if endian == "little" else ">")).tobytes("F")
    head = (
        f"NRRD0004\n# written by hand\ntype: {'short' if array.dtype == np.int16 else 'float'}\ndimension: {array.ndim}\n"
        f"space: {space}\nsizes: {' '.join(map(str, array.shape))}\nspace directions: {' '.join(directions)}\n"
        f"endian: {endian}\nencoding: {'gzip' if packed else 'raw'}\n"
        f"space origin: {vector(affine[:3, 3])}\nDWMRI:=no field\n{more}\n"
    )
    return head.encode() + (gzip.compress(stored) if packed else stored)


def meta(array, affine, *, packed=False, big=False, channels=1, file="LOCAL"):
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    stored = array.astype(array.dtype.newbyteorder(">" if big else "<")).tobytes("F")
    stored = zlib.compress(stored) if packed else stored
    head = (
        f"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = {big}\nCompressedData = {packed}\n"
        f"TransformMatrix = {' '.join(f'{x!r}' for x in (affine[:3, :3] / spacing).T.ravel().tolist())}\n"
        f"Offset = {' '.join(f'{x!r}' for x in affine[:3, 3].tolist())}\nCenterOfRotation = 0 0 0\n"
        f"ElementSpacing = {' '.join(f'{x!r}' for x in spacing.tolist())}\n"
        f"DimSize = {' '.join(map(str, array.shape[-3:]))}\n"
        + (f"ElementNumberOfChannels = {channels}\n" if channels > 1 else "")
        + f"ElementType = MET_SHORT\nElementDataFile = {file}\n"
    )
    return (head.encode() + stored) if file == "LOCAL" else (head.encode(), stored)


FILES = {
    "lps.nrrd": nrrd(ARRAY, LPS, "left-posterior-superior"),
    "ras.nrrd": nrrd(ARRAY, AFFINE, "RAS", packed=True),
    "big.nrrd": nrrd(ARRAY, LPS, "LPS", endian="big"),
    "plain.mha": meta(ARRAY, LPS),
    "packed.mha": meta(ARRAY, LPS, packed=True, big=True),
}


def same(volume):
    np.testing.assert_array_equal(volume.array, ARRAY)
    assert volume.array.dtype == ARRAY.dtype and volume.array.dtype.isnative
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-6)


@pytest.mark.parametrize("name", FILES)
def test_voxels_lie_where_those_of_the_nifti_file_do(tmp_path, name):
    (tmp_path / name).write_bytes(FILES[name])
    nibabel.save(nibabel.Nifti1Image(ARRAY, AFFINE), tmp_path / "same.nii.gz")
    ours, theirs = read_volume(tmp_path / name), read_volume(tmp_path / "same.nii.gz")
    same(ours)
    for a, b in zip(to_volume(ours), to_volume(theirs)):
        np.testing.assert_array_equal(a, b) if isinstance(a, np.ndarray) else None
    write_like(tmp_path / "out.nii.gz", (ARRAY > 0).astype(np.uint8), ours)
    np.testing.assert_allclose(nibabel.load(tmp_path / "out.nii.gz").affine, AFFINE, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 3])
def test_channels_come_last(tmp_path, axis):
    both = np.stack([ARRAY, ARRAY + 1], axis)
    (tmp_path / "v.nrrd").write_bytes(nrrd(both, LPS, "LPS", vector_axis=axis))
    np.testing.assert_array_equal(read_volume(tmp_path / "v.nrrd").array, np.stack([ARRAY, ARRAY + 1], -1))
    if axis == 0:
        (tmp_path / "v.mha").write_bytes(meta(both, LPS, channels=2))
        np.testing.assert_array_equal(read_volume(tmp_path / "v.mha").array, np.stack([ARRAY, ARRAY + 1], -1))


def test_voxels_of_mhd_lie_beside_it_and_nowhere_else(tmp_path):
    head, stored = meta(ARRAY, LPS, file="v.raw")
    (tmp_path / "v.mhd").write_bytes(head)
    (tmp_path / "v.raw").write_bytes(stored)
    same(read_volume(tmp_path / "v.mhd"))
    for place in ("/etc/passwd", "../v.raw", "LIST"):
        (tmp_path / "x.mhd").write_bytes(head.replace(b"v.raw", place.encode()))
        with pytest.raises(DataError, match="the voxels must be in this file, or in one file in the same folder"):
            read_volume(tmp_path / "x.mhd")


def test_arrays_are_pictures_or_volumes_without_a_size_in_mm(tmp_path):
    for shape, photo in (((6, 5), True), ((6, 5, 3), True), ((6, 5, 4, 2), False), ((6, 5, 7), False)):
        array = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8)
        np.save(tmp_path / "a.npy", array)
        volume = read_volume(tmp_path / "a.npy")
        np.testing.assert_array_equal(volume.array, array)
        assert (volume.header is not None) == photo and np.array_equal(volume.affine, np.eye(4))
    np.save(tmp_path / "a.npy", np.arange(3))
    with pytest.raises(DataError, match="a picture .H, W."):
        read_volume(tmp_path / "a.npy")


WHOLE = FILES["lps.nrrd"]
DAMAGED = {
    "cut.nrrd": (WHOLE[:-3], "DATA_TRUNCATED"),
    "more.nrrd": (WHOLE + b"x", "DATA_TRUNCATED"),
    "type.nrrd": (WHOLE.replace(b"short", b"block"), "DATA_HEADER"),
    "encoding.nrrd": (WHOLE.replace(b"raw", b"bzip2"), "DATA_HEADER"),
    "space.nrrd": (WHOLE.replace(b"left-posterior-superior", b"scanner-xyz"), "DATA_GEOMETRY"),
    "elsewhere.nrrd": (WHOLE.replace(b"endian", b"data file: /etc/passwd\nendian"), "DATA_HEADER"),
    "large.nrrd": (WHOLE.replace(b"sizes: 5", b"sizes: 99999999999"), "DATA_TOO_LARGE"),
    "flat.nrrd": (nrrd(ARRAY, np.diag([1.0, 1.0, 0.0, 1.0]), "LPS"), "DATA_GEOMETRY"),
    "nan.nrrd": (nrrd(np.full((2, 2, 2), np.nan, np.float32), LPS, "LPS"), "DATA_NONFINITE"),
    "endless.nrrd": (b"NRRD0004\n" + b"#" * (2 << 20), "DATA_HEADER"),
    "damaged.nrrd": (FILES["ras.nrrd"][:-30] + bytes(30), "DATA_CRC"),
    "cut.mha": (FILES["packed.mha"][:-9], "DATA_TRUNCATED"),
    "text.mha": (FILES["plain.mha"].replace(b"BinaryData = True", b"BinaryData = False"), "DATA_HEADER"),
    "size.mha": (FILES["plain.mha"].replace(b"DimSize = 5", b"DimSize = x"), "DATA_HEADER"),
    "spacing.mha": (FILES["plain.mha"].replace(b"ElementSpacing", b"ElementSpecing"), "DATA_GEOMETRY"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_one_line(tmp_path, name):
    content, code = DAMAGED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_volume(tmp_path / name)
    assert caught.value.code == code and name in str(caught.value) and "\n" not in str(caught.value)


def test_files_of_pynrrd(tmp_path):
    theirs = pytest.importorskip("nrrd")
    header = {"space": "LPS", "space directions": LPS[:3, :3].T, "space origin": LPS[:3, 3]}
    for encoding in ("raw", "gzip"):
        theirs.write(str(tmp_path / "a.nrrd"), ARRAY, header | {"encoding": encoding})
        same(read_volume(tmp_path / "a.nrrd"))


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd"])
@pytest.mark.parametrize("packed", [False, True])
def test_files_of_simpleitk(tmp_path, name, packed):
    itk = pytest.importorskip("SimpleITK")
    image = itk.GetImageFromArray(ARRAY.transpose(2, 1, 0))
    spacing = np.linalg.norm(LPS[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((LPS[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(LPS[:3, 3].tolist())
    itk.WriteImage(image, str(tmp_path / name), packed)
    same(read_volume(tmp_path / name))


@pytest.mark.parametrize("name", [*FILES, "beside.mhd", *DAMAGED])
def test_an_exported_model_reads_them_alike(tmp_path, name):
    content = DAMAGED[name][0] if name in DAMAGED else FILES.get(name)
    if content is None:
        content, stored = meta(ARRAY, LPS, file="v.raw")
        (tmp_path / "v.raw").write_bytes(stored)
    (tmp_path / name).write_bytes(content)
    if name in DAMAGED:
        with pytest.raises(images.Refused, match=name):
            images.read_image(tmp_path / name)
    else:
        same(images.read_image(tmp_path / name))
