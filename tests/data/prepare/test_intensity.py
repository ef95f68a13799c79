"""Z-scores over the brain against an independent formulation, and what is refused."""

import tracemalloc

import numpy as np
import pytest

from jaxseg.data.prepare.intensity import brain
from jaxseg.types import DataError


def expected(array):
    """The rule, voxel list by voxel list."""
    out = np.zeros(array.shape, np.float64)
    for c in range(array.shape[-1]):
        values = sorted(float(v) for v in array[..., c].ravel() if v > 0)

        def percentile(q, values=values):
            place = q / 100 * (len(values) - 1)
            low = int(place)
            high = min(low + 1, len(values) - 1)
            return values[low] + (values[high] - values[low]) * (place - low)

        low, high = percentile(0.5), percentile(99.5)
        clipped = [min(max(v, low), high) for v in values]
        mean = sum(clipped) / len(clipped)
        std = (sum((v - mean) ** 2 for v in clipped) / len(clipped)) ** 0.5
        for index in np.argwhere(array[..., c] > 0):
            out[(*index, c)] = (min(max(float(array[(*index, c)]), low), high) - mean) / max(std, 1e-8)
    return out


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.float64, ">i2"])
def test_scores_are_those_of_the_rule(dtype):
    random = np.random.default_rng(0)
    array = random.gamma(2.0, 40.0, (9, 8, 7, 3)) * (random.random((9, 8, 7, 1)) < 0.6)
    array = np.clip(array, 0, 255).astype(dtype)
    before, scores = array.copy(), brain(array)
    assert scores.dtype == np.float32 and scores.shape == array.shape
    np.testing.assert_allclose(scores, expected(array), atol=2e-6)
    np.testing.assert_array_equal(array, before)
    np.testing.assert_array_equal(brain(array[..., 1]), scores[..., 1])  # [X, Y, Z]: one channel


def test_background_is_exactly_zero_and_the_brain_has_mean_0_and_deviation_1():
    array = np.zeros((10, 10, 10), np.int16)
    array[2:8, 2:8, 2:8] = np.random.default_rng(1).integers(200, 900, (6, 6, 6))
    scores = brain(array)
    assert not scores[array == 0].any()
    inside = scores[array > 0].astype(np.float64)
    assert abs(inside.mean()) < 1e-6 and abs(inside.std() - 1) < 1e-6


def test_scale_of_the_scanner_does_not_matter():
    array = np.random.default_rng(2).integers(0, 300, (8, 8, 8, 2)).astype(np.float32)
    np.testing.assert_allclose(brain(array * np.float32([3.0, 0.25])), brain(array), atol=1e-5)


def test_negative_voxels_are_background():
    array = np.random.default_rng(3).normal(0, 50, (8, 8, 8)).astype(np.float32)
    scores = brain(array)
    assert not scores[array <= 0].any()
    np.testing.assert_array_equal(scores, brain(np.maximum(array, 0)))


def test_a_constant_channel_becomes_zero_and_leaves_the_others_alone():
    array = np.random.default_rng(4).integers(1, 300, (6, 6, 6, 2)).astype(np.int16)
    array[..., 0] = 17
    scores = brain(array)
    assert not scores[..., 0].any() and np.isfinite(scores).all()
    np.testing.assert_array_equal(scores[..., 1], brain(array[..., 1]))


def test_an_outlier_is_clipped():
    array = np.random.default_rng(5).integers(100, 200, (12, 12, 12)).astype(np.float32)
    spiked = array.copy()
    spiked[3, 4, 5] = 1e6
    assert brain(spiked).max() < 3  # alone, without the clip, it would stand 41 deviations out
    untouched = np.arange(array.size).reshape(array.shape) != np.ravel_multi_index((3, 4, 5), array.shape)
    np.testing.assert_allclose(brain(spiked)[untouched], brain(array)[untouched], atol=0.02)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite_are_refused(value):
    array = np.ones((4, 4, 4, 2), np.float32)
    array[0, 1, 2, 1] = value
    with pytest.raises(DataError, match="channel 1 holds 1 voxels") as caught:
        brain(array)
    assert caught.value.code == "DATA_NONFINITE"


def test_a_channel_without_a_brain_is_refused():
    array = np.ones((4, 4, 4, 2), np.int16)
    array[..., 1] = -3
    with pytest.raises(DataError, match="channel 1 holds no voxel above 0") as caught:
        brain(array)
    assert caught.value.code == "DATA_EMPTY"


def test_memory_is_that_of_one_channel_at_a_time():
    array = np.ones((48, 48, 48, 4), np.int16)
    array[..., 0] = np.arange(48)
    tracemalloc.start()
    brain(array)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    channel = 48**3
    assert peak < array.size * 4 + 8 * channel * 5  # the result, and a few float64 copies of one channel's voxels
