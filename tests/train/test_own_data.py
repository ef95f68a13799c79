"""Data of one's own, from the files to scores and predictions, with no key that says what is in them."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tiny_volumes as tiny
from PIL import Image

from jaxseg import checkpoint, described, modes, recorded
from jaxseg.data.geometry import Photo
from jaxseg.data.records import Volume
from jaxseg.train import patients
from jaxseg.types import ConfigError, DataError

AFFINE = np.diag([-0.9, -1.1, 2.6, 1.0])  # anisotropic


def write(root, count=6, test=2, labelled=True):
    """nnU-Net's raw data: two channels of an MRI, a ball and its core."""
    for part in ("Tr", "Ts"):
        (root / f"images{part}").mkdir(parents=True)
        (root / f"labels{part}").mkdir()
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in (20, 18, 8)), indexing="ij"), -1)
    for i in range(count + test):
        rng, part = np.random.default_rng(i), "Tr" if i < count else "Ts"
        distance = np.linalg.norm((grid - rng.integers((8, 7, 3), (12, 11, 5))) * (1, 1, 2.4), axis=-1)
        mask = np.uint8(distance < 5) + np.uint8(distance < 3) * np.uint8(2)  # 0, 1, 3
        for c in range(2):
            image = (mask * 40.0 * (c + 1) + rng.normal(0, 20, mask.shape)).astype(np.float32)
            nibabel.save(nibabel.Nifti1Image(image, AFFINE), root / f"images{part}" / f"case_{i:03d}_{c:04d}.nii.gz")
        if part == "Tr" or labelled:
            nibabel.save(nibabel.Nifti1Image(mask, AFFINE), root / f"labels{part}" / f"case_{i:03d}.nii.gz")
    about = {"channel_names": {"0": "T1", "1": "FLAIR"}, "labels": {"background": 0, "rim": 1, "core": 3}}
    (root / "dataset.json").write_text(json.dumps(about | {"numTraining": count, "file_ending": ".nii.gz"}))
    return root


def config(root, arguments="volumes,quick", **changes):
    small = {"data__size": (16, 16, 8), "data__per_volume": 1, "train__epochs": 1, "train__batch_size": 2, "infer__overlap": 0.0}
    small |= {"train__augment": (), "data__fractions": (0.6, 0.4, 0.0)}
    return tiny.config("folder", arguments, data__root=str(root), data__phantom=None, **{**small, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory, unoptimised):
    folder = tmp_path_factory.mktemp("own")
    write(folder / "Dataset001_Balls")
    assert not modes.train(modes.Call(config(folder / "Dataset001_Balls"), folder / "run"))
    tiny.release(folder / "run")
    return folder / "run"


def test_the_record_holds_what_the_data_said(run):
    record = checkpoint.find_record(run)
    d = record["config"]["data"]
    assert (d["dataset"], d["channels"], d["intensity"], d["window"]) == ("nnunet_raw", 2, "zscore", [])
    assert record["labels"] == d["structures"] == ["rim", "core"] and record["values"] == [1, 3]
    assert record["recipe"]["modalities"] == ["T1", "FLAIR"] and record["model"]["num_classes"] == 3
    assert record["splits"]["test"] == ["case_006", "case_007"]  # imagesTs, which has labels
    scores = json.loads((run / "evaluation.json").read_text())
    assert scores["split"] == "test" and scores["data"]["dataset"] == "nnunet_raw"


@pytest.mark.fault("P11")
def test_event_files_name_the_data_and_hold_no_absolute_path(run):
    content = b"".join(path.read_bytes() for path in (run / "events").iterdir())
    assert b"Dataset001_Balls" in content and str(run.parent).encode() not in content


def test_a_folder_of_channels_is_predicted_in_its_own_geometry_and_values(run):
    images, output = run.parent / "Dataset001_Balls" / "imagesTs", run.parent / "out"
    assert not modes.predict(modes.Call(None, run, input=str(images), output=str(output)))
    assert sorted(p.name for p in output.glob("*.nii.gz")) == ["case_006.nii.gz", "case_007.nii.gz"]
    found = nibabel.load(output / "case_006.nii.gz")
    np.testing.assert_array_equal(found.affine, nibabel.load(images / "case_006_0000.nii.gz").affine)
    assert found.shape == (20, 18, 8) and set(np.unique(found.dataobj)) <= {0, 1, 3}
    one = run.parent / "one"  # a file stands for its case
    assert not modes.predict(modes.Call(None, run, input=str(images / "case_007_0001.nii.gz"), output=str(one)))
    assert [p.name for p in one.glob("*.nii.gz")] == ["case_007.nii.gz"]
    (images.parent / "broken").mkdir()
    (images.parent / "broken" / "x_0000.nii.gz").write_bytes((images / "case_006_0000.nii.gz").read_bytes())
    with pytest.raises(DataError, match="x: no file of channel 0001 .FLAIR."):
        modes.predict(modes.Call(None, run, input=str(images.parent / "broken"), output=str(run.parent / "none")))


def test_another_labelled_set_is_scored_whatever_its_layout(run, tmp_path):
    write(tmp_path / "other", count=2, test=0)
    modes.evaluate(modes.Call(None, run, input=str(tmp_path / "other"), name="other"))
    raw = json.loads(next((run / "evaluations").glob("other@*/evaluation.json")).read_text())
    task = tmp_path / "Task09"
    listed = []
    for part in ("imagesTr", "labelsTr"):
        (task / part).mkdir(parents=True)
    for i in range(2):  # the same cases as a task of the Decathlon, channels in one file
        name = f"case_{i:03d}.nii.gz"
        files = [tmp_path / "other" / "imagesTr" / f"case_{i:03d}_{c:04d}.nii.gz" for c in range(2)]
        both = np.stack([np.asarray(nibabel.load(f).dataobj) for f in files], -1)
        nibabel.save(nibabel.Nifti1Image(both, AFFINE), task / "imagesTr" / name)
        (task / "labelsTr" / name).write_bytes((tmp_path / "other" / "labelsTr" / name).read_bytes())
        listed.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    about = {"modality": {"0": "T1", "1": "FLAIR"}, "labels": {"0": "background", "1": "rim", "3": "core"}, "training": listed}
    (task / "dataset.json").write_text(json.dumps(about))
    modes.evaluate(modes.Call(None, run, input=str(task), name="task"))
    decathlon = json.loads(next((run / "evaluations").glob("task@*/evaluation.json")).read_text())
    assert decathlon["data"]["dataset"] == "decathlon" and decathlon["mean_dice"] == raw["mean_dice"]
    assert len((next((run / "evaluations").glob("task@*")) / "cases.csv").read_text().splitlines()) == 1 + 2 * 2


def test_training_without_validation_and_test_when_asked(tmp_path, unoptimised):
    root = write(tmp_path / "set", count=2, test=0)
    with pytest.raises(ConfigError, match="data.fractions=.*set config.train.best=last"):
        config(root, data__fractions=(1.0, 0.0, 0.0))
    tree = config(root, data__fractions=(1.0, 0.0, 0.0), train__best="last")
    assert modes.train(modes.Call(tree, tmp_path / "run")) is None
    tiny.release(tmp_path / "run")
    record = checkpoint.find_record(tmp_path / "run")
    assert record["splits"] == {"train": ["case_000", "case_001"], "val": [], "test": []}
    assert not (tmp_path / "run" / "evaluation.json").exists()
    with pytest.raises(DataError, match="the test split is empty.*--config.eval.split=train.*--input=FOLDER"):
        modes.evaluate(modes.Call(None, tmp_path / "run"))
    given = recorded.tree_of(record).unlock()
    given.eval.split = "train"  # the remedy
    modes.evaluate(modes.Call(given.lock(), tmp_path / "run"))
    assert list((tmp_path / "run" / "evaluations").glob("train@*/evaluation.json"))


def test_structures_that_overlap_are_learnt_and_written_one_by_one(tmp_path, unoptimised):
    for i in range(4):
        image = np.random.default_rng(i).integers(0, 255, (16, 16), np.uint8)
        for name, columns in (("images", None), ("masks/cup", slice(4, 9)), ("masks/disc", slice(7, 14))):
            (tmp_path / "set" / name).mkdir(parents=True, exist_ok=True)
            mask = np.zeros((16, 16), np.uint8)
            if columns:
                mask[4:12, columns] = 255
            Image.fromarray(mask if columns else image).save(tmp_path / "set" / name / f"{i}.png")
    keys = {"data__root": str(tmp_path / "set"), "data__phantom": None, "data__size": (16, 16), "train__epochs": 1}
    keys |= {"data__fractions": (0.5, 0.25, 0.25), "train__batch_size": 2, "train__augment": (), "eval__tables": ()}
    tree = tiny.config("folder", "quick", **keys, data__regions=("dataset",))
    assert not modes.train(modes.Call(tree, tmp_path / "run"))
    tiny.release(tmp_path / "run")
    record = checkpoint.find_record(tmp_path / "run")
    assert record["labels"] == ["cup alone", "disc alone", "cup and disc"] and record["model"]["num_classes"] == 2
    assert record["regions"] == [["cup", [1, 3]], ["disc", [2, 3]]] and record["config"]["data"]["structures"] == ["cup", "disc"]
    images, output = tmp_path / "set" / "images", tmp_path / "out"
    assert not modes.predict(modes.Call(None, tmp_path / "run", input=str(images), output=str(output)))
    for name in ("cup", "disc"):
        written = np.asarray(Image.open(output / name / "0.png"))
        assert written.shape == (16, 16) and set(np.unique(written)) <= {0, 255}
    assert not list(output.glob("*.png"))


def values(low, high, dtype=np.int16, *, empty=0.0, photo=False):
    array = np.linspace(low, high, 1000).astype(dtype)
    array[: int(1000 * empty)] = 0
    header = Photo("PNG") if photo else object()
    return Volume(array.reshape(50, 20) if photo else array.reshape(10, 10, 10), np.eye(4), header, Path("x"))


@pytest.mark.parametrize(
    "volume, names, rank, window, expected",
    [
        (values(-1024, 1500), (), 3, (), ("ct", (40.0, 400.0))),  # HU
        (values(-1024, 1500), (), 2, (), ("grey", (40.0, 400.0))),
        (values(0, 900), ("CT",), 3, (), ("ct", (40.0, 400.0))),  # dataset.json says so
        (values(0, 900), (), 3, (), ("zscore", ())),
        (values(1, 900, empty=0.5), (), 3, (), ("brain", ())),  # cut out of its background
        (values(-3, 3, np.float32, empty=0.3), (), 3, (), ("zscore", ())),  # was a z-score already
        (values(0, 900), ("CT", "PET"), 3, (), ("zscore", ())),
        (values(0, 900), (), 3, (300.0, 600.0), ("ct", (300.0, 600.0))),  # a window that is given stands
        (values(0, 255, np.uint8, photo=True), (), 2, (), ("grey", ())),
        (values(0, 4000, np.uint16, photo=True), (), 2, (), ("zscore", ())),  # 16 bits
        (values(0, 255, np.uint8), (), 3, (), ("grey", ())),
    ],
)
def test_intensity_is_chosen_by_what_the_values_are(volume, names, rank, window, expected):
    intensity, chosen, why = described.intensity_of([[volume] * max(1, len(names))], names, rank=rank, window=window)
    assert (intensity, chosen) == expected and repr(intensity) in why


def test_dicom_says_whether_images_are_ct():
    look = lambda made_by, low=-1024: described.intensity_of([[values(low, 1500)]], (), rank=3, window=(), made_by=made_by)
    assert look({"CT"}, low=0)[0] == "ct" and "DICOM says CT" in look({"CT"})[2]
    assert look({"MR"})[0] == "zscore" and look({"MR", "CT"})[0] == "zscore" and look(set())[0] == "ct"


def test_what_contradicts_the_data_is_refused_by_name(tmp_path):
    root = write(tmp_path / "set", count=3, test=0)
    for changes, words in (
        ({"data__structures": ("rim", "kernel")}, "data.structures=.'rim', 'kernel'.*says rim, core"),
        ({"data__regions": ("dataset",)}, "defines no regions"),
        ({"data__modalities": ("T2",)}, "unknown channel of .*T2"),
    ):
        with pytest.raises(ConfigError, match=words):
            described.fill(config(root, **changes))
    one = described.fill(config(root, data__modalities=("FLAIR",))).config
    assert one.data.channels == 1 and one.data.structures == ("rim", "core")
    named = described.fill(config(root, data__regions=(("ball", ("rim", "core")), ("core", ("core",)))))
    assert named.dataset.regions == (("ball", (1, 2)), ("core", (2,)))


def test_splits_are_told_in_the_words_of_the_data():
    rows = {"train": [0, 1, 2], "val": [3]}
    assert patients.in_words(rows, ["a", "a", "b", "c"], "slices") == "train 3 slices of 2 patients, val 1 slice of 1 patient"
    assert patients.in_words(rows, ["a", "b", "c", "d"], "slices") == "train 3 pictures, val 1 picture"
    assert patients.in_words(rows, ["a", "b", "c", "d"], "volumes") == "train 3 volumes, val 1 volume"
