"""The runner of a comparison: every combination once, failures recorded, finished runs never again; tables and page agree."""

import csv
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from configs._base import base
from jaxseg import checkpoint
from jaxseg.checkpoint.claims import InUse
from jaxseg.cli import ensembles
from jaxseg.config import resolve
from jaxseg.experiments import compare, live, plan, tables
from jaxseg.reports import paper
from jaxseg.types import ConfigError, DataError, MismatchError
from tests.records import RECORD


def config(**changes):
    tree = base()
    tree.model.name = "unet_test"
    tree.data.dataset, tree.data.window, tree.eval.tables, tree.data.protocol = "folder", (), (), None
    tree.compare.models, tree.compare.seeds = ("unet_test", "segnext_test"), (1, 2)
    for key, value in changes.items():
        tree.compare[key] = value
    return resolve(tree, name="test")


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """They take seconds, and have a test of their own."""
    monkeypatch.setattr(paper, "available", lambda: False)


class Trainer:
    """In the place of training: writes what a finished run leaves; segnext is better by 0.1 in every case."""

    def __init__(self, fail=(), held=()):
        self.started, self.fail, self.held = [], set(fail), set(held)

    def __call__(self, config, folder: Path):
        name = f"{folder.parent.name}/{folder.name}"
        self.started.append(name)
        if name in self.held:
            raise InUse(folder, "process 7 on elsewhere")
        if name in self.fail:
            raise DataError("a case is damaged; mend it", "DATA_X")
        finish(folder, config, 0.1 if "segnext" in config.model.name else 0.0)


def finish(folder: Path, config, gain: float) -> None:
    test = folder / "evaluations" / "test@9"
    test.mkdir(parents=True)
    checkpoint.write_record(folder, RECORD | {"dataset": "folder"})
    (folder / "state.json").write_text("{}")
    (folder / "epochs.csv").write_text(
        "epoch,step,train_loss,val_loss,val_dice\n1,4,0.9,0.8,0.31\n2,9,0.5,0.6,0.52\n3,13,0.4,0.7,0.51\n"
    )
    random = np.random.default_rng(config.seed)
    rows, dices = [], []
    for case in range(8):
        tp = int(100 * (0.5 + gain)) + int(random.integers(0, 3)) + case
        rows.append({"case": f"c{case}", "patient": f"p{case}", "class": "lesion", "tp": tp, "fp": 100 - tp, "fn": 100 - tp})
        dices.append(tp / 100)
    with open(test / "cases.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    score = {measure: {"mean": float(np.mean(dices))} for measure in ("dice", "precision", "recall")}
    found = {
        "mean_dice": float(np.mean(dices)), "pooled_dice": float(np.mean(dices)), "grid": "the cases' own grid: 8 x 8",
        "weights": {"step": "9"}, "headline": ["lesion"], "scores": {"lesion": score}, "params": 1234, "macs": 5678,
        "options": {"eval.empty": "one"},
    }  # fmt: skip
    (folder / "evaluation.json").write_text(json.dumps(found))


def cost(folder: Path) -> dict:
    return {"pam_train": 3000, "pam_inference": 1000, "inference_latency_ms": 2.5}


def run(folder, trainer, same=None, **changes):
    said = []
    code = compare.compare(
        config(**changes), folder, trainer, lambda config: None, cost, same or (lambda config, folder: None), said.append
    )
    return code, said


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


def test_hashed_names_are_in_every_table_and_paths_of_errors_in_none(tmp_path):
    def train(config, folder):
        if folder.name == "seed_2":
            raise DataError("/data/secret/c7_flair.nii.gz: a case is damaged; mend it", "DATA_X")
        finish(folder, config, 0.0)

    tree = config().copy_and_resolve_references().unlock()
    tree.report.names = "hash"
    compare.compare(tree.lock(), tmp_path, train, lambda c: None, cost, lambda c, f: None, str)
    rows = list(csv.DictReader((tmp_path / "case_comparison.csv").open()))
    assert len(rows) == 8 and all(re.fullmatch("#[0-9a-f]{10}", row[key]) for row in rows for key in ("case", "patient"))
    page = (tmp_path / "report.html").read_text()
    assert rows[0]["case"] in page and ">c3<" not in page
    for text in (page, (tmp_path / "comparison.json").read_text()):
        assert "a case is damaged" in text and "secret" not in text and "c7_flair" not in text


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


def test_the_tables_have_the_projects_columns_and_the_runs_figures(tmp_path):
    run(tmp_path, Trainer())
    read = lambda name: list(csv.DictReader(open(tmp_path / name, newline="")))
    results = read("integrated_experiment_results.csv")
    assert list(results[0])[: len(tables.RESULTS)] == tables.RESULTS and len(results) == 4
    for row in results:
        found = json.loads((tmp_path / row["model_name"] / f"seed_{row['seed']}" / "evaluation.json").read_text())
        assert float(row["test_dice"]) == found["mean_dice"] and row["best_epoch"] == "2" and row["val_dice"] == "0.52"
        assert (row["total_params"], row["flops"], row["fold"]) == ("1234", "5678", "")
    epochs = read("all_epochs_results.csv")
    assert list(epochs[0]) == tables.EPOCHS and len(epochs) == 12
    assert [row["test_dice"] != "" for row in epochs[:3]] == [False, True, False]
    summary = {row["model_name"]: row for row in read("model_comparison.csv")}
    of = [float(row["test_dice"]) for row in results if row["model_name"] == "unet_test"]
    assert float(summary["unet_test"]["test_dice_mean"]) == round(np.mean(of), 4)
    assert float(summary["unet_test"]["test_dice_std"]) == round(np.std(of, ddof=1), 4) and summary["unet_test"]["seeds"] == "2"
    cases = {row["case"]: row for row in read("case_comparison.csv")}
    assert float(cases["c3"]["unet_test"]) == pytest.approx(_dice(tmp_path, "unet_test", 3))


def test_the_cascades_figures_stand_beside_the_sliding_windows(tmp_path):
    def train(config, folder):
        finish(folder, config, 0.0)
        found = json.loads((folder / "evaluation.json").read_text())
        mine = lambda value: {key: {"mean": value} for key in ("dice", "precision", "recall", "hd95")}
        found["scores"] = {name: mine(value) for name, value in (("WT", 0.5), ("TC", 0.6), ("ET", 0.7))}
        found["cascade"] = {"mean_dice": 0.75, "scores": {"WT": {"dice": {"mean": 0.8}}}}
        found["headline"] = ["WT", "TC", "ET"]
        (folder / "evaluation.json").write_text(json.dumps(found))

    run(tmp_path, train)
    (row, *_) = csv.DictReader(open(tmp_path / "integrated_experiment_results.csv", newline=""))
    assert list(row)[len(tables.RESULTS) :][:4] == ["cascade_dice", "cascade_wt", "cascade_tc", "cascade_et"]
    assert (row["cascade_dice"], row["cascade_wt"], row["cascade_tc"], row["test_tc"]) == ("0.75", "0.8", "nan", "0.6")
    assert [float(row[f"hd95_{key}"]) for key in ("wt", "tc", "et", "mean")] == pytest.approx([0.5, 0.6, 0.7, 0.6])


def test_the_verdict_is_about_the_model_that_is_best_on_the_validation_split(tmp_path):
    said = run(tmp_path, Trainer(), measure=True)[1]
    (verdict,) = (line for line in said if "best on the validation split" in line)
    assert verdict.startswith("unet_test, the best on the validation split, has a mean Dice of 0.5")
    assert (
        "on 8 test cases; it is worse than segnext_test (by 0.1000), more than expected by chance. Costs: unet_test 1,234"
        in verdict
    )
    assert json.loads((tmp_path / "comparison.json").read_text())["sentences"][0] == verdict
    assert f'<div class="verdict"><p>{verdict}</p>' in unescape((tmp_path / "report.html").read_text())


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


def test_costs_that_cannot_be_measured_do_not_fail_the_run(tmp_path):
    def cannot(folder):
        raise ConfigError("RESOURCE_EXHAUSTED")

    tree = config(measure=True)
    said: list[str] = []
    assert compare.compare(tree, tmp_path, Trainer(), lambda c: None, cannot, lambda c, f: None, said.append) is None
    assert any("its costs could not be measured: RESOURCE_EXHAUSTED" in line for line in said)


def test_costs_are_measured_when_asked_for(tmp_path):
    run(tmp_path, Trainer())
    (row, *_) = csv.DictReader(open(tmp_path / "integrated_experiment_results.csv", newline=""))
    assert (row["pam_train"], row["inference_latency_ms"]) == ("", "")
    run(tmp_path / "measured", Trainer(), measure=True)
    (row, *_) = csv.DictReader(open(tmp_path / "measured" / "integrated_experiment_results.csv", newline=""))
    assert (row["pam_train"], row["pam_inference"], row["inference_latency_ms"]) == ("3000", "1000", "2.5")


def _dice(folder: Path, model: str, case: int) -> float:
    values = []
    for seed in (1, 2):
        rows = list(csv.DictReader(open(folder / model / f"seed_{seed}/evaluations/test@9/cases.csv", newline="")))
        values.append(int(rows[case]["tp"]) / 100)
    return float(np.mean(values))


class Checker(HTMLParser):
    """Tags that stay open, and every attribute that could fetch something."""

    def __init__(self):
        super().__init__()
        self.open, self.links = [], []

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href", "action", "data")]
        if tag not in ("meta", "line", "circle", "polyline", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("meta", "line", "circle", "polyline", "wbr"):
            assert self.open.pop() == tag


def test_the_page_is_whole_asks_for_nothing_and_shows_the_tables_figures(tmp_path):
    run(tmp_path, Trainer(fail=["unet_test/seed_2"]))
    page = (tmp_path / "report.html").read_text()
    checker = Checker()
    checker.feed(page)
    outside = [link for link in checker.links if not link.startswith("#")]
    assert checker.open == [] and outside == [] and "http" not in page.replace("http-equiv", "")
    assert "default-src 'none'" in page and "a case is damaged" in page
    shown = unescape(page)
    for row in csv.DictReader(open(tmp_path / "model_comparison.csv", newline="")):
        assert f"<td>{float(row['test_dice_mean']):.4f}</td>" in shown
    assert len(re.findall("<circle", page)) == 3 and len(re.findall("<polyline", page)) == 3


def test_csv_page_charts_and_sentences_have_the_same_figures_to_the_last_digit_shown(tmp_path):
    said = run(tmp_path, Trainer(), measure=True)[1]
    results = list(csv.DictReader(open(tmp_path / "integrated_experiment_results.csv", newline="")))
    cases = list(csv.DictReader(open(tmp_path / "case_comparison.csv", newline="")))
    page = (tmp_path / "report.html").read_text()
    dots = dict(re.findall(r"<circle[^>]*><title>([^<]*): ([0-9.]+)</title>", page))
    assert dots == {row["run"]: f"{float(row['test_dice']):.4f}" for row in results}
    tables_ = {
        name: re.findall("<td[^>]*>([^<]*)</td>", part) for name, part in re.findall('aria-label="(.*?)">(.*?)</table>', page)
    }
    for row in results:
        assert {f"{float(row[key]):.4f}" for key in ("test_dice", "val_dice", "precision")} <= set(tables_["runs"])
        assert {row["total_params"], row["flops"], row["pam_train"]} <= set(tables_["runs"])
    assert tables_["cases"] == [
        text
        for row in cases
        for text in (row["case"], row["patient"], *(f"{float(row[m]):.4f}" for m in ("unet_test", "segnext_test")))
    ]
    scatter = (tmp_path / "interactive_3d_analysis.html").read_text()
    points = json.loads(re.search('id="points">(.*?)</script>', scatter)[1])["points"]
    assert [[p["name"], *p["at"]] for p in points] == [
        [row["run"], *(float(row[key]) for key in ("total_params", "flops", "test_dice"))] for row in results
    ]
    facts = json.loads((tmp_path / "comparison.json").read_text())
    assert facts["sentences"] == [line for line in said if line in facts["sentences"]]
    (pair,) = facts["pairs"]
    mean = {m: np.mean([float(row[m]) for row in cases]) for m in ("unet_test", "segnext_test")}
    assert pair["difference"] == pytest.approx(mean[pair["first"]] - mean[pair["second"]])
    assert (
        f"by {abs(pair['difference']):.4f} mean Dice (95 % interval {-pair['high']:+.4f} to {-pair['low']:+.4f}"
        in facts["sentences"][1]
    )
    assert all(unescape(page).count(sentence) == 1 for sentence in facts["sentences"])


def test_figures_are_drawn_once_at_the_end_or_their_absence_is_said(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(paper, "write", lambda folder, results, epochs, evaluations: drawn.append((folder, len(results))))
    monkeypatch.setattr(paper, "available", lambda: True)
    said = run(tmp_path, Trainer())[1]
    assert drawn == [(tmp_path, 4)] and (tmp_path / "interactive_3d_analysis.html").is_file()
    assert not any("matplotlib" in line for line in said)
    monkeypatch.setattr(paper, "available", lambda: False)
    assert any("pip install 'matplotlib>=3.8'" in line for line in run(tmp_path, Trainer())[1])


def test_names_are_escaped_in_the_page(tmp_path):
    run(tmp_path, Trainer(), models=(), seeds=(1,), vary=(("<b>&", (("optim.lr", 0.1),)), ("b", (("optim.lr", 0.2),))))
    assert "<b>&" not in (tmp_path / "report.html").read_text()
