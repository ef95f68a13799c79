"""Laws of the search of class weights, with a run that only computes its figure."""

import csv
import math
import sys

import pytest

from configs.brats2d import get_config
from jaxseg.config import resolve
from jaxseg.experiments import search as searches
from jaxseg.types import ConfigError, MismatchError, NonFiniteError

BEST = (1.0, 4.0, 2.0, 0.5)


def config(trials: int = 12, arguments: str = "wcce,quick", **more):
    tree = get_config(arguments)
    tree.search.trials = trials
    tree.search.update(more)
    return resolve(tree, name="brats2d")


def distance(weights) -> float:
    return math.sqrt(sum(math.log(w / b) ** 2 for w, b in zip(weights, BEST)))


class Runs:
    """Runs whose figure falls with the distance of their weights from BEST; some stop or fail on their way."""

    def __init__(self, stop: int | None = None, fail: int | None = None):
        self.calls, self.values, self.stop, self.fail = [], {}, stop, fail

    def run(self, config, folder):
        weights = searches.weights_of(config)
        self.calls.append((folder.name, weights))
        self.values[folder.name] = 1 / (1 + distance(weights))
        if len(self.calls) == self.fail:
            raise NonFiniteError("five steps in a row")
        return 42 if len(self.calls) == self.stop else None

    def score(self, folder) -> float:
        return self.values[folder.name]


def table(folder) -> list[dict]:
    return list(csv.DictReader((folder / "trials.csv").open()))


def drawn(folder) -> list[tuple]:
    return [(row["folder"], *(row[f"weight_{k}"] for k in (1, 2, 3)), row["val_dice"]) for row in table(folder)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    pytest.importorskip("optuna")
    folder, runs, said = tmp_path_factory.mktemp("search"), Runs(), []
    assert searches.search(config(), folder, runs.run, runs.score, starts=[(2.0, 1.0, 1.0, 200.0)], say=said.append) is None
    return folder, runs, said


def test_a_search_begins_where_the_config_stands_and_prints_the_best_weights(whole):
    folder, runs, said = whole
    own = searches.weights_of(config())
    assert runs.calls[0][1] == pytest.approx([w / own[0] for w in own]) and runs.calls[1][1] == (1.0, 1.0, 1.0, 1.0)
    assert runs.calls[2][1] == pytest.approx((1.0, 0.5, 0.5, 30.0))  # any scale, cut at the bounds
    best = max(runs.calls, key=lambda call: runs.values[call[0]])
    assert "class_weights=" in said[-1] and f"{best[1][1]:.4g}" in said[-1] and best[0] in said[-1]
    assert len(table(folder)) == 12 and all(float(row["val_dice"]) > 0 for row in table(folder))


def test_a_search_that_was_stopped_draws_the_same_weights_and_resumes_in_the_same_folder(tmp_path, whole):
    starts = [(2.0, 1.0, 1.0, 200.0)]
    first, second = Runs(stop=8), Runs()
    assert searches.search(config(), tmp_path, first.run, first.score, starts=starts, say=str) == 42
    second.values = dict(first.values)
    assert searches.search(config(), tmp_path, second.run, second.score, starts=starts, say=str) is None
    assert second.calls[0] == first.calls[-1]
    assert drawn(tmp_path) == drawn(whole[0])


def test_a_run_that_does_not_stay_finite_counts_and_the_search_continues(tmp_path):
    pytest.importorskip("optuna")
    runs = Runs(fail=2)
    searches.search(config(4), tmp_path, runs.run, runs.score, say=str)
    assert [row["state"] for row in table(tmp_path)] == ["complete", "pruned", "complete", "complete"]
    assert len({folder for folder, _ in runs.calls}) == 4


def test_another_space_is_refused(whole):
    with pytest.raises(MismatchError, match="high 30.0, now 99.0"):
        searches.search(config(high=99.0), whole[0], None, None, say=str)


def test_only_the_weights_of_the_config_change():
    given = config()
    changed = searches.weighted(given, BEST)
    assert searches.weights_of(changed) == BEST and searches.weights_of(given) != BEST
    assert given.loss.terms == changed.loss.terms and changed.is_locked


def test_a_config_without_class_weights_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="this config has none"):
        searches.search(config(arguments="quick"), tmp_path, None, None)


def test_a_missing_optuna_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match="pip install 'optuna>=4'"):
        searches.search(config(), tmp_path, None, None)
