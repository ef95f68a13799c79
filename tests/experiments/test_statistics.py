"""Holm's correction by hand, Wilcoxon's test by enumeration, and sentences for drawn data with and without an effect."""

import itertools
import math

import numpy as np
import pytest

from jaxseg.experiments import statistics


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    found = statistics.holm([0.5, math.nan, 0.9, 0.001])
    assert found[:1] + found[2:] == pytest.approx([1.0, 1.0, 0.003]) and math.isnan(found[1])


def test_wilcoxon_is_the_share_of_all_signs():
    difference = np.array([0.11, -0.02, 0.31, 0.23, 0.07])
    ranks = np.argsort(np.argsort(np.abs(difference))) + 1
    observed = abs(sum(ranks * np.sign(difference)))
    every = [abs(sum(ranks * np.array(signs))) for signs in itertools.product((-1, 1), repeat=5)]
    assert statistics.wilcoxon(difference) == pytest.approx(np.mean(np.array(every) >= observed))
    assert statistics.wilcoxon(np.zeros(4)) == 1.0 and math.isnan(statistics.wilcoxon(np.array([0.1])))


def _drawn(effect: float, cases: int = 40):
    random = np.random.default_rng(5)
    base = random.uniform(0.5, 0.9, cases)
    noise = lambda: random.normal(0, 0.02, cases)
    scores = {"a": base + noise() + effect, "b": base + noise(), "c": base + noise()}
    names = [f"case{i}" for i in range(cases)]
    return {m: dict(zip(names, map(float, v))) for m, v in scores.items()}, {name: name for name in names}


def test_an_effect_is_found_and_none_is_not():
    pairs = {(p.first, p.second): p for p in statistics.paired(*_drawn(0.05))}
    found = pairs["a", "b"]
    assert found.adjusted < 1e-4 and 0.03 < found.low < found.difference < found.high < 0.07
    said = statistics.sentence(found, measure="mean Dice", seeds=3, folds=0)
    assert said.startswith("a is better than b by 0.0") and "3 random seeds were averaged" in said
    nothing = pairs["b", "c"]
    assert nothing.adjusted > 0.05 and nothing.low < 0 < nothing.high
    said = statistics.sentence(nothing, measure="mean Dice", seeds=1, folds=5)
    assert "which may be due to chance" in said and "only one random seed was used" in said and "5 folds" in said


def test_the_worse_network_named_first_is_said_to_be_worse():
    scores, patients = _drawn(0.05)
    (pair,) = statistics.paired({"b": scores["b"], "a": scores["a"]}, patients)
    assert pair.difference < 0 and pair.high < 0
    said = statistics.sentence(pair, measure="mean Dice", seeds=2, folds=0)
    assert said.startswith("a is better than b by") and f"{abs(pair.high):+.4f} to {abs(pair.low):+.4f}" in said


@pytest.mark.parametrize("sign", [1, -1])
def test_the_interval_that_is_said_holds_the_difference_that_is_said(sign):
    pair = statistics.Pair("a", "b", 9, 0.01 * sign, *sorted((-0.002 * sign, 0.03 * sign)), 0.2, 0.4)
    said = statistics.sentence(pair, measure="mean Dice", seeds=1, folds=0)
    assert said.startswith("a and b differ" if sign > 0 else "b and a differ")
    assert "by 0.0100 mean Dice (95 % interval -0.0020 to +0.0300" in said


def test_what_no_test_can_tell_is_said_to_be_so():
    said = lambda scores, patients, tests=1: statistics.sentence(
        statistics.paired(scores, patients)[0], measure="mean Dice", seeds=2, folds=0, tests=tests
    )
    names = [f"case{i}" for i in range(20)]
    scores, own = _drawn(0.05, 20)[0], {name: name for name in names}
    assert "all of 20 test cases are of one patient, which is too little for a test" in said(scores, dict.fromkeys(names, "p"))
    assert "a and same have the same mean Dice on every one of 20 test cases" in said(
        {"a": scores["a"], "same": scores["a"]}, own
    )
    four = {m: {name: scores[m][name] for name in names[:4]} for m in ("a", "b")}
    assert "with so few cases no difference could count as more than chance" in said(four, own)
    assert "so few" not in said({m: scores[m] for m in ("b", "c")}, own, 6)


def test_a_verdict_says_where_the_chosen_network_is_better_worse_or_not_to_be_told_apart():
    scores, patients = _drawn(0.05)
    pairs = statistics.paired(scores, patients)
    found = statistics.verdict("a", pairs, scores, {"a": "3 parameters", "c": "2 parameters"})
    assert (
        found.startswith("a, the best on the validation split, has a mean Dice of 0.7")
        and " on 40 test cases; it is better than b" in found
    )
    assert found.endswith("more than expected by chance. Costs: a 3 parameters; c 2 parameters.")
    found = statistics.verdict("b", pairs, scores, {})
    assert (
        "it is worse than a (by 0.0" in found and "; its difference to c (" in found and found.endswith(") may be due to chance.")
    )
    assert statistics.verdict("d", pairs, scores, {}) == ""


def test_cases_that_one_network_lacks_are_left_out_and_too_few_are_said_to_be():
    scores = {"a": {"1": 0.5, "2": math.nan, "3": 0.7}, "b": {"1": 0.4, "2": 0.9}}
    (pair,) = statistics.paired(scores, {name: name for name in "123"})
    assert pair.cases == 1 and "1 test case is too little for a test" in statistics.sentence(
        pair, measure="Dice", seeds=1, folds=0
    )
