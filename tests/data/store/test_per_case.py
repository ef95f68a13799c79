"""The store of volumes: every voxel where its scan has it, opened without reading, built once, never silently damaged."""

import dataclasses
import functools
import os
from collections import namedtuple

import nibabel
import numpy as np
import pytest

from jaxseg.data.formats.volumes import read_volume
from jaxseg.data.geometry import to_volume
from jaxseg.data.prepare import intensity
from jaxseg.data.records import Case, DataSet, Recipe
from jaxseg.data.store import arrays, engines, parts, per_case
from jaxseg.types import ConfigError, DataError, StorageError
from tests.data import toy_set

CT = Recipe(size=(8, 8, 4), window=(40.0, 120.0), spacing=None, channels=1, labels=("bleed",), intensity="ct", fit="patches")


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path / "root"))


def build(dataset, recipe=CT):
    lines = []
    return per_case.open_or_build(dataset, recipe, log=lines.append), lines


def brains(root, shape=(11, 9, 6), cases=2):
    """Two modalities and three classes, stored in another axis order in each case."""
    root.mkdir(parents=True)
    found = []
    for i in range(cases):
        random = np.random.default_rng(i)
        mask = random.integers(0, 4, shape).astype(np.uint8)
        mask[:3] = 0
        turned = np.array([[0, 0, -1.0, 0], [2.0, 0, 0, 0], [0, 0.5, 0, 0], [0, 0, 0, 1]])
        affine = turned if i % 2 else np.diag([-1.0, -1.0, 1.0, 1.0])
        paths = []
        for name in ("t1", "flair"):
            paths.append(root / f"{i}{name}.nii.gz")
            image = random.integers(0, 900, shape).astype(np.int16)
            image[0] = 0
            nibabel.save(nibabel.Nifti1Image(image, affine), paths[-1])
        nibabel.save(nibabel.Nifti1Image(mask, affine), root / f"{i}seg.nii.gz")
        found.append(Case(f"b{i}", f"p{i}", tuple(paths), root / f"{i}seg.nii.gz"))
    return DataSet(
        "brains",
        root,
        tuple(found),
        ("NCR", "ED", "ET"),
        functools.partial(np.asarray, dtype=np.uint8),
        modalities=("t1", "flair"),
        regions=(("WT", (1, 2, 3)), ("ET", (3,))),
    )


BRAIN = Recipe(
    size=(4, 4, 4),
    window=None,
    spacing=None,
    channels=2,
    labels=("NCR", "ED", "ET"),
    intensity="brain",
    modalities=("t1", "flair"),
    fit="patches",
)


def test_every_volume_is_its_scan_in_the_common_order_prepared(tmp_path):
    dataset = brains(tmp_path / "d")
    store, lines = build(dataset, BRAIN)
    for i, case in enumerate(dataset.cases):
        image, mask, row = store.image(i), store.mask(i), store.rows[i]
        assert isinstance(image, np.memmap) and not image.flags.writeable and image.dtype == np.float32
        for c, path in enumerate(case.images):
            scan, orientation = to_volume(read_volume(path))
            np.testing.assert_array_equal(image[..., c], intensity.brain(scan))
        truth, _ = to_volume(read_volume(case.mask))
        np.testing.assert_array_equal(mask, truth)
        assert mask.dtype == np.uint8 and image.shape == (*mask.shape, 2)
        assert row["shape"] == row["scan_shape"] == list(mask.shape) and row["spacing"] == list(orientation.spacing)
        assert (row["case"], row["patient"]) == (case.id, case.patient)
        for k in (1, 2, 3):
            np.testing.assert_array_equal(store.foreground(i, k), np.flatnonzero(truth == k))
            assert store.foreground(i, k).dtype == np.uint32 and row["foreground"][k - 1] == len(store.foreground(i, k))
    assert store.image(0).shape[:3] == (11, 9, 6) and store.image(1).shape[:3] == (6, 11, 9)
    assert store.rows[1]["spacing"] == [1.0, 2.0, 0.5]
    assert store.regions == dataset.regions and store.labels == dataset.labels and store.recipe == BRAIN and len(store) == 2
    assert lines[-1].startswith("volumes: brains, 2 cases")
    store.verify()


def test_a_class_or_a_volume_without_foreground_has_an_empty_index(tmp_path):
    store, _ = build(toy_set.make(tmp_path / "d", 2))
    assert store.foreground(0, 1).size == 0 and store.foreground(1, 1).size == 80 and store.rows[0]["foreground"] == [0]
    assert store.foreground_counts().tolist() == [[0], [80]]
    with pytest.raises(ValueError, match="got class 2"):
        store.foreground(0, 2)
    store.verify()


def test_a_ct_is_its_window_mapped_to_minus_1_and_1(tmp_path):
    dataset = toy_set.make(tmp_path / "d", 1)
    store, _ = build(dataset)
    scan, _ = to_volume(read_volume(dataset.cases[0].images[0]))
    np.testing.assert_allclose(store.image(0)[..., 0], np.interp(scan, [-20, 100], [-1, 1]), atol=1e-6)


def test_a_store_is_built_once_found_again_and_shared_by_all_patch_sizes(tmp_path):
    dataset = toy_set.make(tmp_path / "d", 2)
    first, lines = build(dataset)
    other = dataclasses.replace(CT, size=(4, 4, 2), mean=(0.5,), std=(0.2,))
    again, more = build(dataset, other)
    assert lines and not more and again.folder == first.folder and again.rows == first.rows and again.recipe == other
    assert build(dataset, dataclasses.replace(CT, filter="lanczos"))[0].folder != first.folder  # filters decide bytes
    for changed in ({"window": (40.0, 80.0)}, {"spacing": (1.0, 1.0, 1.0)}):
        assert per_case.fingerprint(dataset, dataclasses.replace(CT, **changed)) not in first.folder.name
    os.utime(dataset.cases[0].mask, ns=(1, 1))
    assert per_case.fingerprint(dataset, CT) not in first.folder.name


def test_opening_a_store_reads_no_volume(tmp_path, monkeypatch):
    store, _ = build(toy_set.make(tmp_path / "d", 2))
    monkeypatch.setattr(engines, "open_array", None)
    monkeypatch.setattr(engines, "file_digest", None)
    assert per_case.open_store(store.folder).rows == store.rows


def test_small_cases_share_files_and_hold_what_files_of_their_own_hold(tmp_path, monkeypatch):
    dataset = toy_set.make(tmp_path / "d", 5)
    joined, _ = build(dataset)
    content = lambda store, i: [np.array(array) for array in (store.image(i), store.mask(i), store.index(i))]
    expected = [content(joined, i) for i in range(5)]
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(arrays, "THOUSAND", 2)
    small = parts.LITTLE
    prepare = parts.Parts.prepare

    def mixed(self, i, left=1):
        monkeypatch.setattr(parts, "LITTLE", 0 if i in (1, 2) else small)
        return prepare(self, i, left)

    monkeypatch.setattr(parts.Parts, "prepare", mixed)
    apart, _ = build(dataset)
    names = lambda store: sorted(p.name for p in store.folder.glob("*/*"))
    assert names(joined) == ["joined.bin"]
    assert names(apart) == [*(f"{i:06d}.{kind}.npy" for i in (1, 2) for kind in sorted(per_case.KINDS)), *["joined.bin"] * 3]
    for i in range(5):
        assert not apart.image(i).flags.writeable
        for one, other in zip(expected[i], content(apart, i), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "kind, damage",
    [
        ("image", "bit"),
        ("mask", "bit"),
        ("foreground", "bit"),
        ("image", "cut"),
        ("mask", "gone"),
        ("joined", "bit"),
        ("joined", "cut"),
        ("joined", "gone"),
        ("rows", "bit"),
        ("rows", "gone"),
    ],
)
def test_damage_is_found_and_named(tmp_path, monkeypatch, kind, damage):
    own = kind not in ("joined", "rows")
    monkeypatch.setattr(parts, "LITTLE", 0 if own else parts.LITTLE)
    store, _ = build(toy_set.make(tmp_path / "d", 2))
    path = store.folder / ("rows.case.npy" if kind == "rows" else f"000/000001.{kind}.npy" if own else "000/joined.bin")
    content = bytearray(path.read_bytes())
    content[-1 if kind != "joined" else len(content) // 2] ^= 1
    content = content[:-64] if (kind, damage) == ("joined", "cut") else content  # an array's end is padded
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if damage == "cut" else content)
    with pytest.raises(DataError, match=r"(c0[01]|000001|rows|joined).*delete the folder") as error:
        per_case.open_store(store.folder).verify()
    assert error.value.code == "DATA_CHANGED"


def test_an_unusable_case_is_named_and_nothing_is_left_behind(tmp_path):
    dataset = toy_set.make(tmp_path / "d")
    truncated = tmp_path / "cut.nii"
    truncated.write_bytes(dataset.cases[5].mask.read_bytes()[:-10])
    case = dataset.cases[5]
    for harm, code, words in (
        (dataclasses.replace(case, mask=truncated), "DATA_TRUNCATED", "cut.nii"),
        (dataclasses.replace(case, mask=dataset.cases[2].mask), "DATA_MISMATCH", "mask02"),
        (dataclasses.replace(case, mask=None), "DATA_MISSING", "c05"),
        (dataclasses.replace(case, images=case.images * 2), "DATA_CHANNELS", "c05.*2 channels"),
    ):
        with pytest.raises(DataError, match=words) as error:
            build(dataclasses.replace(dataset, cases=(*dataset.cases[:5], harm)))
        assert error.value.code == code
    with pytest.raises(DataError, match="no case") as error:
        build(dataclasses.replace(dataset, cases=()))
    kept = [p.name for p in (tmp_path / "root" / "volumes").iterdir() if p.is_dir()]
    assert kept == [".toy.parts"]  # the five cases that can be used, for the next start


def test_a_recipe_for_other_labels_or_modalities_is_refused(tmp_path):
    dataset = brains(tmp_path / "d")
    with pytest.raises(ConfigError, match="labels"):
        build(dataset, dataclasses.replace(BRAIN, labels=("tumour",)))
    with pytest.raises(ConfigError, match="modalities"):
        build(dataset, dataclasses.replace(BRAIN, modalities=("flair", "t1")))


def test_a_full_disk_is_reported_with_numbers_before_the_first_volume_is_written(tmp_path, monkeypatch):
    dataset = toy_set.make(tmp_path / "d")
    monkeypatch.setattr(arrays.shutil, "disk_usage", lambda folder: namedtuple("Usage", "free")(6 * 20 * 18 * 4 * 5 - 1))
    with pytest.raises(StorageError, match="the 6 cases need about 0.00 GiB.*JAXSEG_CACHE"):
        build(dataset)
    assert not list((tmp_path / "root").rglob("*.npy"))
