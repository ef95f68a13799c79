"""Slices by area, what a cache holds, class weights; the figures are those that the BraTS 2-D project prints."""

import types

import numpy as np
import pytest

from jaxseg.data.datasets import selection
from jaxseg.data.records import Case
from jaxseg.data.store.fingerprint import words
from jaxseg.types import ConfigError, DataError

PIXELS = (367_211_293, 1_140_885, 5_163_680, 1_460_142)  # of 6510 slices of 240 x 240


def case(name="a"):
    return Case(name, name, (), None)


def mask(*areas):
    """[20, 20] with areas[k - 1] pixels of class k."""
    flat = np.zeros(400, np.uint8)
    start = 0
    for k, n in enumerate(areas, 1):
        flat[start : start + n] = k
        start += n
    return flat.reshape(20, 20)


def cache_of(*masks, k=3):
    masks = np.stack(masks)
    counts = np.stack([np.bincount(m.ravel(), minlength=k + 1)[1:] for m in masks])
    sizes = np.full(len(masks), masks[0].size)
    return types.SimpleNamespace(masks=masks, sizes=lambda: sizes, foreground_counts=lambda: counts, labels=("NCR", "ED", "ET"))


def test_a_slice_is_kept_when_one_class_alone_covers_more_than_the_area():
    keep = selection.rule(min_area=50)
    kept = lambda *areas: keep(case(), 0, mask(*areas))
    assert kept(51, 0, 0) and kept(0, 0, 51) and not kept(50, 50, 50) and not kept(0, 0, 0)
    anything = selection.rule(min_area=0)
    assert anything(case(), 0, mask(1)) and not anything(case(), 0, mask(0)) and not anything(case(), 0, None)
    assert selection.rule()(case(), 0, None) and selection.rule()(case(), 0, mask(0))


def test_the_draw_takes_its_share_and_knows_nothing_of_other_cases():
    keep = selection.rule(min_area=None, sample=0.4, sample_seed=42)
    drawn = [keep(case(f"c{i}"), z, None) for i in range(50) for z in range(40)]
    assert abs(np.mean(drawn) - 0.4) < 0.04  # 3.6 standard deviations of 2000 draws
    assert drawn == [keep(case(f"c{i}"), z, None) for i in range(50) for z in range(40)]
    other = selection.rule(sample=0.4, sample_seed=43)
    assert drawn != [other(case(f"c{i}"), z, None) for i in range(50) for z in range(40)]
    fewer = selection.rule(sample=0.1)
    assert all(keep(case(str(i)), 0, None) for i in range(500) if fewer(case(str(i)), 0, None))  # a smaller share is a part of it


def test_rules_have_words_for_the_fingerprint_and_refuse_what_cannot_be():
    assert len({str(words(selection.rule(*r))) for r in ((None, 1.0, 42), (500, 1.0, 42), (500, 0.4, 42), (500, 0.4, 1))}) == 4
    for options in ({"min_area": -1}, {"sample": 0.0}, {"sample": 1.5}):
        with pytest.raises(ConfigError, match="data."):
            selection.rule(**options)


def test_the_table_says_what_the_project_prints():
    cache = cache_of(mask(10, 120, 0), mask(0, 250, 5), mask(0, 0, 0))
    found = selection.area_histogram(cache)
    assert found["pixels"] == [815, 10, 370, 5] and found["absent"] == [0, 2, 1, 2] and found["images"] == 3
    assert found["areas"][1][:3] == [0, 1, 1] and found["areas"][0][0] == 1 and sum(map(sum, found["areas"])) == 4
    lines = selection.table(found).splitlines()
    assert lines[0] == "Label 0 pixels: 815" and lines[2] == "Label 2 pixels: 370"
    assert lines[5] == "Number of images with no label 1 pixels: 2"
    assert len({len(line) for line in lines[8:]}) == 1 and lines[-2].startswith("ED (2)")
    assert selection.area_histogram(cache, [0])["pixels"] == [270, 10, 120, 0]


def test_weights_are_the_textbook_rules_with_mean_one_on_the_projects_counts():
    share = np.array(PIXELS) / 374_976_000  # 6510 * 240 * 240
    by_hand = {
        "inverse": 1 / share,
        "root": 1 / np.sqrt(share),
        "median": np.median(share) / share,
        "log": 1 / np.log(1.02 + share),
    }
    assert set(by_hand) == set(selection.RULES)
    for rule, expected in by_hand.items():
        found = selection.weights(PIXELS, rule)
        np.testing.assert_allclose(found, expected / expected.mean(), rtol=1e-12)
        assert np.isclose(np.mean(found), 1) and np.argsort(found).tolist() == [0, 2, 3, 1]  # rarer, heavier
    np.testing.assert_allclose(selection.weights(PIXELS, "inverse"), selection.weights(PIXELS, "median"))  # but for a factor
    assert np.isclose(selection.weights(PIXELS)[1] / selection.weights(PIXELS)[2], 5_163_680 / 1_140_885)


def test_weights_count_only_the_rows_they_are_given_and_refuse_an_absent_class():
    cache = cache_of(mask(10, 120, 30), mask(0, 250, 5), mask(0, 0, 0))
    np.testing.assert_allclose(selection.class_weights(cache, [0]), selection.weights([240, 10, 120, 30]))
    np.testing.assert_allclose(selection.class_weights(cache, [0, 1], "log"), selection.weights([385, 10, 370, 35], "log"))
    with pytest.raises(DataError, match=r"class 1 \(NCR\) has no pixel"):
        selection.class_weights(cache, [1, 2])
    with pytest.raises(ConfigError, match="inverse"):
        selection.weights(PIXELS, "inverce")
