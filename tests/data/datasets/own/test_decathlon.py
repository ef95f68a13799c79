"""Any task of the Decathlon in its published form (medicaldecathlon.com), not only the tumours."""

import json

import nibabel
import numpy as np
import pytest

from jaxseg.data import datasets
from jaxseg.data.store import base
from jaxseg.types import ConfigError, DataError


@pytest.fixture
def task(tmp_path):
    """Task05_Prostate: two channels in one file, two training cases and one without a label."""
    root = tmp_path / "Task05_Prostate"
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (root / part).mkdir(parents=True)
    for name, part in (("prostate_00", "imagesTr"), ("prostate_01", "imagesTr"), ("prostate_03", "imagesTs")):
        both = np.stack([np.full((5, 4, 3), v, np.int16) for v in (7, 9)], -1)
        nibabel.save(nibabel.Nifti1Image(both, np.diag([0.6, 0.6, 4.0, 1.0])), root / part / f"{name}.nii.gz")
        if part == "imagesTr":
            mask = np.zeros((5, 4, 3), np.uint8)
            mask[0], mask[1] = 1, 2
            nibabel.save(nibabel.Nifti1Image(mask, np.diag([0.6, 0.6, 4.0, 1.0])), root / "labelsTr" / f"{name}.nii.gz")
        (root / part / f"._{name}.nii.gz").write_bytes(b"\0")  # the published archives are full of these
    about = {
        "name": "PROSTATE",
        "tensorImageSize": "4D",
        "modality": {"0": "T2", "1": "ADC"},
        "labels": {"0": "background", "1": "PZ", "2": "TZ"},
        "numTraining": 2,
        "training": [{"image": f"./imagesTr/prostate_0{i}.nii.gz", "label": f"./labelsTr/prostate_0{i}.nii.gz"} for i in (0, 1)],
        "test": ["./imagesTs/prostate_03.nii.gz"],
    }
    (root / "dataset.json").write_text(json.dumps(about))
    return root


def test_channels_are_split_and_labels_named(task):
    assert datasets.recognise(task.parent) == ("decathlon", task)
    data = datasets.load("decathlon", task)
    assert data.modalities == ("T2", "ADC") and data.labels == ("PZ", "TZ") and data.values == (1, 2)
    assert [(c.id, c.mask is None) for c in data.cases] == [("prostate_00", False), ("prostate_01", False), ("prostate_03", True)]
    (image,), mask = base.read_files(data, data.cases[0])
    assert image.array.shape == (5, 4, 3, 2) and image.array[0, 0, 0].tolist() == [7, 9]
    assert np.bincount(mask.array.ravel()).tolist() == [36, 12, 12]
    (image,), _ = base.read_files(datasets.load("decathlon", task, modalities=("ADC",)), data.cases[0])
    assert image.array.shape == (5, 4, 3, 1) and image.array.max() == 9


def test_labels_of_the_test_cases_make_them_the_test_split(task):
    (task / "labelsTs").mkdir()
    (task / "labelsTs" / "prostate_03.nii.gz").write_bytes((task / "labelsTr" / "prostate_00.nii.gz").read_bytes())
    assert datasets.load("decathlon", task).held_out == {"prostate_03"}


def test_without_lists_files_are_paired_by_name(task):
    about = json.loads((task / "dataset.json").read_text())
    (task / "dataset.json").write_text(json.dumps({key: about[key] for key in ("modality", "labels")}))
    assert datasets.recognise(task) == ("decathlon", task)
    found = {case.id: case.mask is not None for case in datasets.load("decathlon", task).cases}
    assert found == {"prostate_00": True, "prostate_01": True, "prostate_03": False}
    (task / "labelsTr" / "prostate_01.nii.gz").unlink()
    with pytest.raises(DataError, match="prostate_01.* no mask of the same name"):
        datasets.load("decathlon", task)


def test_what_does_not_fit_dataset_json_is_refused(task):
    with pytest.raises(ConfigError, match="says PZ, TZ"):
        datasets.load("decathlon", task, structures=("gland",))
    nibabel.save(nibabel.Nifti1Image(np.ones((5, 4, 3, 3), np.int16), np.eye(4)), task / "imagesTr" / "prostate_00.nii.gz")
    data = datasets.load("decathlon", task)
    with pytest.raises(DataError, match=r"shape \(5, 4, 3, 3\); \[X, Y, Z, 2\] with T2, ADC"):
        base.read_files(data, data.cases[0])
    (task / "labelsTr" / "prostate_01.nii.gz").unlink()
    with pytest.raises(DataError, match="prostate_01.nii.gz: not there; dataset.json lists it"):
        datasets.load("decathlon", task)
