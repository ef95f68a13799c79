"""Resampling of volumes agrees with PyTorch where it enlarges and with Pillow's antialiasing where it shrinks."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from jaxseg.data.prepare import canvas, intensity
from jaxseg.data.prepare.examples import Scan, prepare, prepare_mask, restore, restore_labels
from jaxseg.data.prepare.resample import FILTERS, for_scores, resample, resample_channels
from jaxseg.data.records import Recipe, Volume
from jaxseg.types import ConfigError, DataError

R = Recipe((8, 8, 8), (40.0, 400.0), (1.0, 1.0, 1.0), channels=1, labels=("a", "b"), intensity="ct", fit="patches")
RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("shape, size", [((5, 6, 7), (10, 12, 14)), ((5, 6, 7), (7, 13, 8)), ((1, 3, 4), (3, 3, 9))])
def test_enlarging_is_pytorchs_trilinear_interpolation(shape, size):
    torch = pytest.importorskip("torch")
    values = RANDOM.normal(size=shape).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(values)[None, None], size, mode="trilinear", align_corners=False)
    np.testing.assert_allclose(resample(values, size), expected[0, 0].numpy(), atol=2e-6)


@pytest.mark.parametrize("size", [(5, 4, 9), (9, 17, 4), (3, 11, 9)])
def test_each_axis_is_resized_as_slices_are(size):
    """Pictures over two axes, then over the third."""
    values = RANDOM.normal(size=(9, 11, 9)).astype(np.float32)
    first = resample_channels(values, size[:2])  # [X', Y', Z]
    expected = resample_channels(first.reshape(-1, 9)[..., None], (size[0] * size[1], size[2])).reshape(size)
    np.testing.assert_allclose(resample(values, size), expected, atol=2e-6)


def test_a_slice_has_the_bits_of_pillow():
    for size, filter in (((31, 8), "linear"), ((5, 40), "lanczos")):
        values = RANDOM.uniform(0, 255, (17, 23)).astype(np.float32)
        expected = Image.fromarray(values).resize(size[::-1], FILTERS[filter])
        np.testing.assert_array_equal(resample(values, size, filter), np.asarray(expected))


def test_the_same_image_is_prepared_alike_as_a_slice_and_as_a_volume_of_equal_slices():
    """The one rule for intensities, sizes and labels: rank is a number."""
    hu, mask = RANDOM.uniform(-300, 400, (11, 14)), RANDOM.integers(0, 3, (11, 14)).astype(np.int16)
    r = dataclasses.replace(R, spacing=(1.0, 1.0), size=(22, 10), fit="centre")
    spacing = (2.0, 10 / 14)
    thick = lambda array: np.repeat(array[:, :, None], 3, 2)
    as_volume = dataclasses.replace(R, spacing=(1.0, 1.0, 1.0))
    for changes in ({}, {"filter": "lanczos"}, {"crop": (5, 7), "size": (10, 5)}, {"blur": 1.2}, {"channels": 3}):
        flat = dataclasses.replace(r, **changes)
        changes = {key: (*v, 3) if key == "crop" else v for key, v in changes.items() if key != "size"}
        solid = dataclasses.replace(as_volume, **changes)
        scan = Scan([thick(hu)], solid, (*spacing, 1.0)).prepare()
        np.testing.assert_allclose(scan, np.repeat(prepare(hu, flat, spacing)[:, :, None], 3, 2), atol=1e-6)
        labels = prepare_mask(thick(mask), solid, (*spacing, 1.0), 2)
        np.testing.assert_array_equal(labels, thick(prepare_mask(mask, flat, spacing, 2)))


def test_classes_above_255_keep_their_numbers():
    mask = np.array([[0, 255, 256, 300]] * 4, np.int32)
    r = dataclasses.replace(R, size=(4, 4), spacing=None, fit="stretch")
    found = prepare_mask(mask, r, None, 300)
    assert found.dtype == np.uint16 and found.tolist() == mask.tolist()
    scores = np.zeros((2, 2, 301), np.float32)
    scores[..., 300] = 1
    labels = restore_labels(scores, (2, 2), dataclasses.replace(r, size=(2, 2)), None)
    assert labels.dtype == np.uint16 and (labels == 300).all()


def test_a_constant_stays_constant_and_the_mean_is_kept_by_whole_factors():
    np.testing.assert_allclose(resample(np.full((5, 6, 7), 3.0), (9, 4, 10)), 3.0, atol=1e-6)
    ramp = np.broadcast_to(np.arange(12.0)[:, None, None], (12, 4, 4))
    np.testing.assert_allclose(resample(ramp, (4, 4, 4))[1:3, 0, 0], [4.0, 7.0], atol=1e-6)  # middles of three


def test_resampling_needs_about_three_volumes_of_memory():
    values = np.zeros((64, 64, 64), np.float32)
    tracemalloc.start()
    resample(values, (80, 80, 80))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.2 * 80**3 * 4


def test_the_spacing_of_a_volume_decides_its_shape():
    scan = Volume(np.zeros((10, 20, 30), np.int16), np.diag([2.0, -0.5, 1.5, 1.0]), None, "memory")
    assert Scan([scan], R).prepare().shape == (20, 10, 45, 1)
    assert Scan([np.zeros((10, 20, 30))], R, (2.0, 0.5, 1.5)).prepare().shape == (20, 10, 45, 1)
    assert Scan([scan], dataclasses.replace(R, spacing=None)).prepare().shape == (10, 20, 30, 1)
    for spacing in (None, (1.0, 1.0), (1.0, np.nan, 1.0), (1e4, 1.0, 1.0)):
        with pytest.raises(DataError) as error:
            Scan([np.zeros((10, 20, 30))], R, spacing).prepare()
        assert error.value.code == "DATA_GEOMETRY"
    with pytest.raises(ConfigError, match="x, y, z"):
        Scan([scan], dataclasses.replace(R, spacing=(1.0, 1.0))).prepare()


def test_a_mask_keeps_its_classes_and_the_largest_share_wins():
    mask = RANDOM.integers(0, 3, (6, 7, 8)).astype(np.int16)
    np.testing.assert_array_equal(prepare_mask(mask, R, (2.0, 2.0, 2.0), 2)[::2, ::2, ::2].shape, mask.shape)
    same = prepare_mask(mask, dataclasses.replace(R, spacing=None), None, 2)
    np.testing.assert_array_equal(same, mask)
    shares = np.stack([resample(mask == k, (12, 14, 16)) for k in range(3)], -1)
    clear = np.sort(shares, -1)[..., -1] - np.sort(shares, -1)[..., -2] > 1e-4
    found = prepare_mask(mask, R, (2.0, 2.0, 2.0), 2)
    np.testing.assert_array_equal(found[clear], shares.argmax(-1)[clear])
    assert found.dtype == same.dtype == np.uint8 and set(np.unique(found)) == {0, 1, 2}
    halves = np.repeat(np.array([0, 1], np.uint8), 2).reshape(4, 1, 1)  # one voxel of two halves: the background's
    assert prepare_mask(halves, R, (0.25, 1.0, 1.0), 2).tolist() == [[[0]]]
    for bad in (mask + 1, mask.astype(np.float32), mask - 1, mask[0]):
        with pytest.raises(DataError, match="labels 0..2"):
            prepare_mask(bad, R, (1.0, 1.0, 1.0), 2)


def restored(scores, shape):
    """On the grid of a scan of this shape, whose extent is that of the scores at 1 mm."""
    return restore(scores, shape, R, tuple(n / m for n, m in zip(scores.shape, shape)))


def test_scores_come_back_to_the_grid_of_the_scan():
    scores = RANDOM.normal(size=(6, 5, 4, 3)).astype(np.float32)
    np.testing.assert_array_equal(restored(scores, (6, 5, 4)), scores)
    back = restored(scores, (9, 5, 8))
    assert back.shape == (9, 5, 8, 3) and back.dtype == np.float32
    np.testing.assert_array_equal(back[..., 1], resample(scores[..., 1], (9, 5, 8)))
    place = np.stack(np.meshgrid(*[np.arange(24.0)] * 3, indexing="ij"), -1)
    small = np.stack([resample(place[..., k], (12, 8, 24)) for k in range(3)], -1)
    inside = (slice(4, -4),) * 3  # away from the border, where the last sample is repeated
    np.testing.assert_allclose(restored(small, place.shape[:3])[inside], place[inside], atol=1e-4)  # nothing has moved


def test_intensities_follow_the_rule():
    values = RANDOM.integers(0, 255, (4, 5, 6)).astype(np.uint8)
    plain = dataclasses.replace(R, spacing=None)
    grey = dataclasses.replace(plain, intensity="grey", window=None)
    np.testing.assert_allclose(Scan([values], grey).prepare()[..., 0], values / 255, atol=1e-7)
    np.testing.assert_allclose(Scan([values], plain).prepare()[..., 0], np.interp(values, [-160, 240], [-1, 1]), atol=1e-6)
    brain = dataclasses.replace(plain, intensity="brain", channels=2, modalities=("t1", "flair"))
    both = np.stack([values, values[::-1]], -1)
    np.testing.assert_array_equal(Scan([both], brain).prepare(), intensity.brain(both))
    for images, recipe, words in (
        ([values], dataclasses.replace(plain, window=None), "level, width"),
        ([values], dataclasses.replace(plain, window=(40.0, 0.0)), "width above 0"),
        ([values], dataclasses.replace(plain, intensity="mri"), "mri"),
    ):
        with pytest.raises(ConfigError, match=words):
            Scan(images, recipe).prepare()
    for images, recipe, words in (
        ([values], brain, "got 1 channels.*t1, flair"),
        ([values, values[1:]], brain, "of one shape"),
        ([np.full((2, 2, 2), np.nan)], plain, "8 of 8 voxels are NaN"),
        ([], plain, "shapes"),
        ([values.astype(np.int16)], grey, "only 8-bit images need none"),
    ):
        with pytest.raises(DataError, match=words):
            Scan(images, recipe).prepare()


def test_modalities_on_other_grids_are_refused():
    a, b = (Volume(np.ones((4, 4, 4)), np.diag([s, 1.0, 1.0, 1.0]), None, f"{s}.nii") for s in (1.0, -1.0))
    with pytest.raises(DataError) as error:
        Scan([a, b], dataclasses.replace(R, channels=2)).prepare()
    assert error.value.code == "DATA_MISMATCH"


def test_restored_labels_are_the_largest_of_restored_scores():
    scores = np.random.default_rng(5).normal(size=(5, 6, 4, 3)).astype(np.float32)
    for shape in ((9, 5, 7), (5, 6, 4)):
        spacing = tuple(n / m for n, m in zip((5, 6, 4), shape))
        labels = restore_labels(scores, shape, R, spacing)
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, restored(scores, shape).argmax(-1))


@pytest.mark.parametrize("filter", ["linear", "monai"])
def test_classes_that_fill_a_few_planes_are_resampled_as_in_whole_volumes(filter):
    recipe = dataclasses.replace(R, labels=tuple("abcde"), spacing=(1.5, 0.7, 1.2), filter=filter)
    mask = np.zeros((20, 15, 9), np.uint8)
    mask[2:5, 3:9, 2:6], mask[4:9, 8:12, 1:7], mask[19, 14, 8], mask[6:16, 2:14, 4:7] = 1, 2, 3, 5  # no class 4
    place = canvas.placement(mask.shape, recipe, (1.0,) * 3)
    share = lambda k: resample((mask == k) + np.float32(1e-30), place.scaled, for_scores(filter), steps=place.steps)  # no zeros
    shares = np.stack([share(k) for k in range(1, 6)])
    best = shares.max(0)
    expected = np.where(best <= 1 - shares.sum(0) + 1e-6, 0, shares.argmax(0) + 1)
    np.testing.assert_array_equal(prepare_mask(mask, recipe, (1.0,) * 3, 5), expected)
