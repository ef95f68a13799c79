"""The cache: complete, deterministic, built once, found again, never stale, never silently damaged."""

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxseg.data.formats.volumes import read_volume
from jaxseg.data.geometry import to_slices
from jaxseg.data.prepare.examples import prepare, prepare_mask
from jaxseg.data.store import stacked as caches
from jaxseg.types import ConfigError, DataError
from tests.data import toy_set

R = toy_set.RECIPE


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path / "root"))


def build(dataset, recipe=R):
    lines = []
    return caches.open_or_build(dataset, recipe, log=lines.append), lines


def test_every_example_is_its_slice_prepared(tmp_path):
    dataset = toy_set.make(tmp_path / "d")
    cache, lines = build(dataset)
    assert cache.images.shape == (24, 16, 24, 1) and cache.masks.shape == (24, 16, 24)
    assert isinstance(cache.images, np.memmap) and not cache.images.flags.writeable
    for i in (0, 5, 9, 23):  # 9 belongs to the volume stored upside down
        row = cache.rows[i]
        case = dataset.cases[int(row["case"][1:])]
        slices, orientation = to_slices(read_volume(case.images[0]))
        truth, _ = to_slices(read_volume(case.mask))
        z = next(z for z in range(4) if orientation.file_index(z) == row["slice"])
        np.testing.assert_array_equal(cache.images[i], prepare(slices[z], R, None))
        np.testing.assert_array_equal(cache.masks[i], prepare_mask(toy_set.to_classes(truth[z]), R, None, 1))
        assert row["foreground"] == [int((cache.masks[i] == 1).sum())] and row["patient"] == case.patient
    assert [r["slice"] for r in cache.rows[8:12]] == [3, 2, 1, 0]
    assert cache.foreground_counts().shape == (24, 1) and cache.foreground_counts()[4:8, 0].tolist()[0::2] == [0, 0]
    assert (cache.labels, cache.name, cache.synthetic) == (("bleed",), "toy", True)
    assert {r["stratum"] for r in cache.rows} == {"bleed", "none"}
    assert lines[-1].startswith("cache: toy, 24 of 24 slices of 6 cases kept")
    cache.verify()


def test_grey_values_are_reported_in_the_units_of_the_scan(tmp_path):
    cache, _ = build(toy_set.make(tmp_path / "d", 2))
    assert (cache.value(0), cache.value(255), cache.value(127.5)) == ("-20.0 HU", "100.0 HU", "40.0 HU")
    pictures = dataclasses.replace(cache, recipe=dataclasses.replace(cache.recipe, window=(22.0, 44.0)))
    assert pictures.value(255) == "grey 44.0"


def test_a_cache_is_built_once_and_found_again(tmp_path):
    dataset = toy_set.make(tmp_path / "d")
    first, lines = build(dataset)
    again, more = build(dataset)
    assert lines and not more and again.folder == first.folder and again.rows == first.rows and again.recipe == R
    assert not list(first.folder.parent.glob("*.building"))


PRINT = """
import dataclasses, functools, sys
from pathlib import Path
from tests.data import toy_set
from jaxseg.data.store.stacked import fingerprint
rule = functools.partial(toy_set.keep, {"only", "all", "neither"})
print(fingerprint(dataclasses.replace(toy_set.make(Path(sys.argv[1]), 0), keep_slice=rule), toy_set.RECIPE))
"""


def test_the_fingerprint_is_the_same_in_every_process(tmp_path):
    found = {
        subprocess.run(
            [sys.executable, "-c", PRINT, str(tmp_path / "d")],
            check=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.getcwd()},
            capture_output=True,
        ).stdout
        for seed in ("1", "2", "3")
    }  # sets are walked in another order
    assert len(found) == 1


def test_whatever_decides_the_bytes_is_in_the_fingerprint(tmp_path):
    dataset = toy_set.make(tmp_path / "d")
    other = dataclasses.replace
    case = dataset.cases[0]
    threshold = lambda raw: (raw > 127).astype(np.uint8)
    higher = lambda raw: (raw > 128).astype(np.uint8)  # code without a version counts by its text
    around = lambda limit: lambda raw: raw > limit
    variants = [
        caches.fingerprint(dataset, R),
        caches.fingerprint(dataset, other(R, size=(16, 16))),
        caches.fingerprint(dataset, other(R, window=(40.0, 80.0))),
        caches.fingerprint(dataset, other(R, spacing=(0.5, 0.5))),
        caches.fingerprint(other(dataset, keep_slice=functools.partial(toy_set.keep, "only")), R),
        caches.fingerprint(other(dataset, map_mask=threshold), R),
        caches.fingerprint(other(dataset, map_mask=higher), R),
        caches.fingerprint(other(dataset, map_mask=around(1)), R),
        caches.fingerprint(other(dataset, map_mask=around(2)), R),
        caches.fingerprint(other(dataset, cases=dataset.cases[1:]), R),
        caches.fingerprint(other(dataset, cases=(other(case, patient="x"), *dataset.cases[1:])), R),
        caches.fingerprint(other(dataset, cases=(other(case, meta={"bleed": {1, 2}}), *dataset.cases[1:])), R),
    ]
    assert len(set(variants)) == len(variants)
    os.utime(case.mask, ns=(1, 1))
    assert caches.fingerprint(dataset, R) not in variants
    moved = dataclasses.replace(dataset, root=Path("elsewhere"))
    assert caches.fingerprint(moved, R) == caches.fingerprint(dataset, R)


def test_a_protocol_that_keeps_nothing_is_refused_with_counts(tmp_path):
    with pytest.raises(DataError, match="24 slices of 6 cases and none kept") as error:
        build(toy_set.make(tmp_path / "d", protocol="neither"))
    assert error.value.code == "DATA_EMPTY" and "neither" in str(error.value)
    assert len(build(toy_set.make(tmp_path / "e", protocol="only"))[0].rows) == 6


def test_a_failed_build_leaves_nothing_under_the_final_name(tmp_path):
    dataset = toy_set.make(tmp_path / "d")
    dataset.cases[5].mask.write_bytes(dataset.cases[5].mask.read_bytes()[:-10])
    with pytest.raises(DataError) as error:
        build(dataset)
    assert error.value.code == "DATA_TRUNCATED"
    assert not [p for p in caches.files.cache_root().rglob("*") if p.is_dir() and p.name.startswith("toy-")]


@pytest.mark.fault("D25")
def test_files_that_change_while_they_are_read_are_refused(tmp_path):
    dataset = toy_set.make(tmp_path / "d")
    path = dataset.cases[0].mask

    def touching(raw):
        os.utime(path, ns=(1, 1))
        return toy_set.to_classes(raw)

    with pytest.raises(DataError, match="changed while they were read") as error:
        build(dataclasses.replace(dataset, map_mask=touching))
    assert error.value.code == "DATA_CHANGED"


def test_a_mask_of_another_image_or_no_mask_or_other_labels_are_refused(tmp_path):
    dataset = toy_set.make(tmp_path / "d")
    swap = dataclasses.replace(dataset.cases[0], mask=dataset.cases[2].mask)  # stored the other way round
    for case, code in ((swap, "DATA_MISMATCH"), (dataclasses.replace(swap, mask=None), "DATA_MISSING")):
        with pytest.raises(DataError) as error:
            build(dataclasses.replace(dataset, cases=(case,)))
        assert error.value.code == code
    dataset.cases[1].mask.write_bytes(dataset.cases[1].mask.read_bytes()[:-1] + b"\x07")
    with pytest.raises(DataError, match="case c01, .*mask01.nii.*7") as error:
        build(dataset)
    assert error.value.code == "DATA_LABEL"
    with pytest.raises(ConfigError, match="labels"):
        build(dataset, dataclasses.replace(R, labels=("lung",)))
    with pytest.raises(DataError, match="case c00, slice 0.*window"):
        build(dataset, dataclasses.replace(R, window=None))


def test_channels_are_stacked_in_the_order_of_their_files(tmp_path):
    dataset = toy_set.make(tmp_path / "d", 2)
    a, b = dataset.cases
    both = dataclasses.replace(a, images=(a.images[0], b.images[0]))
    cache, _ = build(dataclasses.replace(dataset, cases=(both,)), dataclasses.replace(R, channels=2))
    one, _ = build(dataset)
    np.testing.assert_array_equal(cache.images, np.concatenate([one.images[:4], one.images[4:]], -1))


@pytest.mark.parametrize("harm", ["cut", "flip image", "flip mask", "rows", "gone"])
def test_damage_is_found_and_named(tmp_path, harm):
    cache, _ = build(toy_set.make(tmp_path / "d", 2))
    path = cache.folder / {"flip mask": "masks.npy", "rows": "rows.slice.npy"}.get(harm, "images.npy")
    content = bytearray(path.read_bytes())
    if harm == "gone":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(content[:-1])
    else:
        content[150] ^= 1
        path.write_bytes(content)
    with pytest.raises(DataError, match="delete the folder") as error:
        caches.open_cache(cache.folder).verify()
    assert error.value.code == "DATA_CHANGED"
