"""Maps of a run on files: on the case's own grid, of what was predicted, with a picture and a row for each class."""

import csv

import jax
import numpy as np
from PIL import Image

from jaxseg import modes
from jaxseg.data.formats.volumes import read_volume
from jaxseg.experiments.insight import gradcam
from tests import untrained


def test_maps_lie_on_the_grid_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path / "cache"))
    root, said = untrained.write(tmp_path / "set", 3), []
    monkeypatch.setattr(modes, "SAY", said.append)
    with jax.disable_jit():
        run = untrained.make(tmp_path / "run", untrained.config(root, 3))
        image = tmp_path / "set" / "images" / "0.nii.gz"
        assert modes.explain(modes.Call(None, run, input=str(image), output=str(tmp_path / "out"))) == 0
    (row,) = csv.DictReader((tmp_path / "out" / "explanations.csv").open())
    assert row["class"] == "foreground" and int(row["voxels"]) > 0 and 0 <= float(row["inside"]) <= 1
    assert row["layer"] in said[0] and "1 of 1 cases" in said[-1]
    maps = [path for path in (tmp_path / "out" / "gradcam").rglob("*") if path.is_file()]
    (map_,) = [path for path in maps if path.suffix == ".gz"]
    there, like = read_volume(map_), read_volume(image)
    assert np.squeeze(there.array).shape == np.squeeze(like.array).shape[: np.squeeze(there.array).ndim]
    assert there.array.max() > 0 and np.array_equal(there.affine, like.affine)
    assert len(maps) == 2
    page = (tmp_path / "out" / "explanations.html").read_text()
    assert page.count('src="data:image/jpeg') == 1 and f"{float(row['inside']):.3f} of the map lies inside" in page


def test_grey_pictures_of_8_bits_reach_the_network_as_0_to_1_and_give_maps(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path / "cache"))
    root, seen, heat = untrained.write(tmp_path / "set", 2), [], gradcam.heat

    def watched(network, params, state, image, *rest):
        seen.append(np.asarray(image))
        return heat(network, params, state, image, *rest)

    monkeypatch.setattr(gradcam, "heat", watched)
    with jax.disable_jit():
        run = untrained.make(tmp_path / "run", untrained.config(root, 2))
        image = root / "images" / "0.png"
        assert modes.explain(modes.Call(None, run, input=str(image), output=str(tmp_path / "out"))) == 0
    assert len(seen) == 1 and seen[0].shape == (1, 16, 16, 1) and 0.5 < seen[0].max() <= 1
    (row,) = csv.DictReader((tmp_path / "out" / "explanations.csv").open())
    assert 0 < float(row["inside"]) <= 1
    (map_,) = (tmp_path / "out" / "gradcam" / "0").iterdir()
    assert np.asarray(Image.open(map_)).max() > 128
