"""Tables of paths in their four forms, and what is wrong with one."""

import csv
import json

import nibabel
import numpy as np
import pytest
import yaml
from PIL import Image

from jaxseg.data import datasets
from jaxseg.data.store import base
from jaxseg.types import ConfigError, DataError
from tests.hostile import within

AFFINE = np.diag([-0.5, -0.5, 3.0, 1.0])


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), path)
    return f"{path.parent.name}/{path.name}"


@pytest.fixture
def rows(tmp_path):
    """Two channels, one mask; three patients with a case each, and a fourth of two."""
    found = []
    for i, (patient, split) in enumerate(zip("abcdd", ("train", "training", "val", "test", "test"))):
        image = np.full((6, 5, 4), i, np.int16)
        mask = np.zeros_like(image, np.uint8)
        mask[0, 0, : i + 1] = 1
        row = {f"image_{name}": save(tmp_path / "scans" / f"{i}_{name}.nii.gz", image + k) for k, name in enumerate(("t1", "t2"))}
        row |= {"mask": save(tmp_path / "truth" / f"{i}.nii.gz", mask)}
        found.append(row | {"case": f"case{i}", "patient": patient, "split": split})
    return found


def write(path, rows):
    if path.suffix == ".csv":
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        parts = {"training": [], "validation": [], "test": []}
        for row in rows:
            part = {"train": "training", "val": "validation"}.get(row["split"], row["split"])
            parts[part].append({key: cell for key, cell in row.items() if key != "split"})
        path.write_text(json.dumps(rows if path.stem == "list" else parts) if path.suffix == ".json" else yaml.safe_dump(rows))
    return path


def test_rows_without_a_mask_are_left_out_or_empty(tmp_path, rows):
    path = write(tmp_path / "set.csv", [row | {"mask": row["mask"] if i else ""} for i, row in enumerate(rows)])
    assert datasets.load("table", path).cases[0].mask is None
    data = datasets.load("table", path, missing_masks="empty")
    read = [base.read_files(data, case)[1].array for case in data.cases]
    assert not read[0].any() and read[0].shape == (6, 5, 4) and read[1].sum() == 2


@pytest.mark.parametrize("name", ["set.csv", "list.json", "parts.json", "set.yaml"])
def test_every_form_of_a_table_gives_the_same_cases(tmp_path, rows, name):
    path = write(tmp_path / name, rows)
    assert datasets.recognise(path) == ("table", path) and datasets.recognise(tmp_path) == ("table", tmp_path)
    data = datasets.load("table", path)
    assert data.modalities == ("t1", "t2") and data.labels == ("foreground",)
    assert [(c.id, c.patient) for c in data.cases] == [(f"case{i}", p) for i, p in enumerate("abcdd")]
    assert data.fixed_split == {"a": "train", "b": "train", "c": "val", "d": "test"} and not data.held_out
    images, mask = base.read_files(data, data.cases[3])
    assert [int(v.array.max()) for v in images] == [3, 4] and mask.array.sum() == 4


def test_channels_and_patients_are_columns_or_patterns(tmp_path, rows):
    path = write(tmp_path / "set.csv", [{**row, "person": row["patient"].upper(), "split": ""} for row in rows])
    data = datasets.load("table", path, modalities=("t2",), patient="person")
    assert data.cases[0].images[0].name == "0_t2.nii.gz" and [c.patient for c in data.cases] == list("ABCDD")
    assert data.modalities == () and data.fixed_split is None  # one channel takes any file
    assert [c.patient for c in datasets.load("table", path, patient="case(.)").cases] == list("01234")
    with pytest.raises(ConfigError, match="t3.*has the columns image_t1"):
        datasets.load("table", path, modalities=("t3",))


def test_of_train_and_test_alone_validation_is_drawn(tmp_path, rows):
    for row in rows:
        row["split"] = row["split"].replace("val", "train")
    data = datasets.load("table", write(tmp_path / "set.csv", rows))
    assert data.fixed_split is None and data.held_out == {"d"}


def test_masks_of_structures_may_be_missing_and_may_overlap(tmp_path, rows):
    both = np.zeros((6, 5, 4), np.uint8)
    both[0, 0] = 1
    for i, row in enumerate(rows):
        row["mask_core"] = row.pop("mask")
        row["mask_rim"] = save(tmp_path / "rim" / f"{i}.nii.gz", both) if i < 4 else ""
    path = write(tmp_path / "set.csv", rows)
    data = datasets.load("table", path, overlapping=True)
    assert data.labels == ("core alone", "rim alone", "core and rim")
    assert data.regions == (("core", (1, 3)), ("rim", (2, 3))) and data.combined
    _, mask = base.read_files(data, data.cases[1])
    assert mask.array[0, 0].tolist() == [3, 3, 2, 2] and mask.array[1:].sum() == 0
    _, mask = base.read_files(data, data.cases[4])
    assert mask.array[0, 0].tolist() == [1, 1, 1, 1]
    with pytest.raises(DataError, match="2 voxels are core and rim at once.*config.data.regions=dataset"):
        base.read_files(datasets.load("table", path), data.cases[1])


def test_a_spacing_must_be_that_of_the_file(tmp_path, rows):
    path = write(tmp_path / "set.csv", [{**row, "spacing": "0.5 x 0.5 x 3.01"} for row in rows])
    base.read_files(datasets.load("table", path), datasets.load("table", path).cases[0])
    data = datasets.load("table", write(path, [{**row, "spacing": "1 1 1"} for row in rows]))
    with pytest.raises(DataError, match="spacing 1 1 1 mm in the table, 0.5 0.5 3 mm in the file"):
        base.read_files(data, data.cases[0])


@pytest.mark.parametrize(
    "change, words",
    [
        ({"split": "nowhere"}, "split 'nowhere' of row 1"),
        ({"image_t1": "scans/none.nii.gz"}, "none.nii.gz: not there; set.csv lists it in column image_t1"),
        ({"case": "case1"}, "case case1 twice"),
        ({"patient": ""}, "case case0 has an empty cell in the column 'patient'"),
        ({"patient": "d"}, "patient d is in train and in test"),
        ({"spacing": "1 mm"}, "spacing '1 mm' of row 1"),
    ],
)
def test_what_is_wrong_with_a_row_is_named(tmp_path, rows, change, words):
    path = write(tmp_path / "set.csv", [{"spacing": "", **row, **(change if i == 0 else {})} for i, row in enumerate(rows)])
    with pytest.raises(DataError, match=words):
        datasets.load("table", path)


def test_two_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "set.csv").write_text("image,mask, image\na.png,m.png,b.png\n")
    with pytest.raises(DataError, match="two columns are called 'image'"):
        datasets.load("table", tmp_path / "set.csv")


LISTS = (f"  a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'x'] * 8)}]\n" for i in range(20))
BOMB = "".join(LISTS)  # the last one holds 8^20 letters


@pytest.mark.fault("P8")
@pytest.mark.parametrize("column", ["image", "mask", "case", "patient", "split", "spacing", "7"])
def test_a_yaml_table_of_lists_that_hold_each_other_is_refused_at_once(tmp_path, rows, column):
    row = {"image": rows[0].get("image", rows[0].get("image_t1")), "mask": rows[0]["mask"], column: "*a19"}
    lines = "".join(f"  {name}: {cell}\n" for name, cell in row.items())
    (tmp_path / "set.yaml").write_text(f"- note:\n{BOMB}{lines}")
    with within(5), pytest.raises(DataError, match=r"a list of 8|called 7") as caught:
        datasets.load("table", tmp_path / "set.yaml")
    assert caught.value.code == "DATA_TABLE"
    (tmp_path / "set.yaml").write_text("- image: !!python/object/apply:os.system ['touch ran']\n")
    with pytest.raises(DataError, match="no YAML"):
        datasets.load("table", tmp_path / "set.yaml")


@pytest.mark.parametrize("name", ["Patient ID", "subject_id", "PatientID"])
def test_a_table_from_a_spreadsheet_keeps_patients_together(rows, tmp_path, name):
    for row in rows:
        row |= {name: row.pop("patient"), "Mask": row.pop("mask"), "Case": row.pop("case")}
    lines = [";".join(rows[0]), *(";".join(row.values()) for row in rows)]
    (tmp_path / "list.csv").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    assert datasets.recognise(tmp_path)[0] == "table"
    data = datasets.load("table", tmp_path)
    assert [case.patient for case in data.cases] == list("abcdd") and all(case.mask for case in data.cases)


def test_a_spacing_of_pictures_is_named_as_unused(tmp_path):
    for name in ("a", "a_mask"):
        Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "list.csv").write_text("image,mask,spacing\na.png,a_mask.png,0.1 0.1\n")
    assert datasets.load("table", tmp_path).notes == ("the column spacing is not used: pictures are resized, not resampled",)
