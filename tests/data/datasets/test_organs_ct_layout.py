"""The organs of two real scans: label numbers are read as text, slices are split without overlap, grids agree."""

import os
from pathlib import Path

import numpy as np
import pytest

from jaxseg.data import datasets, splits
from jaxseg.data.datasets import organs_ct
from jaxseg.data.store.cases import read_case
from jaxseg.types import ConfigError, DataError

TEXT = """import os
class_map = {
    "total_v1": {1: "liver"},
    "total": {1: "spleen", 5: "liver", 6: "stomach", 52: "aorta"},
}
"""


@pytest.fixture
def root(tmp_path):
    for name in (organs_ct.CT_A, organs_ct.MASK_A, organs_ct.MASK_B):
        (tmp_path / name).touch()
    (tmp_path / organs_ct.CT_B).mkdir()
    (tmp_path / organs_ct.NUMBERS).write_text(TEXT)
    return tmp_path


def test_classes_follow_the_order_of_the_structures(root):
    data = datasets.load("organs_ct", root, structures=("aorta", "spleen"))
    assert data.labels == ("aorta", "spleen") and not data.synthetic
    np.testing.assert_array_equal(data.map_mask(np.array([[0, 1, 5], [52, 6, 117]], np.uint8)), [[0, 2, 0], [1, 0, 0]])


def test_values_that_are_no_label_are_refused(root):
    data = datasets.load("organs_ct", root)
    for value in (118, -1, 2.5, np.nan):
        with pytest.raises(DataError) as caught:
            data.map_mask(np.array([0, 5, value]))
        assert caught.value.code == "DATA_LABEL"


def test_the_prescribed_split_shares_no_slice_and_leaves_a_gap(root):
    data = datasets.load("organs_ct", root)
    kept = {c.id: [z for z in range(112) if data.keep_slice(c, z, None)] for c in data.cases}
    train, val = kept["A"], kept[organs_ct.SLAB]
    assert min(abs(a - b) for a in train for b in val) * 3.0 > 9.0  # mm between centres
    assert kept["B"] == list(range(20)) and set(data.fixed_split) == {c.patient for c in data.cases}
    assert [data.fixed_split[c.patient] for c in data.cases] == ["train", "val", "test"]


def test_blocks_for_volumes_leave_a_gap_too(root):
    slabs = {c.id: c.slab for c in datasets.load("organs_ct", root, protocol="volumes").cases}
    (first, _), (_, end) = slabs["A"], slabs[organs_ct.SLAB]
    assert (first - (end - 1)) * 3.0 > 9.0 and slabs["B"] == ()  # mm between centres


def test_unknown_structures_name_their_neighbours(root):
    with pytest.raises(ConfigError, match="structure 'livr'.*did you mean liver"):
        datasets.load("organs_ct", root, structures=("livr",))
    for wrong in ((), "liver", ("liver", "liver")):
        with pytest.raises(ConfigError, match="a non-empty tuple of distinct names"):
            datasets.load("organs_ct", root, structures=wrong)
    with pytest.raises(ConfigError, match="takes no option 'naming'; it takes structures, protocol"):
        datasets.load("organs_ct", root, naming="image")
    with pytest.raises(ConfigError, match="protocol 'volume'.*did you mean volumes"):
        datasets.load("organs_ct", root, protocol="volume")


@pytest.mark.parametrize(
    "text",
    [
        "class_map = __import__('os').abort()",
        "class_map = {'total': {1: open('/etc/passwd')}}",
        "x = 1",
        "class_map = {'total': {1000: 'liver'}}",
        "class_map = {'total': 3}",
        "class_map = (",
        "",
    ],
)
def test_label_numbers_are_read_and_never_run(root, text):
    (root / organs_ct.NUMBERS).write_text(text)
    with pytest.raises(DataError) as caught:
        datasets.load("organs_ct", root)
    assert caught.value.code == "DATA_TABLE" and "jaxseg.data.acquire organs" in str(caught.value)


def test_missing_part_says_how_to_get_it(root):
    (root / organs_ct.MASK_B).unlink()
    with pytest.raises(DataError, match=f"{organs_ct.MASK_B}.*jaxseg.data.acquire organs") as caught:
        datasets.load("organs_ct", root)
    assert caught.value.code == "DATA_MISSING"


@pytest.fixture(scope="module")
def real():
    folder = os.environ.get("JAXSEG_ORGANS", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("set JAXSEG_ORGANS to the folder that `python -m jaxseg.data.acquire organs` made")
    pytest.importorskip("pydicom", reason="patient B is a DICOM series")
    return datasets.load("organs_ct", folder)


def test_real_scans_and_labels_lie_on_one_grid_and_look_like_organs(real):
    hu, seen = {"A": [], "B": []}, {}
    for case in real.cases:
        rows = list(read_case(real, case))  # refuses grids that differ
        seen[case.id] = sum(r.kept for r in rows)
        if case.id in hu:
            hu[case.id] = [np.concatenate([r.image[r.mask == k, 0] for r in rows]) for k in range(1, 5)]
            assert rows[0].spacing == pytest.approx((3.0, 3.0) if case.id == "A" else (0.9765625, 0.9765625))
    assert seen == {"A": 103, organs_ct.SLAB: 3, "B": 20}
    assert [len(v) for v in hu["A"]] == [41692, 9668, 1839, 4836] and [len(v) for v in hu["B"]] == [366708, 130634, 11723, 74102]
    # unenhanced and portal-venous attenuation of liver and spleen, arterial of the aorta: a flipped mask gives -75, -377, -171
    assert [round(float(v.mean())) for v in hu["A"]][:3] == [44, 33, 42]
    assert [round(float(v.mean())) for v in hu["B"]][:3] == [89, 80, 177]


def test_real_split_has_every_organ_in_every_part(real):
    rows = [
        {
            "case": c.id,
            "patient": c.patient,
            "stratum": real.stratum(c),
            "constant": False,
            "digest": f"{c.id}/{r.index}",
            "foreground": [int((r.mask == k).sum()) for k in range(1, 5)],
        }
        for c in real.cases
        for r in read_case(real, c)
        if r.kept
    ]
    found = splits.split_rows(rows, real, split="fixed", fractions=(0.7, 0.1, 0.2), seed=0)
    for numbers in found.values():
        assert np.all(np.sum([rows[i]["foreground"] for i in numbers], axis=0) > 0)
