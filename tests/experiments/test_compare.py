"""The runner of a comparison: every combination once, failures recorded, finished runs never again; tables and page agree."""

import json
from pathlib import Path

import pytest

from jaxseg.cli import ensembles
from jaxseg.experiments import compare, live, plan, tables
from jaxseg.reports import paper
from jaxseg.types import ConfigError, MismatchError
from tests.experiments.compared import Trainer, config, cost, finish, run


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """They take seconds, and have a test of their own."""
    monkeypatch.setattr(paper, "available", lambda: False)


def test_every_combination_is_trained_once_and_never_again(tmp_path):
    trainer = Trainer()
    code, said = run(tmp_path, trainer)
    assert code is None
    assert trainer.started == ["unet_test/seed_1", "segnext_test/seed_1", "unet_test/seed_2", "segnext_test/seed_2"]
    assert (tmp_path / "segnext_test_seed_2_best" / "evaluation.json").samefile(tmp_path / "segnext_test/seed_2/evaluation.json")
    again = Trainer()
    assert run(tmp_path, again)[0] is None and again.started == []
    assert any(line.startswith("segnext_test is better than unet_test by 0.1000 mean Dice") for line in said), said


def test_a_finished_run_of_another_configuration_is_refused(tmp_path):
    run(tmp_path, Trainer())

    def same(config, folder):
        raise MismatchError(f"{folder} belongs to a run with another configuration")

    with pytest.raises(MismatchError, match="another configuration"):
        run(tmp_path, lambda *a: pytest.fail("trained"), same)


def test_a_failed_run_is_recorded_the_rest_goes_on_and_it_is_tried_again(tmp_path):
    code, said = run(tmp_path, trainer := Trainer(fail=["unet_test/seed_1"]))
    assert code == 65 and len(trainer.started) == 4
    assert json.loads((tmp_path / "unet_test/seed_1/failed.json").read_text())["reason"].startswith("a case is damaged")
    assert json.loads((tmp_path / "comparison.json").read_text())["failed"] == {"unet_test_seed_1": "a case is damaged; mend it"}
    code, _ = run(tmp_path, again := Trainer())
    assert code is None and again.started == ["unet_test/seed_1"] and not (tmp_path / "unet_test/seed_1/failed.json").exists()


def test_a_run_that_fails_meanwhile_in_another_process_is_not_tried_again(tmp_path):
    class Other(Trainer):
        def __call__(self, config, folder: Path):
            if not self.started:
                other = tmp_path / "segnext_test" / "seed_2"
                other.mkdir(parents=True)
                (other / "failed.json").write_text('{"reason": "no memory", "traceback": ""}')
            super().__call__(config, folder)

    code, said = run(tmp_path, trainer := Other())
    assert code == 65 and "segnext_test/seed_2" not in trainer.started and len(trainer.started) == 3
    assert "segnext_test_seed_2: skipped, it failed in another process: no memory" in said
    assert any("only one random seed was used" in line for line in said), said  # which both have


def test_runs_of_other_processes_are_left_to_them(tmp_path):
    code, said = run(tmp_path, Trainer(held=["segnext_test/seed_1"]))
    assert code is None and any("process 7 on elsewhere is training it" in line for line in said)
    assert any("1 run is being trained by other processes" in line for line in said)


def test_a_run_that_was_stopped_stops_the_comparison_with_its_code(tmp_path):
    assert run(tmp_path, lambda config, folder: 42)[0] == 42


def test_a_combination_that_cannot_work_is_refused_before_any_is_trained(tmp_path):
    def check(config):
        if config.model.name == "segnext_test":
            raise ConfigError("no such size")

    with pytest.raises(ConfigError, match="segnext_test: no such size"):
        compare.compare(config(), tmp_path / "x", lambda *a: pytest.fail("trained"), check, cost, lambda *a: None, print)
    assert not (tmp_path / "x").exists()


def test_the_runs_of_the_model_that_is_best_by_validation_are_an_ensemble(tmp_path, capsys, monkeypatch):
    def train(config, folder):
        finish(folder, config, 0.1 if "segnext" in config.model.name else 0.0)  # the better one by test
        if "segnext" in config.model.name:
            (folder / "epochs.csv").write_text("epoch,step,train_loss,val_loss,val_dice\n2,9,0.5,0.6,0.11\n")

    run(tmp_path / "runs/mine", train)
    monkeypatch.chdir(tmp_path)
    typed = ["jaxseg", "--mode=predict", "--experiment", "mine", "--input=x"]
    found = ensembles.as_runs(typed, "predict", None, "mine")
    assert found == ["jaxseg", "--mode=predict", "--input=x", "--workdir=runs/mine/unet_test/seed_1",
                     "--config.infer.ensemble=('runs/mine/unet_test/seed_2',)"]  # fmt: skip
    assert "unet_test (best on the validation split, mean Dice 0.5200), 2 runs" in capsys.readouterr().out
    by_folder = ensembles.as_runs(["jaxseg", "--workdir=runs/mine/segnext_test"], "predict", "runs/mine/segnext_test", None)
    assert by_folder[1] == "--workdir=runs/mine/segnext_test/seed_1" and "segnext_test (named)" in capsys.readouterr().out
    alone = ["jaxseg", "--workdir=runs/mine/unet_test/seed_1"]
    assert ensembles.as_runs(alone, "predict", "runs/mine/unet_test/seed_1", None) == alone  # a run is a run
    for words, message in (
        (("evaluate", None, "mine"), "is for --mode=predict"),
        (("predict", None, "other"), "there is no runs/other/comparison.json"),
        (("predict", None, "mine/unet_tst"), "unet_test"),
        (("predict", "runs/x", "mine"), "give one of them"),
    ):
        with pytest.raises(ConfigError, match=message):
            ensembles.as_runs(["jaxseg"], *words)
    with pytest.raises(ConfigError, match="config.infer.ensemble: the runs of the experiment"):
        ensembles.as_runs(["jaxseg", "--config.infer.ensemble=('a',)"], "predict", "runs/mine", None)


def test_a_model_without_a_validation_score_is_never_the_best():
    rows = [{"model_name": name, "val_dice": value} for name, value in (("a", float("nan")), ("b", 0.4), ("c", ""), ("b", 0.6))]
    assert tables.best_by_validation(rows) == "b" and tables.validation_means(rows) == {"b": 0.5}


def test_folds_and_variants_change_what_they_say():
    found = plan.runs(config(folds=4, fold=(1, 3), seeds=(5,)), Path("x"))
    assert [(r.model, r.fold, r.config.data.split, r.config.data.fold) for r in found] == [
        ("unet_test", 1, "fold", 1), ("segnext_test", 1, "fold", 1), ("unet_test", 3, "fold", 3), ("segnext_test", 3, "fold", 3),
    ]  # fmt: skip
    assert found[0].name == "unet_test_seed_5_fold_1" and found[0].folder == Path("x/unet_test/seed_5_fold_1")
    vary = (("slow", (("optim.lr", 1e-5),)), ("fast", (("optim.lr", 1e-2), ("train.epochs", 3))))
    found = plan.runs(config(models=(), seeds=(), vary=vary), Path("x"))
    assert [(r.model, r.config.optim.lr, r.config.train.epochs) for r in found] == [("slow", 1e-5, 100), ("fast", 1e-2, 3)]
    with pytest.raises(ConfigError, match="did you mean optim.lr"):
        plan.runs(config(vary=(("a", (("optim.lrr", 1.0),)),)), Path("x"))
    with pytest.raises(ConfigError, match="optim.lr=-1.0"):  # the rules hold for what is varied too
        plan.runs(config(vary=(("a", (("optim.lr", -1.0),)),)), Path("x"))
    untested = config().copy_and_resolve_references().unlock()
    untested.data.fractions = (0.8, 0.2, 0.0)
    with pytest.raises(ConfigError, match="evaluates every run on its test split"):
        plan.runs(untested, Path("x"))
    with pytest.raises(ConfigError, match="holds the same value twice"):
        plan.runs(config(seeds=(1, 1)), Path("x"))
    with pytest.raises(ConfigError, match="set config.compare.folds"):
        plan.runs(config(fold=(1,)), Path("x"))


def test_the_table_of_a_terminal_shows_the_state_of_every_run(tmp_path):
    planned = plan.runs(config(), tmp_path)
    finish(planned[0].folder, planned[0].config, 0.0)
    for name, content in (("failed.json", "{}"), ("epochs.csv", "epoch,val_dice\n1,0.2\n2,\n")):
        planned[1 if name == "failed.json" else 2].folder.mkdir(parents=True, exist_ok=True)
        (planned[1 if name == "failed.json" else 2].folder / name).write_text(content)
    states = live.States(planned)
    assert [row[1] for row in states.rows()] == ["finished", "failed", "begun", "waiting"]
    states.begin(planned[2])
    (planned[2].folder / "epochs.csv").write_text("epoch,val_dice\n1,0.2\n2,\n3,0.4\n")
    assert states.rows()[2][:4] == (planned[2].name, "running", "3/100", "validation 0.4000") and states.rows()[2][4].endswith(
        " s"
    )
    assert states.rows()[0][3].startswith("test 0.5")
