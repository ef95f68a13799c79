"""CT-ICH folders: what is read, and every way in which a folder can be wrong gets its own word."""

import gzip
import re
import shutil

import nibabel
import numpy as np
import pytest

from jaxseg.data import datasets
from jaxseg.data.datasets import ct_ich
from jaxseg.data.phantom import ct_ich as synthetic
from jaxseg.data.store.cases import read_case
from jaxseg.types import ConfigError, DataError


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ct_ich")
    patch = pytest.MonkeyPatch()
    patch.setitem(synthetic.KINDS, "quick", synthetic.Size(4, 32, (6, 6), 16))
    synthetic.write_phantom(folder, kind="quick")
    patch.undo()
    return folder


@pytest.fixture
def root(small, tmp_path):
    return shutil.copytree(small, tmp_path / "set")


def refused(code, root, *words, **options):
    with pytest.raises(DataError) as caught:
        datasets.load("ct_ich", root, **options)
    assert caught.value.code == code and "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value), caught.value


def edit_table(root, change):
    path = root / ct_ich.TABLE
    path.write_text(change(path.read_text()))


def test_one_case_a_patient_with_its_bleeding_slices(root):
    data = datasets.load("ct_ich", root)
    assert [c.id for c in data.cases] == ["049", "050", "051", "052"] and data.labels == ("hemorrhage",) and data.synthetic
    for case in data.cases:
        blood = np.flatnonzero(np.asarray(nibabel.load(case.mask).dataobj).any((0, 1))).tolist()
        assert case.meta["bleed_slices"] == blood and bool(case.meta["types"]) == bool(blood)
        assert data.stratum(case) == ("bleed" if blood else "none")
    assert {data.stratum(c) for c in data.cases} == {"bleed", "none"}
    assert ct_ich.disagreements(data) == []


@pytest.mark.parametrize("protocol", ct_ich.PROTOCOLS)
def test_only_keeps_the_slices_with_blood_and_all_keeps_all(root, protocol):
    data = datasets.load("ct_ich", root, protocol=protocol)
    for case in data.cases:
        for piece in read_case(data, case):
            assert piece.kept == (protocol == "all" or piece.mask.any())
            assert piece.mask.max(initial=0) <= 1


def test_the_folder_above_and_compressed_files_read_the_same(root):
    expected = datasets.load("ct_ich", shutil.copytree(root, root.parent.parent / f"plain_{root.parent.name}"))
    for path in (*root.glob("masks/*.nii"), root / "ct_scans/050.nii"):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes(), 1))
        path.unlink()
    (root / "ct_scans/._050.nii").write_bytes(b"left by macOS")
    found = datasets.load("ct_ich", root.parent)
    assert [(c.id, dict(c.meta)) for c in found.cases] == [(c.id, dict(c.meta)) for c in expected.cases]
    for a, b in zip(expected.cases, found.cases):
        for x, y in zip(read_case(expected, a), read_case(found, b)):
            np.testing.assert_array_equal(x.image, y.image)
            np.testing.assert_array_equal(x.mask, y.mask)


def test_real_data_are_not_called_synthetic(root):
    (root / "README.txt").write_text("The dataset is not synthetic: it was collected from patients.")
    assert not datasets.load("ct_ich", root).synthetic


def test_rows_of_patients_without_files_and_clean_slices_beyond_the_end_are_ignored(root):
    edit_table(root, lambda text: text + "59,1,0,1,0,0,0,0,0\n49,7,0,0,0,0,0,1,0\n\n,,,,,,,,\n")
    assert len(datasets.load("ct_ich", root).cases) == 4


def test_fewer_patients_are_fine(root):
    for part in ("ct_scans", "masks"):
        (root / part / "049.nii").unlink()
    assert [c.id for c in datasets.load("ct_ich", root).cases] == ["050", "051", "052"]


def test_missing_parts_are_named_with_the_remedy(root):
    (root / "masks/050.nii").rename(root / "050.nii")
    refused("DATA_MISSING", root, "masks/050.nii", "unpack the data set again", "ct_scans/050.nii")
    (root / "050.nii").rename(root / "masks/050.nii")
    (root / "ct_scans/051.nii").unlink()
    refused("DATA_MISSING", root, "ct_scans/051.nii", "masks/051.nii")
    (root / "masks/051.nii").unlink()
    edit_table(root, lambda text: re.sub(r"(?m)^52,3,.*\n", "", text))
    refused("DATA_MISSING", root, ct_ich.TABLE, "patient 52, slice 3", "052.nii has 6 slices")
    (root / ct_ich.TABLE).unlink()
    refused("DATA_MISSING", root, ct_ich.TABLE)
    shutil.rmtree(root / "masks")
    refused("DATA_MISSING", root, "masks")
    refused("DATA_MISSING", root / "nowhere", "ct_scans", "PhysioNet")


def test_two_data_sets_in_one_folder_are_not_guessed_between(root):
    shutil.copytree(root, root.parent / "again")
    refused("DATA_MISSING", root.parent, "2 folders with ct_scans", "again")


def test_a_table_that_cannot_be_trusted_is_refused(root):
    original = (root / ct_ich.TABLE).read_text()
    for change, word in (
        (lambda t: t.replace("No_Hemorrhage", "Clean"), "No_Hemorrhage"),
        (lambda t: t.replace("\n49,2,", "\n49,x,"), "line 3"),
        (lambda t: t.replace("\n49,2,", "\n49,1,"), "a second time"),
        (lambda t: re.sub(r"\n49,2,\d", "\n49,2,7", t), "flags 0 or 1"),
        (lambda t: "", "no column"),
    ):
        (root / ct_ich.TABLE).write_text(change(original))
        refused("DATA_TABLE", root, word)
    edit_table(root, lambda _: original + "49,9,0,1,0,0,0,0,0\n")
    refused("DATA_MISMATCH", root, "patient 49 bleeds in slice 9", "049.nii has 6 slices")


def test_strange_file_names_are_refused(root):
    shutil.copy(root / "masks/049.nii", root / "masks/49.nii")
    refused("DATA_PATH", root, "a second time")
    (root / "masks/49.nii").rename(root / "masks/old_049.nii")
    refused("DATA_PATH", root, "old_049.nii", "named 049.nii")


def test_truncated_scan_is_refused_when_listed_or_read(root):
    path = root / "ct_scans/049.nii"
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    refused("DATA_TRUNCATED", root, "049.nii", "200 of 348 bytes")
    path.write_bytes(whole[:-10])
    data = datasets.load("ct_ich", root)
    with pytest.raises(DataError) as caught:
        list(read_case(data, data.cases[0]))
    assert caught.value.code == "DATA_TRUNCATED"


def test_mask_of_another_shape_is_refused_when_read(root):
    mask = nibabel.load(root / "masks/049.nii")
    fewer = np.asarray(mask.dataobj)[:, :, 1:].copy()  # a copy: the file is mapped, and about to be written
    nibabel.save(nibabel.Nifti1Image(fewer, mask.affine), root / "masks/049.nii")
    data = datasets.load("ct_ich", root)
    with pytest.raises(DataError) as caught:
        list(read_case(data, data.cases[0]))
    assert caught.value.code == "DATA_MISMATCH"


def test_masks_read_as_classes_whatever_their_two_values():
    truth = np.array([[0, 1], [1, 0]], np.uint8)
    for raw in (truth * 255, truth, truth.astype(np.float32) * 254 + (1 - truth), (truth * 255).astype(np.int16)):
        np.testing.assert_array_equal(ct_ich.map_mask(raw), truth)
    assert ct_ich.map_mask(np.zeros((2, 2))).dtype == np.uint8


@pytest.mark.parametrize(
    "raw,word",
    [
        ([0, 3, 255, 100, 100], "100 (2x)"),
        ([0, 0.5, 1], "0.5 (1x)"),
        ([0, 400, 255], "400"),
        ([0, -100, 0], "-100"),
        ([0, np.nan, 255], "nan"),
    ],
)
@pytest.mark.fault("D16")
def test_other_mask_values_are_counted_and_refused(raw, word):
    with pytest.raises(DataError) as caught:
        ct_ich.map_mask(np.array(raw))
    assert caught.value.code == "DATA_LABEL" and word in str(caught.value)


def test_table_and_masks_that_contradict_each_other_are_counted(root):
    data = datasets.load("ct_ich", root)
    case = next(c for c in data.cases if c.meta["bleed_slices"])
    mask = nibabel.load(case.mask)
    array, first = np.asarray(mask.dataobj).copy(), case.meta["bleed_slices"][0]
    array[:, :, first] = 0
    nibabel.save(nibabel.Nifti1Image(array, mask.affine), case.mask)
    clean = next(c for c in data.cases if not c.meta["bleed_slices"])
    array[10:20, 10:20, 0] = 255
    array[:, :, 1:] = 0
    nibabel.save(nibabel.Nifti1Image(array, mask.affine), clean.mask)
    assert [line.split(":")[0].split(" ", 1)[0] for line in ct_ich.disagreements(data)] == ["1", "1"]
    assert f"{case.id}/{first + 1}" in ct_ich.disagreements(data)[0] and f"{clean.id}/1" in ct_ich.disagreements(data)[1]


def test_names_and_options_are_looked_up(root):
    with pytest.raises(ConfigError, match="data set 'ct_hic'.*did you mean ct_ich"):
        datasets.load("ct_hic", root)
    with pytest.raises(ConfigError, match="takes no option 'structures'; it takes protocol"):
        datasets.load("ct_ich", root, structures=("liver",))
    with pytest.raises(ConfigError, match="protocol 'onyl'.*did you mean only"):
        datasets.load("ct_ich", root, protocol="onyl")
    assert "structures" in datasets.options_of("organs_ct") and len(datasets.load("ct_ich", root, structures=None).cases) == 4
    assert datasets.label_count("ct_ich") == 1 and datasets.label_count("organs_ct", ("liver", "aorta")) == 2
    with pytest.raises(ConfigError, match="no embedded phantom"):
        datasets.phantom("organs_ct")
