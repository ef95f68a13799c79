"""Models that nnU-Net trains here and now: imported, they predict what it predicts; one is trained further and leaves again.

Run by `make nnunet`, which installs nnunetv2 into an environment of its own. Environment variables:

JAXSEG_NNUNET_PYTHON  the Python of that environment; without it these tests skip
JAXSEG_NNUNET_MODELS  optional: a folder that `python -m tests.importing.trained` (or `mixed`) wrote before
JAXSEG_BARE_PYTHON    optional: a Python that has numpy and jax alone, for the exported file
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from jaxseg import checkpoint
from jaxseg.data.formats.volumes import read_volume
from jaxseg.importing import command_line
from jaxseg.infer import predict
from jaxseg.pretrained import command_line as pretrained
from tests.importing import mixed, trained

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("JAXSEG_NNUNET_PYTHON", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="needs an environment with nnunetv2: make nnunet")
MOST = 1e-4  # of the voxels may have another label
LOW, STACKED, FULL = (
    f"Dataset102_Ct/{trained.NO_MIRRORING}__nnUNetPlans__3d_{n}" for n in ("lowres", "cascade_fullres", "fullres")
)
RESIDUAL = "Dataset101_Mri/nnUNetTrainer__nnUNetResEncUNetMPlans__3d_fullres"
CT, MRI, PNG = (Path("raw") / name / "imagesTs" for name in ("Dataset102_Ct", "Dataset101_Mri", "Dataset103_Png"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder with data sets, nnU-Net's models and its predictions."""
    if "JAXSEG_NNUNET_MODELS" in os.environ:
        return Path(os.environ["JAXSEG_NNUNET_MODELS"])
    folder = tmp_path_factory.mktemp("nnunet")
    for name in ("trained", "mixed"):
        subprocess.run([PYTHON, "-m", f"tests.importing.{name}", str(folder)], check=True, cwd=ROOT)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def imported(model: Path, output: Path, *more: str) -> list[Path]:
    if not output.exists():
        assert command_line.main(["nnunet", str(model), f"--output={output}", *more]) == 0
    return sorted(output.glob("fold_*"))


def predicted(folds: list[Path], images: Path, out: Path, **settings) -> Path:
    first, *others = folds
    chosen = checkpoint.read_record(first)["config"]["infer"] | {"ensemble": tuple(map(str, others)), "overlay": False} | settings
    assert predict.predict(first, images, out, settings=chosen, say=lambda text: None) == 0
    return out


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(labels, affine) of a file."""
    if path.suffix == ".png":
        return np.asarray(Image.open(path)).astype(int), np.eye(4)
    found = read_volume(path) if path.suffix == ".nrrd" else nibabel.load(path)
    return np.asarray(found.array if path.suffix == ".nrrd" else found.dataobj).astype(int), found.affine


def differing(ours: Path, theirs: Path) -> float:
    """The share of voxels that have another label than nnU-Net's, over all cases; the cases show every class of the model."""
    wrong, size, classes = 0, 0, set()
    for path in sorted([*theirs.glob("*.nii.gz"), *theirs.glob("*.nrrd"), *theirs.glob("*.png")]):
        (a, place), (b, wanted) = read(ours / path.name.replace(".nrrd", ".nii.gz")), read(path)
        np.testing.assert_allclose(place, wanted, atol=1e-4)
        wrong, size, classes = wrong + (a != b).sum(), size + a.size, classes | set(np.unique(b))
    print(f"{theirs.name}: {wrong} of {size} voxels differ, labels {sorted(map(int, classes))}")
    assert size and len(classes) > 1
    return wrong / size


def test_residual_encoders_of_three_folds_with_regions_an_ignore_label_and_mirroring(place, runs, tmp_path):
    folds = imported(place / "res" / RESIDUAL, runs / "mri", f"--splits={place / 'pre/Dataset101_Mri/splits_final.json'}")
    assert len(folds) == 3 and checkpoint.read_record(folds[0])["config"]["infer"]["mirror"] == [0, 1, 2]
    ours = predicted(folds, place / MRI, tmp_path / "mri", postprocess=False)
    assert differing(ours, place / "theirs" / "mri") < MOST
    assert differing(predicted(folds, place / MRI, tmp_path / "processed"), place / "theirs" / "mri-processed") < MOST


@pytest.mark.parametrize("name", trained.BARELY)
def test_residual_encoders_of_every_preset_after_a_few_steps_whose_labels_rounding_decides(name, place, runs, tmp_path):
    data, *_, trainer = trained.BARELY[name]
    folds, images = imported(place / "res" / trained.model_of(name), runs / name), place / "raw" / data / "imagesTs"
    assert differing(predicted(folds, images, tmp_path / name), place / "theirs" / name) < MOST
    if trainer == trained.PLAIN:
        plain = predicted(folds, images, tmp_path / "plain", mirror=())
        assert differing(plain, place / "theirs" / f"{name}-plain") < MOST


def test_the_first_stage_with_the_post_processing_that_lies_beside_it(place, runs, tmp_path):
    folds = imported(place / "res" / LOW, runs / "low")
    assert differing(predicted(folds, place / CT, tmp_path / "low", postprocess=False), place / "theirs" / "low") < MOST
    assert differing(predicted(folds, place / CT, tmp_path / "processed"), place / "theirs" / "low-processed") < MOST


def test_a_cascade(place, runs, tmp_path):
    folds = imported(place / "res" / STACKED, runs / "cascade")
    assert differing(predicted(folds, place / CT, tmp_path / "out"), place / "theirs" / "cascade") < MOST


def test_fold_all(place, runs, tmp_path):
    folds = imported(place / "res" / FULL, runs / "full")
    assert [fold.name for fold in folds] == ["fold_all"]
    assert differing(predicted(folds, place / CT, tmp_path / "out"), place / "theirs" / "full") < MOST


def test_pictures_from_an_exported_archive(place, runs, tmp_path):
    folds = imported(place / "exported.zip", runs / "png")
    assert differing(predicted(folds, place / PNG, tmp_path / "out"), place / "theirs" / "png") < MOST


def test_a_task_of_several_models_in_the_crop_of_a_first_one(place, runs, tmp_path):
    imported(place / "res" / LOW, runs / "low")
    imported(place / "res" / FULL, runs / "full")
    content = {
        "labels": {"gland": 7, "spleen": 300, "lesion": 2},
        "models": [
            {"run": str(runs / "low" / "fold_1"), "classes": {"organ": "gland", "lesion": None}},
            {"run": str(runs / "full" / "fold_all"), "classes": {"organ": "spleen"}},
        ],
        "crop": {"run": str(runs / "low" / "fold_0"), "classes": ["organ"], "margin": trained.MARGIN},
        "notes": ["weights: for tests"],
    }
    (tmp_path / "task.json").write_text(json.dumps(content))
    out = tmp_path / "out"
    assert pretrained.main([f"--task={tmp_path / 'task.json'}", f"--input={place / CT}", f"--output={out}"]) == 0
    assert differing(out, place / "theirs" / "task") < MOST


@pytest.fixture
def jaxseg(tmp_path):
    """A function that runs a command of jaxseg in a process in which torch is hidden, and returns what it said."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "torch.py").write_text("raise AssertionError('torch is imported')\n")
    given = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # one device, as users have
    environment = given | {"PYTHONPATH": f"{tmp_path / 'hidden'}:{ROOT}"}

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "jaxseg", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return run


def by_file(model: Path, images: Path, out: Path) -> Path:
    """What an exported file makes of every case, run by a Python that has numpy and jax alone, if there is one."""
    bare = os.environ.get("JAXSEG_BARE_PYTHON", sys.executable)
    out.mkdir()
    for case in sorted({path.name.split(".")[0][: -len("_0000")] for path in images.iterdir()}):
        channels = [str(path) for path in sorted(images.glob(f"{case}_*"))]
        words = [str(model), "--input", *channels, "--output", str(out / f"{case}.nii.gz")]
        alone = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        subprocess.run([bare, *words], check=True, cwd=out.parent, env=alone)
    return out


def by_nnunet(model: Path, images: Path, out: Path, *more: str) -> Path:
    """What nnU-Net makes of every case with fold 0 of a model folder."""
    words = ["-i", images, "-o", out, "-m", model, "-f", "0", "-device", "cpu", "-npp", "1", "-nps", "1", *more]
    program = Path(PYTHON).parent / "nnUNetv2_predict_from_modelfolder"
    subprocess.run([str(program), *map(str, words)], check=True, env=os.environ | {"nnUNet_compile": "f"})
    return out


def test_it_is_trained_further_leaves_as_one_file_and_goes_back_to_nnunet_without_torch(place, runs, jaxseg, tmp_path):
    splits = place / "pre/Dataset101_Mri/splits_final.json"
    first, *_ = imported(place / "res" / RESIDUAL, runs / "mri", f"--splits={splits}")
    tuned, images, back = tmp_path / "tuned", place / MRI, tmp_path / "back"
    data = [f"--config.data.root={place / 'raw/Dataset101_Mri'}", "--config.data.split=file"]
    data += [f"--config.data.split_file={first / 'splits.json'}", "--config.train.epochs=1", "--config.train.batch_size=2"]
    said = jaxseg("train", str(first), f"--config.model.init={first}", *data, f"--workdir={tuned}")
    assert f"images are prepared as for {first}" in said
    jaxseg("predict", str(tuned), f"--input={images}", f"--output={tmp_path / 'ours'}", "--config.infer.overlay=False")
    jaxseg("export", str(tuned), f"--output={tmp_path / 'tuned.jaxseg'}")
    jaxseg("export", str(tuned), f"--output={back}", "--format=nnunet")
    assert differing(by_file(tmp_path / "tuned.jaxseg", images, tmp_path / "file"), tmp_path / "ours") == 0
    assert differing(tmp_path / "ours", by_nnunet(back, images, tmp_path / "theirs")) < MOST


def test_a_cascade_is_trained_further_leaves_as_one_file_and_goes_back(place, runs, jaxseg, tmp_path):
    splits = place / "pre/Dataset102_Ct/splits_final.json"
    folds = imported(place / "res" / STACKED, runs / "stacked", f"--splits={splits}")
    tuned, images, back, low = tmp_path / "tuned", place / CT, tmp_path / "back", runs / "stacked" / "3d_lowres" / "fold_0"
    data = [f"--config.data.root={place / 'raw/Dataset102_Ct'}", "--config.data.split=file", "--config.train.epochs=1"]
    data += [f"--config.data.split_file={folds[0] / 'splits.json'}"]
    said = jaxseg("train", str(folds[0]), f"--config.model.init={folds[0]}", *data, f"--workdir={tuned}")
    assert f"images are prepared as for {folds[0]}" in said and "not trained on its patient" in said
    jaxseg("predict", str(tuned), f"--input={images}", f"--output={tmp_path / 'ours'}", "--config.infer.overlay=False")
    jaxseg("export", str(tuned), f"--output={tmp_path / 'tuned.jaxseg'}")
    assert differing(by_file(tmp_path / "tuned.jaxseg", images, tmp_path / "file"), tmp_path / "ours") == 0
    jaxseg("export", str(tuned), f"--output={back}", "--format=nnunet")
    first = predicted(sorted(low.parent.glob("fold_*")), images, tmp_path / "first", postprocess=False)
    theirs = by_nnunet(back, images, tmp_path / "theirs", "-prev_stage_predictions", str(first))
    assert differing(tmp_path / "ours", theirs) < MOST


IMAGES = Path("raw") / mixed.NAME / "imagesTs"


def test_four_normalisations_of_transposed_cropped_nrrd_scans_in_regions_out_of_order(place, runs, tmp_path):
    folds = imported(place / "res" / mixed.VOLUME, runs / "mixed", f"--splits={place / f'pre/{mixed.NAME}/splits_final.json'}")
    config = checkpoint.read_record(folds[0])["config"]
    rules = "none+ct_zscore+zscore_nonzero+rescale_to_01"
    assert len(folds) == 3 and config["data"]["intensity"] == rules and list(config["data"]["axes"]) != [2, 1, 0]
    step = predicted(folds, place / IMAGES, tmp_path / "step", postprocess=False, overlap=1 - mixed.STEP, mirror=())
    assert differing(step, place / "theirs" / "step") < MOST
    theirs = place / "theirs" / "folds-processed"
    assert differing(predicted(folds, place / IMAGES, tmp_path / "processed"), theirs) < MOST
    changed = sum((read(path)[0] != read(theirs / path.name)[0]).sum() for path in (place / "theirs" / "folds").glob("*.nrrd"))
    assert changed > 20  # the file beside the model removes components


def test_a_chosen_checkpoint_of_fold_all_in_planes_of_scans(place, runs, tmp_path):
    for which in ("best", "final"):
        folds = imported(place / "res" / mixed.PLANE, runs / f"plane-{which}", f"--checkpoint=checkpoint_{which}.pth")
        ours = predicted(folds, place / IMAGES, tmp_path / which)
        assert differing(ours, place / "theirs" / which) < MOST
    assert differing(ours, place / "theirs" / "best") > MOST


def test_the_mixed_model_is_trained_further_leaves_as_one_file_and_goes_back(place, runs, jaxseg, tmp_path):
    splits = place / f"pre/{mixed.NAME}/splits_final.json"
    first, *_ = imported(place / "res" / mixed.VOLUME, runs / "mixed", f"--splits={splits}")
    tuned, images, back = tmp_path / "tuned", place / IMAGES, tmp_path / "back"
    data = [f"--config.data.root={place / 'raw' / mixed.NAME}", "--config.data.split=file"]
    data += [f"--config.data.split_file={first / 'splits.json'}", "--config.train.epochs=1", "--config.train.batch_size=2"]
    said = jaxseg("train", str(first), f"--config.model.init={first}", *data, f"--workdir={tuned}")
    assert f"images are prepared as for {first}" in said
    plain = ["--config.infer.overlay=False", "--config.infer.postprocess=False"]
    jaxseg("predict", str(tuned), f"--input={images}", f"--output={tmp_path / 'ours'}", *plain)
    jaxseg("export", str(tuned), f"--output={tmp_path / 'tuned.jaxseg'}", *plain[1:])
    jaxseg("export", str(tuned), f"--output={back}", "--format=nnunet")
    assert differing(by_file(tmp_path / "tuned.jaxseg", images, tmp_path / "file"), tmp_path / "ours") == 0
    assert differing(tmp_path / "ours", by_nnunet(back, images, tmp_path / "theirs")) < MOST
