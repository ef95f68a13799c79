"""Model folders of nnU-Net as run folders: they predict what nnunetv2 2.8.1 predicted for the same folders (`live.py`)."""

import json
import pickle
import shutil
import zipfile
from pathlib import Path

import jax
import nibabel
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="the folders of the tests are written by PyTorch: the extra [parity]")

from jaxseg import checkpoint, recorded  # noqa: E402
from jaxseg.cli import flags  # noqa: E402
from jaxseg.config import resolve  # noqa: E402
from jaxseg.data import splits  # noqa: E402
from jaxseg.data.formats import volumes  # noqa: E402
from jaxseg.data.store.base import recipe_from  # noqa: E402
from jaxseg.importing import command_line, folds, places, postprocessing  # noqa: E402
from jaxseg.infer import postprocess, predict  # noqa: E402
from jaxseg.infer import run as infer_run  # noqa: E402
from jaxseg.infer.run import open_run  # noqa: E402
from jaxseg.models import functional  # noqa: E402
from jaxseg.train import setup  # noqa: E402
from jaxseg.train.log import Log  # noqa: E402
from jaxseg.types import CheckpointError, ConfigError, DataError, MismatchError  # noqa: E402
from jaxseg.weights import initial  # noqa: E402
from tests.importing import setups  # noqa: E402

EXPECTED = Path(__file__).parent / "expected"


def imported(folder: Path, output: Path, *more: str) -> list[Path]:
    assert command_line.main(["nnunet", str(folder), f"--output={output}", *more]) == 0
    return sorted(output.glob("fold_*"))


@pytest.fixture(scope="module", params=sorted(setups.SETUPS))
def case(request, tmp_path_factory):
    """(name, run folders, folder of images, what nnU-Net made of them) of a set-up."""
    root = tmp_path_factory.mktemp(request.param)
    runs = imported(setups.write_model(root / "model", request.param), root / "runs")
    return request.param, runs, setups.write_case(root / "imagesTs", request.param), np.load(EXPECTED / f"{request.param}.npz")


def test_images_are_prepared_and_a_window_is_read_as_by_nnunet(case):
    name, (run, *_), images, expected = case
    opened = open_run(run, checkpoint.read_record(run)["config"]["infer"])
    files = [volumes.read_volume(path) for path in sorted(images.iterdir())]
    prepared = opened.preparation.prepare(files).inputs
    theirs = np.moveaxis(expected["prepared"], 0, -1)[None]
    np.testing.assert_allclose(prepared, theirs, atol=1e-4)
    window = theirs[:, *(slice(0, n) for n in opened.recipe.size)]
    logits = np.asarray(jax.jit(lambda network, x: network(x))(opened.application.forward.averaged(opened.weights), window))[0]
    wanted = np.moveaxis(expected["logits"], 0, -1).reshape(logits.shape)
    assert wanted.std() > 1 and np.abs(logits - wanted).max() < 1e-4 * wanted.std()


def test_predictions_are_those_of_nnunet(case, tmp_path):
    name, (run, *others), images, expected = case
    settings = checkpoint.read_record(run)["config"]["infer"]
    settings |= {"ensemble": tuple(map(str, others)), "probabilities": True, "overlay": False}
    assert predict.predict(run, images, tmp_path, settings=settings, say=lambda text: None) == 0
    labels, theirs = setups.read_labels(tmp_path, name), expected["probabilities"].astype(np.float32)
    if name == "pictures":
        maps = np.asarray(Image.open(tmp_path / "probabilities" / "drawn" / "polyp.png"))[None] / np.float32(255)
    else:
        mapped = nibabel.load(tmp_path / "probabilities" / "drawn.nii.gz")
        np.testing.assert_array_equal(mapped.affine, nibabel.load(images / "drawn_0000.nii.gz").affine)
        maps = np.moveaxis(mapped.get_fdata().reshape(*labels.shape, -1), -1, 0)
    # sums of 16 bits are nnU-Net's bit by bit, unless a processor's own float32 falls on the other side of a step
    assert len(np.unique(labels)) > 1 and np.sum(labels != expected["labels"]) <= 1
    away = np.abs(maps - theirs[-len(maps) :]) - (0.5 / 255 if name == "pictures" else 0)  # maps of pictures have 8 bits
    assert np.mean(away > 1e-3) < 1e-3 and away.max() < 0.02


def test_a_run_goes_on_from_an_imported_one_with_its_preparation(case):
    name, (run, *_), images, expected = case
    record = checkpoint.read_record(run)
    file, _, folder = flags._file(str(run)).partition(":")  # as `jaxseg train RUN`
    assert file == recorded.__file__ and folder == str(run)
    tree = resolve(recorded.get_config(folder))
    if name == "cascade":
        stage, _ = infer_run._previous(run, record)
        found = stage([volumes.read_volume(path) for path in sorted(images.iterdir())])
        assert len(np.unique(found)) == 3 and np.sum(found != expected["first"]) <= 1
    assert setup.recipe_from(
        tree, labels=tuple(record["labels"]), modalities=tuple(record["recipe"]["modalities"])
    ) == recipe_from(record)
    model = setup.build_model(tree, record["model"]["num_classes"])
    initial.initialise(model, str(run), Log(run, quiet=True).say)
    params, ours = checkpoint.load_weights(run)[0], functional.split(model)[1]
    assert params.keys() == ours.keys() and all((params[key] == ours[key]).all() for key in params)
    total = sum(weight for _, weight in tree.loss.terms[:1]) + sum(tree.loss.aux_weights)
    assert total == pytest.approx(1) and tree.loss.aux_weights[-1:] in ((), (0.0,))


@pytest.fixture(scope="module")
def planes(tmp_path_factory):
    """The smallest model folder; not to be changed."""
    return setups.write_model(tmp_path_factory.mktemp("planes"), "planes")


@pytest.fixture
def model(planes, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(planes, tmp_path / planes.name))


def changed(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def config_of(content: dict) -> dict:
    return content["configurations"]["2d"]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: config_of(c).update(preprocessor_name="Mine"), "preprocessor_name 'Mine' is not supported"),
        (lambda c: config_of(c).update(UNet_class_name="SwinUNETR"), "network 'SwinUNETR'.*PlainConvUNet, ResidualEncoderUNet"),
        (lambda c: config_of(c).update(resampling_fn_data="resample_torch_fornnunet"), "resampling_fn_data 'resample_torch"),
        (lambda c: config_of(c).update(normalization_schemes=["Mine"]), "normalization_schemes 'Mine'"),
        (lambda c: c.update(image_reader_writer="Tiff3DIO"), "image_reader_writer 'Tiff3DIO'"),
        (lambda c: config_of(c).update(n_conv_per_stage_encoder=[2, 3]), "missing stages.1.blocks.2.conv.weight"),
        (lambda c: config_of(c).update(patch_size=[15, 12]), r"patches of \(1, 15, 12\).*\(1, 16, 12\)"),
    ],
)  # fmt: skip
def test_what_has_no_counterpart_is_refused_by_name(model, tmp_path, change, message):
    changed(model / "plans.json", change)
    with pytest.raises(MismatchError, match=message):
        imported(model, tmp_path / "runs")
    assert not list((tmp_path / "runs").glob("*"))


def test_a_plan_that_is_none_and_what_is_not_there_are_named(model, tmp_path):
    with pytest.raises(CheckpointError, match="fold_3 has none of checkpoint_final.pth"):
        imported(model, tmp_path / "runs", "--folds=3")
    with pytest.raises(ConfigError, match="--folds=first; give distinct numbers"):
        imported(model, tmp_path / "runs", "--folds=first")
    with pytest.raises(ConfigError, match="--configuration=3d_fullres: .* give the configuration of one"):
        imported(model, tmp_path / "runs", "--configuration=3d_fullres")
    with pytest.raises(ConfigError, match="--previous=.*: 2d takes the image alone"):
        imported(model, tmp_path / "runs", f"--previous={model}")
    changed(model / "plans.json", lambda c: config_of(c).update(previous_stage="3d_lowres"))
    with pytest.raises(CheckpointError, match="2d takes the segmentations of 3d_lowres, and .*__3d_lowres is not that model's"):
        imported(model, tmp_path / "runs")
    changed(model / "plans.json", lambda c: config_of(c).pop("previous_stage"))
    changed(model / "plans.json", lambda c: c.pop("transpose_forward"))
    with pytest.raises(DataError, match="plans.json: not a plans.json of nnU-Net 2: KeyError 'transpose_forward'"):
        imported(model, tmp_path / "runs")
    shutil.rmtree(model / "fold_0")
    with pytest.raises(CheckpointError, match="has no fold_N"):
        imported(model, tmp_path / "runs")


def test_cases_of_the_folds_are_those_of_splits_final(model, tmp_path):
    parts = [{"train": ["c", "a"], "val": ["b"]}, {"train": ["b", "c"], "val": ["a"]}]
    (model.parent / folds.FILE).write_text(json.dumps(parts))
    (run,) = imported(model, tmp_path / "runs")
    assert checkpoint.read_record(run)["splits"] == {"train": ["a", "c"], "val": ["b"], "test": []}
    assert splits.load_splits(run / "splits.json") == checkpoint.read_record(run)["splits"]
    assert folds.of_fold(model.parent / folds.FILE, "fold_all") == {"train": ["a", "b", "c"], "val": [], "test": []}
    with pytest.raises(DataError, match="has 2 folds, and the model fold_2"):
        folds.of_fold(model.parent / folds.FILE, "fold_2")
    (model / "mine.json").write_text('{"train": []}')
    with pytest.raises(DataError, match="must be nnU-Net's list"):
        imported(model, tmp_path / "other", f"--splits={model / 'mine.json'}")


def test_an_exported_archive_is_read_as_its_folder(planes, tmp_path):
    with zipfile.ZipFile(tmp_path / "exported.zip", "w") as archive:
        for path in planes.rglob("*"):
            archive.write(path, Path("Dataset001_Drawn") / path.relative_to(planes.parent))
        archive.write(planes / "fold_0" / "checkpoint_final.pth", f"Dataset001_Drawn/{planes.name}/fold_0/checkpoint_best.pth")
        archive.writestr("../outside/plans.json", "{}")
        archive.writestr("Dataset001_Drawn/other/fold_0/progress.png", b"0")
    (run,) = imported(tmp_path / "exported.zip", tmp_path / "a")
    (same,) = imported(planes.parent, tmp_path / "b", "--configuration=2d")
    a, b = (checkpoint.load_weights(folder)[0] for folder in (run, same))
    assert a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)
    assert checkpoint.read_record(run)["model"] == checkpoint.read_record(same)["model"]
    with pytest.raises(ConfigError, match="fold_0 exists"):
        imported(planes, tmp_path / "b")
    (best,) = imported(tmp_path / "exported.zip", tmp_path / "c", "--checkpoint=checkpoint_best.pth")
    read = [Path(checkpoint.read_record(one)["imported"]["file"]).name for one in (run, best)]
    assert read == ["checkpoint_final.pth", "checkpoint_best.pth"]
    with pytest.raises(ConfigError, match="--checkpoint=best; must be a file's name"):
        imported(planes, tmp_path / "d", "--checkpoint=best")


@pytest.mark.parametrize("name", [postprocessing.PICKLE, postprocessing.JSON])
def test_post_processing_beside_a_model_is_applied_at_prediction(model, tmp_path, name):
    given = [{"labels_or_regions": [np.int64(1), (2,)]}, {"labels_or_regions": 2}]
    if name == postprocessing.PICKLE:
        head = f"cnnunetv2.postprocessing.remove_connected_components\n{postprocessing.LARGEST}\n".encode()
        body = pickle.dumps(given, 4)[:-1]
        content = b"\x80\x04]" + b"(" + head * 2 + b"e" + body[2 + 9 * (body[2:3] == b"\x95") :] + b"\x86."
    else:
        plain = [{"labels_or_regions": [1, [2]]}, {"labels_or_regions": 2}]
        content = json.dumps({"postprocessing_fns": [postprocessing.LARGEST] * 2, "postprocessing_kwargs": plain}).encode()
    changed(model / "dataset.json", lambda c: c["labels"].update(other=2))
    results = model / "crossval_results_folds_0"  # with the plans again, as nnUNetv2_find_best_configuration leaves it
    for copy in (results, results / "postprocessed"):
        copy.mkdir()
        shutil.copy(model / "plans.json", copy)
    (results / name).write_bytes(content)
    with places.model_folder(model) as chosen:
        assert chosen == model
    found = postprocessing.read(postprocessing.find(model), (1, 2))
    assert found == [{"step": "keep_largest", "options": {"classes": c, "ties": "all"}} for c in ([1, 2], [2])]
    labels = np.array([1, 2, 0, 2, 0, 2, 2])
    np.testing.assert_array_equal(postprocess.apply(labels, found[:1]), [1, 2, 0, 0, 0, 2, 2])
    assert [step["options"]["classes"] for step in postprocessing.read(results / name, (1,), absent=(2,))] == [[1], []]
    with pytest.raises(MismatchError, match=r"labels \[1, 2\].*model's labels are \(1,\)"):
        postprocessing.read(results / name, (1,))


def test_post_processing_that_wants_to_run_something_is_refused(model):
    (model / postprocessing.PICKLE).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(DataError, match="os.system"):
        postprocessing.read(postprocessing.find(model), (1,))
