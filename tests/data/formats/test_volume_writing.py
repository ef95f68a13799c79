"""What is written has the geometry of its image, bit for bit, is whole or absent, and is the same for the same input."""

import gzip
import itertools

import nibabel
import numpy as np
import pytest
from PIL import Image, ImageOps

from jaxseg.data.formats import remarks
from jaxseg.data.formats.volumes import check_labels, check_pair, is_photo, paired, read_volume, write_like
from jaxseg.data.geometry import to_slices
from jaxseg.data.records import Photo, Volume
from jaxseg.types import ConfigError, DataError, StorageError

RNG = np.random.default_rng(4)


def _save(path, shape=(4, 5, 6), affine=None, codes=(1, 1), dtype=np.int16, kind=nibabel.Nifti1Image):
    affine = np.diag([-0.48828125, 0.48828125, 2.5, 1]) if affine is None else affine
    image = kind(RNG.integers(0, 100, shape).astype(dtype), affine)
    image.set_sform(affine, codes[0])
    image.set_qform(affine, codes[1])
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"Doe^Jane"
    nibabel.save(image, path)
    return read_volume(path)


def _same_geometry(a, b):
    x, y = nibabel.load(a), nibabel.load(b)
    assert x.affine.tobytes() == y.affine.tobytes()
    for name in (
        "sform_code",
        "qform_code",
        "srow_x",
        "srow_y",
        "srow_z",
        "quatern_b",
        "quatern_c",
        "quatern_d",
        "qoffset_x",
        "qoffset_y",
        "qoffset_z",
        "xyzt_units",
        "sizeof_hdr",
    ):
        assert x.header[name].tobytes() == y.header[name].tobytes(), name
    rank = min(len(x.shape), len(y.shape), 3)
    assert x.header.get_zooms()[:rank] == y.header.get_zooms()[:rank]
    return y


@pytest.mark.parametrize("name", ["out.nii", "out.nii.gz"])
@pytest.mark.parametrize("codes", [(1, 1), (2, 0), (0, 1), (4, 1)])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_labels_get_the_geometry_of_their_image(tmp_path, name, codes, kind):
    angle = 0.3
    affine = np.array(
        [
            [np.cos(angle) * 0.7, 0, np.sin(angle) * 3, -81.3],
            [0, -0.7, 0, 12.1],
            [-np.sin(angle) * 0.7, 0, np.cos(angle) * 3, 7.77],
            [0, 0, 0, 1],
        ]
    )
    like = _save(tmp_path / "in.nii.gz", affine=affine, codes=codes, kind=kind)
    labels = RNG.integers(0, 4, like.array.shape)
    write_like(tmp_path / name, labels, like)
    out = _same_geometry(tmp_path / "in.nii.gz", tmp_path / name)
    assert out.shape == like.array.shape and out.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(out.dataobj), labels)
    content = (tmp_path / name).read_bytes()
    assert b"Doe^Jane" not in (gzip.decompress(content) if name.endswith(".gz") else content)


@pytest.mark.fault("P2")
def test_all_48_orientations_keep_their_affine_through_slices_and_back(tmp_path):
    for n, (order, signs) in enumerate(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3))):
        affine = np.eye(4)
        affine[:3, :3] = 0
        for i, (world, sign) in enumerate(zip(order, signs)):
            affine[world, i] = sign * (0.5, 0.75, 4.0)[i]
        like = _save(tmp_path / f"{n}.nii", affine=affine)
        slices, orientation = to_slices(like)
        write_like(tmp_path / f"{n}_out.nii", orientation.restore(slices > 50), like)
        out = _same_geometry(tmp_path / f"{n}.nii", tmp_path / f"{n}_out.nii")
        np.testing.assert_array_equal(np.asarray(out.dataobj), like.array > 50)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 6, 1), (4, 5, 1), (4, 5, 6, 1, 2), (4, 5, 6, 2)])
def test_the_files_own_dimensions_come_back(tmp_path, shape):
    like = _save(tmp_path / "in.nii", shape=shape)
    write_like(tmp_path / "out.nii", like.array, like)
    assert _same_geometry(tmp_path / "in.nii", tmp_path / "out.nii").shape == shape


def test_labels_of_a_multi_channel_volume_have_three_dimensions(tmp_path):
    like = _save(tmp_path / "in.nii", shape=(4, 5, 6, 3))
    write_like(tmp_path / "out.nii", like.array[..., 0], like)
    assert _same_geometry(tmp_path / "in.nii", tmp_path / "out.nii").shape == (4, 5, 6)


def test_maps_are_float32_with_an_optional_class_axis(tmp_path):
    like = _save(tmp_path / "in.nii.gz")
    for array in (RNG.random((4, 5, 6)), RNG.random((4, 5, 6, 3)), RNG.random((4, 5, 6)).astype(np.float16)):
        write_like(tmp_path / "out.nii.gz", array, like)
        out = _same_geometry(tmp_path / "in.nii.gz", tmp_path / "out.nii.gz")
        assert out.get_data_dtype() == np.float32 and out.shape == array.shape
        np.testing.assert_array_equal(np.asarray(out.dataobj), array.astype(np.float32))


@pytest.mark.parametrize("top, dtype", [(1, np.uint8), (255, np.uint8), (256, np.uint16), (65535, np.uint16)])
def test_labels_take_the_smallest_type_that_holds_them(tmp_path, top, dtype):
    like = _save(tmp_path / "in.nii")
    labels = np.zeros(like.array.shape, np.int64)
    labels[1, 1, 1] = top
    write_like(tmp_path / "out.nii", labels, like)
    back = read_volume(tmp_path / "out.nii").array
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, labels)


def test_what_cannot_be_held_is_refused_and_leaves_no_file(tmp_path):
    like = _save(tmp_path / "in.nii")
    bad = np.zeros(like.array.shape)
    bad[0, 0, 1] = np.nan
    for array, code in (
        (bad, "DATA_NONFINITE"),
        (np.full(bad.shape, -1), "DATA_LABEL"),
        (np.full(bad.shape, 65536), "DATA_LABEL"),
    ):
        with pytest.raises(DataError) as caught:
            write_like(tmp_path / "out.nii", array, like)
        assert caught.value.code == code and str(tmp_path / "out.nii") in str(caught.value)
    with pytest.raises(ValueError, match="first 3 axes"):
        write_like(tmp_path / "out.nii", np.zeros((5, 4, 6), np.uint8), like)
    for name in ("out.png", "out.img", "out"):
        with pytest.raises(ConfigError, match="change the suffix"):
            write_like(tmp_path / name, np.zeros(bad.shape, np.uint8), like)
    with pytest.raises(ConfigError, match="scale_for_view"):
        write_like(tmp_path / "out.nii", np.zeros(bad.shape, np.uint8), like, scale_for_view=True)
    with pytest.raises(StorageError):
        write_like(tmp_path / "absent" / "out.nii", np.zeros(bad.shape, np.uint8), like)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.nii"]


@pytest.mark.fault("P4")
def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    like = _save(tmp_path / "in.nii")
    write_like(tmp_path / "out.nii", like.array, like)
    old = (tmp_path / "out.nii").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError):
        write_like(tmp_path / "out.nii", like.array + 1, like)
    assert (tmp_path / "out.nii").read_bytes() == old
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.nii", "out.nii"]


def test_the_same_input_gives_the_same_bytes(tmp_path, monkeypatch):
    like = _save(tmp_path / "in.nii")
    write_like(tmp_path / "a.nii.gz", like.array, like)
    monkeypatch.setattr("time.time", lambda: 2e9)
    write_like(tmp_path / "b.nii.gz", like.array, like)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_volume_without_a_header_is_written_by_its_affine(tmp_path):
    affine = np.diag([-2.0, 2.0, 3.0, 1.0])
    like = Volume(np.zeros((3, 4, 5), np.float32), affine, None, "memory")
    write_like(tmp_path / "out.nii", like.array, like)
    np.testing.assert_array_equal(read_volume(tmp_path / "out.nii").affine, affine)


# ------------------------------------------------------------------ photographs
def _photo(tmp_path) -> Volume:
    Image.fromarray(RNG.integers(0, 256, (9, 7, 3), np.uint8)).save(tmp_path / "in.png")
    return read_volume(tmp_path / "in.png")


def test_labels_of_a_photograph_are_png_indices(tmp_path):
    like = _photo(tmp_path)
    assert is_photo(like) and not is_photo(_save(tmp_path / "in.nii"))
    for top in (1, 3, 300):
        labels = RNG.integers(0, top + 1, (9, 7))
        write_like(tmp_path / "out.png", labels, like)
        np.testing.assert_array_equal(read_volume(tmp_path / "out.png").array, labels)


def test_labels_to_look_at_span_0_to_255(tmp_path):
    like = _photo(tmp_path)
    labels = np.arange(63).reshape(9, 7) % 3
    write_like(tmp_path / "out.png", labels, like, scale_for_view=True)
    np.testing.assert_array_equal(read_volume(tmp_path / "out.png").array, np.array([0, 127, 255])[labels])
    write_like(tmp_path / "out.png", labels > 0, like, scale_for_view=True)
    np.testing.assert_array_equal(read_volume(tmp_path / "out.png").array, (labels > 0) * 255)
    write_like(tmp_path / "out.png", labels * 0, like, scale_for_view=True)
    assert read_volume(tmp_path / "out.png").array.max() == 0


def test_overlays_are_rgb_and_maps_are_nifti(tmp_path):
    like = _photo(tmp_path)
    write_like(tmp_path / "out.png", like.array, like)
    np.testing.assert_array_equal(read_volume(tmp_path / "out.png").array, like.array)
    maps = RNG.random((9, 7, 2)).astype(np.float32)
    write_like(tmp_path / "out.nii.gz", maps, like)
    np.testing.assert_array_equal(read_volume(tmp_path / "out.nii.gz").array, maps.swapaxes(0, 1)[:, :, None])
    with pytest.raises(ConfigError, match="change the suffix"):
        write_like(tmp_path / "out.png", maps, like)


# ------------------------------------------------------------------ pairs and labels
def _volume(affine, shape=(4, 5, 6), path="a.nii", header=None):
    return Volume(np.zeros(shape), np.asarray(affine, float), header, path)


def test_pairs_that_cover_the_same_space_pass():
    base = np.diag([0.5, 0.5, 3, 1.0])
    near = base.copy()
    near[0, 3] += 9e-4
    check_pair(_volume(base), _volume(near))
    check_pair(_volume(base, (4, 5, 6, 2)), _volume(base))  # channels of the image do not matter
    check_pair(_volume(np.eye(4), (4, 5, 3), header=Photo("PNG")), _volume(np.eye(4), (4, 5), header=Photo("PNG")))


def test_rounded_corners_are_accepted_and_the_largest_difference_is_told_once():
    base, said = np.diag([0.5, 0.5, 3, 1.0]), []
    with remarks.collected(said.append):
        for i, off in enumerate((0.004, 0.0099, 0.0005, 0.002)):  # mm; 2 % of 0.5 mm are 0.01 mm
            near = base.copy()
            near[1, 3] += off
            check_pair(_volume(base), _volume(near, path=f"{i}.nii"))
    assert len(said) == 1 and said[0].startswith("3 files: ") and "up to 0.0099 mm" in said[0] and "the most: 1.nii" in said[0]
    far = base.copy()
    far[1, 3] += 0.0101
    with pytest.raises(DataError, match="2% of the smallest voxel size, 0.01 mm"):
        check_pair(_volume(base), _volume(far))


# ------------------------------------------------------------------ photographs that EXIF turns
STORED = {  # orientation -> from the upright picture to the file's pixels, by Pillow's own names
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def _turned(path, upright, turn, *, tagged=True, drawn_stored=True):
    """A picture of `upright` as a camera in this orientation writes it; untagged on either view for masks."""
    picture, exif = Image.fromarray(upright), Image.Exif()
    if turn > 1 and drawn_stored:
        picture = picture.transpose(STORED[turn])
    if tagged:
        exif[274] = turn
    picture.save(path, **({"exif": exif} if tagged else {}))
    return read_volume(path)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_results_lie_as_the_pixels_of_a_turned_photograph(tmp_path, turn, suffix):
    upright = RNG.integers(0, 255, (5, 7, 3), np.uint8)
    image = _turned(tmp_path / f"a{suffix}", upright, turn)
    np.testing.assert_array_equal(image.array, upright)
    labels = (upright[..., 0] > 100).astype(np.uint8)
    write_like(tmp_path / "out.png", labels, image)
    with Image.open(tmp_path / "out.png") as result, Image.open(tmp_path / f"a{suffix}") as source:
        own = np.asarray(source)
        if suffix == ".png":  # Pillow turns TIFF by itself
            np.testing.assert_array_equal(np.asarray(result), own[..., 0] > 100)  # pixel by pixel, for readers without EXIF
        np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(result)), labels)  # and for those with it
    np.testing.assert_array_equal(paired(image, read_volume(tmp_path / "out.png")).array, labels)
    write_like(tmp_path / "map.nii.gz", labels.astype(np.float32), image)
    flat = read_volume(tmp_path / "map.nii.gz").array[..., 0].T
    np.testing.assert_array_equal(np.asarray(Image.fromarray(flat > 0)), np.asarray(Image.open(tmp_path / "out.png")) > 0)


@pytest.mark.parametrize("turn", range(5, 9))
def test_the_shape_tells_on_which_view_a_mask_was_drawn(tmp_path, turn):
    upright = RNG.integers(0, 2, (5, 7), np.uint8)
    image = _turned(tmp_path / "a.png", upright * 200, turn)
    for drawn_stored in (True, False):
        mask = _turned(tmp_path / "m.png", upright, turn, tagged=False, drawn_stored=drawn_stored)
        np.testing.assert_array_equal(paired(image, mask).array, upright)


@pytest.mark.parametrize("turn, shape", [(2, (5, 7)), (3, (5, 7)), (4, (5, 7)), *((turn, (6, 6)) for turn in range(2, 9))])
def test_a_mask_that_fits_both_ways_is_refused_and_the_remedy_works(tmp_path, turn, shape):
    upright = RNG.integers(0, 2, shape, np.uint8)
    image = _turned(tmp_path / "a.png", upright * 200, turn)
    mask = _turned(tmp_path / "m.png", upright, turn, tagged=False)
    with pytest.raises(DataError, match=f"orientation {turn}.*give it the tag 274 too") as caught:
        paired(image, mask)
    assert caught.value.code == "DATA_TURNED"
    np.testing.assert_array_equal(paired(image, _turned(tmp_path / "m.png", upright, turn)).array, upright)
    shown = Image.Exif()
    shown[274] = 1
    Image.fromarray(upright).save(tmp_path / "m.png", exif=shown)
    np.testing.assert_array_equal(paired(image, read_volume(tmp_path / "m.png")).array, upright)
    blank = _turned(tmp_path / "m.png", np.zeros(shape, np.uint8), turn, tagged=False)
    assert not paired(image, blank).array.any()  # nothing to get wrong
    Image.fromarray(upright * 200).save(tmp_path / "a.png")
    Image.fromarray(upright).save(tmp_path / "m.png")
    np.testing.assert_array_equal(paired(read_volume(tmp_path / "a.png"), read_volume(tmp_path / "m.png")).array, upright)


FLIPPED = np.diag([-0.5, 0.5, 3, 1.0])
FLIPPED[0, 3] = 1.5
SCALED = np.diag([0.5, 0.5, 3.0021, 1.0])  # only the far corner tells: 5 * 0.0021 mm, 2.1 % of the smallest voxel


@pytest.mark.parametrize(
    "mask",
    [FLIPPED, SCALED, np.diag([0.5, 0.5, -3, 1]), np.full((4, 4), np.nan)],
    ids=["same box, flipped axis", "far corner", "flipped", "nan"],
)
@pytest.mark.fault("D15")
def test_pairs_apart_by_more_than_2_percent_of_a_voxel_are_refused_by_name(mask):
    with pytest.raises(DataError) as caught:
        check_pair(_volume(np.diag([0.5, 0.5, 3, 1.0]), path="image.nii"), _volume(mask, path="mask.nii"))
    assert caught.value.code == "DATA_MISMATCH" and "image.nii" in str(caught.value) and "mask.nii" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.fault("D14")
def test_pairs_of_other_shapes_are_refused_with_both_shapes():
    with pytest.raises(DataError, match=r"b.nii: shape \(4, 6, 5\), but a.nii has \(4, 5, 6\)"):
        check_pair(_volume(np.eye(4)), _volume(np.eye(4), (4, 6, 5), "b.nii"))
    with pytest.raises(DataError):
        check_pair(_volume(np.eye(4), (4, 5, 3), header=Photo("PNG")), _volume(np.eye(4), (4, 5, 3)))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64, bool])
def test_allowed_labels_pass_in_any_type(dtype):
    check_labels(np.array([[0, 1], [1, 0]]).astype(dtype), (0, 1), "m.nii")
    check_labels(np.zeros((0, 3), dtype), (0, 1), "m.nii")


@pytest.mark.fault("D16")
def test_unexpected_labels_are_counted_most_frequent_first():
    array = np.array([0, 1, 7, 7, 7, 254])
    with pytest.raises(DataError, match=r"m.nii: 2 unexpected label values in 4 of 6 voxels: 7 \(3x\), 254 \(1x\);") as caught:
        check_labels(array, (0, 1), "m.nii")
    assert caught.value.code == "DATA_LABEL"
    for bad in (np.nan, 0.5, -1, np.inf, 1.0000001):
        with pytest.raises(DataError) as caught:
            check_labels(np.array([0, 1, bad, bad]), (0, 1), "m.nii")
        assert caught.value.code == "DATA_LABEL" and "(2x)" in str(caught.value)
    with pytest.raises(DataError, match=r", \.\.\.;"):
        check_labels(np.arange(50), (0,), "m.nii")
