"""The phantom has the real set's layout, its tables say what its masks show, and a threshold does not solve it."""

import csv
import itertools

import nibabel
import numpy as np
import pytest

from jaxseg.data.phantom import ct_ich
from jaxseg.types import ConfigError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    ct_ich.write_phantom(folder, kind="quick")
    return folder


@pytest.fixture(scope="module")
def fine(tmp_path_factory):
    """Sixteen patients at half the full resolution."""
    folder, patch = tmp_path_factory.mktemp("fine"), pytest.MonkeyPatch()
    patch.setitem(ct_ich.KINDS, "quick", ct_ich.Size(16, 256, (6, 6), 128))
    ct_ich.write_phantom(folder, kind="quick")
    patch.undo()
    return folder


def read(root, part):
    return {p.stem: nibabel.load(p) for p in sorted((root / part).glob("*.nii"))}


def table(root):
    with open(root / "hemorrhage_diagnosis_raw_ct.csv", newline="") as file:
        return [{k: int(v) for k, v in row.items()} for row in csv.DictReader(file)]


def test_files_are_those_of_the_real_layout(root):
    assert sorted(p.name for p in root.iterdir()) == [
        "Patient_demographics.csv",
        "README.txt",
        "ct_scans",
        "hemorrhage_diagnosis_raw_ct.csv",
        "masks",
    ]
    assert list(read(root, "ct_scans")) == list(read(root, "masks")) == [f"{n:03d}" for n in range(49, 57)]
    rows = list(csv.reader(open(root / "Patient_demographics.csv", newline="")))
    assert rows[0][0] == "Patient Number" and rows[1][0] == "" and [r[0] for r in rows[2:]] == [str(n) for n in range(49, 57)]
    assert list(table(root)[0]) == [
        "PatientNumber",
        "SliceNumber",
        "Intraventricular",
        "Intraparenchymal",
        "Subarachnoid",
        "Epidural",
        "Subdural",
        "No_Hemorrhage",
        "Fracture_Yes_No",
    ]


def test_numbers_of_the_absent_patients_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setitem(ct_ich.KINDS, "quick", ct_ich.Size(12, 32, (1, 1), 16))
    ct_ich.write_phantom(tmp_path, kind="quick")
    assert [int(n) for n in read(tmp_path, "masks")] == [*range(49, 59), 66, 67]


def test_volumes_are_hu_on_one_lps_grid_with_their_masks(root):
    masks = read(root, "masks")
    for name, scan in read(root, "ct_scans").items():
        assert scan.shape == masks[name].shape == (128, 128, 6)
        assert scan.get_data_dtype() == np.int16 and nibabel.aff2axcodes(scan.affine) == ("L", "P", "S")
        np.testing.assert_array_equal(scan.affine, masks[name].affine)
        values = np.asarray(scan.dataobj)
        corner = values[:4, :4].mean()
        assert -1010 < corner < -990 and values.max() > 600 and values.min() >= -1024, (name, corner)
        assert set(np.unique(masks[name].dataobj)) <= {0, 255}


def test_blood_lies_inside_the_skull_and_looks_like_blood(fine):
    scans, inside, hu = read(fine, "ct_scans"), [], []
    for name, mask in read(fine, "masks").items():
        values, blood = np.asarray(scans[name].dataobj), np.asarray(mask.dataobj) > 0
        bone, between = values > 300, np.zeros(values.shape, bool)
        for axis in (0, 1):  # bone on either side, along rows or along columns (sinuses open the skull in one of them)
            between |= np.logical_or.accumulate(bone, axis) & np.flip(np.logical_or.accumulate(np.flip(bone, axis), axis), axis)
        inside.append(between[blood])
        hu.append(values[blood])
    inside, hu = np.concatenate(inside), np.concatenate(hu)
    assert len(hu) > 20000 and inside.mean() > 0.999
    assert 55 < np.median(hu) < 75 and np.mean((hu > 20) & (hu < 130)) > 0.95  # the rest touches bone or fluid


def test_table_says_what_the_masks_show(root):
    blood = {int(n): np.asarray(m.dataobj).any((0, 1)) for n, m in read(root, "masks").items()}
    rows = table(root)
    assert len(rows) == sum(map(len, blood.values()))
    for row in rows:
        flags = [row[k] for k in ct_ich.blood.KINDS]
        assert row["No_Hemorrhage"] == int(not any(flags)) == int(not blood[row["PatientNumber"]][row["SliceNumber"] - 1]), row


def test_some_patients_have_no_bleed_and_some_several_kinds(root):
    kinds = {
        n: {k for r in rows for k in ct_ich.blood.KINDS if r[k]}
        for n, rows in itertools.groupby(table(root), lambda r: r["PatientNumber"])
    }
    assert sum(not k for k in kinds.values()) == 2 and any(len(k) > 1 for k in kinds.values())
    quarter = sum(not p for p in ct_ich.PLANS) / len(ct_ich.PLANS)
    assert 0.2 <= quarter <= 0.3


def test_no_threshold_and_no_band_of_hu_finds_the_blood(fine):
    """The best of all bands stays below one half (the full set: 0.45, a lone threshold 0.26)."""
    scans, x, y = read(fine, "ct_scans"), [], []
    for name, mask in read(fine, "masks").items():
        blood = np.asarray(mask.dataobj) > 0
        kept = blood.any((0, 1))
        x.append(np.asarray(scans[name].dataobj)[..., kept].ravel())
        y.append(blood[..., kept].ravel())
    x, y = np.concatenate(x), np.concatenate(y)
    edges = np.arange(-20, 101, 4)
    at = np.digitize(x, edges)  # 0 below the window .. len(edges) above it
    true, all_ = (np.concatenate([[0], np.cumsum(np.bincount(at, w, len(edges) + 1))]) for w in (y.astype(float), None))
    best = max(
        2 * (true[j] - true[i]) / (all_[j] - all_[i] + y.sum()) for i in range(1, len(true)) for j in range(i + 1, len(true))
    )
    assert 0.1 < best < 0.5, best


def test_same_seed_same_bytes_other_seed_other_bytes(root, tmp_path):
    for seed, same in ((0, True), (1, False)):
        ct_ich.write_phantom(tmp_path / str(seed), kind="quick", seed=seed)
        found = [(tmp_path / str(seed) / p.relative_to(root)).read_bytes() == p.read_bytes() for p in root.rglob("049.nii")]
        assert found == [same, same] or (not same and found[0] is False), (seed, found)
    name = "hemorrhage_diagnosis_raw_ct.csv"
    assert (tmp_path / "0" / name).read_bytes() == (root / name).read_bytes()


def test_phantom_is_built_once_under_the_cache_root(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path))
    monkeypatch.setitem(ct_ich.KINDS, "quick", ct_ich.Size(1, 32, (1, 1), 16))
    root = ct_ich.phantom("quick")
    before = (root / "README.txt").stat().st_mtime_ns
    assert root.parent == tmp_path and ct_ich.phantom("quick") == root
    assert (root / "README.txt").stat().st_mtime_ns == before and (root / "README.txt").read_text().startswith("synthetic:")


def test_unknown_kind_names_the_known_ones():
    with pytest.raises(ConfigError, match="quikc.*did you mean quick"):
        ct_ich.phantom("quikc")
