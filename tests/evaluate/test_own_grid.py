"""Scores are those of the files that predict writes, on the cases' own grid, with everything else from the run's record."""

import csv
import json
import shutil

import nibabel
import numpy as np
import pytest
from PIL import Image

from jaxseg import checkpoint, modes, recorded
from jaxseg.metrics import counts
from jaxseg.types import ConfigError, MismatchError
from tests import untrained


@pytest.fixture(scope="module", params=[2, 3], ids=["pictures", "volumes"])
def run(request, tmp_path_factory):
    top = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXSEG_CACHE", str(top / "cache"))
        root = untrained.write(top / "set", request.param)
        yield untrained.make(top / "run", untrained.config(root, request.param)), root


def changed(run, **keys):
    """The run's own configuration with other keys of eval and infer, as on the command line."""
    tree = recorded.tree_of(checkpoint.find_record(run)).unlock()
    tree.update_from_flattened_dict({key.replace("__", "."): value for key, value in keys.items()})
    return tree.lock()


def strict(path):
    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def read(path):
    return np.asarray(Image.open(path)) if path.suffix == ".png" else np.asarray(nibabel.load(path).dataobj)


@pytest.mark.parametrize(
    "name, keys",
    [
        ("plain", {}),
        ("other", {"infer__mirror": (0, 1), "eval__threshold": 0.45}),
        ("steps", {"eval__postprocess": True, "infer__postprocess": True}),
    ],
)
def test_the_labels_that_predict_writes_give_the_dice_that_evaluate_writes(run, tmp_path, name, keys):
    folder, root = run
    evaluated_as_predicted(folder, root, tmp_path, name, keys)
    if name == "steps" and any((root / "images").glob("*.png")):  # the noise of the pictures loses its specks
        assert strict(folder / "evaluations" / "steps@1" / "evaluation.json")["postprocessing"]


def test_pictures_of_16_bits_are_predicted_through_the_window_that_they_were_learnt_in(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path / "cache"))
    root = untrained.write(tmp_path / "set", 2)
    for path in (root / "images").iterdir():
        Image.fromarray(read(path).astype(np.uint16) * 200).save(path)
    folder = untrained.make(tmp_path / "run", untrained.config(root, 2, data__window=(4400.0, 8800.0)))
    evaluated_as_predicted(folder, root, tmp_path, "deep", {})


def evaluated_as_predicted(folder, root, tmp_path, name, keys):
    """Each case's row of an evaluation is that of the file that predict writes."""
    config = changed(folder, **keys)
    assert modes.evaluate(modes.Call(config, folder, name=name)) is None
    assert not modes.predict(modes.Call(config, folder, input=str(root / "images"), output=str(tmp_path / "out")))
    rows = list(csv.DictReader((folder / "evaluations" / f"{name}@1" / "cases.csv").open()))
    parts = json.loads((folder / "run.json").read_text())["splits"]
    assert sorted(row["patient"] for row in rows) == parts["test"] and len(rows) > 1
    for row in rows:
        predicted = read(next((tmp_path / "out").glob(f"{row['case']}.*")))
        truth = read(next((root / "masks").glob(f"{row['case']}.*"))) > 0
        found = counts.count(predicted[None], truth[None], 1)
        assert predicted.shape == truth.shape and 0 < predicted.mean() < 1
        assert float(row["dice"]) == pytest.approx(float(counts.dice(found)[0, 0]), abs=1e-12)
        assert [int(row[key]) for key in ("tp", "fp", "fn", "tn")] == [int(c[0, 0]) for c in found]


def test_the_grid_stands_beside_every_figure(run, capsys):
    folder, root = run
    modes.evaluate(modes.Call(None, folder))
    pictures = any((root / "images").glob("*.png"))
    own, prepared = ("30 x 44", "16 x 16") if pictures else ("12 x 10 x 9", "8 x 7 x 12")
    text, figures = capsys.readouterr().out, strict(folder / "evaluation.json")
    assert figures["grid"] == f"the cases' own grid: {own}" and figures["prepared"]["grid"].endswith(prepared)
    lines = [line for line in text.splitlines() if "Dice 0" in line or "Dice of" in line]
    assert all("grid" in line or "baseline" in line or "threshold" in line for line in lines) and len(lines) >= 4
    assert figures["weights"]["step"] == "1" and figures["split"] == "test" and figures["options"]["eval.threshold"] == 0.5


def test_the_run_folder_alone_is_enough_and_nothing_else_may_contradict_it(run, tmp_path, monkeypatch):
    folder, root = run
    other = changed(folder).unlock()
    other.data.window, other.data.root = (40.0, 400.0), ""
    with pytest.raises(MismatchError, match=r"config.data.root='', recorded .*config.data.window=\[40.0, 400.0\], recorded \[22"):
        modes.evaluate(modes.Call(other.lock(), folder))
    with pytest.raises(MismatchError, match="leave these keys, or --config, out"):
        modes.predict(modes.Call(other, folder, input=str(root / "images"), output=str(tmp_path)))
    with pytest.raises(ConfigError, match="--checkpoint.*model.init"):
        modes.train(modes.Call(other, tmp_path / "new", checkpoint=str(folder)))


def test_data_that_lie_elsewhere_now_are_scored_where_they_are_the_same(run, tmp_path):
    folder, root = run
    shutil.copytree(root, tmp_path / "moved")
    assert modes.evaluate(modes.Call(changed(folder, data__root=str(tmp_path / "moved")), folder, name="moved")) is None
    found = strict(folder / "evaluations" / "moved@1" / "evaluation.json")
    assert found["data"]["root"] == str(tmp_path / "moved")
    with pytest.raises(MismatchError, match="config.data.root"):  # which prediction never reads
        moved = changed(folder, data__root=str(tmp_path / "moved"))
        modes.predict(modes.Call(moved, folder, input=str(root / "images"), output=str(tmp_path / "out")))
    for part in ("images", "masks"):
        sorted((tmp_path / "moved" / part).iterdir())[0].unlink()
    with pytest.raises(MismatchError, match="differ from the data that the run was trained on; give the original folder"):
        modes.evaluate(modes.Call(changed(folder, data__root=str(tmp_path / "moved")), folder, name="other_data"))


def test_an_evaluation_is_replaced_by_its_equal_alone(run):
    folder, _ = run
    modes.evaluate(modes.Call(None, folder))
    before = (folder / "evaluation.json").read_bytes()
    with pytest.raises(MismatchError, match="eval.threshold.*--name.*--overwrite"):
        modes.evaluate(modes.Call(changed(folder, eval__threshold=0.9), folder))
    modes.evaluate(modes.Call(changed(folder, eval__threshold=0.9, eval__split="val"), folder))
    assert strict(folder / "evaluations" / "val@1" / "evaluation.json")["options"]["eval.threshold"] == 0.9
    assert (folder / "evaluation.json").read_bytes() == before
    modes.evaluate(modes.Call(changed(folder, eval__threshold=0.9), folder, overwrite=True))
    assert strict(folder / "evaluation.json")["options"]["eval.threshold"] == 0.9
    modes.evaluate(modes.Call(None, folder, overwrite=True))


def test_another_labelled_set_is_scored_under_its_own_name(run, tmp_path, capsys):
    folder, root = run
    rank = json.loads((folder / "run.json").read_text())["model"]["rank"]
    untrained.write(tmp_path / "clinic", rank, count=3)
    if rank == 2:
        blank = min((tmp_path / "clinic" / "images").iterdir())
        Image.fromarray(np.full_like(read(blank), 255)).save(blank)
    before = (folder / "evaluation.json").read_bytes() if (folder / "evaluation.json").exists() else None
    modes.evaluate(modes.Call(None, folder, input=str(tmp_path / "clinic")))
    said = capsys.readouterr().out
    assert "3 patients have names of the run's patients" in said
    assert rank == 3 or f"WARNING 1 of 3 cases ({blank.stem}): the image is 255 everywhere, so its labels mean nothing" in said
    figures = strict(folder / "evaluations" / "clinic@1" / "evaluation.json")
    assert figures["split"] is None and figures["examples"] == 3 and figures["data"]["root"] == str(tmp_path / "clinic")
    assert before is None or (folder / "evaluation.json").read_bytes() == before
