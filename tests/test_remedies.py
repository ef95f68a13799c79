"""What a message advises is done here, and then it works."""

import re

import nibabel
import numpy as np
import pytest
from PIL import Image

from jaxseg.cli import flags
from jaxseg.data.formats.volumes import read_volume
from jaxseg.train import setup
from jaxseg.train.log import Log
from jaxseg.types import ConfigError, DataError
from tests import untrained


def test_too_few_patients_for_three_splits_go_without_a_test_split(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path / "cache"))
    root, log = untrained.write(tmp_path / "set", 2, count=2), Log(tmp_path, quiet=True)
    with pytest.raises(
        ConfigError, match=r"a fraction of 0, with eval.split=val.* --config.data.fractions='.1,0,0.' --config.train.best=last"
    ):
        setup.load_data(untrained.config(root, 2), log, tmp_path)
    data = setup.load_data(untrained.config(root, 2, data__fractions=(0.5, 0.5, 0.0), eval__split="val"), log, tmp_path)
    assert {name: len(rows) for name, rows in data.rows.items()} == {"train": 1, "val": 1, "test": 0}
    everything = untrained.config(root, 2, data__fractions=(1, 0, 0), train__best="last")
    assert len(setup.load_data(everything, log, tmp_path).rows["train"]) == 2


def test_a_volume_without_a_place_in_space_is_read_once_it_has_one(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.diag([-1.0, 1.0, 2.0, 1.0]))
    image.set_sform(image.affine, 0)
    image.set_qform(image.affine, 0)
    nibabel.save(image, tmp_path / "a.nii")
    with pytest.raises(DataError, match=r"image.set_sform\(image.affine, 1\)"):
        read_volume(tmp_path / "a.nii")
    image.set_sform(image.affine, 1)
    nibabel.save(image, tmp_path / "a.nii")
    assert np.allclose(read_volume(tmp_path / "a.nii").affine, image.affine)


def test_a_picture_of_too_many_pixels_is_read_in_tiles(tmp_path):
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="cut it into tiles"):
        read_volume(tmp_path / "a.png", max_pixels=300)
    Image.open(tmp_path / "a.png").crop((0, 0, 15, 20)).save(tmp_path / "tile.png")
    assert read_volume(tmp_path / "tile.png", max_pixels=300).array.shape == (20, 15)


@pytest.mark.parametrize(
    "typed, written",
    [
        ("--config.loss.options.focal.gamma=2", "--config.loss.options=\"{'focal': {'gamma': value}}\""),
        ("--config.model.options.dropout=0.1", "--config.model.options=\"{'dropout': value}\""),
    ],
)
def test_an_option_that_was_typed_as_a_key_is_written_as_the_message_says(monkeypatch, typed, written):
    monkeypatch.setattr("sys.argv", ["jaxseg", "--config=configs/folder.py", typed])
    with pytest.raises(ConfigError, match=re.escape(written)):
        flags.parse(["jaxseg", "--config=configs/folder.py", typed])
