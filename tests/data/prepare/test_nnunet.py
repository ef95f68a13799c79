"""nnU-Net's preparation against definitions of its steps, written out anew with numpy and scipy."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from jaxseg.data.prepare import canvas, intensity, statistics
from jaxseg.data.prepare.examples import Scan, prepare, prepare_mask, restore, restore_labels
from jaxseg.data.prepare.resample import for_scores, resample
from jaxseg.data.records import Recipe
from jaxseg.types import ConfigError, DataError

RANDOM = np.random.default_rng(0)
R = Recipe(
    size=(4, 4, 4),
    window=None,
    spacing=(1.0, 1.0, 1.0),
    channels=2,
    labels=("a", "b"),
    intensity="zscore_nonzero",
    modalities=("t1", "t2"),
    filter="nnunet",
    nonzero=True,
    fit="patches",
)


def spline(values, shape, order):
    """skimage's resize(mode="edge", anti_aliasing=False): samples of a spline at half-pixel places, cut to the range."""
    places = np.meshgrid(*[(np.arange(m) + 0.5) * n / m - 0.5 for n, m in zip(values.shape, shape)], indexing="ij")
    found = ndimage.map_coordinates(values.astype(np.float64), places, order=order, mode="nearest")
    return np.clip(found, values.min(), values.max())


def separate(values, shape, order, axis):
    """Plane by plane, then the nearest plane."""
    flat = tuple(np.delete(shape, axis))
    planes = np.stack([spline(np.take(values, i, axis), flat, order) for i in range(values.shape[axis])], axis)
    places = np.meshgrid(*[(np.arange(m) + 0.5) * n / m - 0.5 for n, m in zip(planes.shape, shape)], indexing="ij")
    return ndimage.map_coordinates(planes, places, order=0, mode="nearest")


def head(shape=(12, 14, 11)):
    """A scan of two channels: a ball on zeros with a hole of zeros in it, and a mask of two classes."""
    away = np.linalg.norm((np.indices(shape).T - np.array([5.5, 7.5, 5.0])).T, axis=0)
    ball = (away < 4.3) & (away > 1.2)
    image = np.where(ball[..., None], RANDOM.uniform(50, 200, (*shape, 2)), 0).astype(np.float32)
    image[..., 1] *= away > 2  # the second channel is 0 in more voxels
    return image, np.where(away < 3, 1 + (np.indices(shape)[0] > 5), 0).astype(np.int16)


@pytest.mark.parametrize("shape", [(9, 17, 5), (3, 11, 9), (20, 4, 9)])
@pytest.mark.parametrize("order, filter", [(3, "nnunet"), (1, for_scores("nnunet"))])
def test_images_go_by_cubic_splines_and_scores_linearly(shape, order, filter):
    values = RANDOM.normal(size=(9, 11, 6)).astype(np.float32)
    np.testing.assert_allclose(resample(values, shape, filter), spline(values, shape, order), atol=1e-6)
    np.testing.assert_allclose(resample(values[0], shape[1:], filter), spline(values[0], shape[1:], order), atol=1e-6)
    for axis in range(3):
        np.testing.assert_allclose(resample(values, shape, filter, apart=axis), separate(values, shape, order, axis), atol=1e-6)


def test_an_axis_is_apart_where_it_alone_is_more_than_3_times_as_coarse():
    assert canvas.coarse_axis((1.0, 1.0, 3.0), (1.0, 1.0, 1.0)) is None  # above 3, not from 3 on
    assert canvas.coarse_axis((1.0, 1.0, 3.01), (1.0, 1.0, 1.0)) == 2
    assert canvas.coarse_axis((4.0, 0.9, 1.0), (1.0, 1.0, 5.0)) == 0  # the scan's own spacing comes first
    assert canvas.coarse_axis((1.0, 1.0, 2.0), (1.0, 4.0, 1.0)) == 1
    assert canvas.coarse_axis((0.2, 1.0, 1.0), (1.0, 1.0, 1.0)) is None  # two axes are the coarsest


def test_masks_go_class_by_class_and_the_largest_share_wins():
    mask = np.kron(RANDOM.integers(0, 4, (5, 6, 4)), np.ones((2, 2, 1), np.uint8))
    plain = dataclasses.replace(R, nonzero=False, intensity="zscore", labels=("a", "b", "c"))
    for spacing, axis in (((1.3, 0.8, 2.2), None), ((1.3, 0.8, 4.0), 2)):
        shape = tuple(round(s / r * n) for s, r, n in zip(spacing, plain.spacing, mask.shape))
        classes = [(mask == k).astype(float) for k in range(4)]
        shares = [spline(c, shape, 1) if axis is None else separate(c, shape, 1, axis) for c in classes]
        ranked = np.sort(shares, 0)
        clear = ranked[-1] - ranked[-2] > 1e-6  # nearer, the nearest voxel decides
        expected = np.argmax(shares, 0)
        np.testing.assert_array_equal(prepare_mask(mask, plain, spacing, 3)[clear], expected[clear])
        assert clear.mean() > 0.7
    for halves, found in (
        ([0, 2, 1, 2], [2, 2]),
        ([2, 0, 2, 1], [0, 1]),
    ):  # of equal shares the nearest voxel's, as batchgenerators
        assert prepare_mask(np.array(halves).reshape(4, 1, 1), plain, (0.5, 1.0, 1.0), 2).ravel().tolist() == found


def test_a_scan_is_cut_to_what_is_not_0_and_its_z_scores_are_those_inside():
    image, mask = head()
    inside = ndimage.binary_fill_holes(image.any(-1))
    box = tuple(slice(i.min(), i.max() + 1) for i in np.nonzero(inside))
    unchanged = dataclasses.replace(R, spacing=None)
    for rule in ("zscore_nonzero", "zscore"):
        expected = image[box].astype(np.float64)
        for c in range(2):
            there = inside[box] if rule == "zscore_nonzero" else np.ones_like(inside[box])
            values = expected[..., c][there]
            expected[..., c][there] = (values - values.mean()) / values.std()
        found = Scan([image[..., 0], image[..., 1]], dataclasses.replace(unchanged, intensity=rule)).prepare()
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert rule == "zscore" or not found[~inside[box]].any()
    place = Scan([image], unchanged).place()
    np.testing.assert_array_equal(prepare_mask(mask, unchanged, None, 2, place=place), mask[box])
    with pytest.raises(ValueError, match="nonzero_box"):
        prepare_mask(mask, unchanged, None, 2)
    with pytest.raises(DataError, match="every voxel is 0"):
        Scan([np.zeros((4, 4, 4, 2))], unchanged).prepare()


def test_the_whole_preparation_is_its_steps_in_their_order():
    """Transposed, cut, normalised, resampled; spacing is that of the transposed axes."""
    image, mask = head()
    order, spacing, wanted = (2, 0, 1), (0.8, 0.9, 3.5), (3.0, 1.0, 1.0)
    r = dataclasses.replace(R, axes=order, spacing=wanted)
    turned, labels = image.transpose(*order, 3), mask.transpose(order)
    inside = ndimage.binary_fill_holes(turned.any(-1))
    box = tuple(slice(i.min(), i.max() + 1) for i in np.nonzero(inside))
    shape = tuple(round(spacing[a] / w * n) for a, w, n in zip(order, wanted, turned[box].shape))
    found, place = Scan([image], r, spacing).prepare(), Scan([image], r, spacing).place()
    for c in range(2):
        values = turned[box][..., c].astype(np.float64)
        values[inside[box]] = (values[inside[box]] - values[inside[box]].mean()) / values[inside[box]].std()
        np.testing.assert_allclose(found[..., c], separate(values.astype(np.float32), shape, 3, 0), atol=1e-5)
    assert place.canvas == shape == prepare_mask(mask, r, spacing, 2, place=place).shape
    np.testing.assert_allclose(place.spacing(spacing), [spacing[a] * n / m for a, n, m in zip(order, turned[box].shape, shape)])
    scores = RANDOM.normal(size=(*shape, 3)).astype(np.float32)
    back = np.tile(np.float32([1, 0, 0]), (*turned.shape[:3], 1))
    back[box] = np.stack([separate(scores[..., k], turned[box].shape[:3], 1, 0) for k in range(3)], -1)
    restored = restore(scores, mask.shape, r, spacing, place=place)
    np.testing.assert_allclose(restored, back.transpose(1, 2, 0, 3), atol=1e-6)
    np.testing.assert_array_equal(restore_labels(scores, mask.shape, r, spacing, place=place), restored.argmax(-1))
    assert labels.shape == turned.shape[:3] and not place.keeps_grid


def test_ct_is_clipped_to_the_percentiles_of_the_foreground_and_scaled_by_its_mean_and_deviation(monkeypatch):
    monkeypatch.setattr(statistics, "SAMPLES", 4000)
    cases = [head(), head(), (head()[0], np.zeros((12, 14, 11), int))]
    drawn = [[], []]
    for image, mask in cases[:2]:
        random = np.random.RandomState(1234)
        for c in range(2):
            drawn[c] += random.choice(image[..., c][mask > 0], 4000 // 3).tolist()
    foreground = statistics.Foreground(3)
    for case in cases:
        foreground.add(*case)
    found = [values[:4] for values in foreground.summary()]
    for c in range(2):
        np.testing.assert_allclose(
            found[c], [*np.percentile(drawn[c], (0.5, 99.5)), np.mean(drawn[c]), np.std(drawn[c])], rtol=1e-5
        )
    ct = dataclasses.replace(R, intensity="ct_zscore", statistics=tuple(found), nonzero=False, spacing=None)
    image = cases[0][0]
    expected = [(np.clip(image[..., c], low, high) - mean) / std for c, (low, high, mean, std) in enumerate(found)]
    np.testing.assert_allclose(Scan([image], ct).prepare(), np.stack(expected, -1), atol=1e-5)
    with pytest.raises(ConfigError, match="statistics"):
        Scan([image], dataclasses.replace(ct, statistics=found[:1])).prepare()
    with pytest.raises(DataError, match="none of 1 cases has foreground"):
        statistics.Foreground(1).summary()


def test_each_channel_of_a_volume_can_have_a_rule_of_its_own():
    image = RANDOM.integers(0, 256, (5, 6, 4, 4)).astype(np.float32)
    low, high, mean, std = 20.0, 200.0, 90.0, 40.0
    rules = "rescale_to_01+rgb_to_01+none+ct_zscore"
    mixed = dataclasses.replace(
        R,
        channels=4,
        modalities=("a", "b", "c", "d"),
        intensity=rules,
        statistics=((low, high, mean, std),) * 4,
        nonzero=False,
        spacing=None,
    )
    found = Scan([image], mixed).prepare()
    a = image[..., 0]
    expected = [(a - a.min()) / (a.max() - a.min()), image[..., 1] / 255, image[..., 2]]
    expected.append((np.clip(image[..., 3], low, high) - mean) / std)
    np.testing.assert_allclose(found, np.stack(expected, -1), atol=1e-5)
    with pytest.raises(DataError, match="0..255"):
        Scan([image + 256], mixed).prepare()
    with pytest.raises(ConfigError, match="one for each channel"):
        Scan([image], dataclasses.replace(mixed, intensity="none+zscore")).prepare()


def test_a_spacing_of_0_keeps_its_axis_and_the_way_back_asks_the_networks_grid_first():
    image, _ = head()
    planes = dataclasses.replace(R, spacing=(0.0, 2.0, 0.5), nonzero=False)
    place = Scan([image], planes, (4.0, 1.0, 1.0)).place()
    assert place.canvas == (12, 7, 22) and place.spacing((4.0, 1.0, 1.0)) == (4.0, 2.0, 0.5)
    turned = canvas.placement((8, 8, 8), dataclasses.replace(planes, spacing=(1.0, 1.0, 5.0)), (5.0, 1.0, 1.0))
    assert (turned.apart, turned.apart_back) == (0, 2)


def test_slices_take_no_box_of_their_own():
    flat = dataclasses.replace(R, size=(4, 4), spacing=None, fit="stretch")
    with pytest.raises(ConfigError, match="for volumes only"):
        prepare(np.ones((5, 5, 2)), dataclasses.replace(flat, axes=(1, 0), nonzero=False), None)
    with pytest.raises(ConfigError, match="is for volumes"):
        intensity.of_scan(np.ones((5, 5, 1, 2)), flat)
