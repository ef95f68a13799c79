"""Pictures: every mode is read without loss or refused by name."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxseg.data.formats.volumes import read_volume
from jaxseg.types import DataError

RNG = np.random.default_rng(2)
GREY, RGB = RNG.integers(0, 256, (9, 7), np.uint8), RNG.integers(0, 256, (9, 7, 3), np.uint8)
DEEP = RNG.integers(0, 65536, (9, 7)).astype(np.uint16)


def _refused(path, code="DATA_IMAGE", **options) -> str:
    with pytest.raises(DataError) as caught:
        read_volume(path, **options)
    assert caught.value.code == code, caught.value
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    return str(caught.value)


def _png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG made by hand, for what Pillow cannot write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("array", [GREY, RGB, GREY % 2], ids=["grey", "rgb", "classes"])
@pytest.mark.parametrize("suffix", [".bmp", ".gif", ".BMP"])
def test_bmp_and_gif_come_back_bitwise(tmp_path, suffix, array):
    if suffix == ".gif" and array.ndim == 3:
        pytest.skip("GIF has palettes alone")
    Image.fromarray(array).save(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read_volume(tmp_path / f"a{suffix}").array, array)


@pytest.mark.parametrize("suffix", [".bmp", ".gif"])
def test_a_bmp_or_gif_of_impossible_size_is_refused(tmp_path, suffix):
    Image.fromarray(GREY).save(tmp_path / f"a{suffix}")
    broken = bytearray((tmp_path / f"a{suffix}").read_bytes())
    at, value = (18, struct.pack("<ii", 8000, 8000)) if suffix == ".bmp" else (6, struct.pack("<HH", 8000, 8000))
    broken[at : at + len(value)] = value
    (tmp_path / f"a{suffix}").write_bytes(bytes(broken))
    assert "a file of this size cannot hold so many" in _refused(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".PNG"])
@pytest.mark.parametrize("array", [GREY, RGB, DEEP], ids=["grey", "rgb", "grey16"])
def test_lossless_pictures_come_back_bitwise(tmp_path, suffix, array):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(array).save(path)
    volume = read_volume(path)
    assert volume.array.dtype == array.dtype
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_array_equal(volume.affine, np.eye(4))


def test_big_endian_16_bit_tiff_is_native(tmp_path):
    Image.fromarray(DEEP.astype(">u2")).save(tmp_path / "a.tif")
    volume = read_volume(tmp_path / "a.tif")
    assert volume.array.dtype == np.uint16 and volume.array.dtype.isnative
    np.testing.assert_array_equal(volume.array, DEEP)


def test_jpeg_decodes_as_pillow_decodes_it(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.jpg").array, np.asarray(Image.open(tmp_path / "a.jpg")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.fault("D21")
def test_exif_orientation_is_applied(tmp_path, orientation):
    upright = np.zeros((4, 6), np.uint8)
    upright[0, :3] = 200  # a mark in the upper left corner
    undo = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(np.ascontiguousarray(undo)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.png").array, upright)


def test_one_bit_pictures_are_0_and_255(tmp_path):
    Image.fromarray(GREY > 100).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.png").array, np.where(GREY > 100, 255, 0))


def test_palettes_are_refused_unless_their_indices_are_asked_for(tmp_path):
    indexed = Image.fromarray(GREY % 4)
    indexed.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])  # the values of an L picture become indices
    assert indexed.mode == "P"
    indexed.save(tmp_path / "a.png")
    assert "palette" in _refused(tmp_path / "a.png", "DATA_LABEL")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.png", palette_indices=True).array, GREY % 4)


def test_an_opaque_alpha_is_dropped_and_a_transparent_one_refused(tmp_path):
    alpha = np.full((9, 7, 1), 255, np.uint8)
    Image.fromarray(np.concatenate([RGB, alpha], -1)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.png").array, RGB)
    Image.fromarray(np.concatenate([GREY[..., None], alpha], -1)).save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_volume(tmp_path / "b.png").array, GREY)
    alpha[3, 3] = 0
    Image.fromarray(np.concatenate([RGB, alpha], -1)).save(tmp_path / "a.png")
    assert "transparent" in _refused(tmp_path / "a.png")


@pytest.mark.parametrize("colour, channels", [(2, 3), (6, 4), (4, 2)])
@pytest.mark.fault("D21")
def test_16_bit_colour_is_refused_because_pillow_would_halve_it(tmp_path, colour, channels):
    rows = b"".join(b"\0" + bytes(7 * channels * 2) for _ in range(9))
    (tmp_path / "a.png").write_bytes(_png(7, 9, 16, colour, rows))
    assert "16 bits per channel" in _refused(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["F", "I", "CMYK"])
def test_other_pixel_modes_are_refused(tmp_path, mode):
    Image.fromarray(GREY).convert("RGB" if mode == "CMYK" else "L").convert(mode).save(tmp_path / "a.tif")
    assert "pixel mode" in _refused(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", [".tif", ".png"])
@pytest.mark.fault("D21")
def test_several_frames_are_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(GREY).save(path, save_all=True, append_images=[Image.fromarray(GREY // 2)])
    assert "2 frames" in _refused(path)


@pytest.mark.parametrize("width, height", [(10000, 9500), (20000, 20000), (2**30, 2**30)])
@pytest.mark.fault("D21")
def test_a_picture_bomb_is_refused_before_decoding(tmp_path, width, height, recwarn):
    (tmp_path / "a.png").write_bytes(_png(width, height, 8, 0, b"\0" * 100))
    _refused(tmp_path / "a.png")
    assert not recwarn.list
    Image.fromarray(GREY).save(tmp_path / "b.png")
    assert "at most 62" in _refused(tmp_path / "b.png", max_pixels=62)
    assert read_volume(tmp_path / "b.png", max_pixels=63).array.shape == (9, 7)


@pytest.mark.parametrize("name, array", [("a.png", GREY), ("a.jpg", RGB), ("a.tif", GREY)])
@pytest.mark.fault("D21")
def test_truncated_pictures_are_refused(tmp_path, name, array):
    Image.fromarray(array).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for keep in (0, 5, len(whole) // 3, len(whole) // 2):
        (tmp_path / name).write_bytes(whole[:keep])
        _refused(tmp_path / name)


@pytest.mark.fault("D21")
def test_no_flipped_bit_of_a_png_changes_a_pixel_silently(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(GREY).save(stream, "PNG")
    whole, rng, refused = stream.getvalue(), np.random.default_rng(0), 0
    for at in range(len(whole)):
        broken = bytearray(whole)
        broken[at] ^= 1 << int(rng.integers(8))
        (tmp_path / "a.png").write_bytes(bytes(broken))
        try:
            np.testing.assert_array_equal(read_volume(tmp_path / "a.png").array, GREY)
        except DataError:
            refused += 1
    assert refused > 0.8 * len(whole)  # what is left: bytes after the pixels


def test_something_else_under_a_pictures_name_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"GIF89a" + bytes(50))
    assert "not a readable picture" in _refused(tmp_path / "a.png")
