"""Lungs in chest X-rays: four layouts, sides of the patient or of the image, masks in columns and in parts."""

import dataclasses

import numpy as np
import pytest

from jaxseg.data import datasets
from jaxseg.data.datasets import lung_files, lungs
from jaxseg.data.records import Recipe
from jaxseg.data.store import base
from jaxseg.data.store import stacked as caches
from jaxseg.data.store.cases import read_case
from jaxseg.types import ConfigError
from tests.data.datasets.drawn import RNG, masks_of, refused, save, square

IMAGE_LEFT, IMAGE_RIGHT = square(8, 4, 12), square(6, 30, 14)  # the patient's right lung, and the left one


def check_sides(data, expected=(IMAGE_RIGHT, IMAGE_LEFT), scale=1):
    """Class 1 where expected[0] is, class 2 where expected[1] is, in every case."""
    large = [m.repeat(scale, 0).repeat(scale, 1) > 0 for m in expected]
    for mask in masks_of(data).values():
        np.testing.assert_array_equal(mask, 1 * large[0] + 2 * large[1])


def meanings(data):
    """(what stands in a mask, what it was taken for) over all cases."""
    return {(m.found, m.name) for case in data.cases for m in base.read_files(data, case)[1].meaning}


def shenzhen(root):
    for i, finding in ((1, 0), (2, 1), (3, 0)):
        save(root / "CXR_png" / f"CHNCXR_{i:04d}_{finding}.png", RNG.integers(0, 255, (32, 48)))
    for stem in ("CHNCXR_0001_0", "CHNCXR_0002_1"):  # the third has none, as 96 of 662
        save(root / "mask" / f"{stem}_mask.png", IMAGE_LEFT | IMAGE_RIGHT)
    return root


def test_shenzhens_lungs_are_named_by_the_patients_side_unless_the_images_naming_is_asked_for(tmp_path):
    root = shenzhen(tmp_path / "set")
    data = datasets.load("lungs", tmp_path)
    assert data.labels == ("left lung", "right lung") and [c.patient for c in data.cases] == ["CHNCXR_0001", "CHNCXR_0002"]
    assert [data.stratum(c) for c in data.cases] == ["normal", "finding"]
    check_sides(data)
    assert meanings(data) == {("0", "background"), ("255", "lung")}  # the file knows no sides
    by_image = datasets.load("lungs", root, naming="image")
    assert by_image.labels == ("left lung of the image", "right lung of the image")
    check_sides(by_image, (IMAGE_LEFT, IMAGE_RIGHT))
    whole = datasets.load("lungs", root, structures=("lung",))
    check_sides(whole, (IMAGE_LEFT | IMAGE_RIGHT, np.zeros_like(IMAGE_LEFT)))


def test_the_projects_annotations_are_converted_to_the_patients_sides(tmp_path):
    save(tmp_path / "image" / "resize_CHNCXR_0539_1.png", RNG.integers(0, 255, (32, 48)))
    save(tmp_path / "annotation" / "resize_CHNCXR_0539_1.png", (IMAGE_LEFT > 0) + 2 * (IMAGE_RIGHT > 0))
    check_sides(datasets.load("lungs", tmp_path))
    check_sides(datasets.load("lungs", tmp_path, naming="image"), (IMAGE_LEFT, IMAGE_RIGHT))
    assert datasets.load("lungs", tmp_path).cases[0].patient == "CHNCXR_0539"


def montgomery(root):
    save(root / "CXR_png" / "MCUCXR_0001_0.png", RNG.integers(0, 255, (32, 48)))
    save(root / "ManualMask" / "leftMask" / "MCUCXR_0001_0.png", IMAGE_RIGHT)  # the patient's left
    save(root / "ManualMask" / "rightMask" / "MCUCXR_0001_0.png", IMAGE_LEFT)
    return root


def test_montgomerys_folders_are_the_patients_sides_or_one_lung_mask(tmp_path):
    root = montgomery(tmp_path / "MontgomerySet")
    check_sides(datasets.load("lungs", tmp_path))
    assert meanings(datasets.load("lungs", root)) == {("0", "background"), ("255", "left lung"), ("255", "right lung")}
    check_sides(datasets.load("lungs", root, naming="image"), (IMAGE_LEFT, IMAGE_RIGHT))
    check_sides(datasets.load("lungs", root, structures=("lung",)), (IMAGE_LEFT | IMAGE_RIGHT, np.zeros_like(IMAGE_LEFT)))
    with pytest.raises(ConfigError, match="structure of the montgomery set 'heart'"):
        datasets.load("lungs", root, structures=("heart",))


def jsrt(root, monkeypatch):
    words = RNG.integers(0, 4096, (64, 64)).astype(">u2")
    monkeypatch.setattr(lung_files.read_jsrt, "__defaults__", (64,))
    (root / "All247images").mkdir(parents=True)
    (root / "All247images" / "JPCLN001.IMG").write_bytes(words.tobytes())
    inside = {
        "left lung": square(4, 20, 8, (32, 32)),
        "right lung": square(4, 4, 8, (32, 32)),
        "heart": square(14, 12, 8, (32, 32)),
        "left clavicle": square(0, 20, 2, (32, 32)),
        "right clavicle": square(0, 4, 2, (32, 32)),
    }
    for structure, mask in inside.items():
        save(root / "scr" / "fold1" / "masks" / structure / "JPCLN001.gif", mask)
    return words.astype(int), inside


def test_jsrt_is_big_endian_12_bits_turned_round_and_scr_is_enlarged(tmp_path, monkeypatch):
    words, inside = jsrt(tmp_path, monkeypatch)
    data = datasets.load("lungs", tmp_path, structures=("left lung", "right lung", "heart"))
    piece = next(read_case(data, data.cases[0]))
    np.testing.assert_array_equal(piece.image[..., 0], (4095 - words) // 16)
    for number, name in enumerate(("left lung", "right lung", "heart"), 1):
        np.testing.assert_array_equal(piece.mask == number, inside[name].repeat(2, 0).repeat(2, 1) > 0)
    path = tmp_path / "All247images" / "JPCLN001.IMG"
    path.write_bytes(words.astype("<u2").tobytes())
    refused("DATA_IMAGE", masks_of, data, match="big-endian")
    path.write_bytes(b"\0" * 8191)
    refused("DATA_TRUNCATED", masks_of, data, match="8191 bytes")


def test_a_changed_part_changes_the_caches_name(tmp_path):
    root, recipe = montgomery(tmp_path), Recipe((32, 48), None, None, 1, lungs.SIDES)
    before = caches.fingerprint(datasets.load("lungs", root), recipe)
    assert before == caches.fingerprint(datasets.load("lungs", root), recipe)
    other = datasets.load("lungs", root, naming="image")
    assert before != caches.fingerprint(dataclasses.replace(other, labels=lungs.SIDES), recipe)  # the reader differs
    (root / "ManualMask" / "rightMask" / "MCUCXR_0001_0.png").write_bytes(b"changed")
    assert before != caches.fingerprint(datasets.load("lungs", root), recipe)


def test_columns_split_at_the_first_empty_one_and_touching_lungs_are_refused(tmp_path):
    third = square(20, 44, 3)
    left, right = lungs.split_columns((IMAGE_LEFT | IMAGE_RIGHT | third) > 0)
    np.testing.assert_array_equal(left, IMAGE_LEFT > 0)
    np.testing.assert_array_equal(right, (IMAGE_RIGHT | third) > 0)  # the rest, whatever it is
    root = shenzhen(tmp_path)
    save(root / "mask" / "CHNCXR_0002_1_mask.png", square(0, 0, 30))
    message = refused("DATA_LABEL", masks_of, datasets.load("lungs", root), match="no empty column")
    assert "CHNCXR_0002_1_mask.png" in message
    masks_of(datasets.load("lungs", root, structures=("lung",)))  # the remedy works


def test_lungs_need_one_known_layout_and_known_names(tmp_path):
    refused("DATA_MISSING", datasets.load, "lungs", tmp_path, match="0 layouts")
    shenzhen(tmp_path / "a")
    montgomery(tmp_path / "b")
    refused("DATA_MISSING", datasets.load, "lungs", tmp_path, match="2 layouts .shenzhen in a, montgomery in b")
    with pytest.raises(ConfigError, match="naming"):
        datasets.load("lungs", tmp_path / "a", naming="picture")
    with pytest.raises(ConfigError, match="a pixel has one class"):
        datasets.load("lungs", tmp_path / "a", structures=("lung", "left lung"))
