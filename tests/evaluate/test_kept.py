"""What an evaluation keeps for a page: a cause for every example, pictures of some, and counts by probability."""

import csv
import json
import re
import struct

import numpy as np
import pytest
from tensorboardX.proto import event_pb2, plugin_hparams_pb2

from jaxseg import checkpoint, modes, recorded
from jaxseg.data.formats.volumes import read_volume
from jaxseg.evaluate import kept
from jaxseg.infer import run as runs
from tests import untrained


@pytest.fixture(scope="module", params=[2, 3], ids=["pictures", "volumes"])
def evaluated(request, tmp_path_factory):
    top = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXSEG_CACHE", str(top / "cache"))
        root = untrained.write(top / "set", request.param)
        run = untrained.make(top / "run", untrained.config(root, request.param, eval__keep=1))
        modes.evaluate(modes.Call(None, run))
    return request.param, run, run / "evaluations" / "test@1"


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_every_example_has_a_row_and_the_kept_labels_give_its_dice_and_errors(evaluated):
    rank, _, folder = evaluated
    rows = {row["case"]: row for row in table(folder / "mistakes.csv")}
    assert len(rows) == 3
    index = json.loads((folder / "pictures" / "pictures.json").read_text())
    assert [case["chosen"] for case in index["cases"]] == ["worst", "median"]
    assert index["cases"][0]["dice"] == min(float(row["dice"]) for row in rows.values())
    for case in index["cases"]:
        arrays = np.load(folder / "pictures" / case["name"])
        truth, labels = arrays["truth"] > 0, arrays["prediction"] > 0
        assert list(truth.shape) == case["size"] == list(arrays["image"].shape) and arrays["image"].dtype == np.uint8
        assert 2 * (truth & labels).sum() / (truth.sum() + labels.sum()) == pytest.approx(case["dice"])
        assert np.count_nonzero(arrays["truth"] != arrays["prediction"]) == int(rows[case["case"]]["wrong"])
        assert arrays["image"][truth].mean() > arrays["image"][~truth].mean()  # the set's structures are brighter: not mirrored
    if rank == 3:
        assert case["spacing"] == [1.0, 1.0, 2.0] and case["letters"] == "RLAPIS"
        assert truth[3:9, 3:8, 2:6].all()  # the file's 3:9, 2:7, 2:6 of 12 x 10 x 9 voxels, which runs from back to front


def test_the_sweep_at_the_threshold_of_the_labels_is_the_pooled_dice_of_the_report(evaluated):
    _, _, folder = evaluated
    figures = json.loads((folder / "evaluation.json").read_text())
    at_half = next(row for row in table(folder / "thresholds.csv") if float(row["threshold"]) == 0.5)
    assert float(at_half["pooled_dice"]) == pytest.approx(figures["pooled_dice"], abs=1e-12)
    assert float(at_half["mean_dice"]) == pytest.approx(figures["mean_dice"], abs=1e-12)
    assert sum(int(row["voxels"]) for row in table(folder / "calibration.csv")) == sum(
        int(row[key]) for row in table(folder / "cases.csv") for key in ("tp", "fp", "fn", "tn")
    )
    assert 0 < figures["calibration"]["foreground"]["ece"] < 1


def test_the_maps_one_by_one_are_those_of_the_whole_softmax(evaluated, monkeypatch):
    """K = 4 on another grid than the network's, held at once and resampled twice."""
    rank, folder, _ = evaluated
    opened = runs.open_run(folder, recorded.tree_of(checkpoint.find_record(folder)).infer)
    image = read_volume(folder.parent / "set" / "images" / ("0.png" if rank == 2 else "0.nii.gz"))
    examples = opened.preparation.prepare([image])
    logits = np.random.default_rng(0).normal(size=(*examples.inputs.shape[:-1], 4)).astype(np.float32) * 3
    found = runs.Segmentation(np.zeros(0), logits, examples)
    whole = opened.probabilities(found)
    for most in (runs.AT_ONCE, 0):
        monkeypatch.setattr(runs, "AT_ONCE", most)
        maps = np.stack(list(opened.probability_maps(found, 0 if rank == 2 else None)), -1)
        assert np.abs(maps - (whole[0] if rank == 2 else whole)).max() < 1e-6


@pytest.mark.fault("P11")
def test_hashed_names_are_in_every_table_and_in_the_event_file_and_the_scores_in_the_hparams_tab(evaluated, tmp_path):
    rank, run, folder = evaluated
    if rank == 3:
        pytest.skip("as for pictures")
    tree = recorded.tree_of(checkpoint.find_record(run)).unlock()
    tree.report.names = "hash"
    there = set((run / "events").iterdir())
    modes.evaluate(modes.Call(tree.lock(), run, overwrite=True))
    plain = {row["case"] for row in table(folder.parent.parent / "evaluations" / "test@1" / "cases.csv")}
    assert len(plain) == 3 and all(re.fullmatch("#[0-9a-f]{10}", name) for name in plain)
    for name in ("mistakes.csv", "patients.csv", "cases.csv"):
        for row in table(folder / name):
            assert all(value.startswith("#") for key, value in row.items() if key in ("case", "patient")), name
    assert {case["case"] for case in json.loads((folder / "pictures/pictures.json").read_text())["cases"]} <= plain
    (new,) = set((run / "events").iterdir()) - there
    events = [event_pb2.Event.FromString(record) for record in records(new.read_bytes())]
    values = {value.tag: value for event in events for value in event.summary.value}
    pictures = [tag for tag in values if tag.startswith("test_worst/01_")]
    assert len(pictures) == 1 and "Dice" in pictures[0], sorted(values)
    hparams = {
        tag: plugin_hparams_pb2.HParamsPluginData.FromString(values[f"_hparams_/{tag}"].metadata.plugin_data.content)
        for tag in ("experiment", "session_start_info", "session_end_info")
    }
    started = hparams["session_start_info"].session_start_info.hparams
    assert started["model.name"].string_value == tree.model.name and started["optim.lr"].number_value == tree.optim.lr
    dice = json.loads((folder / "evaluation.json").read_text())["mean_dice"]
    assert values["test/mean_dice"].simple_value == pytest.approx(dice, abs=1e-6)
    assert "test/mean_dice" in [metric.name.tag for metric in hparams["experiment"].experiment.metric_infos]


def records(data: bytes):
    """The contents of the records of a TFRecord file."""
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield data[12 : 12 + length]
        data = data[16 + length :]


def facts(*dice):
    return [{"case": f"c{i}", "dice": d, "wrong": 10 - i} for i, d in enumerate(dice)]


def test_the_worst_and_the_median_are_chosen_once_each_and_empty_examples_last():
    found = kept.choose(facts(0.9, 0.1, 0.5, float("nan"), 0.7, 0.6, 0.1), 2)
    assert [(f["case"], f["chosen"]) for f in found.values()] == [
        ("c1", "worst"),
        ("c6", "worst"),
        ("c2", "median"),
        ("c5", "median"),
    ]
    assert len(kept.choose(facts(0.9, 0.1), 10)) == 2 and not kept.choose(facts(0.9), 0)


def test_large_pictures_are_thinned_along_their_finest_axis():
    arrays = {key: np.zeros((300, 300, 200), np.uint8) for key in ("image", "truth", "prediction")}
    picture = kept._thinned(arrays, [0.5, 1.0, 3.0], "RLAPIS")
    assert picture.facts["step"] == [2, 1, 1] and picture.facts["spacing"] == [1.0, 1.0, 3.0]
    assert picture.arrays["truth"].shape == (150, 300, 200)
