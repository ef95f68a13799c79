"""`jaxseg plan`: a folder becomes the config that nnunetv2 2.8.1 would train with, and that config is trained as any other."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from configs._base import base
from configs.brats_unet3d import get_config as brats
from configs.folder import get_config as folder
from jaxseg import described, modes, preflight
from jaxseg import planned as plans
from jaxseg.config import resolve
from jaxseg.data import datasets
from jaxseg.planning import budget, configurations, fingerprint, page
from jaxseg.types import ConfigError, DataError

ABOUT = {"channel_names": {"0": "T1", "1": "FLAIR"}, "labels": {"background": 0, "rim": 1, "core": 2}}


def raw(
    root: Path, grids, *, about=ABOUT, test: int = 0, value=lambda channel, i: 200 + 100 * channel + i, margin: int = 0
) -> Path:
    """nnU-Net's raw data with a box of each class in every case; the last `test` cases are for testing.

    Args:
      grids: (shape, spacing) of each case, along x, y, z.
      margin: voxels of 0 before the image along x.
    """
    for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (root / part).mkdir(parents=True)
    (root / "dataset.json").write_text(json.dumps({**about, "numTraining": len(grids) - test, "file_ending": ".nii.gz"}))
    for i, (shape, spacing) in enumerate(grids):
        part, affine = "Ts" if i >= len(grids) - test else "Tr", np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
        mask = np.zeros(shape, np.uint8)
        mask[-8:-4, 4:8, 4:8], mask[-8:-6, 4:6, 4:6] = 1, 2
        nibabel.save(nibabel.Nifti1Image(mask, affine), root / f"labels{part}" / f"case_{i:03d}.nii.gz")
        for c in range(len(about["channel_names"])):
            image = np.full(shape, value(c, i), np.float32) + 50 * mask
            image[:margin] = 0
            nibabel.save(nibabel.Nifti1Image(image, affine), root / f"images{part}" / f"case_{i:03d}_{c:04d}.nii.gz")
    return root


def balls():
    """Shapes and spacings of the 14 cases for which nnunetv2 2.8.1 planned: 11 to train on, 3 for testing."""
    for i in range(14):
        r = np.random.default_rng(i)
        shape = (int(r.integers(40, 60)), int(r.integers(40, 60)), int(r.integers(16, 24)))
        yield shape, (float(r.uniform(0.8, 1.2)), float(r.uniform(0.8, 1.2)), float(r.uniform(2, 3)))


def folder_at(root: Path):
    tree = folder()
    tree.data.root = str(root)
    return tree


CHECK = plans._check


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    """Planned configs are traced once, by tests that do so."""
    monkeypatch.setattr(plans, "_check", lambda *arguments: None)


def passed(tree, *, plain: bool = False):
    """The config filled in from the data, and what its network learns, after preflight; `plain`: without its augmentation."""
    tree.train.augment = () if plain else tree.train.augment
    filled = described.fill(resolve(tree, name="plan"))
    return filled.config, preflight.check(filled.config, learnt=preflight.Learnt(filled.dataset.labels, filled.dataset.regions))


def planned(root: Path, output: Path, **keys):
    """Plan for a folder, by default as nnU-Net does for any machine; the file's text, and its get_config."""
    tree = folder()
    tree.update_from_flattened_dict(
        {"data.root": str(root), "plan.minutes": 0.0} | {key.replace("__", "."): value for key, value in keys.items()}
    )
    modes.plan(modes.Call(resolve(tree, name="folder"), output.parent / "run", output=str(output)))
    text, scope = output.read_text(), {}
    exec(text, scope)
    return text, scope["get_config"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return raw(tmp_path_factory.mktemp("raw") / "Dataset001_Balls", list(balls()), test=3)


def test_a_folder_of_nnunet_is_planned_as_nnunet_2_8_1_plans_it(dataset, tmp_path, capsys):
    text, get_config = planned(dataset, tmp_path / "plan.py")
    said = capsys.readouterr().out
    assert "fingerprint of 11 training cases" in said and f"next: jaxseg train {tmp_path / 'plan.py'}" in said
    assert len(text.splitlines()) <= 60 and "nnU-Net would not plan 3d_lowres for these data" in text
    full, flat = get_config(), get_config("2d")
    for c, size, batch, shares in ((full, (20, 56, 56), 2, False), (flat, (1, 56, 56), 9, True)):
        assert (tuple(c.data.size), c.train.batch_size, c.model.name) == (size, batch, "nnunet_plain")
        assert c.model.options.widths == (32, 64, 128, 256) and c.loss.options.nnunet.batch is shares
        assert tuple(c.data.axes) == (2, 1, 0) and c.data.intensity == "zscore" and c.data.nonzero
        assert [w for _, w in c.loss.terms] + list(c.loss.aux_weights) == pytest.approx([2 / 3, 1 / 3, 0])
    assert full.data.spacing == pytest.approx((2.600100, 0.914321, 1.041259), abs=1e-6)
    assert flat.data.spacing == pytest.approx((0, 0.914321, 1.041259), abs=1e-6)
    assert full.model.options.strides == ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2))
    assert full.model.options.kernels == ((1, 3, 3), *((3, 3, 3),) * 3)
    assert flat.model.options.strides == ((1, 1, 1), *((1, 2, 2),) * 3) and flat.model.options.kernels == ((1, 3, 3),) * 4
    assert full.train.augment[0][2] == {"degrees": (-30.0, 30.0)} and tuple(full.infer.mirror) == (0, 1, 2)
    assert flat.train.augment[0][2] == {"degrees": (-180.0, 180.0), "axes": ("d",)} and tuple(flat.infer.mirror) == (1, 2)
    assert all(dict(flat.train.augment[i][2])["axes"] == ("h", "w") for i in (1, 6))  # scale, lowres


def test_a_planned_config_resolves_and_passes_preflight(dataset, tmp_path):
    _, get_config = planned(dataset, tmp_path / "plan.py")
    for arguments, epoch in (("", 46), ("2d", 205)):  # patches of a case: 250 batches of 2 and of 9 from 11 cases
        config, outputs = passed(get_config(arguments))
        assert outputs.num_classes == 3 and config.data.per_volume == epoch
        assert config.data.split == "patient" and config.data.structures == ("rim", "core")
    with pytest.raises(ConfigError, match="3d.*known: 2d|did you mean 2d"):
        get_config("3d")


def test_where_a_patch_is_a_small_part_of_a_volume_both_stages_of_a_cascade_are_planned(tmp_path):
    root = raw(tmp_path / "Dataset005_Long", [((60, 60, 60), (1.0, 1.0, 1.0))] * 5)
    text, get_config = planned(root, tmp_path / "long.py", plan__memory_gb=0.1)
    assert "nnU-Net plans a cascade, because a patch of 3d_fullres covers" in text and len(text.splitlines()) <= 80
    full, lowres, second = get_config(), get_config("lowres"), get_config("cascade")
    assert lowres.data.spacing[0] > 1 == full.data.spacing[0] and lowres.loss.options.nnunet.batch is False
    assert (second.data.previous, full.data.previous) == (("runs/long-lowres",), ())
    assert [t[0] for t in second.train.augment][-2:] == ["stage_morphology", "stage_drop"]
    second.train.augment = second.train.augment[-2:]
    assert passed(second)[1].num_classes == 3  # the first stage need not be trained yet
    second.data.previous, second.train.augment, second.variant = (), full.train.augment, ""
    assert second == full and full.loss.options.nnunet.batch is True
    with pytest.raises(ConfigError, match="2d and cascade of this config, which exclude each other"):
        get_config("2d,cascade")


def test_a_cascade_is_not_for_a_few_minutes(dataset):
    alike = lambda values: np.tile(values, (6, 1))
    found = fingerprint.Fingerprint(alike((60, 140, 150)), alike((2.0, 1.0, 1.0)), np.ones(6), 1, (), (), False)
    plan = configurations.make(found, rules=("zscore",), outputs=3, memory_gb=0.3)
    device = budget.Device("a CPU", True, 10.0, None, None)
    assert plan.lowres and list(page.networks(plan, device)) == ["3d_fullres", "2d"]
    subject = page.Subject(described.fill(resolve(folder_at(dataset))).dataset, dataset, {}, (), device, None, Path("plan.py"))
    said = page.summary(found, plan, subject)[-1]
    assert said == "nnU-Net would add 3d_lowres and its cascade, two trainings; --config.plan.minutes=0 plans them"


def test_a_config_that_training_would_refuse_is_not_written(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "_check", CHECK)
    write = plans.page.write
    monkeypatch.setattr(
        plans.page, "write", lambda *a: write(*a).replace("return c", 'c.train.augment = (("turn", 1.0, {}),); return c')
    )
    with pytest.raises(ConfigError, match="turn"):
        planned(dataset, tmp_path / "plan.py")
    assert not (tmp_path / "plan.py").exists()


def test_ct_is_scaled_by_its_foreground_and_the_coarsest_axis_comes_first(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint.statistics, "SAMPLES", 10**5)
    about = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}
    grids = [((24, 40, 40), (5.0, 1.0, 1.0))] * 5
    root = raw(tmp_path / "Dataset002_Regions", grids, about=about, value=lambda channel, i: -500, margin=8)
    _, get_config = planned(root, tmp_path / "plan.py")
    c = get_config()
    assert tuple(c.data.axes) == (0, 2, 1) and c.data.spacing == pytest.approx((5, 1, 1)) and tuple(c.data.size) == (16, 40, 40)
    assert c.data.intensity == "ct_zscore" and tuple(c.data.regions) == ("dataset",)
    drawn = [-450.0] * 56 + [-400.0] * 8  # 64 voxels of the whole, 8 of them core, in every case
    low, high, mean, std = c.data.statistics[0]
    assert (low, high) == (-450, -400) and (mean, std) == pytest.approx((np.mean(drawn), np.std(drawn)), rel=0.02)
    assert [name for name, _ in c.loss.terms] == ["dice", "bce"] and c.loss.options.dice.batch is False
    assert passed(c, plain=True)[1].num_classes == 2  # a sigmoid for each region


def test_pictures_are_planned_in_two_axes(tmp_path):
    for i in range(8):
        image, mask = np.random.default_rng(i).integers(1, 255, (60, 44, 3)).astype(np.uint8), np.zeros((60, 44), np.uint8)
        mask[10:30, 5:20] = 255
        for part, array in (("images", image), ("masks", mask)):
            (tmp_path / "mine" / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / "mine" / part / f"p{i}.png")
    text, get_config = planned(tmp_path / "mine", tmp_path / "plan.py", data__structures=("polyp",))
    c = get_config()
    assert (c.data.rank, tuple(c.data.size), tuple(c.data.spacing), c.data.channels) == (2, (64, 48), (), 3)
    assert c.model.softmax and c.data.structures == ("polyp",) and len(text.splitlines()) <= 60
    assert passed(c)[1].num_classes == 2


def test_a_fingerprint_measures_what_is_not_zero(tmp_path):
    root = raw(tmp_path / "Dataset003_Cut", [((24, 40, 36), (1.0, 2.0, 3.0))] * 2, margin=6)
    dataset = described.fill(resolve(folder_at(root), name="folder")).dataset
    found = fingerprint.measure(dataset)
    np.testing.assert_array_equal(found.shapes, [(36, 40, 18)] * 2)  # z, y, x without the margin
    np.testing.assert_allclose(found.spacings, [(3, 2, 1)] * 2)
    np.testing.assert_allclose(found.kept, 18 / 24)
    assert found.classes == (("rim", 2, 2 * 56), ("core", 2, 2 * 8))
    assert found.intensities[0].least == 250 and found.intensities[1].most == 300 + 1 + 100


@pytest.mark.parametrize(
    "keys, output, message",
    [
        ({}, "", "needs --config.data.root=FOLDER and --output=FILE.py"),
        ({"data.root": ""}, "plan.py", "needs --config.data.root=FOLDER and --output=FILE.py"),
        ({}, "plan", "a config file's name must end in .py; give another name"),
        ({}, "there.py", "exists; give another name"),
    ],
)
def test_a_plan_without_a_place_to_go_or_to_look_is_refused(dataset, tmp_path, keys, output, message):
    (tmp_path / "there.py").write_text("mine")
    tree = folder()
    tree.update_from_flattened_dict({"data.root": str(dataset)} | keys)
    with pytest.raises(ConfigError, match=message):
        modes.plan(modes.Call(resolve(tree), tmp_path, output=str(tmp_path / output) if output else ""))
    assert (tmp_path / "there.py").read_text() == "mine"


def test_volumes_of_a_named_data_set_are_planned_by_its_own_reader(tmp_path):
    tree = brats()
    tree.data.root, tree.data.modalities, tree.plan.minutes = str(datasets.phantom("brats", "quick")), ("t1ce", "flair"), 0.0
    tree.data.channels = 2
    modes.plan(modes.Call(resolve(tree, name="x"), tmp_path, output=str(tmp_path / "plan.py")))
    scope = {}
    exec((tmp_path / "plan.py").read_text(), scope)
    config = resolve(scope["get_config"](), name="plan")
    preflight.check(config)
    assert (config.data.dataset, config.data.channels, config.data.split) == ("brats", 2, "patient")
    assert config.data.intensity == "zscore_nonzero" and tuple(config.data.regions) == ("dataset",)


def test_slices_of_a_named_data_set_are_not_planned(dataset, tmp_path):
    tree = base()
    tree.data.root = str(dataset)
    with pytest.raises(ConfigError, match="'ct_ich' with data.rank=2: --mode=plan plans for volumes, .*; give --config=folder"):
        modes.plan(modes.Call(resolve(tree, name="x"), tmp_path, output=str(tmp_path / "plan.py")))


def test_cases_that_differ_in_kind_are_refused_by_name(tmp_path):
    root = raw(tmp_path / "Dataset004_Mixed", [((24, 40, 36), (1.0, 2.0, 3.0))] * 2)
    path = root / "imagesTr" / "case_001_0001.nii.gz"
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.stack([image.get_fdata()] * 2, -1), image.affine), path)
    with pytest.raises(DataError, match="case_001 .* 3 channels, case case_000 .* 2; all cases must have the same"):
        fingerprint.measure(described.fill(resolve(folder_at(root), name="folder")).dataset)
