"""Pictures with masks in public layouts: paired by name, JPEG masks cut, every polygon drawn, sides distinguished."""

import dataclasses
import os

import numpy as np
import pytest
from PIL import Image

from jaxseg.data import datasets, splits
from jaxseg.data.datasets import lung_files, lungs, pairs, scoliosis
from jaxseg.data.formats import volumes
from jaxseg.data.records import Recipe
from jaxseg.data.store import base
from jaxseg.data.store import stacked as caches
from jaxseg.data.store.cases import read_case
from jaxseg.types import ConfigError, DataError

RNG = np.random.default_rng(0)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path, **options)


def square(top, left, side=8, size=(32, 48), value=255):
    mask = np.zeros(size, np.uint8)
    mask[top : top + side, left : left + side] = value
    return mask


def masks_of(data):
    return {case.id: next(read_case(data, case)).mask for case in data.cases}


def refused(code, call, *args, match="", **kwargs):
    with pytest.raises(DataError, match=match) as caught:
        call(*args, **kwargs)
    assert caught.value.code == code, caught.value
    return str(caught.value)


# ---- folder ----------------------------------------------------------------------------------------------------------


def folder(root, **masks):
    for stem, mask in masks.items():
        save(root / "images" / f"{stem}.jpg", RNG.integers(0, 255, (*mask.shape, 3)))
        save(root / "masks" / f"{stem}.png", mask)
    return root


def test_a_folder_is_paired_by_stem_whatever_suffix_and_order(tmp_path):
    order = {"b": square(2, 3), "a": square(9, 9), "c10": square(0, 0), "c9": square(4, 30)}
    folder(tmp_path / "set", **order)
    for name in ("images/._a.jpg", "masks/._a.png", "images/.DS_Store", "masks/notes.txt"):
        (tmp_path / "set" / name).write_bytes(b"\0")  # macOS leaves these; they are no pictures
    data = datasets.load("folder", tmp_path)  # the folder above finds it too
    assert [c.id for c in data.cases] == ["a", "b", "c10", "c9"] and data.labels == ("foreground",)
    for stem, mask in masks_of(data).items():
        np.testing.assert_array_equal(mask, order[stem] > 0)


def test_one_class_is_0_1_or_0_255_and_several_are_numbers(tmp_path):
    data = datasets.load("folder", folder(tmp_path / "one", a=square(2, 3, value=1), b=square(2, 3)))
    assert all(np.array_equal(m, square(2, 3) > 0) for m in masks_of(data).values())
    root = folder(tmp_path / "two", a=square(2, 3, value=1) + square(20, 20, value=2))
    data = datasets.load("folder", root, structures=("cell", "nucleus"))
    assert data.labels == ("cell", "nucleus") and datasets.label_count("folder", ("cell", "nucleus")) == 2
    assert np.bincount(masks_of(data)["a"].ravel()).tolist() == [32 * 48 - 128, 64, 64]
    refused("DATA_LABEL", masks_of, datasets.load("folder", root), match="unexpected label values")
    save(root / "masks" / "a.png", square(2, 3, value=3))
    refused("DATA_LABEL", masks_of, datasets.load("folder", root, structures=("cell", "nucleus")), match="labels must be")


def test_a_folder_with_holes_names_the_file(tmp_path):
    root = folder(tmp_path, a=square(2, 3), b=square(2, 3))
    (root / "masks" / "b.png").unlink()
    refused("DATA_MISSING", datasets.load, "folder", root, match="b.jpg: no mask of the same name")
    (root / "images" / "b.jpg").unlink()
    save(root / "masks" / "a.jpg", square(0, 0))
    refused("DATA_PATH", datasets.load, "folder", root, match="same stem")
    (root / "masks" / "a.png").unlink()
    refused("DATA_LABEL", datasets.load, "folder", root, structures=("x", "y"), match="JPEG does not keep")
    refused("DATA_MISSING", datasets.load, "folder", root / "images", match="folders with images and masks")
    for wrong in ((), "cell", ("cell", "cell")):
        with pytest.raises(ConfigError, match="distinct names"):
            datasets.load("folder", root, structures=wrong)


def test_folders_have_other_names_and_may_be_divided_into_splits(tmp_path):
    root = folder(tmp_path / "set", a=square(2, 3), b=square(9, 9), c=square(0, 0))
    (root / "images").rename(root / "Imgs")
    (root / "masks").rename(root / "Labels")
    assert datasets.recognise(root) == ("folder", root) and len(datasets.load("folder", root).cases) == 3
    for part, stems in (("train", "ab"), ("Test", "a")):
        folder(tmp_path / "parts" / part, **{stem: square(2, 3) for stem in stems})
    data = datasets.load("folder", tmp_path / "parts")
    assert datasets.recognise(tmp_path / "parts")[0] == "folder" and data.fixed_split is None
    assert [case.id for case in data.cases] == ["test/a", "train/a", "train/b"] and data.held_out == {"test/a"}
    folder(tmp_path / "parts" / "val", c=square(2, 3))
    fixed = {"test/a": "test", "train/a": "train", "train/b": "train", "val/c": "val"}
    assert datasets.load("folder", tmp_path / "parts").fixed_split == fixed
    refused(
        "DATA_LEAK", datasets.load, "folder", tmp_path / "parts", patient="^(.)", match="patient a is in .* a patient belongs"
    )


def test_a_picture_has_a_channel_for_each_structure(tmp_path):
    root = folder(tmp_path / "set", a=square(2, 3))
    (root / "masks" / "a.png").unlink()
    apart = [square(2, 3, value=1), square(20, 20, value=1)]
    np.save(root / "masks" / "a.npy", np.stack(apart, -1))
    refused(
        "DATA_LABEL", datasets.load, "folder", root, match="2 channels; a mask of several channels has one for each structure"
    )
    (found,) = masks_of(datasets.load("folder", root, structures=("cell", "nucleus"))).values()
    np.testing.assert_array_equal(found, apart[0] + 2 * apart[1])


# ---- Kvasir-SEG ------------------------------------------------------------------------------------------------------


def test_jpeg_masks_are_cut_at_127_grey_or_colour(tmp_path):
    for stem, shape in (("cju2", ()), ("cju1", (3,))):
        save(tmp_path / "images" / f"{stem}.jpg", RNG.integers(0, 255, (32, 48, 3)))
        mask = square(9, 11, 13)
        save(tmp_path / "masks" / f"{stem}.jpg", mask if not shape else np.repeat(mask[..., None], 3, -1), quality=60)
    (tmp_path / "kavsir_bboxes.json").write_text("{}")
    raw = np.asarray(Image.open(tmp_path / "masks" / "cju2.jpg"))
    assert set(np.unique(raw)) - {0, 255}  # the trap is there
    data = datasets.load("kvasir", tmp_path)
    assert data.fixed_split is None and [c.id for c in data.cases] == ["cju1", "cju2"]
    for mask in masks_of(data).values():
        np.testing.assert_array_equal(mask, square(9, 11, 13) > 0)
    save(tmp_path / "masks" / "cju2.jpg", square(9, 11, 13) // 255)
    refused("DATA_LABEL", masks_of, data, match=r"cju2.jpg: values 0 \(.*, 1 \(")


def test_a_masks_border_is_cut_at_127_whatever_a_resampling_made_of_it(tmp_path):
    ramp = np.zeros((32, 48), np.uint8)
    ramp[8:24, 8:24], ramp[8:24, 24], ramp[8:24, 25] = 255, 160, 90
    save(tmp_path / "images" / "a.jpg", RNG.integers(0, 255, (32, 48, 3)))
    save(tmp_path / "masks" / "a.jpg", ramp, quality=100)
    raw = np.asarray(Image.open(tmp_path / "masks" / "a.jpg"))
    np.testing.assert_array_equal(masks_of(datasets.load("kvasir", tmp_path))["a"], raw > 127)


def test_effisegnets_layout_prescribes_the_split_and_pairs_by_name(tmp_path, monkeypatch):
    root = kvasir_phantom(monkeypatch, tmp_path)
    data = datasets.load("kvasir", root)
    assert data.synthetic and sorted(data.fixed_split.values()).count("train") == 10
    for case in data.cases:
        assert case.images[0].name == case.mask.name and case.id == f"{case.mask.parts[-3]}/{case.mask.stem}"
        assert data.fixed_split[case.patient] == {"validation": "val"}.get(case.mask.parts[-3], case.mask.parts[-3])
    os.rename(root / "test" / "masks" / "0.jpg", root / "test" / "masks" / "99.jpg")  # zipped listings would not notice
    refused("DATA_MISSING", datasets.load, "kvasir", root, match="same name")


def kvasir_phantom(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path))
    return datasets.phantom("kvasir", "quick")


# ---- scoliosis -------------------------------------------------------------------------------------------------------

BOX = "0 0.25 0.25 0.5 0.25 0.5 0.5 0.25 0.5"
LOW = "0 0.75 0.75 1.0 0.75 1.0 1.0 0.75 1.0"


def export(root, valid="valid", **files):
    for i, (folder, text) in enumerate({"train": BOX, valid: BOX, "test": BOX, **files}.items()):
        save(root / folder / "images" / f"{i}_bmp.rf.abc.jpg", np.full((40, 80), 90))
        (root / folder / "labels").mkdir()
        (root / folder / "labels" / f"{i}_bmp.rf.abc.txt").write_text(text)
    return root


@pytest.mark.parametrize("valid", ["valid", "val"])
def test_every_line_of_a_label_file_is_an_object(tmp_path, valid):
    data = datasets.load("scoliosis", export(tmp_path, valid, train=f"{BOX}\n\n{LOW}\n", test=""))
    masks = masks_of(data)
    box = np.zeros((40, 80), bool)
    box[10:21, 20:41] = True  # Pillow draws the outline too
    np.testing.assert_array_equal(masks[f"{valid}/1_bmp.rf.abc"], box)
    both = box.copy()
    both[30:, 60:] = True
    np.testing.assert_array_equal(masks["train/0_bmp.rf.abc"], both)  # and nothing between the two
    assert not masks["test/2_bmp.rf.abc"].any()
    assert data.fixed_split == {"0_bmp": "train", "1_bmp": "val", "2_bmp": "test"}


@pytest.mark.parametrize(
    "line, what",
    [
        ("0 0.5 0.5 0.2 0.2", "a box"),
        ("0 0.1 0.1 0.2 0.2 0.3", "6 numbers"),
        ("0 0.1 0.1 0.2 x 0.3 0.3", "no numbers"),
        ("0 0.1 0.1 0.2 0.2 0.3 1.7", "outside 0..1 .1.7"),
        ("0 0.1 0.1 0.2 nan 0.3 0.3", "outside"),
        ("1 0.1 0.1 0.2 0.2 0.3 0.3", "class 1.*0 to 0"),
        ("0.5 0.1 0.1 0.2 0.2 0.3 0.3", "class 0.5"),
    ],
)
def test_a_malformed_line_is_refused_with_file_and_line(tmp_path, line, what):
    data = datasets.load("scoliosis", export(tmp_path, train=f"{BOX}\n{line}\n"))
    refused("DATA_LABEL", masks_of, data, match=f"abc.txt, line 2: .*{what}")


def test_several_classes_follow_the_names_of_the_export(tmp_path):
    data = datasets.load("scoliosis", export(tmp_path, train=f"{BOX}\n1{LOW[1:]}"), structures=("spine", "pelvis"))
    assert set(np.unique(masks_of(data)["train/0_bmp.rf.abc"])) == {0, 1, 2}


def test_a_missing_label_file_is_an_error_unless_allowed(tmp_path):
    root = export(tmp_path)
    (root / "test" / "labels" / "2_bmp.rf.abc.txt").unlink()
    refused("DATA_MISSING", datasets.load, "scoliosis", root, match="no mask of the same name")
    data = datasets.load("scoliosis", root, allow_empty=True)
    assert not masks_of(data)["test/2_bmp.rf.abc"].any() and masks_of(data)["train/0_bmp.rf.abc"].any()


def test_versions_of_one_picture_are_one_patient_and_stay_in_one_split(tmp_path):
    root = export(tmp_path)
    save(root / "train" / "images" / "0_bmp.rf.def.jpg", np.full((40, 80), 90))
    (root / "train" / "labels" / "0_bmp.rf.def.txt").write_text(BOX)
    assert [c.patient for c in datasets.load("scoliosis", root).cases].count("0_bmp") == 2
    for part, suffix in (("images", "jpg"), ("labels", "txt")):
        os.rename(root / "train" / part / f"0_bmp.rf.def.{suffix}", root / "test" / part / f"0_bmp.rf.def.{suffix}")
    refused("DATA_LEAK", datasets.load, "scoliosis", root, match="also in the train split")


# ---- lungs -----------------------------------------------------------------------------------------------------------

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


def test_a_reader_of_images_is_used_and_part_of_the_caches_name(tmp_path):
    data = datasets.load("folder", folder(tmp_path, a=square(2, 3)))
    dark = dataclasses.replace(data, read_image=black)
    recipe = Recipe((32, 48), None, None, 1, data.labels)
    assert not next(read_case(dark, dark.cases[0])).image.any()
    assert caches.fingerprint(dark, recipe) != caches.fingerprint(data, recipe)


def black(path):
    real = volumes.read_volume(path)
    return dataclasses.replace(real, array=np.zeros_like(real.array))


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


# ---- all of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, split", [("kvasir", "fixed"), ("scoliosis", "fixed"), ("lungs", "patient")])
def test_a_phantom_is_marked_builds_a_cache_and_splits(name, split, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path))
    data = datasets.load(name, datasets.phantom(name, "quick"))
    assert data.synthetic and 12 <= len(data.cases) <= 24 and len(data.labels) == datasets.label_count(name)
    cache = caches.open_or_build(data, Recipe((48, 48), None, None, 1, data.labels), log=lambda line: None)
    assert cache.images.shape == (len(data.cases), 48, 48, 1) and (cache.foreground_counts() > 0).all()
    shares = cache.foreground_counts().sum(1) / 48**2
    assert 0.02 < shares.min() and shares.max() < 0.6
    rows = splits.split_rows(cache.rows, data, split=split, fractions=(0.6, 0.2, 0.2), seed=0)
    assert all(len(rows[part]) for part in ("train", "val", "test"))
    with pytest.raises(ConfigError, match="phantom 'large'"):
        datasets.phantom(name, "large")


def test_stems_of_packed_volumes_lose_both_suffixes(tmp_path):
    for name in ("a.nii.gz", "b.NII"):
        (tmp_path / name).touch()
    assert list(pairs.by_stem(tmp_path)) == ["a", "b"]


def test_scoliosis_fill_is_pillows_and_later_lines_win():
    objects = [(0, [(0, 0), (1, 0), (1, 1), (0, 1)]), (1, [(0, 0), (0.5, 0), (0.5, 1), (0, 1)])]
    drawn = scoliosis.draw(objects, (10, 20))
    assert (drawn[:, :11] == 2).all() and (drawn[:, 11:] == 1).all()


# ------------------------------------------------------------------ what is not read
def test_files_that_no_reader_takes_are_counted_by_suffix(tmp_path):
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
        for i in range(4):
            Image.fromarray(np.eye(9, dtype=np.uint8)).save(tmp_path / part / f"{i}.{'bmp' if i % 2 else 'png'}")
        for i in range(3):
            (tmp_path / part / f"n{i}.mgz").write_bytes(b"MGZ")
        for name in ("notes.txt", "scan.mhd", "scan.raw"):
            (tmp_path / part / name).write_text("x")
        (tmp_path / part / ".hidden.mgz").write_bytes(b"x")
    found = datasets.load("folder", tmp_path)
    assert len(found.cases) == 5  # 0 to 3, and scan
    (note,) = [n for n in found.notes if n.startswith("not read")]
    assert note.startswith("not read: 6 .mgz (images/n0.mgz, ...); ") and " .bmp" in note and " .nrrd" in note
    for part in ("images", "masks"):
        for path in (*(tmp_path / part).glob("?.*"), *(tmp_path / part).glob("scan.*")):
            path.unlink()
    with pytest.raises(DataError, match=r"no pair of image and mask.*not read: 6 \.mgz") as caught:
        datasets.load("folder", tmp_path)
    assert caught.value.code == "DATA_MISSING" and len(str(caught.value).splitlines()) == 1
