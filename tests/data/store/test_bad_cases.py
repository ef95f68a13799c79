"""A bad case stops the preparation with an error that names its file, or is left out and the rest is as if it had never been."""

import dataclasses
from pathlib import Path

import nibabel
import numpy as np
import pytest

from jaxseg.data import splits
from jaxseg.data.store import bad_cases, per_case
from jaxseg.data.store import stacked as caches
from jaxseg.types import DataError
from tests.data import toy_set

SLICES = dataclasses.replace(toy_set.RECIPE, channels=2)
VOLUMES = dataclasses.replace(SLICES, size=(8, 8, 4), intensity="ct", fit="patches")
CASES = 10


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path / "root"))


def toy(root: Path):
    """Ten cases of two slices; the two modalities have one content."""
    made = toy_set.make(root, patients=CASES, slices=2)
    cases = []
    for case in made.cases:
        second = case.images[0].with_name(case.images[0].name.replace("image", "second"))
        second.write_bytes(case.images[0].read_bytes())
        cases.append(dataclasses.replace(case, images=(*case.images, second)))
    return dataclasses.replace(made, cases=tuple(cases))


def build(dataset, rank: int, bad_share: float = 0.0):
    quiet = {"log": lambda line: None, "bad_share": bad_share}
    return caches.open_or_build(dataset, SLICES, **quiet) if rank == 2 else per_case.open_or_build(dataset, VOLUMES, **quiet)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def shorter(path: Path) -> None:
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj)[:-1].copy(), image.affine), path)


def with_nan(path: Path) -> None:
    image = nibabel.load(path)
    voxels = np.asarray(image.dataobj, np.float32)
    voxels[2, 3, 1] = np.nan
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), path)


DAMAGES = {
    "image02.nii": (truncated, "DATA_TRUNCATED"),
    "mask03.nii": (empty, "DATA_TRUNCATED"),
    "second04.nii": (shorter, "DATA_MISMATCH"),
    "mask05.nii": (shorter, "DATA_MISMATCH"),
    "image06.nii": (with_nan, "DATA_NONFINITE"),
}


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("name", DAMAGES)
def test_a_bad_case_stops_with_one_line_that_names_its_file(tmp_path, name, rank):
    dataset = toy(tmp_path / "data")
    damage, code = DAMAGES[name]
    damage(tmp_path / "data" / name)
    with pytest.raises(DataError, match=name) as error:
        build(dataset, rank)
    assert error.value.code == code and "\n" not in str(error.value)


def damaged(root: Path):
    dataset = toy(root)
    for name, (damage, _) in DAMAGES.items():
        damage(root / name)
    return dataset


def arrays(store, i: int):
    return (store.image(i), store.mask(i)) if isinstance(store, per_case.PerCase) else (store.images[i], store.masks[i])


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.fault("D26")
def test_what_is_kept_is_what_there_is_without_the_bad_cases(tmp_path, rank):
    dataset = damaged(tmp_path / "data")
    store = build(dataset, rank, bad_share=0.5)
    assert store.left_out.cases == ["c02", "c03", "c04", "c05", "c06"] and store.left_out.of == CASES
    for bad, (name, (_, code)) in zip(store.left_out.bad, DAMAGES.items()):
        assert name in bad.reason and bad.code == code and bad.patient == bad.case.replace("c", "p")
    rest = tuple(case for case in dataset.cases if case.id not in store.left_out.cases)
    alone = build(dataclasses.replace(dataset, cases=rest), rank)
    assert alone.folder != store.folder and alone.digest != store.digest and not alone.left_out.bad
    assert alone.rows == store.rows and bad_cases.read(store.folder) == store.left_out
    for i in range(len(store.rows)):
        for one, two in zip(arrays(store, i), arrays(alone, i)):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.fault("D26")
def test_more_bad_cases_than_allowed_are_refused_when_building_and_when_opening(tmp_path, rank):
    dataset = damaged(tmp_path / "data")
    with pytest.raises(DataError, match=r"5 or more of 10 cases.*bad_share=0.4 allows 4.*image02.nii") as error:
        build(dataset, rank, bad_share=0.4)
    assert error.value.code == "DATA_CHECK"
    build(dataset, rank, bad_share=0.5)
    with pytest.raises(DataError, match="5 or more of 10"):
        build(dataset, rank, bad_share=0.4)
    with pytest.raises(DataError, match="image02.nii") as error:
        build(dataset, rank)
    assert error.value.code == "DATA_TRUNCATED"


def test_a_repaired_case_comes_back(tmp_path):
    dataset, root = damaged(tmp_path / "data"), tmp_path / "data"
    before = build(dataset, 2, bad_share=0.5)
    (root / "image02.nii").write_bytes((root / "second02.nii").read_bytes())
    after = build(dataset, 2, bad_share=0.5)
    assert after.left_out.cases == before.left_out.cases[1:] and after.digest != before.digest
    assert {row["case"] for row in after.rows} - {row["case"] for row in before.rows} == {"c02"}


def test_a_list_of_bad_cases_that_was_damaged_is_noticed(tmp_path):
    store = build(damaged(tmp_path / "data"), 2, bad_share=0.5)
    (store.folder / bad_cases.NAME).write_text("{}")
    with pytest.raises(DataError, match="left_out.json"):
        caches.open_cache(store.folder)


def test_a_case_is_left_out_whole_whatever_slice_is_bad(tmp_path):
    dataset = toy_set.make(tmp_path / "data", patients=3, slices=3)
    last = lambda case, index, mask: True if (case.id, index) != ("c01", 2) else _raise()
    store = caches.open_or_build(
        dataclasses.replace(dataset, keep_slice=last), toy_set.RECIPE, log=lambda line: None, bad_share=0.4
    )
    assert store.left_out.cases == ["c01"] and {row["case"] for row in store.rows} == {"c00", "c02"}
    assert len(store.images) == len(store.rows) == 6


def _raise():
    raise DataError("this slice is bad", "DATA_TEST")


@pytest.mark.parametrize("code, kept", [("DATA_PATH", None), ("DATA_CRC", ["c01"])])
def test_a_file_that_cannot_be_opened_stops_the_run_whatever_the_policy(tmp_path, code, kept):
    dataset = toy_set.make(tmp_path / "data", patients=3, slices=1)

    def read(case):
        if case.id != "c01":
            raise DataError("no", code)

    found = bad_cases.sift(dataset, read, 0.9, [])
    if kept is None:
        with pytest.raises(DataError, match="no"):
            list(found)
    else:
        assert [case.id for case, _ in found] == kept


def test_a_split_file_may_list_patients_who_are_left_out(tmp_path):
    listed = {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
    splits.save_splits(tmp_path / "splits.json", listed)
    with pytest.raises(DataError, match="not in the data: b"):
        splits.load_splits(tmp_path / "splits.json", ["a", "c", "d"])
    assert splits.load_splits(tmp_path / "splits.json", ["a", "c", "d"], {"b"}) == listed
    with pytest.raises(DataError, match="not in the data: d"):
        splits.load_splits(tmp_path / "splits.json", ["a", "c"], {"b"})


def test_shares_are_counted_without_rounding_errors():
    found = bad_cases.LeftOut(tuple(bad_cases.Bad(str(i), str(i), "DATA", "") for i in range(29)), 100)
    bad_cases.check(found, 0.29)  # 0.29 * 100 = 28.999999999999996
    with pytest.raises(DataError, match="29 or more of 100"):
        bad_cases.check(found, 0.28)
