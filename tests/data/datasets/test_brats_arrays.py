"""BraTS slices as numpy arrays: the folder's split, labels 3 and 4, normalisation by dtype, and every shape that is refused."""

import dataclasses

import numpy as np
import pytest

from jaxseg.data import datasets, splits
from jaxseg.data.datasets import brats_arrays
from jaxseg.data.prepare import intensity
from jaxseg.data.records import Recipe
from jaxseg.data.store import stacked as caches
from jaxseg.data.store.cases import read_case
from jaxseg.types import ConfigError, DataError

COUNTS = {"train": 6, "val": 3, "test": 2}
RECIPE = Recipe(
    size=(24, 20),
    window=None,
    spacing=None,
    channels=4,
    labels=brats_arrays.LABELS,
    intensity="brain",
    modalities=brats_arrays.MODALITIES,
)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path / "root"))


def write(root, dtype=np.int16, enhancing=4):
    """Six arrays of blobs: a disc of brain with noise, a square tumour of three classes in it."""
    root.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    r, c = np.indices((24, 20))
    inside = np.hypot(r - 12, c - 10) < 9
    for split, n in COUNTS.items():
        labels = np.zeros((n, 24, 20), np.uint8)
        for i in range(n):
            labels[i, 8 : 12 + i, 7:12] = 2
            labels[i, 9:11, 8:11] = enhancing
            labels[i, 9, 9] = 1
        images = random.normal(300, 60, (n, 24, 20, 4)) + 100 * (labels > 0)[..., None]
        images = np.where(inside[..., None], np.maximum(images, 1), 0)
        if np.dtype(dtype).kind == "f":
            images = images / 100 - 3
        np.save(root / f"{split}_images.npy", images.astype(dtype))
        np.save(root / f"{split}_labels.npy", labels)
    return root


def load(root, **options):
    return datasets.load("brats_arrays", root, **options)


def test_the_folders_split_is_kept_and_every_slice_counts_as_a_patient(tmp_path):
    data = load(write(tmp_path / "set"))
    cache = caches.open_or_build(data, RECIPE, log=lambda line: None)
    rows = splits.split_rows(cache.rows, data, split="fixed", fractions=(1, 0, 0), seed=0, log=lambda line: None)
    assert {name: len(r) for name, r in rows.items()} == COUNTS
    assert len({row["patient"] for row in cache.rows}) == 11 and all(c.meta["patient"] == "unknown" for c in data.cases)
    assert any("which slice is whose" in note for note in data.notes)
    assert data.regions[0] == ("WT", (1, 2, 3)) and data.labels == ("NCR", "ED", "ET") and brats_arrays.label_count() == 3
    labels = np.load(tmp_path / "set/test_labels.npy")
    first = next(i for i, row in enumerate(cache.rows) if row["case"] == "test_00001")
    np.testing.assert_array_equal(cache.masks[first], np.minimum(labels[1], 3))
    cache.verify()


def test_integers_become_z_scores_of_the_slices_own_brain(tmp_path):
    data = load(write(tmp_path / "set"))
    cache = caches.open_or_build(data, RECIPE, log=lambda line: None)
    raw = np.load(tmp_path / "set/test_images.npy")[0]
    expected = intensity.brain(raw[:, :, None])[:, :, 0]
    np.testing.assert_array_equal(cache.images[0], expected)  # cases are sorted: test first
    assert cache.images.dtype == np.float32 and abs(cache.images[0][raw > 0].mean()) < 1e-5
    raw[..., 2] = 0  # a sequence that is missing stays 0
    np.save(tmp_path / "set/test_images.npy", np.stack([raw, raw]))
    image = next(read_case(load(tmp_path / "set"), data.cases[0], RECIPE)).image
    assert not image[..., 2].any() and image[..., 3].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_floats_are_taken_as_they_are(tmp_path, dtype):
    data = load(write(tmp_path / "set", dtype))
    cache = caches.open_or_build(data, RECIPE, log=lambda line: None)
    np.testing.assert_array_equal(cache.images[0], np.load(tmp_path / "set/test_images.npy")[0].astype(np.float32))


def test_floats_that_are_no_z_scores_need_a_word(tmp_path):
    root = write(tmp_path / "set")
    for split in COUNTS:
        np.save(root / f"{split}_images.npy", np.load(root / f"{split}_images.npy").astype(np.float32))
    with pytest.raises(DataError, match="data.normalise='brain'") as error:
        caches.open_or_build(load(root), RECIPE, log=lambda line: None)
    assert error.value.code == "DATA_IMAGE"
    as_brain = next(read_case(load(root, normalise="brain"), load(root).cases[0], RECIPE)).image
    raw = np.load(root / "test_images.npy")[0]
    np.testing.assert_array_equal(as_brain, intensity.brain(raw[:, :, None])[:, :, 0])
    given = next(read_case(load(root, normalise="given"), load(root).cases[0], RECIPE)).image
    np.testing.assert_array_equal(given, raw)


def test_modalities_are_chosen_by_name_and_slices_by_area(tmp_path):
    root = write(tmp_path / "set", np.float32, enhancing=3)
    data = load(root, modalities=("flair", "t1c"), min_area=29)
    image = next(read_case(data, data.cases[0])).image
    np.testing.assert_array_equal(image, np.load(root / "test_images.npy")[0][..., [3, 1]])
    assert data.modalities == ("flair", "t1ce")
    recipe = dataclasses.replace(RECIPE, channels=2, modalities=data.modalities)
    cache = caches.open_or_build(data, recipe, log=lambda line: None)
    assert cache.foreground_counts().max(1).min() > 29 and len(cache.rows) < 11


def test_an_array_that_changes_makes_another_cache(tmp_path):
    root = write(tmp_path / "set")
    before = caches.fingerprint(load(root), RECIPE)
    labels = np.load(root / "val_labels.npy")
    np.save(root / "val_labels.npy", labels * 0)
    assert caches.fingerprint(load(root), RECIPE) != before
    assert caches.fingerprint(load(root, normalise="brain"), RECIPE) != caches.fingerprint(load(root), RECIPE)


def damage(root, harm):
    images, labels = np.load(root / "val_images.npy"), np.load(root / "val_labels.npy")
    if harm == "gone":
        (root / "val_labels.npy").unlink()
    elif harm == "cut":
        (root / "val_images.npy").write_bytes((root / "val_images.npy").read_bytes()[:-5])
    elif harm == "noise":
        (root / "val_images.npy").write_bytes(b"nothing")
    elif harm == "objects":
        np.save(root / "val_images.npy", np.array([None, 1]), allow_pickle=True)
    elif harm == "three channels":
        np.save(root / "val_images.npy", images[..., :3])
    elif harm == "words":
        np.save(root / "val_images.npy", images.astype("U3"))
    elif harm == "one-hot":
        np.save(root / "val_labels.npy", np.eye(4)[np.minimum(labels, 3)])
    else:
        np.save(root / "val_labels.npy", labels[:-1])


HARMS = {
    "gone": ("DATA_MISSING", "val_labels.npy: not there"),
    "cut": ("DATA_TRUNCATED", "val_images.npy"),
    "noise": ("DATA_HEADER", "numpy.save"),
    "objects": ("DATA_UNSAFE", "numpy.save"),
    "three channels": ("DATA_IMAGE", "t1, t1ce, t2, flair"),
    "words": ("DATA_HEADER", "numbers"),
    "one-hot": ("DATA_LABEL", "argmax"),
    "fewer": ("DATA_MISMATCH", "val_images.npy has"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_what_does_not_fit_is_refused_by_name_rule_and_remedy(tmp_path, harm):
    damage(write(tmp_path / "set"), harm)
    code, words = HARMS[harm]
    with pytest.raises(DataError, match=words) as error:
        load(tmp_path / "set")
    assert error.value.code == code


@pytest.mark.parametrize("value, words", [(7, "7"), (3, "3 in 1 and 4 in 5"), (0.5, "0.5")])
def test_other_label_values_are_refused(tmp_path, value, words):
    root = write(tmp_path / "set")
    labels = np.load(root / "test_labels.npy").astype(type(value))
    labels[0, 9, 9] = value
    np.save(root / "test_labels.npy", labels)
    with pytest.raises(DataError, match=words) as error:
        caches.open_or_build(load(root), RECIPE, log=lambda line: None)
    assert error.value.code == "DATA_LABEL" and "test_00000" in str(error.value)


def test_options_that_cannot_be_are_refused(tmp_path):
    root = write(tmp_path / "set")
    for options in (
        {"normalise": "zscore"},
        {"modalities": "t1"},
        {"modalities": ("t1", "t1")},
        {"modalities": ("pet",)},
        {"sample": 2.0},
    ):
        with pytest.raises(ConfigError):
            load(root, **options)
