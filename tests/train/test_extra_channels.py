"""Laws of a channel that another run makes: from the image alone, in every split and in prediction, by that run's weights."""

import shutil

import nibabel
import numpy as np
import pytest

from configs.brats2d import get_config
from jaxseg import checkpoint
from jaxseg.config import resolve
from jaxseg.data import layout
from jaxseg.data.formats import volumes
from jaxseg.infer import channel_run
from jaxseg.infer.channel_run import FOLDER
from jaxseg.infer.examples import Preparation
from jaxseg.infer.run import open_run
from jaxseg.models import functional
from jaxseg.train import cascades, setup
from jaxseg.train.log import Log
from jaxseg.types import CheckpointError, ConfigError, DataError, MismatchError
from jaxseg.weights import initial
from tests.records import edit

COUNTS = {"train": 4, "val": 3, "test": 3}
SIDE = 16


def write(root, garbage: bool = False):
    """Six arrays of noise with a square of tumour; with `garbage`, masks of val and test that say nothing."""
    root.mkdir(parents=True, exist_ok=True)
    random, nonsense = np.random.default_rng(0), np.random.default_rng(1)
    for split, n in COUNTS.items():
        labels = np.zeros((n, SIDE, SIDE), np.uint8)
        labels[:, 4:10, 5:9] = 2
        labels[:, 5:7, 6:8] = 3
        images = random.normal(0, 1, (n, SIDE, SIDE, 4)).astype(np.float32) + (labels > 0)[..., None]
        if garbage and split != "train":
            labels = nonsense.integers(0, 4, labels.shape).astype(np.uint8)
        np.save(root / f"{split}_images.npy", images)
        np.save(root / f"{split}_labels.npy", labels)


def config(root, arguments: str, **given):
    tree = get_config(arguments)
    tree.data.root, tree.data.size, tree.model.name, tree.train.batch_size = str(root), (SIDE, SIDE), "unet2d_test", 2
    tree.mesh.data = 1
    tree.update_from_flattened_dict(given)
    return resolve(tree, name="brats2d")


def untrained(config, folder, log):
    """A run folder with initial weights, as training leaves it."""
    folder.mkdir()
    data = setup.load_data(config, log, folder)
    job = setup.build(config, folder, data, log)
    checkpoint.write_record(folder, setup.record_of(config, data, 1))
    cascades.keep_runs(config, folder)
    job.checkpoints.save(1, job.state, {"evaluated": "params"})
    job.checkpoints.wait()
    return data


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(root of the arrays, folder of runs: "edges", "both" (k-means and that edge), and the data of "both")."""
    top = tmp_path_factory.mktemp("extra")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXSEG_CACHE", str(top / "cache"))
        write(top / "arrays")
        log = Log(top, quiet=True)
        untrained(config(top / "arrays", "edges"), top / "edges", log)
        both = config(
            top / "arrays", "edge", **{"data.extra": ("kmeans", "edge"), "data.channels": 6, "data.extra_run": str(top / "edges")}
        )
        data = untrained(both, top / "both", log)
        yield top, both, data, log
        log.close()


def test_no_channel_comes_from_a_mask_of_any_split(runs, monkeypatch):
    top, both, data, log = runs
    monkeypatch.setenv("JAXSEG_CACHE", str(top / "cache"))
    write(top / "garbage", garbage=True)
    tree = both.copy_and_resolve_references()
    tree.data.root = str(top / "garbage")
    other = setup.load_data(tree, log, top / "both")
    assert [row["case"] for row in other.store.rows] == [row["case"] for row in data.store.rows]
    np.testing.assert_array_equal(other.store.images, data.store.images)
    held_out = np.concatenate([data.rows["val"], data.rows["test"]])
    assert (other.store.masks[held_out] != data.store.masks[held_out]).mean() > 0.5  # the masks did change
    made = data.store.images[..., 4:]
    assert np.isin(made[..., 0], (0, 1)).all() and made[..., 0].any() and made[..., 1].std() > 0


def test_prediction_makes_the_channels_of_training_from_the_run_folder_alone(runs, tmp_path):
    top, both, data, _ = runs
    shutil.copytree(top / "both", tmp_path / "moved")  # the run of edges is not beside it
    opened = open_run(tmp_path / "moved", both.infer)
    assert opened.recipe.extra == ("kmeans", "edge") and opened.record["made_by"] == data.made_by
    row = next(i for i, r in enumerate(data.store.rows) if r["case"] == "test_00001")
    arrays = setup.load_dataset(both, runs[3])
    images = [arrays.read_image(path) for case in arrays.cases if case.id == "test_00001" for path in case.images]
    generate = channel_run.of(tmp_path / "moved", opened.record, opened.recipe)
    inputs = Preparation(layout.Slices(opened.recipe, normalised=True), generate).prepare(images).inputs
    np.testing.assert_array_equal(inputs[0][..., :5], data.store.images[row][..., :5])
    np.testing.assert_allclose(inputs[0], data.store.images[row], atol=1e-6)


def test_a_copy_with_other_weights_than_training_saw_is_refused(runs, tmp_path):
    shutil.copytree(runs[0] / "both", tmp_path / "moved")
    edit(tmp_path / "moved", lambda record: record.update(made_by="0" * 32))
    with pytest.raises(MismatchError, match="restore the copy"):
        open_run(tmp_path / "moved", runs[1].infer)
    shutil.rmtree(tmp_path / "moved" / FOLDER)
    with pytest.raises(CheckpointError, match="data.target='edges'"):
        open_run(tmp_path / "moved", runs[1].infer)


@pytest.mark.parametrize(
    "given, words",
    [
        ({"data.extra": ("autoencoder",)}, "was trained to predict 'edges'.*data.target='composite'"),
        ({"data.blur": 1.0}, "blur 0.0 there, 1.0 here"),
        ({"data.modalities": ("t1ce", "t2", "flair"), "data.channels": 4}, "modalities.*channels 4 there, 3 here"),
    ],
)
def test_a_run_that_learnt_or_sees_something_else_is_refused(runs, monkeypatch, given, words):
    top, _, _, log = runs
    monkeypatch.setenv("JAXSEG_CACHE", str(top / "cache"))
    wrong = config(top / "arrays", "edge", **{"data.extra_run": str(top / "edges"), **given})
    with pytest.raises(MismatchError, match=words):
        setup.load_data(wrong, log, top / "elsewhere")


def test_a_run_that_learnt_from_patients_of_the_test_split_is_refused(runs, monkeypatch, tmp_path):
    top, both, _, log = runs
    monkeypatch.setenv("JAXSEG_CACHE", str(top / "cache"))
    shutil.copytree(top / "edges", tmp_path / "edges")
    edit(tmp_path / "edges", lambda record: record["splits"]["train"].append("test_00002"))
    tree = both.copy_and_resolve_references()
    tree.data.extra_run = str(tmp_path / "edges")
    with pytest.raises(DataError, match="config.data.extra_run.*1 of the 3 patients of the test split"):
        setup.load_data(tree, log, top / "elsewhere")


def test_a_second_stage_starts_from_the_first_ones_weights_but_for_its_classifier(runs):
    top, _, _, log = runs
    tree = config(top / "arrays", "unet2d")
    model = setup.build_model(tree, 4)
    before = functional.split(model)[1]
    before = {name: np.array(value) for name, value in before.items()}
    initial.initialise(model, str(top / "edges"), log.say)
    after, given = functional.split(model)[1], checkpoint.load_weights(top / "edges")[0]
    kept = {name for name in after if np.shape(given[name]) != np.shape(after[name])}
    assert kept and all(name.startswith("head.") for name in kept)
    for name, value in after.items():
        np.testing.assert_array_equal(value, before[name] if name in kept else given[name])


def test_weights_that_are_not_there_are_named(runs):
    model = setup.build_model(config(runs[0] / "arrays", "unet2d"), 4)
    with pytest.raises(ConfigError, match="config.model.init=runs/nowhere.*train that run"):
        initial.initialise(model, "runs/nowhere", runs[3].say)


def test_a_case_of_several_files_is_normalised_and_stacked_as_one_file_of_several_channels(runs, tmp_path):
    opened, random = open_run(runs[0] / "edges", runs[1].infer), np.random.default_rng(3)
    array = random.uniform(1, 500, (20, 18, 3, 4)).astype(np.float32)

    def read(name, values):
        nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1.0, 1.0, 1.0])), tmp_path / f"{name}.nii")
        return volumes.read_volume(tmp_path / f"{name}.nii")

    single = [read(str(k), array[..., k]) for k in range(4)]
    stacked, whole = (opened.segment(images) for images in (single, [read("whole", array)]))
    np.testing.assert_array_equal(stacked.logits, whole.logits)
    scan, maps = stacked.examples.scan, opened.probabilities(stacked)
    assert maps.shape == (3, 18, 20, 1) and scan.shape == (3, 18, 20, 4) and abs(scan[..., 0].mean()) < 0.1  # z-scores
