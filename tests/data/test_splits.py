"""Splits by patient, folds, the split by slices, leaks, split files."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from jaxseg.data import splits as sp
from jaxseg.data.records import DataSet
from jaxseg.types import ConfigError, DataError
from jaxseg.utils import files

STRATA = {f"p{i:03d}": "bleed" if i % 3 == 0 else "none" for i in range(75)}
FRACTIONS = (0.7, 0.1, 0.2)


def dataset(fixed=None):
    return DataSet("toy", Path("."), (), ("a",), lambda m: m, fixed_split=fixed)


def rows(patients=20, slices=5):
    return [
        {
            "case": f"c{p:02d}",
            "patient": f"p{p:02d}",
            "slice": z,
            "foreground": [z],
            "digest": f"{p}-{z}",
            "constant": False,
            "stratum": "bleed" if p % 2 else "none",
        }
        for p in range(patients)
        for z in range(slices)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_every_patient_is_in_exactly_one_split_and_strata_keep_their_shares(seed):
    drawn = sp.split_patients(STRATA, FRACTIONS, seed)
    assert sorted(p for listed in drawn.values() for p in listed) == sorted(STRATA)
    assert [len(drawn[n]) for n in sp.NAMES] == [52, 8, 15]  # 75 * (0.7, 0.1, 0.2) = 52.5, 7.5, 15
    for name, share in zip(sp.NAMES, FRACTIONS):
        assert abs(sum(STRATA[p] == "bleed" for p in drawn[name]) - 25 * share) <= 1.5


def test_the_order_of_the_listing_does_not_matter_and_the_seed_does():
    drawn = sp.split_patients(STRATA, FRACTIONS, 1)
    assert drawn == sp.split_patients(dict(sorted(STRATA.items(), reverse=True)), FRACTIONS, 1)
    assert drawn != sp.split_patients(STRATA, FRACTIONS, 2)


def test_the_draw_is_the_same_on_every_machine_and_version():
    assert sp.split_patients({f"p{i}": "" for i in range(6)}, (0.5, 0.25, 0.25), 0) == {
        "train": GOLDEN[0],
        "val": GOLDEN[1],
        "test": GOLDEN[2],
    }


GOLDEN = (["p1", "p3", "p4"], ["p5"], ["p0", "p2"])  # drawn 2026-11-21; a change here changes every published split


@pytest.mark.parametrize("n", [3, 4, 5, 7])
def test_no_split_with_a_share_is_empty(n):
    drawn = sp.split_patients({str(i): "" for i in range(n)}, (0.98, 0.01, 0.01), 0)
    assert all(drawn.values())


def test_a_share_of_zero_gets_no_patient():
    assert sp.split_patients(STRATA, (0.8, 0.0, 0.2), 0)["val"] == []


def test_too_few_patients_and_bad_fractions_are_refused():
    with pytest.raises(ConfigError, match="got 2 patients for 3 splits"):
        sp.split_patients({"a": "", "b": ""}, FRACTIONS, 0)
    for bad in ((0.7, 0.1, 0.1), (1.2, -0.1, -0.1), (0.5, 0.5), (0.0, 0.5, 0.5), (float("nan"), 0.5, 0.5)):
        with pytest.raises(ConfigError, match="fractions"):
            sp.split_patients(STRATA, bad, 0)


def test_folds_test_everybody_once_and_never_on_what_chose_them():
    parts = sp.split_folds(STRATA, 5, 0)
    assert sorted(p for f in parts for p in f["test"]) == sorted(STRATA)
    for f in parts:
        assert sorted(f["train"] + f["val"] + f["test"]) == sorted(STRATA)
        assert sum(STRATA[p] == "bleed" for p in f["test"]) == 5
    assert parts == sp.split_folds(dict(reversed(STRATA.items())), 5, 0) != sp.split_folds(STRATA, 5, 1)
    with pytest.raises(ConfigError, match="3 <= folds"):
        sp.split_folds(STRATA, 2, 0)


@pytest.mark.parametrize("patients", [5, 13, 75])
def test_folds_differ_by_one_patient_and_keep_the_shares_of_strata(patients):
    strata = {p: STRATA[p] for p in list(STRATA)[:patients]}
    parts = sp.split_folds(strata, 5, 3)
    sizes, bleeds = ([sum(f(p) for p in part["test"]) for part in parts] for f in (lambda p: 1, lambda p: strata[p] == "bleed"))
    assert max(sizes) - min(sizes) <= 1 and max(bleeds) - min(bleeds) <= 1
    for i, part in enumerate(parts):
        assert part["val"] == parts[(i + 1) % 5]["test"]


GOLDEN_FOLDS = [["p3", "p4"], ["p0"], ["p1"], ["p5"], ["p2"]]  # drawn 2026-11-21


def test_the_folds_are_the_same_on_every_machine_and_version():
    assert [f["test"] for f in sp.split_folds({f"p{i}": "" for i in range(6)}, 5, 0)] == GOLDEN_FOLDS


def examinations(patients=20):
    """Volumes of patients who came once, twice or three times, one row each."""
    return [
        {
            "case": f"p{p:02d}-{t}",
            "patient": f"p{p:02d}",
            "stratum": "HGG" if p % 3 else "LGG",
            "foreground": [9, 9, 9],
            "digest": f"{p}-{t}",
        }
        for p in range(patients)
        for t in range(1 + p % 3)
    ]


def test_no_case_of_the_test_ever_reaches_training():
    """Neither drawn nor in folds; patients with several examinations included."""
    r, tested = examinations(), []
    draws = [{"split": "patient", "seed": s} for s in range(5)]
    for draw in [*draws, *({"split": "fold", "folds": 5, "fold": i, "seed": 0} for i in range(5))]:
        found = sp.split_rows(r, dataset(), fractions=(0.8, 0.1, 0.1), **draw)
        assert sorted(i for v in found.values() for i in v) == list(range(len(r)))
        owners = {name: {r[i]["patient"] for i in v} for name, v in found.items()}
        assert not (owners["train"] & owners["test"] or owners["train"] & owners["val"] or owners["val"] & owners["test"])
        assert len(owners["test"]) == (2 if draw["split"] == "patient" else 4)
        tested += found["test"].tolist() if draw["split"] == "fold" else []
    assert sorted(tested) == list(range(len(r)))


@pytest.mark.fault("D24")
def test_a_volume_under_two_names_is_a_leak():
    r = examinations()
    r[0]["digest"] = r[-1]["digest"]
    with pytest.raises(DataError, match="same image") as error:
        sp.check_no_leak(r, {"train": [0], "val": [], "test": [len(r) - 1]})
    assert error.value.code == "DATA_LEAK"


def test_fold_and_folds_must_fit():
    for fold in (-1, 5):
        with pytest.raises(ConfigError, match=f"data.fold={fold} with data.folds=5; must be 0 to 4"):
            sp.split_rows(examinations(), dataset(), split="fold", fractions=FRACTIONS, seed=0, folds=5, fold=fold)
    with pytest.raises(ConfigError, match="3 <= folds <= patients"):
        sp.split_rows(examinations(), dataset(), split="fold", fractions=FRACTIONS, seed=0, folds=21)


def test_a_stored_split_is_drawn_again_from_its_file(tmp_path):
    r, path = examinations(), tmp_path / "splits.json"
    first = sp.split_rows(r, dataset(), split="fold", fractions=FRACTIONS, seed=4, folds=5, fold=2)
    sp.save_splits(path, sp.patients_of(r, first), split="fold", seed=4, folds=5, fold=2)
    assert json.loads(path.read_text())["drawn"] == {"split": "fold", "seed": 4, "folds": 5, "fold": 2}
    again = sp.split_rows(r, dataset(), split="file", fractions=FRACTIONS, seed=0, file=path)
    for name in sp.NAMES:
        np.testing.assert_array_equal(again[name], first[name])
    with pytest.raises(ConfigError, match="data.split=file needs the path"):
        sp.split_rows(r, dataset(), split="file", fractions=FRACTIONS, seed=0)


def test_rows_follow_their_patients():
    r = rows()
    found = sp.split_rows(r, dataset(), split="patient", fractions=FRACTIONS, seed=0)
    assert sorted(i for v in found.values() for i in v) == list(range(len(r)))
    owners = [{r[i]["patient"] for i in v} for v in found.values()]
    assert not (owners[0] & owners[1] or owners[0] & owners[2] or owners[1] & owners[2])
    assert found["train"].dtype == np.int64


def test_a_fixed_split_is_followed_or_refused():
    prescribed = {f"p{i:02d}": "test" if i > 15 else "train" for i in range(20)}
    found = sp.split_rows(rows(), dataset(prescribed), split="fixed", fractions=FRACTIONS, seed=0)
    assert len(found["test"]) == 20 and len(found["val"]) == 0
    with pytest.raises(ConfigError, match="prescribes no split"):
        sp.split_rows(rows(), dataset(), split="fixed", fractions=FRACTIONS, seed=0)
    with pytest.raises(DataError, match="no split to 1 patients: p00"):
        sp.split_rows(rows(), dataset({**prescribed, "p00": "hidden"}), split="fixed", fractions=FRACTIONS, seed=0)
    with pytest.raises(ConfigError, match="did you mean patient"):
        sp.split_rows(rows(), dataset(), split="patients", fractions=FRACTIONS, seed=0)


@pytest.mark.parametrize(
    "n,protocol,sizes",
    [
        (318, "only", (258, 10, 50)),
        (2500, "all", (1800, 200, 500)),
        (30, "only", (25, 1, 4)),
        (100, "all", (72, 8, 20)),
        (3, "only", (1, 1, 1)),
    ],
)
def test_the_slice_level_split_takes_the_last_slices_and_warns_that_it_leaks(n, protocol, sizes):
    r = [{"patient": f"p{i // 40}", "stratum": "", "foreground": [1]} for i in range(n)]
    said = []
    found = sp.split_rows(r, dataset(), split="slice_level", fractions=FRACTIONS, seed=0, protocol=protocol, log=said.append)
    assert tuple(len(found[name]) for name in sp.NAMES) == sizes
    assert np.concatenate([found[name] for name in sp.NAMES]).tolist() == list(range(n))
    assert "WARNING" in said[0] and len(said) == 1


def test_the_slice_level_split_needs_its_protocol_and_three_slices():
    with pytest.raises(ConfigError, match="'only' or 'all'"):
        sp.split_rows(rows(), dataset(), split="slice_level", fractions=FRACTIONS, seed=0)
    with pytest.raises(ConfigError, match="got 2 slices"):
        sp.split_rows(rows(2, 1), dataset(), split="slice_level", fractions=FRACTIONS, seed=0, protocol="only")


@pytest.mark.fault("D24")
def test_a_shared_patient_is_a_leak():
    with pytest.raises(DataError, match="1 patients are in 'train' and in 'test': p00") as error:
        sp.check_no_leak(rows(), {"train": [0, 5], "val": [10], "test": [1]})
    assert error.value.code == "DATA_LEAK" and error.value.exit_code == 65


@pytest.mark.fault("D24")
def test_one_image_under_two_names_is_a_leak_unless_it_is_constant():
    r = rows()
    r[0]["digest"] = r[10]["digest"]
    with pytest.raises(DataError, match="c00 = c02") as error:
        sp.check_no_leak(r, {"train": [0], "val": [], "test": [10]})
    assert error.value.code == "DATA_LEAK"
    r[0]["constant"] = r[10]["constant"] = True
    sp.check_no_leak(r, {"train": [0], "val": [], "test": [10]})
    r[0]["constant"] = r[10]["constant"] = False
    with pytest.raises(DataError, match="same image"):
        sp.split_rows(
            r,
            dataset({f"p{i:02d}": "test" if i == 2 else "train" for i in range(20)}),
            split="fixed",
            fractions=FRACTIONS,
            seed=0,
        )


@pytest.mark.fault("D18")
def test_a_split_without_foreground_is_refused():
    r = rows()
    for row in r:
        row["foreground"] = [0]
    with pytest.raises(DataError, match="without any foreground pixel") as error:
        sp.split_rows(r, dataset(), split="patient", fractions=FRACTIONS, seed=0)
    assert error.value.code == "DATA_EMPTY"


def test_a_patient_with_cases_of_two_strata_counts_once():
    r = [{"patient": "a", "stratum": "x"}, {"patient": "a", "stratum": "b"}, {"patient": "c", "stratum": "x"}]
    assert sp.patient_strata(r) == {"a": "b+x", "c": "x"}


def test_a_split_file_comes_back_as_it_was(tmp_path):
    drawn = sp.split_patients(STRATA, FRACTIONS, 0)
    sp.save_splits(tmp_path / "splits.json", drawn)
    assert sp.load_splits(tmp_path / "splits.json", STRATA) == drawn


@pytest.mark.parametrize(
    "content,text,code",
    [
        ({"train": ["a"], "val": ["b"], "test": ["x"]}, "1 patients are not in the data: x", "DATA_SPLIT"),
        ({"train": ["a", "a"], "val": ["b"], "test": ["c"]}, "1 patients are listed twice: a", "DATA_SPLIT"),
        ({"train": ["a"], "val": ["b"], "test": ["c", "a"]}, "1 patients are in two splits: a", "DATA_LEAK"),
        ({"train": ["a"], "val": ["b"], "test": []}, "1 patients of the data are in no split.*: c", "DATA_SPLIT"),
        ({"train": ["a"], "val": ["b"]}, "lists of patient names", "DATA_SPLIT"),
        ({"train": ["a"], "val": ["b"], "test": ["c"], "tset": []}, "lists of patient names", "DATA_SPLIT"),
        ({"train": "abc", "val": [], "test": []}, "lists of patient names", "DATA_SPLIT"),
        ([1, 2], "lists of patient names", "DATA_SPLIT"),
    ],
)
@pytest.mark.fault("D24")
def test_a_wrong_split_file_is_refused(tmp_path, content, text, code):
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=text) as error:
        sp.load_splits(path, ["a", "b", "c"])
    assert error.value.code == code


def test_a_split_file_that_is_no_json_or_leaves_out_on_purpose(tmp_path):
    path = tmp_path / "splits.json"
    path.write_text("{")
    with pytest.raises(DataError, match="cannot read the split file"):
        sp.load_splits(path, ["a"])
    path.write_text(json.dumps({"train": ["a"], "val": [], "test": [], "left_out": ["b"]}))
    assert sp.load_splits(path, ["a", "b"]) == {"train": ["a"], "val": [], "test": []}


def test_a_file_need_not_list_the_data_sets_own_test_cases(tmp_path):
    r, said = rows(), []
    names = sorted({row["patient"] for row in r})
    own = dataclasses.replace(dataset(), held_out=frozenset(names[:2]))
    path = tmp_path / "splits.json"
    path.write_text(json.dumps({"train": names[4:], "val": names[3:4], "test": [], "left_out": names[1:3]}))
    found = sp.split_rows(r, own, split="file", fractions=FRACTIONS, seed=0, file=path, log=said.append)
    assert {r[i]["patient"] for i in found["test"]} == {names[0]} and "does not list 1 patients" in said[0]


def test_digests_of_many_are_those_of_each():
    names = ["", "a", "anna", "änne"]
    assert files.digests("24", names) == [files.digest("24", name) for name in names]
