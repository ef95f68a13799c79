"""Rows, means with their n, patients, detection, threshold sweep, bootstrap, CSV."""

import csv
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.metrics import counts, summarize
from jaxseg.types import ConfigError, StorageError

# hit of two slices (patient a), miss (a), false alarm (b), empty (b)
P = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
T = np.array([[1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
COUNTS = counts.count(P, T, 1)
ROWS = summarize.rows_of(COUNTS, ["a0", "a1", "b0", "b1"], ["bleed"], patients=["a", "a", "b", "b"])


def test_means_stand_beside_the_images_that_make_them():
    table = summarize.means(ROWS)
    assert (table["images"], table["empty"], table["missed"], table["false_alarms"]) == (4, 1, 1, 1)
    assert table["dice"] == {"mean": 0.375, "std": np.std([0.5, 0, 0, 1]), "n": 4}


def test_empty_images_leave_the_mean_under_policy_nan():
    rows = summarize.rows_of(COUNTS, ["a0", "a1", "b0", "b1"], ["bleed"], empty="nan")
    table = summarize.means(rows)
    assert table["dice"]["n"] == 3 and table["dice"]["mean"] == 0.5 / 3 and table["images"] == 4
    assert math.isnan(summarize.means([], ["dice"])["dice"]["mean"])


def test_a_patient_is_scored_on_all_slices_together():
    a, b = summarize.by_patient(ROWS)
    assert (a["patient"], a["tp"], a["fp"], a["fn"], a["images"]) == ("a", 1, 1, 3, 2)
    assert a["dice"] == 2 / 6 and b["false_alarm"] and not b["empty"]


def test_detection_counts_images_found_and_images_left_alone():
    assert summarize.detection(ROWS) == {"sensitivity": 0.5, "positives": 2, "specificity": 0.5, "negatives": 2}
    assert summarize.detection(summarize.by_patient(ROWS))["sensitivity"] == 1
    assert math.isnan(summarize.detection([])["sensitivity"])


def test_classes_are_summarized_apart():
    c = counts.count(np.array([[1, 2, 0]]), np.array([[1, 1, 0]]), 3)
    table = summarize.by_class(summarize.rows_of(c, ["x"], ["one", "two"]))
    assert list(table) == ["one", "two"] and table["one"]["recall"]["mean"] == 0.5 and table["two"]["false_alarms"] == 1


def test_sweep_equals_counting_at_each_threshold():
    random = np.random.default_rng(1)
    p = random.random((3, 4, 5)).astype(np.float32)
    p[0, 0, :4] = [0.5, 0.6, 0.9, np.nan]  # exactly on a threshold counts as foreground, NaN never does
    t = random.integers(0, 2, p.shape)
    thresholds = (0.9, 0.5, 0.6, 0.0, 1.0)
    found = summarize.sweep(p, t, thresholds)
    jitted = jax.jit(summarize.sweep, static_argnums=2)(jnp.asarray(p), jnp.asarray(t), thresholds)
    for i, threshold in enumerate(thresholds):
        expected = counts.count(p >= np.float32(threshold), t, 1)
        for f, j, e in zip(found, jitted, expected):
            np.testing.assert_array_equal(f[i], e[:, 0])
            np.testing.assert_array_equal(j[i], e[:, 0])
    assert found.tp.dtype == np.int32 and jitted.tp.shape == (5, 3)


def test_bootstrap_is_a_function_of_its_seed_and_brackets_the_mean():
    values = [*np.random.default_rng(2).normal(0.7, 0.1, 50), math.nan]
    low, high = summarize.bootstrap(values, seed=3)
    assert (low, high) == summarize.bootstrap(values, seed=3) != summarize.bootstrap(values, seed=4)
    assert low < np.nanmean(values) < high and high - low < 4 * 0.1 / math.sqrt(50) * 1.3  # 95 %: 3.92 standard errors
    assert all(math.isnan(v) for v in summarize.bootstrap([math.nan]))


def test_bootstrap_of_one_patient_has_no_width():
    assert summarize.bootstrap([0.1, 0.9, 0.5], groups=["p", "p", "p"]) == (0.5, 0.5)
    with pytest.raises(ConfigError, match="level"):
        summarize.bootstrap([1.0], level=95)


def test_csv_has_every_column_and_reads_back(tmp_path):
    summarize.write_csv(tmp_path / "rows.csv", [*ROWS, {"case": 'x, "y"', "note": "extra"}])
    with open(tmp_path / "rows.csv", newline="") as file:
        back = list(csv.DictReader(file))
    assert back[0]["dice"] == "0.5" and back[4]["case"] == 'x, "y"' and back[4]["note"] == "extra" and len(back) == 5
    with pytest.raises(StorageError, match="cannot write"):
        summarize.write_csv(tmp_path / "absent" / "rows.csv", ROWS)


def test_names_that_do_not_fit_the_counts_are_refused():
    with pytest.raises(ValueError, match="cases"):
        summarize.rows_of(COUNTS, ["a"], ["bleed"])
