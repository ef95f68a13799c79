"""Predictions go back to the values of the masks that a run learnt from: classes in, a release's own numbers out."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import tiny_volumes as tiny

from jaxseg import modes
from jaxseg.data import datasets
from jaxseg.data.formats.volumes import read_volume
from jaxseg.data.geometry import to_slices, to_volume
from jaxseg.data.phantom import brain_tumour
from jaxseg.infer import examples
from jaxseg.infer.cases import values_of

VOLUMES = {"data__size": (16, 16, 16), "data__per_volume": 1}
SLICES = {"data__size": (16, 16), "data__max_samples": 16}


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory, unoptimised):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setitem(brain_tumour.KINDS, "quick", (4, (24, 24, 16)))
        yield


def values(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


@pytest.mark.parametrize(
    "layout, rank, allowed", [("2020", 3, {0, 1, 2, 4}), ("2023", 3, {0, 1, 2, 3}), ("2020", 2, {0, 1, 2, 4})]
)
def test_predicted_labels_have_the_values_of_the_release(tmp_path, monkeypatch, layout, rank, allowed):
    brain_tumour.write_phantom(tmp_path / "data", kind="quick", layout=layout)
    kind, size = ("quick", VOLUMES) if rank == 3 else ("slices,quick", SLICES)
    config = tiny.config(
        "brats_unet3d",
        kind,
        **size,
        train__epochs=1,
        data__root=str(tmp_path / "data"),
        data__phantom=None,
        data__fractions=(0.5, 0.25, 0.25),
        train__bn_warmup=0,
        schedule__warmup=0,
        infer__overlay=False,
    )
    modes.train(modes.Call(config, tmp_path / "run"))
    tiny.release(tmp_path / "run")
    call = modes.Call(None, tmp_path / "run", input=str(tmp_path / "data"), output=str(tmp_path / "out"))
    assert not modes.predict(call)
    for path in (tmp_path / "out").glob("*.nii.gz"):
        assert set(np.unique(values(path)).tolist()) <= allowed

    data = datasets.load("brats", tmp_path / "data")
    case = data.cases[0]
    raw = values(case.mask)
    assert set(np.unique(raw).tolist()) == allowed == {0, *data.values}  # all of them are there to be lost
    truth = read_volume(case.mask)  # a network that finds the truth writes the file that the experts drew
    known = [to_volume(truth)[0] if rank == 3 else to_slices(truth)[0]]
    monkeypatch.setattr(examples.Preparation, "labels", lambda *_, **__: data.map_mask(known[0]))
    assert not modes.predict(call._replace(output=str(tmp_path / "oracle")))
    np.testing.assert_array_equal(values(tmp_path / "oracle" / f"{case.id}.nii.gz"), raw)


def test_every_release_goes_in_and_comes_out_again():
    for release, pairs in datasets.MODULES["brats"].VALUES.items():
        raw = np.array(list(pairs), np.int16)
        record = {"values": datasets.MODULES["brats"].values_of(release), "labels": []}
        np.testing.assert_array_equal(values_of(record)[datasets.MODULES["brats"].map_mask(release, raw)], raw)


def test_values_above_255_take_16_bits():
    assert values_of({"values": [7, 255], "labels": []}).dtype == np.uint8
    assert values_of({"values": [7, 300], "labels": []}).dtype == np.uint16
