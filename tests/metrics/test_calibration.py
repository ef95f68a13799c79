"""Calibration and threshold sweeps from one histogram, beside plain programs written from the definitions."""

import json

import numpy as np
import pytest

from jaxseg.metrics import calibration
from jaxseg.metrics import counts as scores
from jaxseg.metrics.calibration import Histogram


def drawn(seed: int = 0, shape=(24, 30, 7)):
    """Probabilities with many near 0, as of background, and a truth that they are wrong about."""
    random = np.random.default_rng(seed)
    p = random.beta(0.3, 1.5, shape).astype(np.float32)
    p.flat[:5] = [0.0, 1.0, 0.5, 0.07, 0.29]  # edges of bins, two of which float32 puts below themselves
    return p, random.random(shape) < p**2


def slow_error(p, y, bins, least=0.0):
    """The expected calibration error, bin by bin."""
    p, y = (a[p >= least].astype(float) for a in (p, y))
    error = 0.0
    for i in range(bins):
        inside = (p >= i / bins) & ((p < (i + 1) / bins) | (i == bins - 1))
        if inside.any():
            error += inside.mean() * abs(p[inside].mean() - y[inside].mean())
    return error


def test_the_expected_calibration_error_is_that_of_its_definition():
    (p, y), (q, z) = drawn(0), drawn(1)
    histogram = Histogram(["a"])
    histogram.add(0, p, y)
    histogram.add(0, q, z)
    p, y = (np.concatenate([a.ravel(), b.ravel()]) for a, b in ((p, q), (y, z)))
    p[np.isclose(p, 0.07)], p[np.isclose(p, 0.29)] = 0.0700001, 0.2900001  # where the histogram counts them
    assert histogram.error(0) == pytest.approx(slow_error(p, y, 10), abs=1e-6)
    assert histogram.error(0, bins=100, sure=True) == pytest.approx(slow_error(p, y, 100, least=0.01), abs=1e-6)
    rows = histogram.reliability(0)
    assert sum(row["voxels"] for row in rows) == p.size
    inside = (p >= 0.3) & (p < 0.4)
    assert rows[3]["positives"] == pytest.approx(y[inside].mean()) and rows[3]["probability"] == pytest.approx(p[inside].mean())


def test_the_sweep_is_the_dice_of_thresholded_probabilities():
    examples = [drawn(0), drawn(1), (np.zeros((4, 4), np.float32), np.zeros((4, 4), bool))]
    histogram = Histogram(["a"])
    for p, y in examples:
        histogram.add(0, p, y, empty=1.0)
    for row in histogram.sweep(0)[9::20]:
        counts = [scores.count((p + 1e-8 >= row["threshold"])[None], y[None], 1) for p, y in examples]
        assert row["mean_dice"] == pytest.approx(np.mean([float(scores.dice(c)[0, 0]) for c in counts]))
        for key in ("tp", "fp", "fn"):
            assert row[key] == sum(int(np.asarray(getattr(c, key)).item()) for c in counts)
        assert row["pooled_dice"] == pytest.approx(2 * row["tp"] / (2 * row["tp"] + row["fp"] + row["fn"]))
    found = histogram.figures()["a"]
    assert found["best_pooled_dice"] == max(row["pooled_dice"] for row in histogram.sweep(0))


def test_right_probabilities_have_no_error_and_overconfident_ones_do():
    random = np.random.default_rng(3)
    p = random.random(200_000)
    right, sure = Histogram(["a"]), Histogram(["a"])
    y = random.random(p.size) < p
    right.add(0, p, y)
    sure.add(0, np.round(p), y)
    assert right.error(0) < 0.01 and sure.error(0) > 0.2


def test_an_empty_example_under_the_policy_nan_is_left_out_of_the_mean_and_a_class_without_voxels_has_no_dice():
    histogram = Histogram(["a", "b"])
    for p, y in (drawn(0), (np.zeros((4, 4), np.float32), np.zeros((4, 4), bool))):
        histogram.add(0, p, y, empty=np.nan)
    alone = Histogram(["a"])
    alone.add(0, *drawn(0))
    assert [row["mean_dice"] for row in histogram.sweep(0)] == [row["mean_dice"] for row in alone.sweep(0)]
    assert np.isnan(histogram.figures()["b"]["ece"]) and np.isnan(histogram.sweep(1)[0]["pooled_dice"])


def test_processes_add_up():
    whole, parts = Histogram(["a"]), []
    for seed in range(3):
        part = Histogram(["a"])
        for histogram in (whole, part):
            histogram.add(0, *drawn(seed))
        parts.append(json.loads(json.dumps(part.state())))
    together = Histogram.of(["a"], parts)
    assert all(np.allclose(getattr(together, name), getattr(whole, name), rtol=1e-12) for name in calibration.SUMS)
    assert together.error(0) == pytest.approx(whole.error(0), rel=1e-12)
