"""The doctor goes through all cases, collects every error, and passes a sound set."""

import ast
import dataclasses
import re
import shutil
import threading

import numpy as np
import pytest
from PIL import Image

from jaxseg.data import datasets, splits
from jaxseg.data.check import scale
from jaxseg.data.check.examine import examine
from jaxseg.data.store import per_case
from jaxseg.types import DataError
from jaxseg.utils.turns import CaseShare
from tests.data import toy_set

R = toy_set.RECIPE
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def test_a_sound_set_is_described(tmp_path):
    report = examine(toy_set.make(tmp_path), R)
    text = str(report)
    assert not report.errors and report.refusal is None and "error" not in text.replace("0 errors", "")
    for fact in (
        "6 of 6 patients",
        "bleed: 3 patients, none: 3 patients",
        "24 kept of 24, 18 of them without foreground",
        "18 x 20: 24",
        "rows 0.6 to 0.6 mm, columns 0.5 to 0.5 mm",
        "SYNTHETIC",
    ):
        assert fact in text, fact


def test_a_disk_too_small_for_the_prepared_examples_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("shutil.disk_usage", lambda place: shutil._ntuple_diskusage(2**30, 2**30 - 100, 100))
    (line,) = [line for line in examine(toy_set.make(tmp_path), R).warnings if "prepared examples need" in line]
    assert f"but {tmp_path / 'cache'} has" in line


def harmed(dataset):
    """The same cases, three of which cannot be used, and one without a mask."""
    c = list(dataset.cases)
    c[1].mask.write_bytes(c[1].mask.read_bytes()[:-9])
    c[3] = dataclasses.replace(c[3], mask=None)
    c[4] = dataclasses.replace(c[4], mask=c[2].mask)
    c[5].mask.write_bytes(c[5].mask.read_bytes()[:-9] + b"\x07" * 9)
    return dataclasses.replace(dataset, cases=tuple(c))


def test_several_processes_report_what_one_does(tmp_path):
    dataset = toy_set.make(tmp_path / "d", 9)
    copy = dataclasses.replace(dataset.cases[7], id="c99", patient="p98")
    dataset = harmed(dataclasses.replace(dataset, cases=(*dataset.cases, copy)))
    given, there, reports = [[], [], []], threading.Barrier(3), {}

    def process(i: int) -> None:
        def gather(rows: list) -> list:
            given[i] = rows
            there.wait()
            everything = [row for rows in given for row in rows]
            there.wait()
            return everything

        (tmp_path / str(i)).mkdir()
        share = CaseShare(i, 3, gather)
        reports[i] = examine(dataset, R, bad_share=0.5, share=share, sheet=tmp_path / str(i))

    threads = [threading.Thread(target=process, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = examine(dataset, R, bad_share=0.5)
    assert "c07 = c99" in str(alone) and "3 errors" in str(alone) and alone.refusal is None
    for i, report in reports.items():
        assert [line for line in str(report).splitlines() if not line.startswith("pictures")] == str(alone).splitlines()
        assert report.listing().rows == alone.listing().rows and report.listing().left_out == alone.listing().left_out
        assert (tmp_path / str(i) / "examples.png").exists() == (i == 0)


def test_every_bad_case_is_named_not_the_first_alone(tmp_path):
    dataset = toy_set.make(tmp_path)
    report = examine(harmed(dataset), R)
    text = str(report)
    with pytest.raises(DataError, match="mask01.nii") as error:
        report.listing()
    assert error.value.exit_code == 65 and error.value.code == "DATA_TRUNCATED" and "5 of 5 patients, 3 errors" in text
    for case, code in (("c01", "DATA_TRUNCATED"), ("c04", "DATA_MISMATCH"), ("c05", "DATA_LABEL")):
        assert f"error    {case}: [{code}]" in text
    assert "1 of 6 cases have no mask (c03) and are left out" in text


def test_one_image_under_two_patients_is_a_warning(tmp_path):
    dataset = toy_set.make(tmp_path)
    copy = dataclasses.replace(dataset.cases[1], id="c99", patient="p98")
    report = examine(dataclasses.replace(dataset, cases=(*dataset.cases, copy)), R)
    assert "1 pairs of cases of different patients hold the same image (c01 = c99)" in str(report)
    rows = report.listing().rows
    with pytest.raises(DataError, match="c01 = c99") as error:  # only two splits make it a leak
        splits.check_no_leak(rows, splits.rows_of(rows, {"train": ["p01"], "val": ["p98"]}))
    assert error.value.code == "DATA_LEAK"
    same = dataclasses.replace(dataset, cases=(*dataset.cases, dataclasses.replace(copy, patient="p01")))
    assert "same image" not in str(examine(same, R))


@pytest.mark.fault("D18")
def test_a_set_without_foreground_or_without_examples_is_refused(tmp_path):
    dataset = toy_set.make(tmp_path)
    blank = dataclasses.replace(dataset, map_mask=lambda raw: np.zeros_like(raw))
    neither = toy_set.make(tmp_path, protocol="neither")
    assert "no pixel of bleed in any kept slice" in examine(blank, R).warnings
    names = tuple(f"k{i}" for i in range(20))
    many = examine(dataclasses.replace(dataset, labels=names), dataclasses.replace(R, labels=names)).warnings
    assert f"no pixel of {', '.join(names[1:13])} and 7 more classes in any kept slice" in many
    with pytest.raises(DataError, match="24 slices of 6 cases and none kept"):
        examine(neither, R).listing()


def test_foreground_lost_in_shrinking_is_a_warning(tmp_path):
    dataset = toy_set.make(tmp_path, shape=(200, 180))
    small = dataclasses.replace(R, size=(8, 8))
    lost = "c01, slice 1: none of 40 foreground pixels is left at 8 x 8"
    text = str(examine(dataset, small))
    assert f"warning  6 slices lose all their foreground in preparation; the first one: {lost}" in text
    assert "no pixel of bleed" in text
    two = dataclasses.replace(dataset, cases=dataset.cases[:2])
    assert f"warning  {lost}\nwarning  c01, slice 3: none of 40" in str(examine(two, small))


def test_colours_that_become_grey_are_reported(tmp_path):
    for i, shape in enumerate(((20, 18), (20, 18, 3))):
        for part, array in (("images", np.arange(np.prod(shape)).reshape(shape) % 251), ("masks", np.eye(20, 18))):
            (tmp_path / part).mkdir(exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(tmp_path / part / f"{i}.png")
    dataset = datasets.load("folder", tmp_path)
    recipe = dataclasses.replace(R, window=None, labels=dataset.labels)
    assert "colour   1 of 2 slices converted to grey: data.channels" in str(examine(dataset, recipe))
    assert "converted to grey" not in str(examine(dataset, dataclasses.replace(recipe, channels=3)))


def test_the_colours_of_all_masks_together_are_one_table(tmp_path):
    """Each mask shows some of the classes; the remedy is followed as it is typed."""
    for i, colours in enumerate(((RED,), (RED, GREEN), (GREEN, BLUE), (BLUE,))):
        mask = np.zeros((20, 18, 3), np.uint8)
        for k, colour in enumerate(colours):
            mask[4 * k : 4 * k + 3] = colour
        for part, array in (("images", np.full((20, 18), 10 * i, np.uint8)), ("masks", mask)):
            (tmp_path / part).mkdir(exist_ok=True)
            Image.fromarray(array).save(tmp_path / part / f"{i}.png")
    dataset = datasets.load("folder", tmp_path)
    recipe = dataclasses.replace(R, window=None, labels=dataset.labels)
    (line,) = [line for line in str(examine(dataset, recipe)).splitlines() if line.startswith("remedy")]
    assert "these 4 masks together hold 4 values" in line
    structures, table = re.search(r'structures=([a-z,]+)\) .*mask_values="(.+)"', line).groups()
    options = {"structures": tuple(structures.split(",")), "mask_values": ast.literal_eval(table)}
    told = datasets.load("folder", tmp_path, **options)
    report = examine(told, dataclasses.replace(recipe, labels=told.labels))
    assert len(told.labels) == 3 and not report.errors and "remedy" not in str(report)


def test_equal_errors_are_one_line_and_levels_and_remarks_are_told(tmp_path):
    dataset = toy_set.make(tmp_path)
    assert "levels   before preparation: lowest" in str(examine(dataset, R))
    for case in dataset.cases[:5]:
        case.mask.write_bytes(case.mask.read_bytes()[:-9])
    (line,) = [line for line in str(examine(dataset, R)).splitlines() if line.startswith("error")]
    assert line.startswith("error    5 cases (c00, c01, c02, ...): [DATA_TRUNCATED] the first: ")
    blind = dataclasses.replace(R, window=(30000.0, 10.0))
    assert "constant image" in str(examine(toy_set.make(tmp_path / "b"), blind))


def test_photographs_that_lie_turned_in_their_files_are_counted(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # EXIF's orientation: to be turned by 90 degrees
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for i in range(3):
        array = np.arange(18 * 20, dtype=np.uint8).reshape(18, 20)
        Image.fromarray(array).save(tmp_path / "images" / f"{i}.jpg", **({"exif": exif} if i < 2 else {}))
        Image.fromarray(np.eye(18, 20, dtype=np.uint8)).save(tmp_path / "masks" / f"{i}.png")
    dataset = datasets.load("folder", tmp_path)
    text = str(examine(dataset, dataclasses.replace(R, window=None, labels=dataset.labels)))
    assert "turned   2 of 3 photographs" in text and "20 x 18: 2" in text and "18 x 20: 1" in text


def test_what_many_such_cases_take_is_what_a_store_of_them_has(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path / "cache"))
    dataset = toy_set.make(tmp_path / "d", 4)
    recipe = dataclasses.replace(toy_set.RECIPE, size=(8, 8, 4), intensity="ct", fit="patches")
    (line,) = [line for line in examine(dataset, recipe).lines if line.startswith("scale")]
    store = per_case.open_or_build(dataset, recipe, log=lambda text: None)
    stored = sum(store.read(i)[k].nbytes for i in range(4) for k in (0, 1)) + sum(store.index(i).nbytes for i in range(4))
    sizes = " / ".join(scale.text(stored * n / 4) for n in (1_000, 10_000, 100_000))
    assert f"1,000 / 10,000 / 100,000 such cases: {sizes} of store on disk" in line
    patch = 8 * 8 * 4 * 5  # a voxel's float32 and class
    assert f"and {scale.text(patch)} read for each training example" in line
