"""Colour pictures of many sizes, trained by patches: train, evaluate and predict at their own resolution, and slices likewise."""

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tiny_volumes as tiny
from PIL import Image

from jaxseg import described, modes
from jaxseg.infer import run as runs
from jaxseg.metrics import counts
from jaxseg.types import ConfigError
from tests import untrained

SHAPES = [(300, 200), (210, 320), (48, 250), (260, 260), (300, 200), (190, 90)]  # the third is lower than a patch
KEYS = {
    "data__structures": ("dark", "bright"),
    "data__per_volume": 8,
    "data__fractions": (0.5, 0.2, 0.3),
    "data__phantom": None,
    "loss__terms": (("dice", 1.0), ("cross_entropy", 1.0)),
    "train__augment": (),
    "optim__lr": 0.03,
    "train__epochs": 4,
    "infer__mirror": (1,),
    "infer__probabilities": True,
}


def write(root: Path, spots: int = 4) -> Path:
    """Grey noise with dark red and bright blue squares, classes 1 and 2."""
    for i, shape in enumerate(SHAPES):
        random = np.random.default_rng(i)
        image, mask = random.integers(100, 140, (*shape, 3)).astype(np.uint8), np.zeros(shape, np.uint8)
        for k in (1, 2):
            for _ in range(spots):
                y, x = (int(random.integers(0, n - 40)) for n in shape)
                mask[y : y + 40, x : x + 40] = k
        image[mask == 1], image[mask == 2] = (60, 10, 10), (200, 200, 255)
        for part, array in (("images", image), ("masks", mask)):
            (root / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / part / f"p{i}.png")
    return root


def config(root, **changes):
    return tiny.config("folder", "patches,quick", data__root=str(root), **{**KEYS, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    top = tmp_path_factory.mktemp("pictures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXSEG_CACHE", str(top / "cache"))
        tree = config(write(top / "set"))
        assert not modes.train(modes.Call(tree, top / "run"))
        tiny.release(top / "run")
        yield top


def test_the_scores_are_those_of_the_files_that_are_written(trained, tmp_path):
    run, out = trained / "run", tmp_path / "out"
    modes.evaluate(modes.Call(None, run))
    assert not modes.predict(modes.Call(None, run, input=str(trained / "set" / "images"), output=str(out)))
    rows = list(csv.DictReader((run / "evaluations" / f"test@{newest(run)}" / "cases.csv").open()))
    assert sorted({row["patient"] for row in rows}) == json.loads((run / "run.json").read_text())["splits"]["test"]
    for row in rows:
        found, truth = (np.asarray(Image.open(f / f"{row['case']}.png")) for f in (out, trained / "set" / "masks"))
        assert found.shape == truth.shape == SHAPES[int(row["case"][1:])]
        k = {"dark": 1, "bright": 2}[row["class"]]
        expected = counts.dice(counts.count((found == k)[None], (truth == k)[None], 1))
        assert float(row["dice"]) == pytest.approx(float(expected[0, 0]), abs=1e-12)
        assert float(row["dice"]) > 0.9  # colours tell the classes apart
        maps = np.asarray(Image.open(out / "probabilities" / row["case"] / f"{row['class']}.png"))
        assert maps.shape == truth.shape and maps[found == k].min() > 80  # the largest of three shares, 0..255
    figures = json.loads((run / "evaluation.json").read_text())
    assert figures["prepared"] is None and np.isfinite(figures["loss"])  # the network's grid is the pictures' own
    overlays = sorted(p.name for p in (out / "overlays").iterdir())
    assert overlays == [f"p{i}.png" for i in range(len(SHAPES))]


@pytest.mark.parametrize("picture", [1, 2])  # the second is lower than a window
def test_a_pointwise_network_gives_by_windows_what_it_gives_of_the_whole_picture(trained, picture):
    run = trained / "run"
    settings = json.loads((run / "run.json").read_text())["config"]["infer"]
    opened = runs.open_run(run, {**settings, "mirror": (), "windows": 1})
    ((params, state),) = opened.weights
    taps = np.array(params["first.weight"])
    assert taps.shape == (3, 3, 3, 8)
    taps[[0, 2]] = taps[:, [0, 2]] = 0  # the middle one is left
    weights = ((params | {"first.weight": taps}, state),)
    image = np.asarray(Image.open(trained / "set" / "images" / f"p{picture}.png"))[None]
    image = image[:, :208, :248]  # what the network takes as a whole: multiples of 4
    found, whole = (
        np.asarray(f(image)) for f in (lambda x: opened.application(weights, x), opened.application.forward.averaged(weights))
    )
    assert found.shape == whole.shape == (*image.shape[:3], 3) and whole.std() > 0.1
    np.testing.assert_allclose(found, whole, atol=1e-5 * np.abs(whole).max())


def test_slices_of_scans_at_another_spacing_are_scored_as_the_files_that_are_written(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path / "cache"))
    root, keys = untrained.write(tmp_path / "set", 3), {"data__size": (8, 8), "data__spacing": (0.8, 1.25), "data__channels": 1}
    values = {"data__window": (22.0, 44.0), "data__mean": (), "data__std": (), **untrained.FRACTIONS}
    tree = tiny.config("folder", "patches,quick", data__root=str(root), data__phantom=None, infer__overlap=0.5, **keys, **values)
    run, out = untrained.make(tmp_path / "run", described.fill(tree).config), tmp_path / "out"
    modes.evaluate(modes.Call(None, run))
    assert not modes.predict(modes.Call(None, run, input=str(root / "images"), output=str(out)))
    rows = list(csv.DictReader((run / "evaluations" / "test@1" / "cases.csv").open()))
    assert len(rows) == 9 * len({row["case"] for row in rows}) > 9
    for row in rows:
        found, truth = (np.asarray(nibabel.load(f / f"{row['case']}.nii.gz").dataobj) for f in (out, root / "masks"))
        assert found.shape == truth.shape and 0 < found.mean() < 1
        expected = counts.count(*(a[None, :, :, int(row["slice"])] for a in (found, truth)), 1)
        assert [int(row[key]) for key in ("tp", "fp", "fn", "tn")] == [int(c[0, 0]) for c in expected]
    figures = json.loads((run / "evaluation.json").read_text())
    assert figures["grid"].endswith(": 10 x 12") and figures["prepared"]["grid"].endswith(": 12 x 10")
    assert figures["examples"] == figures["prepared"]["examples"] == len(rows)


def test_what_training_can_know_beforehand_is_refused(trained, tmp_path):
    tree = config(trained / "set", data__size=(640, 640))
    with pytest.raises(
        ConfigError, match=r"data.size=\(640, 640\): is, along an axis, at least twice as large as all training slices .* pixels"
    ):
        modes.train(modes.Call(tree, tmp_path / "run"))
    tiny.release(tmp_path / "run")


def newest(run: Path) -> str:
    return json.loads((run / "evaluation.json").read_text())["weights"]["step"]
