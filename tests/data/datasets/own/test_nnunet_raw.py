"""nnU-Net's raw layout in its published form (MIC-DKFZ/nnUNet, documentation/dataset_format.md)."""

import json

import nibabel
import numpy as np
import pytest
from PIL import Image

from jaxseg.data import datasets, splits
from jaxseg.data.datasets.own import description, numbered
from jaxseg.data.store import base, fingerprint
from jaxseg.types import LEFT_OUT, ConfigError, DataError

AFFINE = np.diag([-0.9, -1.1, 2.5, 1.0])
TWO = {"channel_names": {"0": "T1", "1": "FLAIR"}, "labels": {"background": 0, "rim": 1, "core": 4}, "file_ending": ".nii.gz"}


def nifti(path, value, dtype=np.int16):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros((5, 6, 4), dtype)
    array[1:3, 1:3, 1:3] = value
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), path)


def raw(root, about=TWO, cases=("anna_01", "anna_02", "bert_01"), test=("carl_01",), values=(1, 4)):
    for part, names in (("Tr", cases), ("Ts", test)):
        for name in names:
            for c in range(len(about["channel_names"])):
                nifti(root / f"images{part}" / f"{name}_{c:04d}.nii.gz", 100 + c)
            nifti(root / f"labels{part}" / f"{name}.nii.gz", values[len(name) % len(values)], np.uint8)
    (root / "dataset.json").write_text(json.dumps(about))
    return root


def refused(code, call, *args, match, **kwargs):
    with pytest.raises(DataError, match=match) as caught:
        call(*args, **kwargs)
    assert caught.value.code == code


def test_channels_labels_and_values_are_those_of_dataset_json(tmp_path):
    raw(tmp_path / "Dataset001_Balls", values=(4,))
    data = datasets.load("nnunet_raw", tmp_path)  # the folder above finds it too
    assert data.modalities == ("T1", "FLAIR") and data.labels == ("rim", "core") and data.values == (1, 4)
    assert [case.id for case in data.cases] == ["anna_01", "anna_02", "bert_01", "carl_01"]
    assert [path.name for path in data.cases[0].images] == ["anna_01_0000.nii.gz", "anna_01_0001.nii.gz"]
    images, mask = base.read_files(data, data.cases[0])
    np.testing.assert_array_equal(np.unique(mask.array), [0, 2])  # 4 is the second class
    assert [int(image.array.max()) for image in images] == [100, 101]
    one = datasets.load("nnunet_raw", tmp_path, modalities=("FLAIR",))
    assert one.modalities == ("FLAIR",) and one.cases[0].images[0].name == "anna_01_0001.nii.gz"


def test_a_numtraining_that_is_not_the_number_of_cases_is_said(tmp_path):
    assert datasets.load("nnunet_raw", raw(tmp_path, {**TWO, "numTraining": 3})).notes == ()
    (tmp_path / "dataset.json").write_text(json.dumps({**TWO, "numTraining": 5}))
    assert "numTraining 5, but 3 training cases are there" in datasets.load("nnunet_raw", tmp_path).notes[0]


def test_labelled_imagests_is_the_test_split_and_a_pattern_names_patients(tmp_path):
    data = datasets.load("nnunet_raw", raw(tmp_path), patient="^([a-z]+)_")
    assert [case.patient for case in data.cases] == ["anna", "anna", "bert", "carl"] and data.held_out == {"carl"}
    rows = [{"case": c.id, "patient": c.patient, "stratum": "", "foreground": [1, 0], "digest": c.id} for c in data.cases]
    said = []
    found = splits.split_rows(rows, data, split="patient", fractions=(0.5, 0.2, 0.3), seed=0, log=said.append)
    assert found["test"].tolist() == [3] and len(found["val"]) and "the data set's own" in said[0]
    assert {rows[i]["patient"] for i in found["train"]}.isdisjoint(rows[i]["patient"] for i in found["val"])
    folds = splits.split_folds(dict.fromkeys("abcdef", ""), 3, 0, test=("z",))
    assert sorted(p for fold in folds for p in fold["val"]) == list("abcdef") and all(f["test"] == ["z"] for f in folds)
    assert all(sorted(f["train"] + f["val"]) == list("abcdef") for f in folds)
    with pytest.raises(ConfigError, match="2 groups"):
        datasets.load("nnunet_raw", tmp_path, patient="(a)(b)")
    refused("DATA_TABLE", datasets.load, "nnunet_raw", tmp_path, patient="(x+)", match="no patient in the name")


def test_regions_are_named_by_dataset_json_in_class_numbers(tmp_path):
    regions = {"background": 0, "whole": [1, 2, 5], "core": [2, 5], "enhancing": 5}
    root = raw(tmp_path, TWO | {"labels": regions, "regions_class_order": [1, 2, 5]}, values=(5,))
    data = datasets.load("nnunet_raw", root)
    assert data.labels == ("label 1", "label 2", "enhancing") and data.values == (1, 2, 5)
    assert data.regions == (("whole", (1, 2, 3)), ("core", (2, 3)), ("enhancing", (3,)))
    raw(tmp_path, TWO | {"labels": regions, "regions_class_order": [5, 2, 1]}, values=(5,))
    refused("DATA_TABLE", datasets.load, "nnunet_raw", root, match="writes 5 where the label is 1")


def test_labels_that_no_region_tells_apart_are_the_class_that_nnunet_writes(tmp_path):
    regions = {"background": 0, "lungs": [1, 2], "lesions": [3, 4, 5], "bleeding": 4, "ignore": 6}
    root = raw(tmp_path, TWO | {"labels": regions, "regions_class_order": [2, 3, 4]}, values=(1,))
    data = datasets.load("nnunet_raw", root)
    assert data.labels == ("lungs", "lesions", "bleeding") and data.values == (2, 3, 4)
    assert data.regions == (("lungs", (1,)), ("lesions", (2, 3)), ("bleeding", (3,)))
    assert data.map_mask(np.array([[0, 1, 2, 3, 4, 5, 6]])).tolist() == [[0, 1, 1, 2, 3, 2, LEFT_OUT]]
    raw(tmp_path, TWO | {"labels": regions, "regions_class_order": [2, 4, 4]}, values=(1,))
    refused("DATA_TABLE", datasets.load, "nnunet_raw", root, match="writes 4 where the label is 3")


def test_stores_are_named_by_the_same_rule_as_ever(tmp_path):
    rule = fingerprint.words(datasets.load("nnunet_raw", raw(tmp_path, TWO)).map_mask)  # another one would build them all anew
    assert rule == ["partial", ["function", description.__name__, "map_mask", 1, None, None, []], [[1, 4], None], []]


def test_an_ignore_label_is_left_out_or_background_and_never_a_class(tmp_path):
    root = raw(tmp_path, TWO | {"labels": {"background": 0, "rim": 1, "ignore": 4}})
    data = datasets.load("nnunet_raw", root)
    assert data.labels == ("rim",) and data.left_out
    assert data.map_mask(np.array([[0, 1, 4]])).tolist() == [[0, 1, LEFT_OUT]]
    with pytest.raises(ConfigError, match="left out .'leave_out'. or are 'background'"):
        datasets.load("nnunet_raw", root, ignore="class")
    data = datasets.load("nnunet_raw", root, ignore="background")
    assert data.labels == ("rim",) and not data.left_out
    assert data.map_mask(np.array([[0, 1, 4]])).tolist() == [[0, 1, 0]]
    raw(tmp_path)
    with pytest.raises(ConfigError, match="declares no ignore label"):
        datasets.load("nnunet_raw", root, ignore="background")


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_pictures_in_colour_are_one_file_of_three_channels(tmp_path, ending):
    about = {"channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": {"background": 0, "road": 1}, "file_ending": ending}
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b"):
        Image.fromarray(np.full((6, 5, 3), (9, 8, 7), np.uint8)).save(tmp_path / "imagesTr" / f"{name}_0000{ending}")
        Image.fromarray(np.eye(6, 5, dtype=np.uint8)).save(tmp_path / "labelsTr" / f"{name}{ending}")
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    data = datasets.load("nnunet_raw", tmp_path)
    (image,), mask = base.read_files(data, data.cases[0])
    assert image.array.shape == (6, 5, 3) and data.modalities == () and mask.array.sum() == 5


def test_the_entry_dataset_lists_files_elsewhere(tmp_path):
    raw(tmp_path / "set", test=())
    nifti(tmp_path / "set" / "more" / "x.nii.gz", 3)
    nifti(tmp_path / "set" / "more" / "y.nii.gz", 1, np.uint8)
    listed = {"x": {"images": ["more/x.nii.gz", "imagesTr/anna_01_0001.nii.gz"], "label": "more/y.nii.gz"}}
    (tmp_path / "set" / "dataset.json").write_text(json.dumps(TWO | {"dataset": listed}))
    data = datasets.load("nnunet_raw", tmp_path / "set")
    assert [c.id for c in data.cases] == ["x"] and data.cases[0].mask == tmp_path / "set" / "more" / "y.nii.gz"


def test_what_is_missing_or_contradicted_is_named(tmp_path):
    root = raw(tmp_path)
    with pytest.raises(ConfigError, match="structures=.'tumour',.*says rim, core"):
        datasets.load("nnunet_raw", root, structures=("tumour",))
    with pytest.raises(ConfigError, match="channel of .*FLAIR"):
        datasets.load("nnunet_raw", root, modalities=("FLAIRE",))
    (root / "imagesTr" / "bert_01_0001.nii.gz").rename(root / "imagesTr" / "bert_01_0002.nii.gz")
    refused("DATA_MISSING", datasets.load, "nnunet_raw", root, match="bert_01: no file of channel 0001 .FLAIR.")
    (root / "imagesTr" / "bert_01_0002.nii.gz").unlink()
    (root / "imagesTr" / "bert_01_0000.nii.gz").unlink()
    refused("DATA_MISSING", datasets.load, "nnunet_raw", root, match="bert_01.nii.gz: no image of the same name")
    (root / "labelsTr" / "bert_01.nii.gz").unlink()
    assert len(datasets.load("nnunet_raw", root).cases) == 3
    nifti(root / "imagesTr" / "zoe.nii.gz", 1)
    refused("DATA_PATH", datasets.load, "nnunet_raw", root, match="zoe.nii.gz: no channel number")
    assert not numbered.is_numbered(root / "imagesTr") and numbered.is_numbered(root / "imagesTs")


@pytest.mark.parametrize(
    "change, said",
    [
        ({"channel_names": ["T1"]}, "no channels or no labels"),
        ({"channel_names": {"1": "T1"}}, "numbers 0 to 0"),
        ({"labels": {"background": 0, "a": "1"}}, "whole number"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "one value under two names"),
        ({"labels": {"background": 0}}, "0 is the background"),
        ({"file_ending": ".vtk"}, "are read"),
    ],
)
def test_a_dataset_json_of_another_form_is_refused(tmp_path, change, said):
    refused("DATA_TABLE", datasets.load, "nnunet_raw", raw(tmp_path, TWO | change), match=said)
