"""Pictures with masks in public layouts: paired by name, JPEG masks cut, every polygon drawn, sides distinguished."""

import dataclasses
import os

import numpy as np
import pytest
from PIL import Image

from jaxseg.data import datasets, splits
from jaxseg.data.datasets import pairs, scoliosis
from jaxseg.data.formats import volumes
from jaxseg.data.records import Recipe
from jaxseg.data.store import stacked as caches
from jaxseg.data.store.cases import read_case
from jaxseg.types import ConfigError, DataError
from tests.data.datasets.drawn import RNG, masks_of, refused, save, square

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
        ("0 0.1 0.1 0.2 x 0.3 0.3", "not numbers"),
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
    data = datasets.load("scoliosis", root, missing_masks="empty")
    assert not masks_of(data)["test/2_bmp.rf.abc"].any() and masks_of(data)["train/0_bmp.rf.abc"].any()


def test_versions_of_one_picture_are_one_patient_and_stay_in_one_split(tmp_path):
    root = export(tmp_path)
    save(root / "train" / "images" / "0_bmp.rf.def.jpg", np.full((40, 80), 90))
    (root / "train" / "labels" / "0_bmp.rf.def.txt").write_text(BOX)
    assert [c.patient for c in datasets.load("scoliosis", root).cases].count("0_bmp") == 2
    for part, suffix in (("images", "jpg"), ("labels", "txt")):
        os.rename(root / "train" / part / f"0_bmp.rf.def.{suffix}", root / "test" / part / f"0_bmp.rf.def.{suffix}")
    refused("DATA_LEAK", datasets.load, "scoliosis", root, match="also in the train split")


def test_a_reader_of_images_is_used_and_part_of_the_caches_name(tmp_path):
    data = datasets.load("folder", folder(tmp_path, a=square(2, 3)))
    dark = dataclasses.replace(data, read_image=black)
    recipe = Recipe((32, 48), None, None, 1, data.labels)
    assert not next(read_case(dark, dark.cases[0])).image.any()
    assert caches.fingerprint(dark, recipe) != caches.fingerprint(data, recipe)


def black(path):
    real = volumes.read_volume(path)
    return dataclasses.replace(real, array=np.zeros_like(real.array))


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
