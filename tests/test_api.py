"""jaxseg from Python gives what `jaxseg predict` writes, for files, arrays and nibabel images alike."""

import json
import os
import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

import jaxseg
from jaxseg import checkpoint
from jaxseg.infer import postprocess
from jaxseg.infer.predict import predict
from jaxseg.types import ConfigError, DataError
from jaxseg.weights import from_torch, torch_write
from tests import untrained

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module", params=[2, 3], ids=["pictures", "volumes"])
def case(request, tmp_path_factory):
    """(a run, the folder of its images, rank)."""
    folder = tmp_path_factory.mktemp(f"rank{request.param}")
    root = untrained.write(folder / "data", request.param)
    return untrained.make(folder / "run", untrained.config(root, request.param)), root / "images", request.param


def test_a_file_gives_the_labels_that_predict_writes(case, tmp_path):
    run, images, rank = case
    settings = checkpoint.find_record(run)["config"]["infer"] | {"probabilities": True}
    one = sorted(images.iterdir())[0]
    predict(run, one, tmp_path, settings=settings, say=lambda line: None)
    loaded = jaxseg.load(run)
    assert repr(loaded) == f"<jaxseg.Trained {loaded.record['config']['model']['name']}: one image to foreground>"
    found = loaded.predict(one, probabilities=True)
    written = jaxseg.read_volume(next(p for p in tmp_path.iterdir() if p.suffix in (".png", ".gz"))).array
    assert found.labels.any() and not found.labels.all()
    np.testing.assert_array_equal(found.labels, written)
    assert (
        found.names == ("foreground",) and found.maps == ("foreground",) and found.probabilities.shape == (*found.labels.shape, 1)
    )
    np.testing.assert_array_equal(found.probabilities[..., 0] >= 0.5, found.labels > 0)
    name = "labels.png" if rank == 2 else "labels.nii.gz"
    found.save(tmp_path / name)
    np.testing.assert_array_equal(jaxseg.read_volume(tmp_path / name).array, written)


def test_images_in_memory_give_the_same(case):
    run, images, rank = case
    one = sorted(images.iterdir())[0]
    loaded = jaxseg.load(run)
    expected = loaded.predict(one).labels
    if rank == 2:
        forms = [loaded.predict(np.asarray(Image.open(one)))]
    else:
        image = nibabel.load(one)
        array = np.asarray(image.dataobj)
        forms = [loaded.predict(image), loaded.predict([image]), loaded.predict(array, affine=image.affine)]
        forms.append(loaded.predict(array[::-1].copy(), spacing=(1.0, 1.0, 2.0)))
        assert np.array_equal(forms.pop().labels[::-1], expected)
        back = forms[0].to_nibabel()
        assert np.array_equal(back.affine, image.affine) and np.array_equal(np.asarray(back.dataobj), expected)
    for found in forms:
        np.testing.assert_array_equal(found.labels, expected)


def test_post_processing_is_the_runs_own_setting_and_can_be_asked_for(case, tmp_path):
    run, images, _ = case
    shutil.copytree(run, tmp_path / "run")
    step = {"step": "remove_small", "options": {"min_mm3": 1e9}, "dice": [0.0, 0.0]}
    (tmp_path / "run" / postprocess.FILE).write_text(json.dumps([step]))
    one = sorted(images.iterdir())[0]
    assert jaxseg.load(tmp_path / "run").predict(one).labels.any()
    assert not jaxseg.load(tmp_path / "run", postprocess=True).predict(one).labels.any()


def test_what_does_not_fit_is_refused_in_one_line(case):
    run, images, rank = case
    loaded = jaxseg.load(run)
    one = sorted(images.iterdir())[0]
    with pytest.raises(ConfigError, match="leave them out"):
        loaded.predict(one, spacing=(1, 1, 1))
    with pytest.raises(ConfigError, match="for a scan, give spacing"):
        loaded.predict(np.zeros((4, 5, 6), np.float32))
    with pytest.raises(ConfigError, match="each above 0"):
        loaded.predict(np.zeros((4, 5, 6), np.float32), spacing=(1, 0, 1))
    with pytest.raises(DataError, match="got 2 images; this run takes one"):
        loaded.predict([one, one])
    with pytest.raises(ConfigError, match="call predict"):
        loaded.predict(one).save("x.nii.gz", probabilities=True)
    with pytest.raises(ConfigError, match="did you mean mirror"):
        jaxseg.load(run, miror=(0,))


def test_dice_of_two_masks():
    a, b = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    a[:2], b[1:3] = True, True
    assert jaxseg.dice(a, b) == 0.5 and jaxseg.dice(a, a) == 1.0
    empty = np.zeros((4, 4), bool)
    assert jaxseg.dice(empty, empty) == 1.0 and np.isnan(jaxseg.dice(empty, empty, empty="nan"))
    with pytest.raises(ValueError, match="a == 1"):
        jaxseg.dice(a * 2, b)


def test_the_page_runs_as_printed(tmp_path, monkeypatch):
    """docs/python.md, its blocks one after the other, beside a run and files of the names that it uses."""
    data = untrained.write(tmp_path, 2)
    untrained.make(tmp_path / "runs" / "folder-quick", untrained.config(data, 2))
    (tmp_path / "images" / "0.png").rename(tmp_path / "images" / "01.png")
    random = np.random.default_rng(0)
    for name, array in (
        ("scan", random.normal(size=(20, 18, 16)).astype(np.float32)),
        ("mask", np.zeros((20, 18, 16), np.uint8)),
    ):
        if name == "mask":
            array[4:12, 4:12, 4:12] = 1
        nibabel.save(nibabel.Nifti1Image(array, np.diag([1.0, 1.0, 2.0, 1.0])), tmp_path / f"{name}.nii.gz")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), {})
    assert os.path.exists("01_labels.png")


@pytest.mark.parametrize("case", [3], indirect=True)
def test_the_block_of_the_readme_runs_with_a_small_network(case, tmp_path, monkeypatch):
    run, images, _ = case
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "ich_segnext").symlink_to(run)
    shutil.copy(sorted(images.iterdir())[0], tmp_path / "scan.nii.gz")
    monkeypatch.chdir(tmp_path)
    weights = from_torch.export(jaxseg.create_model("segnext_test", in_channels=1, num_classes=3))  # both are adapted
    torch_write.write("segnext_t.pth", weights)
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names = {}
    exec(compile(block.replace('"segnext_t"', '"segnext_test"').replace("512", "32"), "README.md", "exec"), names)
    assert names["logits"].shape == (1, 32, 32, 2) and os.path.exists("labels.nii.gz")
