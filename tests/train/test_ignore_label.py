"""A folder of nnU-Net's with an ignore label, from the files to a trained run, its scores and its predictions."""

import csv
import json

import nibabel
import numpy as np
import pytest
import test_own_data as own
import tiny_volumes as tiny

from jaxseg import checkpoint, modes
from jaxseg.data import datasets
from jaxseg.data.store import per_case
from jaxseg.data.stream import patches
from jaxseg.train import setup
from jaxseg.types import LEFT_OUT, ConfigError


def sparse(root, planes=(2, 5)):
    """`own.write`, annotated in a few planes alone; the other voxels have the ignore label 4."""
    own.write(root, count=5, test=1)
    for path in root.glob("labelsT*/*.nii.gz"):
        mask = np.asarray(nibabel.load(path).dataobj)
        partly = np.full_like(mask, 4)
        partly[:, :, list(planes)] = mask[:, :, list(planes)]
        nibabel.save(nibabel.Nifti1Image(partly, own.AFFINE), path)
    about = json.loads((root / "dataset.json").read_text())
    about["labels"]["ignore"] = 4
    (root / "dataset.json").write_text(json.dumps(about))
    return root


@pytest.mark.slow
def test_a_partly_annotated_folder_is_trained_scored_and_predicted(tmp_path, unoptimised, capsys):
    root, run = sparse(tmp_path / "Dataset001_Balls"), tmp_path / "run"
    assert not modes.train(modes.Call(own.config(root), run))
    tiny.release(run)
    assert "ignore label are not annotated" in capsys.readouterr().out
    assert checkpoint.find_record(run)["config"]["data"]["ignore"] == "leave_out"
    table = next((run / "evaluations").glob("test@*/cases.csv"))
    for row in csv.DictReader(table.open()):
        assert sum(int(row[key]) for key in ("tp", "fp", "fn", "tn")) == 20 * 18 * 2  # two planes of eight
    assert not modes.predict(modes.Call(None, run, input=str(root / "imagesTs"), output=str(tmp_path / "out")))
    found = nibabel.load(next((tmp_path / "out").glob("*.nii.gz")))
    assert set(np.unique(found.dataobj)) <= {0, 1, 3}
    own.write(tmp_path / "dense", count=1, test=0)  # fully annotated, without an ignore label
    modes.evaluate(modes.Call(None, run, input=str(tmp_path / "dense"), name="dense"))
    table = next((run / "evaluations").glob("dense@*/cases.csv"))
    assert {sum(int(row[key]) for key in ("tp", "fp", "fn", "tn")) for row in csv.DictReader(table.open())} == {20 * 18 * 8}


def test_patches_are_centred_on_annotated_voxels(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path / "cache"))
    data = datasets.load("nnunet_raw", sparse(tmp_path / "raw"))
    config = own.config(tmp_path / "raw")
    config.data.intensity, config.data.channels, config.data.size = "zscore", 2, (3, 3, 1)
    recipe = setup.recipe_from(config, labels=data.labels, modalities=data.modalities)
    store = per_case.open_or_build(data, recipe, log=lambda text: None)
    assert set(np.unique(store.mask(0))) == {0, 1, 2, LEFT_OUT}
    assert store.foreground_counts().shape == (6, 2) and len(store.rows[0]["kept"]) == 3
    batches = patches.patch_batches(store, range(6), batch_size=12, patch=(3, 3, 1), seed=0, share=0.5)
    with batches as stream:
        assert all((next(stream)["mask"] != LEFT_OUT).all() for _ in range(4))


def test_what_needs_whole_masks_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="data.ignore='leave_out'.*fully annotated"):
        own.config(tmp_path, data__ignore="leave_out", data__whole=True, data__fit="stretch")
