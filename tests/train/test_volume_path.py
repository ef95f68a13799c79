"""The path of volumes end to end, on the quick phantom: train, stop, resume, evaluate, predict, cascade; and leak checks."""

import csv
import itertools
import json
import os
import shutil
import signal
from pathlib import Path

import jax
import nibabel
import numpy as np
import pytest
import tiny_volumes as tiny

from jaxseg import checkpoint, modes
from jaxseg.data import datasets
from jaxseg.data.formats.volumes import read_volume
from jaxseg.infer import postprocess
from jaxseg.infer import predict as prediction
from jaxseg.infer import run as runs
from jaxseg.infer.cases import Input
from jaxseg.infer.network import Forward, Windows
from jaxseg.models import functional
from jaxseg.train import loop, setup
from jaxseg.train.log import Log
from jaxseg.types import ConfigError, DataError, JaxsegError, MismatchError
from jaxseg.utils import output

REGIONS = {
    "data__size": (16, 16, 16),
    "train__bn_warmup": 2,
    "loss__learnable": (("dice", 0.5), ("bce", 0.5)),
    "eval__postprocess": True,
}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def regions(**changes):
    return tiny.config("brats_unet3d", "regions,quick", **{**REGIONS, **changes})


def train(workdir: Path, config) -> int:
    try:
        return modes.train(modes.Call(config, workdir)) or 0
    finally:
        tiny.release(workdir)


def result(workdir: Path) -> tuple:
    newest = max((p for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    rows = list(csv.DictReader((workdir / "epochs.csv").open()))
    return newest.name, json.loads((newest / "digests.json").read_text())["leaves"], rows


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    assert train(workdir, regions()) == 0
    return workdir


@pytest.fixture(scope="module")
def finder(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "finder"
    assert train(workdir, tiny.config("brats_roi", data__size=(16, 16, 16), train__epochs=1)) == 0
    return workdir


def test_a_run_with_region_heads_writes_what_it_says(whole):
    figures = json.loads((whole / "evaluation.json").read_text())
    assert set(figures["scores"]) == {"WT", "TC", "ET", "NCR", "ED"} and figures["synthetic"] and figures["prepared"] is None
    assert figures["grid"] == "the cases' own grid: 40 x 40 x 32" and figures["examples"] == len(figures["data"]) - 1 == 2
    assert {"val_wt", "val_tc", "val_et"} <= set(next(csv.reader((whole / "epochs.csv").open())))
    cases = list(csv.DictReader((whole / "evaluations" / f"test@{figures['weights']['step']}" / "cases.csv").open()))
    steps = json.loads((whole / "postprocess.json").read_text())
    parts = json.loads((whole / "splits.json").read_text())
    assert sorted({row["patient"] for row in cases}) == parts["test"] and steps == figures["postprocessing"]
    assert not set(parts["train"]) & {*parts["val"], *parts["test"]} and parts["drawn"]["split"] == "patient"


def test_a_run_that_was_stopped_ends_with_the_same_bits(tmp_path, whole, monkeypatch):
    stop = lambda number, point: os.kill(os.getpid(), signal.SIGTERM) if (number, point) == (2, "after_step") else None
    monkeypatch.setattr(loop, "fault", stop)
    assert train(tmp_path / "run", regions()) == loop.PREEMPTED
    monkeypatch.undo()
    assert train(tmp_path / "run", regions()) == 0
    assert result(tmp_path / "run") == result(whole)
    assert any(name.startswith("balance/") for name in result(whole)[1])  # the trained factors of the loss are there


def test_two_devices_are_one_device(tmp_path, whole):
    assert train(tmp_path / "run", regions(mesh__data=2)) == 0
    one, two = (
        np.array([[float(row[k]) for k in ("train_loss", "val_loss")] for row in result(w)[2]]) for w in (whole, tmp_path / "run")
    )
    np.testing.assert_allclose(two, one, rtol=1e-4)
    params, state, _ = checkpoint.load_weights(whole)
    network = functional.split(setup.build_model(regions(), 3, abstract=True))[0]
    image = np.random.default_rng(0).normal(size=(20, 17, 30, 4)).astype(np.float32)
    assert len(jax.local_devices()) == 8
    alone, spread = (Windows(Forward(network, num_classes=3, batch=n), (16, 16, 16), blend="gaussian") for n in (3, 8))
    logits = [np.asarray(n([n.forward.place(params, state)], image[None])) for n in (alone, spread)]
    np.testing.assert_allclose(*logits, atol=1e-5)


def test_runs_of_one_network_are_averaged_and_others_refused(whole, finder):
    settings = regions().infer.to_dict()
    alone = runs.open_run(whole, settings)
    twice = runs.averaged(alone, [whole])
    image = np.random.default_rng(0).normal(size=(20, 17, 30, 4)).astype(np.float32)
    np.testing.assert_allclose(twice.logits(image[None]), alone.logits(image[None]), atol=1e-5)
    with pytest.raises(MismatchError, match="infer.ensemble.*model"):
        runs.averaged(alone, [finder])


def scan(shape=(11, 14, 9)) -> np.ndarray:
    """[X, Y, Z, 4] integers with a different size and content along every axis."""
    return np.random.default_rng(3).integers(0, 900, (*shape, 4)).astype(np.int16)


def turned(array: np.ndarray, affine: np.ndarray, axes, flips) -> tuple[np.ndarray, np.ndarray]:
    """The same voxels in another axis order."""
    moved = array.transpose(*axes, *range(3, array.ndim))
    matrix = affine[:, [*axes, 3]].copy()
    for axis in range(3):
        if flips[axis]:
            moved = np.flip(moved, axis)
            matrix[:, 3] += (moved.shape[axis] - 1) * matrix[:, axis]
            matrix[:, axis] *= -1
    return moved, matrix


@pytest.mark.fault("P2")
def test_all_48_axis_orders_give_one_result_in_space_bit_for_bit(whole, tmp_path):
    settings = {"probabilities": True, "overlay": False, "uncertainty": "", "statistics": False}
    run = runs.open_run(whole, regions().infer)
    affine = np.array([[-1.5, 0, 0, 20], [0, -1.25, 0, 30], [0, 0, 2, -7], [0, 0, 0, 1]], np.float64)
    found = []
    for axes, flips in itertools.product(itertools.permutations(range(3)), itertools.product((False, True), repeat=3)):
        array, matrix = turned(scan(), affine, axes, flips)
        files = []
        for c in range(4):
            files.append(tmp_path / f"{c}.nii")
            nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(array[..., c]), matrix), files[-1])
        case = Input("out", tuple(files), lambda: [read_volume(path) for path in files])  # noqa: B023
        prediction._one(run, case, tmp_path, settings, [])
        written, maps = (nibabel.load(tmp_path / folder / "out.nii.gz") for folder in ("", "probabilities"))
        assert written.shape == array.shape[:3] and (written.affine == nibabel.load(files[0]).affine).all()
        back = lambda a: turned(np.flip(a, [i for i in range(3) if flips[i]]), affine, np.argsort(axes), (False,) * 3)[0]  # noqa: B023
        found.append((back(np.asarray(written.dataobj)), back(np.asarray(maps.dataobj))))
    assert len(found) == 48 and found[0][0].shape == (11, 14, 9) and len(np.unique(found[0][0])) > 1
    for labels, maps in found[1:]:
        np.testing.assert_array_equal(labels, found[0][0])
        np.testing.assert_array_equal(maps, found[0][1])


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two cases of the phantom without their masks."""
    source = datasets.phantom("brats", "quick")
    for case in sorted(p for p in source.glob("*/*") if p.is_dir())[:2]:
        shutil.copytree(case, tmp_path / "scans" / case.name, ignore=shutil.ignore_patterns("*seg*"))
    return tmp_path / "scans"


def predict(workdir: Path, scans: Path, output: Path, **changes) -> int:
    return modes.predict(modes.Call(regions(**changes), workdir, input=str(scans), output=str(output))) or 0


def test_prediction_needs_no_masks_and_applies_the_chosen_steps(whole, folder, tmp_path):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    assert predict(run, folder, tmp_path / "out") == 0
    (run / "postprocess.json").write_text('[{"step": "remove_small", "options": {"min_mm3": 1e9}}]')
    assert predict(run, folder, tmp_path / "cleaned", infer__postprocess=True) == 0
    assert predict(run, next(folder.iterdir()), tmp_path / "single") == 0  # the folder of one case
    assert len(list((tmp_path / "single").glob("*.nii.gz"))) == 1
    for case in folder.iterdir():
        source, labels, cleaned = (
            nibabel.load(path)
            for path in (
                next(case.glob("*t1.nii*")),
                tmp_path / "out" / f"{case.name}.nii.gz",
                tmp_path / "cleaned" / f"{case.name}.nii.gz",
            )
        )
        assert (labels.affine == source.affine).all() and labels.shape == source.shape
        assert np.asarray(labels.dataobj).any() and not np.asarray(cleaned.dataobj).any()


@pytest.mark.fault("D19")
def test_a_missing_modality_is_refused_by_case_and_name(whole, folder, tmp_path):
    case = sorted(folder.iterdir())[1]
    next(case.glob("*flair*")).unlink()
    with pytest.raises(DataError, match=f"{case.name} has no flair"):
        predict(whole, folder, tmp_path / "out")


def test_cases_without_a_mask_are_counted_and_left_out(tmp_path, capsys):
    root = Path(shutil.copytree(datasets.phantom("brats", "quick"), tmp_path / "data"))
    masks = sorted(root.rglob("*seg*"))
    masks[0].unlink()
    data = setup.load_data(regions(data__root=str(root), data__phantom=None), Log(tmp_path), tmp_path)
    assert len(data.store) == 5 and "1 of 6 cases have no mask" in capsys.readouterr().out
    for mask in masks[1:]:
        mask.unlink()
    with pytest.raises(DataError, match="none of 6 cases has a mask.*predict"):
        setup.load_data(regions(data__root=str(root), data__phantom=None), Log(tmp_path), tmp_path)


@pytest.mark.parametrize("split", ["patient", "fold", "file"])
def test_no_patch_of_a_test_patient_is_ever_drawn(tmp_path, whole, split):
    more = {"data__split_file": str(whole / "splits.json")} if split == "file" else {}
    more |= {"data__folds": 3, "data__fold": 1} if split == "fold" else {}
    config = regions(data__split=split, **more)
    data = setup.load_data(config, Log(tmp_path), tmp_path)
    evaluated = {data.store.rows[i]["patient"] for name in ("val", "test") for i in data.rows[name]}
    with data.stream(config, 2, 0) as batches:
        seen = [next(batches)["index"] for _ in range(3 * data.steps_per_epoch(config, 2))]
    drawn = {data.store.rows[i]["patient"] for numbers in seen for i in numbers}
    assert drawn == {data.store.rows[i]["patient"] for i in data.rows["train"]} and not drawn & evaluated


def test_no_network_is_evaluated_on_patients_that_it_was_trained_on(whole, finder, tmp_path):
    other = {"data__split_seed": 5}
    with pytest.raises(MismatchError, match="config.data.split_seed=5, recorded 0"):
        modes.evaluate(modes.Call(regions(**other), tmp_path, checkpoint=str(whole)))
    for changes in ({"model__init": str(whole)}, {"infer__roi": str(finder)}):
        config, log = regions(**other, **changes), Log(tmp_path)
        with pytest.raises(DataError, match="trained or selected on"):
            setup.build(config, tmp_path / "new", setup.load_data(config, log, tmp_path), log)
    with pytest.raises(MismatchError, match="now in another split"):
        log = Log(tmp_path)
        data = setup.load_data(regions(**other), log, tmp_path)
        modes.patients.keep(regions(**other), whole, data.store.rows, data.rows)


def test_the_cascade_is_evaluated_beside_the_sliding_window_and_predicts(finder, tmp_path):
    config = tiny.config(
        "brats_cascade",
        data__size=(16, 16, 16),
        train__epochs=1,
        infer__roi=str(finder),
        data__per_volume=1,
        train__bn_warmup=0,
        schedule__warmup=0,
    )
    assert train(tmp_path / "run", config) == 0
    figures = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert {"WT", "TC", "ET"} <= figures["cascade"]["scores"].keys()
    assert {"dice", "class"} <= set(next(csv.reader(next((tmp_path / "run").rglob("cascade_cases.csv")).open())))
    roi = next(csv.DictReader((finder / "metrics.csv").open()))
    assert roi.keys() == {"seed", "best_epoch", "best_val_dice", "test_wt_dice", "weight_path"}
    assert json.loads((finder / "config.json").read_text())["data"]["whole"]
    scans = datasets.phantom("brats", "quick")
    for run in (tmp_path / "run", finder):  # by the cascade, as the run was configured; and the finder by itself
        call = modes.Call(None, run, input=str(scans), output=str(tmp_path / "out"))
        assert not modes.predict(call)
        written = [nibabel.load(path) for path in (tmp_path / "out").glob("*.nii.gz")]
        assert {labels.shape for labels in written} == {(40, 40, 32)} and len(written) == 6
        found = {value for labels in written for value in np.unique(labels.dataobj).tolist()}
        assert found <= ({0, 1} if run == finder else {0, 1, 2, 4})  # the phantom has the layout, and the values, of 2018


def test_slices_of_the_same_volumes_train_a_network_of_rank_2(tmp_path):
    config = tiny.config("brats_unet3d", "slices,quick", data__size=(24, 24), train__epochs=1, data__max_samples=32)
    assert train(tmp_path / "run", config) == 0
    figures = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert figures["grid"].endswith("40 x 40") and checkpoint.read_record(tmp_path / "run")["model"]["rank"] == 2
    with next((tmp_path / "run" / "evaluations").glob("test@*/cases.csv")).open() as file:
        rows = list(csv.DictReader(file))
    tested = json.loads((tmp_path / "run" / "splits.json").read_text())["test"]
    masks = [p for p in Path(os.environ["JAXSEG_CACHE"]).rglob("*_seg.nii.gz") if any(patient in p.name for patient in tested)]
    values = np.concatenate([np.asarray(nibabel.load(p).dataobj).ravel() for p in masks])
    for name, value in (("NCR", 1), ("ED", 2), ("ET", 4)):  # whatever is predicted: every voxel of the truth is counted once
        scored = sum(int(row["tp"]) + int(row["fn"]) for row in rows if row["class"] == name)
        assert scored == np.count_nonzero(values == value) > 0


def test_check_and_summary_know_volumes(tmp_path, capsys, monkeypatch):
    modes.check(modes.Call(regions(), tmp_path))
    text = capsys.readouterr().out
    for fact in ("6 of 6 patients", "volumes  6 kept of 6", "40 x 40 x 32: 6", "NCR", "x 1 to 1 mm, y 1 to 1 mm, z 1 to 1 mm"):
        assert fact in text
    modes.check(modes.Call(regions(data__size=(48, 48, 48)), tmp_path))
    assert "warning" in capsys.readouterr().out
    modes.summary(modes.Call(regions(), tmp_path))
    assert "[1, 16, 16, 16, 4] -> [1, 16, 16, 16, 3]" in capsys.readouterr().out
    modes.summary(modes.Call(tiny.config("brats_roi"), tmp_path))
    assert "[1, 32, 32, 32, 7] -> [1, 32, 32, 32, 2]" in capsys.readouterr().out  # background and tumour
    assert datasets.label_count("brats", release="2024") == 4
    monkeypatch.setattr(output, "_json", True)
    modes.summary(modes.Call(regions(), tmp_path))
    found = json.loads(capsys.readouterr().out)["network"]
    assert found["params"] == sum(part["params"] for part in found["parts"]) > 0


BAD = [
    ({"data__size": (18, 16, 16)}, "data.size=.*divisible by 4"),
    ({"data__size": (96, 16, 16)}, r"data.size=\(96, 16, 16\).*40"),
    ({"data__channels": 2}, "data.channels=2: data.modalities has 4 names"),
    ({"data__modalities": ("t1", "flare")}, "data.channels|flare"),
    ({"data__per_volume": 0}, "data.per_volume=0"),
    ({"data__split": "file"}, "data.split_file"),
    ({"data__split": "file", "data__split_file": "/nowhere.json"}, "nowhere"),
    ({"eval__empty": "zero"}, "eval.empty='zero'"),
    ({"infer__roi": "/nowhere"}, "/nowhere"),
    ({"data__whole": True, "data__fit": "stretch"}, "data.regions=.'dataset',."),
    ({"data__regions": (("A", ("NCR", "oedema")),)}, "unknown class of region A 'oedema'"),
    ({"model__name": "segformer_b0"}, "rank=3"),
    ({"data__foreground": 1.5}, "data.foreground=1.5"),
    ({"train__batch_size": 100}, "100"),
    ({"infer__overlap": 1.0}, "infer.overlap=1.0"),
]


@pytest.mark.parametrize("changes, words", BAD, ids=lambda v: "-".join(v) if isinstance(v, dict) else "")
def test_a_mistake_is_one_line_before_anything_compiles(tmp_path, monkeypatch, changes, words):
    monkeypatch.setattr(jax, "jit", lambda *a, **k: lambda *x: pytest.fail("compiled"))
    with pytest.raises(JaxsegError, match=words) as error:
        config = regions(**changes)
        log = Log(tmp_path)
        setup.build(config, tmp_path / "run", setup.load_data(config, log, tmp_path), log)
    assert "\n" not in str(error.value) and error.value.exit_code in (64, 65, 66)


def test_a_run_of_patches_is_no_finder_and_regions_need_a_set_that_has_them(whole, tmp_path):
    config, log = regions(infer__roi=str(whole)), Log(tmp_path)
    with pytest.raises(MismatchError, match="not trained on whole volumes"):
        setup.load_data(config, log, tmp_path)
    with pytest.raises(ConfigError, match="defines no regions"):
        setup.feeds.outputs_of(config, ("liver",), ())


def test_steps_in_mm_do_not_depend_on_the_voxels():
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[2:4, 2:4, 2:4] = 1
    step = [{"step": "remove_small", "options": {"min_mm3": 30.0}}]
    assert not postprocess.apply(labels, step, (1.0, 1.0, 1.0)).any() and postprocess.apply(labels, step, (2.0, 2.0, 2.0)).any()
