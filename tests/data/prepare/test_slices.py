"""Window, resize, canvas and the way back."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from jaxseg.data.prepare import intensity
from jaxseg.data.prepare.canvas import placement
from jaxseg.data.prepare.examples import normalise_volume, prepare, prepare_mask, restore, window_8bit
from jaxseg.data.prepare.resample import resample_channels as resize
from jaxseg.data.records import Photo, Recipe, Volume
from jaxseg.types import ConfigError, DataError


def recipe(size=(64, 64), window=(40.0, 120.0), spacing=None, channels=1):
    fit = "stretch" if spacing is None else "centre"
    return Recipe(size=size, window=window, spacing=spacing, channels=channels, labels=("a",), fit=fit)


def disc(shape, centre, radius, spacing=(1.0, 1.0)):
    r, c = np.indices(shape)
    return (np.hypot((r - centre[0]) * spacing[0], (c - centre[1]) * spacing[1]) <= radius).astype(np.uint8)


def centroid(weights):
    return np.array([(np.indices(weights.shape)[a] * weights).sum() / weights.sum() for a in range(2)])


def test_window_maps_its_ends_to_0_and_255_and_clips():
    hu = np.array([[-1000.0, -20.0, 40.0, 100.0, 3000.0]])
    assert prepare(hu, recipe(size=(1, 5)), None)[0, :, 0].tolist() == [0, 0, 128, 255, 255]  # 127.5 rounds to even: 128


def test_8_bit_images_pass_unchanged_at_their_own_size():
    image = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    np.testing.assert_array_equal(prepare(image, recipe((7, 9), None, channels=3), None), image)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, bool, np.int16])
def test_other_dtypes_without_a_window_are_refused(dtype):
    with pytest.raises(DataError, match="data.window") as error:
        prepare(np.zeros((4, 4), dtype), recipe(window=None), None)
    assert error.value.code == "DATA_IMAGE"


def test_colour_becomes_grey_and_grey_is_repeated():
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 200
    assert prepare(red, recipe((4, 4), None), None)[0, 0].tolist() == [60]  # 200 * 0.299 = 59.8
    assert prepare(red[..., 0], recipe((4, 4), None, channels=3), None)[0, 0].tolist() == [200, 200, 200]
    with pytest.raises(DataError, match="data.channels=4"):
        prepare(np.zeros((4, 4, 4), np.uint8), recipe((4, 4), None), None)


def test_bad_values_and_windows_are_refused():
    with pytest.raises(DataError, match="1 of 16 voxels"):
        prepare(np.where(np.eye(4) > 5, 0, np.pad([[np.nan]], (0, 3))), recipe(), None)
    with pytest.raises(ConfigError, match="width above 0"):
        prepare(np.zeros((4, 4)), recipe(window=(40.0, 0.0)), None)
    with pytest.raises(DataError, match="DATA|labels"):
        prepare_mask(np.full((4, 4), 2, np.uint8), recipe(), None, 1)
    with pytest.raises(DataError, match="data.spacing"):
        prepare(np.zeros((4, 4)), recipe(spacing=(1.0, 1.0)), None)


@pytest.mark.parametrize("size", [(640, 640), (37, 51)])
def test_enlarging_equals_torch(size):
    torch = pytest.importorskip("torch", reason="parity needs the extra [parity]")
    x = np.random.default_rng(1).normal(size=(32, 23, 2)).astype(np.float32)
    theirs = (
        torch.nn.functional.interpolate(torch.tensor(x).permute(2, 0, 1)[None], size=size, mode="bilinear", align_corners=False)[
            0
        ]
        .permute(1, 2, 0)
        .numpy()
    )
    np.testing.assert_allclose(resize(x, size), theirs, atol=2e-5)  # float32 positions up to 640, values up to 5


def test_shrinking_by_a_whole_factor_keeps_the_mean():
    x = np.random.default_rng(2).normal(size=(64, 64, 1)).astype(np.float32)
    assert abs(resize(x, (16, 16))[2:-2, 2:-2].mean() - x[8:-8, 8:-8].mean()) < 0.02  # antialiased: every pixel counts
    np.testing.assert_allclose(resize(np.full((9, 9, 1), 3.0), (4, 5)), 3.0, atol=1e-6)


GEOMETRIES = {
    "stretch": (recipe((64, 96)), (100, 120), (0.5, 0.5)),
    "pad": (recipe((96, 96), spacing=(1.0, 1.0)), (100, 90), (0.7, 0.9)),
    "cut": (recipe((48, 64), spacing=(0.5, 0.6)), (100, 90), (0.5, 0.7)),
    "pad and cut": (recipe((128, 48), spacing=(1.0, 1.0)), (80, 100), (1.1, 0.8)),
    "one pixel off": (recipe((51, 51), spacing=(1.0, 1.0)), (50, 52), (1.0, 1.0)),
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_landmark_comes_back_within_half_a_pixel(name):
    r, shape, spacing = GEOMETRIES[name]
    for centre in ((shape[0] * 0.5, shape[1] * 0.5), (shape[0] * 0.4 + 0.3, shape[1] * 0.6)):
        blob = disc(shape, centre, 7)
        there = prepare(blob * 80.0 - 20.0, r, spacing)
        back = restore(there.astype(np.float32), shape, r, spacing, fill=[0.0])
        assert back.shape == (*shape, 1)
        assert np.abs(centroid(back[..., 0]) - centroid(blob)).max() < 0.5


@pytest.mark.parametrize("name", GEOMETRIES)
def test_mask_and_image_stay_aligned(name):
    r, shape, spacing = GEOMETRIES[name]
    blob = disc(shape, (shape[0] * 0.45, shape[1] * 0.55), 9)
    image, mask = prepare(blob * 120.0 - 20.0, r, spacing), prepare_mask(blob, r, spacing, 1)
    assert mask.dtype == np.uint8 and mask.shape == tuple(r.size)
    assert np.abs(centroid(image[..., 0].astype(float)) - centroid(mask)).max() < 0.25  # of one shift
    clear = np.abs(image[..., 0] - 127.5) > 1  # nearer, the rounding of the image decides
    np.testing.assert_array_equal((image[..., 0] > 127.5)[clear], (mask > 0)[clear])


def test_equal_sizes_change_nothing():
    r = recipe((20, 30))
    scores = np.random.default_rng(3).normal(size=(20, 30, 2)).astype(np.float32)
    np.testing.assert_array_equal(restore(scores, (20, 30), r, None), scores)
    mask = np.random.default_rng(3).integers(0, 4, (20, 30))
    np.testing.assert_array_equal(prepare_mask(mask, r, None, 3), mask)
    same = recipe((20, 30), spacing=(0.5, 0.5))
    np.testing.assert_array_equal(restore(scores, (20, 30), same, (0.5, 0.5)), scores)


def test_what_the_canvas_cut_away_is_background():
    r, shape, spacing = recipe((32, 32), spacing=(1.0, 1.0)), (64, 64), (1.0, 1.0)
    back = restore(np.full((32, 32, 2), 0.5, np.float32), shape, r, spacing)
    assert back[0, 0].tolist() == [1.0, 0.0] and back[32, 32].tolist() == [0.5, 0.5]
    assert restore(np.ones((32, 32, 1), np.float32), shape, r, spacing)[0, 0].tolist() == [0.0]
    assert restore(np.ones((32, 32, 1), np.float32), shape, r, spacing, fill=[-9.0])[0, 0].tolist() == [-9.0]
    assert placement(shape, r, spacing).corner == (-16, -16)


def test_padding_is_the_windows_lower_end_and_background():
    r = recipe((40, 40), spacing=(1.0, 1.0))
    image = prepare(np.full((20, 20), 100.0), r, (1.0, 1.0))
    assert image[:10].max() == 0 and image[10:30, 10:30].min() == 255
    assert prepare_mask(np.ones((20, 20), np.uint8), r, (1.0, 1.0), 1).sum() == 400


def test_binary_mask_is_a_share_above_one_half():
    mask = disc((50, 50), (20, 30), 8)
    share = resize(mask[..., None].astype(np.float32), (64, 64))[..., 0]
    np.testing.assert_array_equal(prepare_mask(mask, recipe(), None, 1), share > 0.5)
    half = np.tile(np.array([[0, 1]], np.uint8), (4, 4))  # shrinking by two along columns: every share is one half
    assert prepare_mask(half, recipe((4, 4)), None, 1)[:, 1:-1].sum() == 0


def test_a_class_between_two_others_is_not_invented():
    mask = np.zeros((30, 30), np.int64)
    mask[:, 15:] = 3
    assert set(np.unique(prepare_mask(mask, recipe((50, 47)), None, 3))) == {0, 3}


# ---- floats, filters, crops --------------------------------------------------------------------------------------------


def scores_recipe(size, **changes):
    return dataclasses.replace(recipe(size, None, channels=2), intensity="brain", **changes)


def test_z_scores_pass_with_the_same_bits_and_are_padded_with_background():
    scores = np.random.default_rng(4).normal(size=(20, 30, 2)).astype(np.float32)
    prepared = prepare(scores, scores_recipe((20, 30)), None)
    assert prepared.dtype == np.float32
    np.testing.assert_array_equal(prepared, scores)
    padded = prepare(scores, scores_recipe((24, 30), spacing=(1.0, 1.0), fit="centre"), (1.0, 1.0))
    assert not padded[:2].any() and not padded[-2:].any()
    with pytest.raises(DataError, match="there must be one channel for each modality; set data.channels=1"):
        prepare(scores[..., :1], scores_recipe((20, 30)), None)
    with pytest.raises(DataError, match="NaN"):
        prepare(scores * np.nan, scores_recipe((20, 30)), None)


def test_ct_maps_the_window_to_minus_one_and_one_unrounded():
    hu = np.array([[-1000.0, -20.0, 40.0, 100.0, 10.0]])
    ct = dataclasses.replace(recipe((1, 5)), intensity="ct")
    np.testing.assert_allclose(prepare(hu, ct, None)[0, :, 0], [-1, -1, 0, 1, -0.5], atol=1e-6)
    assert (
        prepare(hu, dataclasses.replace(ct, size=(3, 5), spacing=(1.0, 1.0), fit="centre"), (1.0, 1.0))[0].tolist()
        == [[-1.0]] * 5
    )
    with pytest.raises(ConfigError, match="data.window"):
        prepare(hu, dataclasses.replace(ct, window=None), None)
    with pytest.raises(ConfigError, match="data.intensity"):
        prepare(hu, dataclasses.replace(ct, intensity="mri"), None)


def lanczos(x, n):
    """Lanczos of 3 pixels a side on one axis, widened when it shrinks, weights normalised at the border: from the formula."""
    scale = x.shape[0] / n
    wide = max(scale, 1.0)
    at = (np.arange(n) + 0.5) * scale
    t = (np.arange(x.shape[0])[None] + 0.5 - at[:, None]) / wide
    weights = np.where(np.abs(t) < 3, np.sinc(t) * np.sinc(t / 3), 0)
    return (weights / weights.sum(1, keepdims=True)) @ x


@pytest.mark.parametrize("size", [(50, 61), (17, 12)])
def test_lanczos_is_its_formula_and_8_bit_images_do_not_wrap(size):
    x = np.random.default_rng(5).normal(size=(32, 23)).astype(np.float32)
    expected = lanczos(lanczos(x, size[0]).T, size[1]).T
    np.testing.assert_allclose(resize(x[..., None], size, "lanczos")[..., 0], expected, atol=1e-5)
    hard = np.zeros((32, 32), np.uint8)
    hard[8:24, 8:24] = 255
    r = dataclasses.replace(recipe((75, 75), None), filter="lanczos")
    found = prepare(hard, r, None)[..., 0].astype(int)
    assert found[30:45, 30:45].min() > 240 and found[:8, :8].max() < 15  # overshoot is cut, not wrapped round
    np.testing.assert_array_equal(prepare_mask(hard // 255, r, None, 1), prepare_mask(hard // 255, recipe((75, 75)), None, 1))
    with pytest.raises(ConfigError, match="data.filter"):
        resize(x[..., None], size, "lancsoz")


def test_a_crop_is_the_middle_of_the_slice_and_comes_back_to_its_place():
    image = np.random.default_rng(6).integers(0, 256, (21, 30), np.uint8)
    r = dataclasses.replace(recipe((10, 12), None), crop=(10, 12))
    np.testing.assert_array_equal(prepare(image, r, None)[..., 0], image[5:15, 9:21])
    mask = (image > 128).astype(np.uint8)
    np.testing.assert_array_equal(prepare_mask(mask, r, None, 1), mask[5:15, 9:21])
    scores = np.random.default_rng(7).normal(size=(10, 12, 2)).astype(np.float32)
    back = restore(scores, (21, 30), r, None)
    np.testing.assert_array_equal(back[5:15, 9:21], scores)
    back[5:15, 9:21] = (1, 0)
    assert (back == (1, 0)).all()
    with pytest.raises(DataError, match=r"data.crop=\(10, 12\)"):
        prepare(image[:9], r, None)


def test_a_blur_is_of_the_slices_own_pixels():
    image = np.random.default_rng(8).integers(0, 256, (20, 18), np.uint8)
    r = dataclasses.replace(recipe((20, 18), None), blur=1.5)
    np.testing.assert_array_equal(
        prepare(image, r, None)[..., 0], np.rint(ndimage.gaussian_filter(image.astype(np.float32), 1.5))
    )


def test_pictures_of_z_scores_run_from_black_to_white():
    scores = np.random.default_rng(9).normal(size=(8, 9, 2)).astype(np.float32)
    shown = window_8bit(scores, scores_recipe((8, 9)))
    assert shown.dtype == np.uint8 and shown.shape == scores.shape and (shown.min(), shown.max()) == (0, 255)


def test_a_picture_is_normalised_as_a_volume_of_one_slice():
    image = np.random.default_rng(10).integers(0, 200, (12, 10, 2))
    volume = Volume(image, np.eye(4), Photo("PNG"), Path("a.png"))
    r = scores_recipe((12, 10))
    np.testing.assert_array_equal(normalise_volume(volume, r).array, intensity.brain(image[:, :, None])[:, :, 0])
    assert normalise_volume(volume, recipe()) is volume
