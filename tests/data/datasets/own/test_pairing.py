"""Folders of images and masks: which files belong together, and what masks of one structure each become."""

import os

import nibabel
import numpy as np
import pytest
from PIL import Image

from jaxseg.data import datasets
from jaxseg.data.datasets.own import overlap, pairing
from jaxseg.data.store import base
from jaxseg.types import ConfigError, DataError


def picture(path, value=9, columns=()):
    """8 x 6 pixels; of a mask the given columns are 255."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.full((6, 8), value, np.uint8) if not columns else np.zeros((6, 8), np.uint8)
    array[:, list(columns)] = 255 if columns else value
    Image.fromarray(array).save(path)


def masks(data):
    return {case.id: base.read_files(data, case)[1].array[0].tolist() for case in data.cases}


def test_sub_folders_are_patients_unless_a_pattern_says_otherwise(tmp_path):
    for name in ("anna/1", "anna/2", "bert/1"):
        picture(tmp_path / "images" / f"{name}.png")
        picture(tmp_path / "masks" / f"{name}.png", columns=(0,))
    data = datasets.load("folder", tmp_path)
    assert [(c.id, c.patient) for c in data.cases] == [("anna/1", "anna"), ("anna/2", "anna"), ("bert/1", "bert")]
    assert "2 sub-folders" in data.notes[0] and "'(.+)'" in data.notes[0]
    single = datasets.load("folder", tmp_path, patient="(.+)")  # the note's remedy
    assert [c.patient for c in single.cases] == ["anna/1", "anna/2", "bert/1"] and single.notes == ()


def test_files_are_listed_without_looking_at_each_of_them(tmp_path, monkeypatch):
    for i in range(30):
        picture(tmp_path / "images" / f"{i}.png")
        picture(tmp_path / "masks" / f"{i}.png", columns=(0,))
    looked, stat = [], os.stat
    monkeypatch.setattr(os, "stat", lambda path, *args, **how: (looked.append(str(path)), stat(path, *args, **how))[1])
    assert len(datasets.load("folder", tmp_path).cases) == 30
    assert not [path for path in looked if path.endswith(".png")]


@pytest.mark.parametrize("form", ["folders", "endings"])
def test_a_mask_for_each_structure(tmp_path, form):
    for case in ("anna_1", "bert_2"):
        picture(tmp_path / "images" / f"{case}.png")
        for structure, columns in (("liver", (0, 1)), ("left_lung", (4,))):
            if (case, structure) != ("bert_2", "liver"):
                name = f"{structure}/{case}.png" if form == "folders" else f"{case}_{structure}.png"
                picture(tmp_path / "masks" / name, columns=columns)
    data = datasets.load("folder", tmp_path)
    assert data.labels == ("left_lung", "liver") and data.regions == ()
    assert masks(data) == {"anna_1": [2, 2, 0, 0, 1, 0, 0, 0], "bert_2": [0, 0, 0, 0, 1, 0, 0, 0]}
    assert base.read_files(data, data.cases[0])[1].meaning == ()  # 255 is the inside of each, not the first class
    ordered = datasets.load("folder", tmp_path, structures=("liver", "left_lung", "spleen"))
    assert masks(ordered)["anna_1"] == [1, 1, 0, 0, 2, 0, 0, 0]
    with pytest.raises(DataError, match="masks of left_lung; data.structures names liver"):
        datasets.load("folder", tmp_path, structures=("liver",))


def test_structures_overlap_when_asked_and_are_refused_else(tmp_path):
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "masks" / "disc" / "a.png", columns=(0, 1, 2, 3))
    picture(tmp_path / "masks" / "cup" / "a.png", columns=(2, 3, 4))
    with pytest.raises(DataError, match="12 voxels are cup and disc at once"):
        masks(datasets.load("folder", tmp_path))
    data = datasets.load("folder", tmp_path, overlapping=True)
    assert masks(data)["a"] == [2, 2, 3, 3, 1, 0, 0, 0] and data.regions == (("cup", (1, 3)), ("disc", (2, 3)))
    with pytest.raises(ConfigError, match="9 structures that may overlap have 511 combinations; at most 255"):
        overlap.combinations("abcdefghi")
    assert len(overlap.combinations("abcdefgh")) == 255


def test_a_common_ending_of_masks_is_no_structure(tmp_path):
    for case in ("a", "b"):
        picture(tmp_path / "images" / f"{case}.png")
        picture(tmp_path / "masks" / f"{case}_mask.png", columns=(1,))
    data = datasets.load("folder", tmp_path)
    assert data.labels == ("foreground",) and masks(data)["b"] == [0, 1, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("folders", [("", ""), ("images/", "masks/")], ids=["beside", "apart"])
def test_numbered_masks_of_one_image_are_parts_of_one_structure(tmp_path, folders):
    """As the breast ultrasound data set BUSI has them."""
    names = {"benign (1)": ("",), "benign (10)": ("", "_1", "_2"), "normal (1)": ("",)}
    for name, parts in names.items():
        picture(tmp_path / f"{folders[0]}{name}.png")
        for k, part in enumerate(parts):
            picture(tmp_path / f"{folders[1]}{name}_mask{part}.png", columns=(2 * k,))
    data = datasets.load("folder", tmp_path)
    assert data.labels == ("foreground",) and len(data.cases) == 3 and data.regions == ()
    assert masks(data)["benign (10)"] == [1, 0, 1, 0, 1, 0, 0, 0] and masks(data)["benign (1)"] == [1, 0, 0, 0, 0, 0, 0, 0]
    assert masks(datasets.load("folder", tmp_path, structures=("lesion",))) == masks(data)


@pytest.mark.parametrize("channels", [("imaging",), ("T1w", "flair")])
def test_a_folder_for_each_case(tmp_path, channels):
    """As KiTS has them, or a folder of sequences."""
    for case in ("case_00", "case_01", "sub/case_02"):
        for name in channels:
            picture(tmp_path / case / f"{name}.png")
        picture(tmp_path / case / "Segmentation.png", columns=(2,))
    assert datasets.recognise(tmp_path)[0] == "folder"
    data = datasets.load("folder", tmp_path)
    assert [c.id for c in data.cases] == ["case_00", "case_01", "sub/case_02"]
    assert data.modalities == (channels if len(channels) > 1 else ()) and len({c.patient for c in data.cases}) == 3
    assert [path.stem for path in data.cases[0].images] == list(channels) and masks(data)["case_01"] == [0, 0, 1, 0, 0, 0, 0, 0]
    inputs = {name: len(files) for name, files in pairing.images_by_folder(tmp_path, len(channels)).items()}
    assert inputs == dict.fromkeys(("case_00", "case_01", "sub/case_02"), len(channels))
    assert pairing.images_by_folder(tmp_path, 3) == {}
    (tmp_path / "case_01" / f"{channels[0]}.png").rename(tmp_path / "case_01" / "other.png")
    with pytest.raises(DataError, match="case_.*: no .*; every folder of a case holds"):
        datasets.load("folder", tmp_path)


@pytest.mark.parametrize("form", ["one", "structures", "beside"])
def test_images_without_masks_are_what_the_config_says(tmp_path, form):
    images = tmp_path if form == "beside" else tmp_path / "images"
    mask = {"one": "masks/{}.png", "structures": "masks/{}_liver.png", "beside": "{}_mask.png"}[form]
    for name in "abc":
        picture(images / f"{name}.png")
        if name != "b":
            picture(tmp_path / mask.format(name), columns=(1,))
    if form == "structures":
        picture(tmp_path / "masks/a_lung.png", columns=(5,))
    with pytest.raises(DataError, match="data.missing_masks=skip .not annotated, left out. or empty"):
        datasets.load("folder", tmp_path)
    skipped = datasets.load("folder", tmp_path, missing_masks="skip")
    assert [(c.id, c.mask is None) for c in skipped.cases] == [("a", False), ("b", True), ("c", False)]
    said: list[str] = []
    assert [c.id for c in base.labelled(skipped, said.append).cases] == ["a", "c"] and "1 of 3 cases have no mask (b)" in said[0]
    empty = datasets.load("folder", tmp_path, missing_masks="empty")
    read = masks(empty)
    assert read["b"] == [0] * 8 and read["c"][1] and not read["c"][2]
    assert "1 images have no mask and count as images without any structure" in empty.notes


@pytest.mark.parametrize("ending", ["_mask", "-seg", "_segmentation"])
def test_masks_beside_their_images(tmp_path, ending):
    for case in ("a", "b_mask", "ward/c"):  # b_mask is an image: there is no b
        picture(tmp_path / f"{case}.png")
        picture(tmp_path / f"{case}{ending}.png", columns=(1,))
    assert datasets.recognise(tmp_path)[0] == "folder"
    data = datasets.load("folder", tmp_path)
    assert [c.id for c in data.cases] == ["a", "b_mask", "ward/c"] and data.labels == ("foreground",)
    assert set(map(tuple, masks(data).values())) == {(0, 1, 0, 0, 0, 0, 0, 0)}
    picture(tmp_path / "d.png")
    with pytest.raises(DataError, match="d.png: no mask of the same name"):
        datasets.load("folder", tmp_path)
    (tmp_path / "list.csv").write_text(f"image,mask\na.png,a{ending}.png\n")
    assert datasets.recognise(tmp_path)[0] == "table"


def test_masks_beside_their_images_in_a_folder_for_each_split(tmp_path):
    for split in ("train", "val", "test"):
        picture(tmp_path / split / f"{split}.png")
        picture(tmp_path / split / f"{split}_mask.png", columns=(1,))
    data = datasets.load("folder", tmp_path)
    assert data.fixed_split == {"train/train": "train", "val/val": "val", "test/test": "test"}


def test_channels_by_number_or_by_stated_endings(tmp_path):
    for case in ("a", "b"):
        for c in range(2):
            picture(tmp_path / "numbers" / "images" / f"{case}_{c:04d}.png", value=c + 1)
            picture(tmp_path / "names" / "images" / f"{case}{('_t1', '_flair')[c]}.png", value=c + 1)
        for kind in ("numbers", "names"):
            picture(tmp_path / kind / "masks" / f"{case}.png", columns=(1,))
    data = datasets.load("folder", tmp_path / "numbers")
    assert [c.id for c in data.cases] == ["a", "b"] and data.modalities == ("channel 0", "channel 1")
    found = datasets.load("folder", tmp_path / "names")  # every mask has the same endings
    for data in (found, datasets.load("folder", tmp_path / "names", suffixes=("_flair", "_t1"))):
        images, _ = base.read_files(data, data.cases[0])
        assert data.modalities == ("flair", "t1") and [int(i.array.max()) for i in images] == [2, 1]
    (tmp_path / "names" / "images" / "b_t1.png").unlink()
    with pytest.raises(DataError, match=r"no image of the same name.*--config.data.suffixes="):
        datasets.load("folder", tmp_path / "names")
    with pytest.raises(DataError, match="b: no file with _t1, only with _flair"):
        datasets.load("folder", tmp_path / "names", suffixes=("_flair", "_t1"))
    with pytest.raises(DataError, match="another ending"):
        datasets.load("folder", tmp_path / "names", suffixes=("_flair", "_t2"))


@pytest.mark.parametrize("mask", ["{}_seg", "liver/{}"])
def test_channels_are_told_from_names_beside_masks_with_endings_and_masks_of_structures(tmp_path, mask):
    for case in ("a", "a-b"):
        for ending in ("-T2", "_adc"):
            picture(tmp_path / "images" / f"{case}{ending}.png")
        picture(tmp_path / "masks" / f"{mask.format(case)}.png", columns=(1,))
    data = datasets.load("folder", tmp_path)
    assert [c.id for c in data.cases] == ["a", "a-b"] and data.modalities == ("T2", "adc") and data.suffixes == ("-T2", "_adc")


def test_numbers_and_endings_of_some_images_are_no_channels(tmp_path):
    for ending in ("_1", "_2"):
        picture(tmp_path / "counted" / "images" / f"a{ending}.png")
        picture(tmp_path / "some" / "images" / f"a{ending}x.png")
    picture(tmp_path / "some" / "images" / "b_1x.png")
    for kind, cases in (("counted", "a"), ("some", "ab")):
        for case in cases:
            picture(tmp_path / kind / "masks" / f"{case}.png", columns=(1,))
        with pytest.raises(DataError, match="no image of the same name"):
            datasets.load("folder", tmp_path / kind)


def test_slices_that_are_numbered_are_no_channels(tmp_path):
    for name in ("anna_0000", "anna_0001"):
        picture(tmp_path / "images" / f"{name}.png")
        picture(tmp_path / "masks" / f"{name}.png", columns=(1,))
    assert [c.id for c in datasets.load("folder", tmp_path, patient="(.+)_").cases] == ["anna_0000", "anna_0001"]


@pytest.mark.parametrize("background", [0, 1])
def test_a_channel_for_each_structure(tmp_path, background):
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    one_hot = np.zeros((4, 3, 2, 2 + background), np.uint8)
    one_hot[0, ..., background] = one_hot[2, ..., background + 1] = 1
    if background:
        one_hot[..., 0] = one_hot.sum(-1) == 0
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 3, 2), np.int16), np.eye(4)), tmp_path / "images" / "a.nii.gz")
    nibabel.save(nibabel.Nifti1Image(one_hot, np.eye(4)), tmp_path / "masks" / "a.nii.gz")
    data = datasets.load("folder", tmp_path, structures=("x", "y"))
    _, mask = base.read_files(data, data.cases[0])
    assert mask.array[:, 0, 0].tolist() == [1, 0, 2, 0]
    with pytest.raises(DataError, match="data.structures names none; give --config.data.structures"):
        datasets.load("folder", tmp_path)


def test_the_layout_is_told_by_what_lies_there(tmp_path):
    for name in ("one", "two"):
        picture(tmp_path / name / "images" / "a.png")
        picture(tmp_path / name / "masks" / "a.png", columns=(1,))
    assert datasets.recognise(tmp_path / "one") == ("folder", tmp_path / "one")
    with pytest.raises(ConfigError, match="2 folders in it hold data .one, two.; give one"):
        datasets.recognise(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no known layout of data; known layouts are nnU-Net's raw data"):
        datasets.recognise(tmp_path / "empty")
