"""The tables and the page of a comparison: the project's columns, and the same figures everywhere."""

import csv
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from jaxseg.experiments import compare, tables
from jaxseg.reports import paper
from jaxseg.types import ConfigError, DataError
from tests.experiments.compared import Trainer, config, cost, finish, run


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """They take seconds, and have a test of their own."""
    monkeypatch.setattr(paper, "available", lambda: False)


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
