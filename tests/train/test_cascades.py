"""Laws of a cascade's second stage in training: it learns beside the first stage's segmentations, made as at prediction, once."""

import json
import shutil
import zipfile

import numpy as np
import pytest

from jaxseg import checkpoint, recorded
from jaxseg.data.formats import volumes
from jaxseg.exporting import export
from jaxseg.exporting.runner import model as runner
from jaxseg.infer import run as runs
from jaxseg.infer.run import open_run
from jaxseg.train import cascades, setup
from jaxseg.train.log import Log
from jaxseg.types import CheckpointError, ConfigError, DataError, MismatchError
from tests import untrained
from tests.records import edit

STAGE = {"train__augment": (("mirror", 0.5, {}), ("stage_morphology", 0.4, {}), ("stage_drop", 0.2, {}))}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder of the images "set", a first stage "first", trained on other data, and a second stage "second" with its copy."""
    top = tmp_path_factory.mktemp("cascade")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXSEG_CACHE", str(top / "cache"))
        root = untrained.write(top / "set", 3, count=6)
        untrained.make(top / "first", untrained.config(root, 3))
        edit(top / "first", lambda r: r.update(dataset="elsewhere"))
        tree = untrained.config(root, 3, data__previous=(str(top / "first"),), **STAGE)
        untrained.make(top / "second", tree)
        cascades.keep_runs(tree, top / "second")
        yield top


@pytest.fixture
def load(place, monkeypatch, tmp_path):
    """(a function from changed keys to the second stage's data, the lines that it logged, cases that were segmented)."""
    said, made = [], []
    monkeypatch.setenv("JAXSEG_CACHE", str(place / "cache"))
    segment = runs.Run.classes
    monkeypatch.setattr(runs.Run, "classes", lambda run, images: made.append(len(run.weights)) or segment(run, images))

    class Lines(Log):
        def say(self, text):
            said.append(text)

    def loaded(split="", **changes):
        tree = untrained.config(place / "set", 3, **{"data__previous": (str(place / "first"),), **STAGE, **changes})
        tree = tree.copy_and_resolve_references().unlock()
        tree.data.split, tree.data.split_file = ("file", split) if split else (tree.data.split, "")
        return setup.load_data(tree, Lines(tmp_path, quiet=True), tmp_path)

    return loaded, said, made


def test_training_sees_what_prediction_sees_and_segments_no_case_again(place, load):
    loaded, said, made = load
    data = loaded()
    assert not made and data.store.recipe.stage == 1  # the fixture did
    opened = open_run(place / "second", checkpoint.read_record(place / "second")["config"]["infer"])
    for i in (0, 3):
        image = volumes.read_volume(place / "set" / "images" / f"{data.store.rows[i]['case']}.nii.gz")
        (inputs,) = opened.preparation.prepare([image]).inputs
        np.testing.assert_array_equal(data.store.image(i), inputs)
        assert inputs.shape[-1] == 2 and 0 < inputs[..., 1].mean() < 1 and set(np.unique(inputs[..., 1])) == {0.0, 1.0}
        box = tuple(slice(1, 5) for _ in range(3))
        np.testing.assert_array_equal(data.store.read(i, box)[0], inputs[box])
    assert data.store.rows.columns["bytes"][0, 0] == data.store.image(0).nbytes  # the one class as numbers
    assert any("unknown which patients" in line for line in said)


def test_the_run_folder_alone_predicts_and_is_the_config_of_further_training(place, tmp_path):
    shutil.copytree(place / "second", tmp_path / "moved")
    record = checkpoint.read_record(tmp_path / "moved")
    (copy,) = checkpoint.stages_of(tmp_path / "moved", record)
    assert (
        copy == tmp_path / "moved" / "previous" / "0" and record["recipe"]["stage"] == 1 and record["model"]["in_channels"] == 2
    )
    tree = recorded.get_config(str(tmp_path / "moved"))
    assert tree.data.previous == (str(copy),)
    assert recorded.settled(tree, record, tmp_path / "moved").data.previous == (str(copy),)
    edit(copy, lambda r: r["model"].update(parameters=2))
    with pytest.raises(MismatchError, match="previous stage has the digest"):
        open_run(tmp_path / "moved", record["config"]["infer"])


@pytest.mark.slow
def test_a_case_is_segmented_by_the_runs_that_were_not_trained_on_it(place, load, tmp_path):
    loaded, said, made = load
    for name, seen in (("one", ["0", "1", "2"]), ("other", ["2", "3"])):
        shutil.copytree(place / "first", tmp_path / name)
        edit(tmp_path / name, lambda r, s=seen: r.update(dataset="folder", splits={"train": s, "val": [], "test": []}))
    names = {"train": ["0", "2", "5"], "val": ["1", "3", "4"], "test": []}
    (tmp_path / "splits.json").write_text(json.dumps(names))
    both = (str(tmp_path / "one"), str(tmp_path / "other"))
    given = {"data__previous": both, "split": str(tmp_path / "splits.json")}
    loaded(**given)
    assert made == [1, 1, 2, 1, 2, 2]  # 2 was seen by both
    assert any("all its runs were trained on 1 of the 6 patients here (2)" in line for line in said)
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["0", "1", "5"], "val": ["2"], "test": ["3", "4"]}))
    with pytest.raises(DataError, match="data.previous: .*other was trained .*on 1 of the 2 patients of the test split"):
        loaded(**given)
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["0", "1", "3", "5"], "val": ["2"], "test": ["4"]}))
    with pytest.raises(DataError, match="data.previous: .*one was trained or selected on 1 of the 1 patients of the val split"):
        loaded(**given)


def test_segmentations_that_are_given_take_the_place_of_the_runs(place, load, tmp_path):
    loaded, said, made = load
    (tmp_path / "fold_0" / "validation").mkdir(parents=True)
    for i in range(6):
        shutil.copy(place / "set" / "masks" / f"{i}.nii.gz", tmp_path / "fold_0" / "validation")
    data = loaded(data__previous_labels=str(tmp_path))
    assert not made and data.made_by == "" and any("of 6 cases" in line for line in said)
    np.testing.assert_array_equal(data.store.image(2)[..., 1], data.store.mask(2))
    (tmp_path / "fold_0" / "validation" / "4.nii.gz").unlink()
    with pytest.raises(DataError, match="case 4 has no segmentation of the previous stage"):
        loaded(data__previous_labels=str(tmp_path))
    (tmp_path / "4.npy").write_bytes(b"")
    with pytest.raises(DataError, match="case 4: .*4.npy cannot be read"):
        loaded(data__previous_labels=str(tmp_path))
    with pytest.raises(ConfigError, match="previous_labels=.*has a file named after a case"):
        loaded(data__previous_labels=str(place))


def test_what_is_no_first_stage_is_refused_in_one_line(place, load, tmp_path):
    loaded, *_ = load
    with pytest.raises(CheckpointError, match="config.data.previous: nowhere is not a run folder"):
        loaded(data__previous=("nowhere",))
    shutil.copytree(place / "first", tmp_path / "named")
    edit(tmp_path / "named", lambda r: (r.update(labels=["liver"]), r["recipe"].update(labels=["liver"]))[2:])
    with pytest.raises(MismatchError, match="segments liver, but the data set has foreground"):
        loaded(data__previous=(str(tmp_path / "named"),))
    with pytest.raises(ConfigError, match="data.coordinates.*first stage"):
        loaded(data__coordinates=True)


@pytest.mark.slow
def test_both_stages_leave_as_one_file_and_never_as_onnx(place, tmp_path):
    pytest.importorskip("flatbuffers", reason="jax.export writes with it: the extra [export]")
    settings = checkpoint.read_record(place / "second")["config"]["infer"]
    export.export(place / "second", tmp_path / "m.jaxseg", settings=settings, say=lambda line: None)
    model, opened = runner.Model(tmp_path / "m.jaxseg"), open_run(place / "second", settings)
    assert (
        "First network: tiny_volumes:Tiny, applied in windows"
        in zipfile.ZipFile(tmp_path / "m.jaxseg").read("MODEL_CARD.md").decode()
    )
    image = place / "set" / "images" / "3.nii.gz"
    mine, theirs = model.segment(str(image)), opened.segment([volumes.read_volume(image)])
    restored = theirs.examples.orientation.restore
    np.testing.assert_array_equal(mine.labels, restored(theirs.labels))
    np.testing.assert_allclose(mine.probabilities, restored(opened.probabilities(theirs)), atol=1e-5)
    assert 0.2 < mine.labels.mean() < 0.8
    with pytest.raises(MismatchError, match="data.previous=.*first: an ONNX file holds one network"):
        export.export(place / "second", tmp_path / "m.onnx", settings=settings)
