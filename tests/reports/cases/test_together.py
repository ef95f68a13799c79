"""Two runs on the same cases: before and after, and side by side in a viewer that changes the prediction in place."""

import re

import numpy as np
import pytest

from jaxseg.experiments import statistics
from jaxseg.reports import run
from jaxseg.reports.cases import together
from jaxseg.types import MismatchError
from tests.reports import browser, material


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    top = tmp_path_factory.mktemp("two")
    return [material.run(top / name, shape=(20, 22, 9), turn=turn) for name, turn in (("old", 0), ("new", 1))]


def written(runs, tmp_path, **keys):
    run.write(runs[1], tmp_path / "page.html", before=str(runs[0]), test=statistics.of_two, **keys)
    return (tmp_path / "page.html").read_text()


def test_every_case_stands_with_both_scores_and_m_changes_the_prediction(runs, tmp_path):
    steps = """
      while (document.body.dataset.shows !== "0") await pause(20);
      await pause(200);
      const picture = () => document.querySelector("#planes canvas").toDataURL();
      const chosen = () => document.getElementById("model").value;
      const table = document.querySelector("table[aria-label='before and after']");
      const rows = [...table.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.textContent));
      const first = [chosen(), picture()], n = document.getElementById("planes").dataset.drawn;
      document.querySelector("#planes canvas").dispatchEvent(new KeyboardEvent("keydown", { key: "m", bubbles: true }));
      while (document.getElementById("planes").dataset.drawn === n) await pause(20);
      const second = [chosen(), picture()];
      return { rows, names: [first[0], second[0]], changed: first[1] !== second[1] };
    """
    found = browser.driven(written(runs, tmp_path), tmp_path, steps, width=browser.NARROWEST)
    assert found["names"] == ["old", "new"] and found["changed"]
    old, new = (run.read_run(folder, "", "plain") for folder in runs)
    of = lambda read, case: [row["dice"] for row in read.cases if row["case"] == case and row["class"] in ("WT", "TC", "ET")]
    assert len(found["rows"]) == 6
    for case, *cells in found["rows"]:
        assert [float(cell) for cell in cells[:2]] == pytest.approx([np.mean(of(old, case)), np.mean(of(new, case))], abs=5e-5)
    assert [float(row[3]) for row in found["rows"]] == sorted(float(row[3]) for row in found["rows"])


def test_what_both_kept_is_shown_with_what_each_did(runs, tmp_path):
    folders = {"a": runs[0] / "evaluations/test@9", "b": runs[1] / "evaluations/test@9"}
    cases, classes = together.shared(folders, str)
    assert len(cases) == 6 and classes == material.RULES.classes
    for case in cases:
        assert set(case.predictions) == {"a", "b"} and case.words.startswith("a: Dice") and "; b: Dice" in case.words
        assert not np.array_equal(case.predictions["a"], case.predictions["b"])
    hashed = together.side_by_side(folders, lambda name: "hash", megabytes=25.0)
    assert "case_b" not in hashed and len(re.findall("<figcaption>", hashed)) == 12


def test_runs_of_other_cases_are_refused(runs, tmp_path):
    other = material.run(tmp_path / "other", (20, 22), (1.0, 1.0), count=2)
    with pytest.raises(MismatchError, match="no case in common"):
        written([other, runs[1]], tmp_path)
