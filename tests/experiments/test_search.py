"""Laws of the search, with runs that only compute their figure."""

import csv
import json
import math
import sys

import pytest

from configs.brats2d import get_config
from jaxseg.config import resolve
from jaxseg.experiments import search as searches
from jaxseg.experiments import space as spaces
from jaxseg.types import ConfigError, MismatchError, NonFiniteError
from jaxseg.utils import output

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

    def run(self, config, folder, watch):
        weights = spaces.weights_of(config)
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


def test_a_search_prints_its_trials_for_other_programs(tmp_path, capsys):
    pytest.importorskip("optuna")
    runs = Runs()
    output.choose(quiet=False, as_json=True)
    try:
        assert searches.search(config(trials=2), tmp_path, runs.run, runs.score, starts=[], say=str) is None
    finally:
        output.choose(quiet=False, as_json=False)
    *trials, last = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert [(t["event"], t["trial"], t["status"]) for t in trials] == [("trial", 1, "finished"), ("trial", 2, "finished")]
    assert (
        last["event"] == "search"
        and last["val_dice"] == max(t["val_dice"] for t in trials)
        and set(last["values"]) == set(trials[0]["values"])
    )


def test_a_search_begins_where_the_config_stands_and_prints_the_best_weights(whole):
    folder, runs, said = whole
    own = spaces.weights_of(config())
    assert runs.calls[0][1] == pytest.approx([w / own[0] for w in own]) and runs.calls[1][1] == (1.0, 1.0, 1.0, 1.0)
    assert runs.calls[2][1] == pytest.approx((1.0, 0.5, 0.5, 30.0))  # any scale, cut at the bounds
    best = max(runs.calls, key=lambda call: runs.values[call[0]])
    assert "class_weights" in said[-2] and str(best[1][1]) in said[-2] and said[-3].split(";")[0].endswith(best[0])
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
    with pytest.raises(MismatchError, match=r"search.space .*30.0.*, now .*99.0"):
        searches.search(config(high=99.0), whole[0], None, None, say=str)


def test_only_the_weights_of_the_config_change():
    given = config()
    changed = spaces.changed(given, {f"{spaces.WEIGHTS}.{k}": w for k, w in enumerate(BEST[1:], 1)})
    assert spaces.weights_of(changed) == BEST and spaces.weights_of(given) != BEST
    assert given.loss.terms == changed.loss.terms and changed.is_locked and changed.search.trials == 20


def test_a_config_without_class_weights_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="this config has none"):
        searches.search(config(arguments="quick"), tmp_path, None, None)


def test_a_missing_optuna_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match="pip install 'optuna>=4'"):
        searches.search(config(), tmp_path, None, None)


SPACE = (
    ("optim.lr", "log", 1e-5, 1e-2),
    ("model.name", "choice", ("unet2d_test", "attention_unet2d")),
    ("train.batch_size", "int", 1, 4),
    ("loss.options.cross_entropy.class_weights.2", "float", 0.5, 1.5),
    ("optim.options.b1", "choice", (0.8, 0.9)),
)


def of_any_keys(**more):
    return config(more.pop("trials", 12), space=SPACE, **more)


class Epochs(Runs):
    """Runs of three epochs; trial 008 looks hopeless from the start, trial 003 cannot work."""

    def run(self, config, folder, watch):
        self.calls.append((folder.name, config))
        if folder.name == "003":
            raise ConfigError("config.optim.lr: no such network")
        self.values[folder.name] = -abs(math.log(config.optim.lr / 1e-3))
        rows = []
        for epoch in range(1, config.train.epochs + 1):
            rows.append(
                {"epoch": epoch, "val_dice": self.values[folder.name] - (100 if folder.name == "008" else 0), "val_recall": ""}
            )
            watch(rows)
        self.stopped = len(self.calls) == self.stop
        return 42 if self.stopped else None


def test_any_keys_are_searched_and_a_hopeless_trial_is_pruned(tmp_path):
    pytest.importorskip("optuna")
    runs, said, tree = Epochs(), [], of_any_keys()
    assert searches.search(tree, tmp_path, runs.run, runs.score, say=said.append) is None
    first = runs.calls[0][1]
    assert (first.optim.lr, first.model.name, first.search.space) == (tree.optim.lr, tree.model.name, ())  # the config's own
    configs = [c for _, c in runs.calls]
    assert {c.model.name for c in configs} == {"unet2d_test", "attention_unet2d"} and {c.optim.options.b1 for c in configs} == {
        0.8,
        0.9,
    }
    assert all(1e-5 <= c.optim.lr <= 1e-2 and c.train.batch_size in (1, 2, 3, 4) for c in configs)
    weights = [spaces.weights_of(c) for c in configs]
    assert all(0.5 <= w[2] <= 1.5 and w[:2] == spaces.weights_of(tree)[:2] for w in weights)
    rows = table(tmp_path)
    assert {"4", "9"} <= {row["trial"] for row in rows if row["state"] == "pruned"} and len(rows) == 12
    assert "no such network" in rows[3]["reason"] and rows[8]["reason"].startswith("pruned after epoch ")
    best = max((row for row in rows if row["val_dice"]), key=lambda row: float(row["val_dice"]))
    assert (
        f'--config.optim.lr="{float(best["optim.lr"])}"' in said[-2]
        and f"--config.model.name={best['model.name']!r}".replace("'", '"') in said[-2]
    )
    page = (tmp_path / "report.html").read_text()
    assert f"Best val_dice {float(best['val_dice']):.4f} in trial {best['trial']}" in page


def test_a_killed_search_of_any_keys_goes_on_and_without_pruning_every_trial_ends(tmp_path):
    pytest.importorskip("optuna")
    first, again, whole = Epochs(stop=5), Epochs(), Epochs()
    assert searches.search(of_any_keys(trials=6, prune=False), tmp_path / "a", first.run, first.score, say=str) == 42
    assert (
        searches.search(
            of_any_keys(trials=6, prune=False),
            tmp_path / "a",
            again.run,
            lambda f: {**first.values, **again.values}[f.name],
            say=str,
        )
        is None
    )
    assert again.calls[0][0] == first.calls[-1][0] and again.calls[0][1].optim.lr == first.calls[-1][1].optim.lr
    searches.search(of_any_keys(trials=6, prune=False), tmp_path / "b", whole.run, whole.score, say=str)
    assert table(tmp_path / "a") == table(tmp_path / "b") and [r["state"] for r in table(tmp_path / "b")].count("pruned") == 1


@pytest.mark.parametrize(
    "space, message",
    [
        ((("optim.lrr", "log", 1e-5, 1e-2),), "optim.lr"),
        ((("optim.lr", "log", 0, 1e-2),), "above 0 for log"),
        ((("train.batch_size", "int", 1.0, 2.0),), "whole for int"),
        ((("model.name", "choice", ("unet2d",)),), "must be"),
        ((("eval.threshold", "float", 0.1, 0.9),), "has no effect on training"),
        ((("optim.lr", "log", 1e-5, 1e-2), ("optim.lr", "log", 1e-5, 1e-2)), "twice"),
        (("optim.lr", "log", 1e-5, 1e-2), "must be"),
    ],
)
def test_a_space_that_cannot_be_is_refused(space, message):
    with pytest.raises(ConfigError, match=message):
        config(space=space)


def test_bounds_of_class_weights_have_no_effect_beside_a_space():
    with pytest.raises(ConfigError, match=r"search.high.*search.space=\(\)"):
        config(space=SPACE, high=99.0)
