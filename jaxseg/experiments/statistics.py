"""Statistical comparison of networks on the same cases: mean differences, confidence intervals and tests.

Scores are paired by case; a network's score of a case is the mean over its random seeds. For each pair of networks of an
experiment there is a bootstrap interval over patients, and Wilcoxon's signed-rank test (zeros split between the signs, Pratt
1959) with Holm's correction (1979) over all pairs.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxseg.metrics.summarize import bootstrap

LEVEL = 0.05  # of the family of tests
MOST = 4  # models whose costs the verdict says; of more, those of the chosen one alone


class Pair(NamedTuple):
    """The comparison of two networks on the cases that both were tested on.

    Attributes:
      first, second: names of the networks.
      cases: number of cases.
      difference: mean of first minus second.
      low, high: its 95 % bootstrap interval over patients; NaN with fewer than two patients.
      p: two-sided p-value of Wilcoxon's test; NaN with fewer than two cases.
      adjusted: p with Holm's correction.
    """

    first: str
    second: str
    cases: int
    difference: float
    low: float
    high: float
    p: float
    adjusted: float


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values with Holm's step-down correction, in the given order; NaN stays NaN and does not count as a test."""
    values = np.asarray(p, float)
    known = np.flatnonzero(~np.isnan(values))
    adjusted = np.full(values.shape, math.nan)
    largest = 0.0
    for rank, i in enumerate(known[np.argsort(values[known], kind="stable")]):
        largest = max(largest, min(1.0, (len(known) - rank) * values[i]))
        adjusted[i] = largest
    return adjusted.tolist()


def paired(scores: Mapping[str, Mapping[str, float]], patients: Mapping[str, str], *, seed: int = 0) -> list[Pair]:
    """Compare every pair of networks.

    Args:
      scores: network -> case -> score; NaN is left out.
      patients: case -> patient; the bootstrap draws all cases of a patient together.
      seed: random seed of the bootstrap.
    """
    found = []
    for first, second in itertools.combinations(scores, 2):
        a, b = scores[first], scores[second]
        cases = sorted(case for case in a.keys() & b.keys() if not math.isnan(a[case] + b[case]))
        difference = np.array([a[case] - b[case] for case in cases])
        groups = [patients[case] for case in cases]
        low, high = bootstrap(difference, seed=seed, groups=groups) if len(set(groups)) > 1 else (math.nan, math.nan)
        mean = float(difference.mean()) if cases else math.nan
        found.append(Pair(first, second, len(cases), mean, low, high, wilcoxon(difference), math.nan))
    return [pair._replace(adjusted=p) for pair, p in zip(found, holm([pair.p for pair in found]))]


def wilcoxon(difference: np.ndarray) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test; 1 if nothing differs, NaN with fewer than two cases."""
    if difference.size < 2:
        return math.nan
    if not difference.any():
        return 1.0
    from scipy import stats  # half a second, which every command would wait for

    return float(stats.wilcoxon(difference, zero_method="zsplit").pvalue)


def sentence(pair: Pair, *, measure: str, seeds: int, folds: int, tests: int = 1) -> str:
    """Return the result of a comparison as a sentence.

    Args:
      pair: the comparison.
      measure: name of the scores, for instance "mean Dice".
      seeds: number of random seeds that every score was averaged over.
      folds: number of folds that the cases come from; 0 for a single split.
      tests: number of pairs that Holm's correction was made for.
    """
    better, worse, low, high = pair.first, pair.second, pair.low, pair.high
    if pair.difference < 0:  # the interval is that of the first name's scores minus the second's
        better, worse, low, high = worse, better, -high, -low
    basis = f"{pair.cases} test case{'s' * (pair.cases != 1)}" + (f" of {folds} folds" if folds else "")
    varied = (
        f"{seeds} random seeds were averaged"
        if seeds > 1
        else "only one random seed was used, so part of the difference may be due to training randomness"
    )
    if math.isnan(pair.adjusted):
        few = "are too few for a test" if pair.cases != 1 else "is too little for a test"
        return f"{pair.first} and {pair.second}: {basis} {few}; {varied}."
    if math.isnan(pair.low):
        return f"{pair.first} and {pair.second}: all of {basis} are of one patient, which is too little for a test; {varied}."
    if pair.difference == pair.low == pair.high == 0:
        return f"{pair.first} and {pair.second} have the same {measure} on every one of {basis}; {varied}."
    interval = f"95 % interval {low:+.4f} to {high:+.4f}"
    test = f"Holm-adjusted p = {pair.adjusted:.2g}"
    if beyond_chance(pair):
        return (
            f"{better} is better than {worse} by {abs(pair.difference):.4f} {measure} ({interval}, {test}, {basis}), more than "
            f"expected by chance; {varied}."
        )
    few = ", and with so few cases no difference could count as more than chance" if _too_few(pair.cases, tests) else ""
    return (
        f"{better} and {worse} differ by {abs(pair.difference):.4f} {measure} ({interval}, {test}, {basis}), which may be "
        f"due to chance{few}; {varied}."
    )


def beyond_chance(pair: Pair) -> bool:
    """Return whether a difference is larger than expected by chance: by the interval and by the adjusted p-value."""
    return pair.adjusted < LEVEL and pair.low * pair.high > 0


def _too_few(cases: int, tests: int) -> bool:
    """Return whether even equal signs of all differences would not be significant: two of 2^n combinations of signs."""
    return tests * 2.0 ** (1 - cases) >= LEVEL


def verdict(chosen: str, pairs: Sequence[Pair], scores: Mapping[str, Mapping[str, float]], costs: Mapping[str, str]) -> str:
    """Return the result of an experiment: how the model that is best on the validation split does on the test cases, and costs.

    Args:
      chosen: the model with the best validation score.
      pairs: all comparisons on the test cases.
      scores: model -> test case -> score.
      costs: model -> its costs as a short text; models without costs are left out.
    """
    known = [score for score in scores.get(chosen, {}).values() if not math.isnan(score)]
    if not known:
        return ""
    groups: dict[str, list[str]] = {"better": [], "worse": [], "open": []}
    for pair in pairs:
        if chosen in (pair.first, pair.second) and pair.cases:
            other = pair.second if pair.first == chosen else pair.first
            gain = pair.difference if pair.first == chosen else -pair.difference
            kind = "open" if not beyond_chance(pair) else "better" if gain > 0 else "worse"
            groups[kind].append(f"{other} (by {abs(gain):.4f})" if kind != "open" else f"{other} ({gain:+.4f})")
    cases = f"{len(known)} test case{'s' * (len(known) != 1)}"
    parts = [f"{chosen}, the best on the validation split, has a mean Dice of {np.mean(known):.4f} on {cases}"]
    if groups["better"]:
        parts.append(f"it is better than {_listed(groups['better'])}, more than expected by chance")
    if groups["worse"]:
        parts.append(f"it is worse than {_listed(groups['worse'])}, more than expected by chance")
    if groups["open"]:
        parts.append(f"its difference to {_listed(groups['open'])} may be due to chance")
    named = (chosen, *(model for model in scores if model != chosen))[: MOST if len(scores) <= MOST else 1]
    spent = [f"{model} {costs[model]}" for model in named if model in costs]
    return "; ".join(parts) + "." + (f" Costs: {'; '.join(spent)}." if spent else "")


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def of_two(scores: Mapping[str, Mapping[str, float]], patients: Mapping[str, str]) -> str:
    """The sentence about two single runs: name -> case -> Dice, case -> patient."""
    return sentence(paired(scores, patients)[0], measure="mean Dice", seeds=1, folds=0)
