"""Slices and pictures of their own sizes in a store, and the patches that are drawn from them, against plain numpy."""

import dataclasses
import shutil
from fractions import Fraction

import nibabel
import numpy as np
import pytest
from PIL import Image

from jaxseg.data import datasets, splits
from jaxseg.data.check.examine import examine
from jaxseg.data.records import Recipe
from jaxseg.data.store import per_case
from jaxseg.data.stream.patches import patch_batches
from jaxseg.types import ConfigError, DataError
from tests.data import toy_set

PATCH = (24, 32)
SHAPES = ((90, 70), (61, 100), (20, 40), (75, 75))  # the third is lower than a patch
COLOUR = Recipe(PATCH, None, None, channels=3, labels=("a", "b"), fit="patches")
SLICES = dataclasses.replace(toy_set.RECIPE, size=(8, 8), fit="patches")


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path / "cache"))


def write(root):
    """Colour pictures of noise with masks of two classes: (data set, images, masks)."""
    made = []
    for i, shape in enumerate(SHAPES):
        random = np.random.default_rng(i)
        image, mask = random.integers(0, 256, (*shape, 3), np.uint8), np.zeros(shape, np.uint8)
        mask[3:9, 5:12], mask[-6:, -9:] = 1, 2 * (i != 1)
        for part, array in (("images", image), ("masks", mask)):
            (root / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / part / f"{i}.png")
        made.append((image, mask))
    return datasets.load("folder", root, structures=("a", "b")), *zip(*made)


def build(dataset, recipe):
    return per_case.open_or_build(dataset, recipe, log=lambda line: None)


def test_pictures_are_kept_as_they_are_in_eight_bits(tmp_path):
    dataset, images, masks = write(tmp_path / "set")
    store = build(dataset, COLOUR)
    assert store.rank == 2 and store.dtype == np.uint8 and store.folder.parent.name == "pictures"
    for i, (image, mask) in enumerate(zip(images, masks)):
        for found, expected in zip(store.read(i), (image, mask)):
            assert found.dtype == np.uint8
            np.testing.assert_array_equal(found, expected)
        for k in (1, 2):
            np.testing.assert_array_equal(store.foreground(i, k), np.flatnonzero(mask == k))
    assert store.rows.columns["shape"].tolist() == [list(s) for s in SHAPES] == store.rows.columns["scan_shape"].tolist()
    assert store.sizes().tolist() == [h * w for h, w in SHAPES]
    store.verify()
    other = build(dataset, dataclasses.replace(COLOUR, size=(16, 16), mean=(0.5,) * 3, std=(0.2,) * 3))
    assert other.folder == store.folder and other.recipe.size == (16, 16)


@pytest.mark.parametrize("positions", ["uniform", "centre_clipped"])
def test_patches_are_crops_of_the_pictures_where_the_rule_says(tmp_path, positions):
    dataset, images, masks = write(tmp_path / "set")
    store, seed, share = build(dataset, COLOUR), 5, Fraction(1, 2)
    options = dict(batch_size=4, patch=PATCH, seed=seed, share=share, positions=positions, per_volume=3)
    with patch_batches(store, range(4), **options) as stream:
        batches = [next(stream) for _ in range(6)]
    rows = np.concatenate([b["index"] for b in batches])
    assert sorted(rows[:12].tolist()) == sorted(rows[12:].tolist()) == sorted(list(range(4)) * 3)  # three of each in an epoch
    centred = 0
    for n, row in enumerate(rows.tolist()):
        batch, (image, mask), shape = batches[n // 4], (images[row], masks[row]), SHAPES[row]
        words = [int(w) for w in np.random.Philox(key=np.array([seed, n], np.uint64), counter=[0, 0, 0, 1]).random_raw(8)]
        draw = lambda word, count: word * count // 2**64
        room = [max(length - p, 0) for length, p in zip(shape, PATCH)]
        if n % 2 == 0:  # every second is centred on foreground
            present = sorted(set(np.unique(mask).tolist()) - {0})
            inside = np.argwhere(mask == present[draw(words[0], len(present))])
            centre = inside[draw(words[1], len(inside))]
            corner = [min(max(int(c) - p // 2, 0), r) for c, p, r in zip(centre, PATCH, room)]
        elif positions == "uniform":
            corner = [draw(word, r + 1) for word, r in zip(words[2:], room)]
        else:
            corner = [min(max(draw(w, length) - p // 2, 0), r) for w, length, p, r in zip(words[2:], shape, PATCH, room)]
        cut = tuple(slice(c, c + p) for c, p in zip(corner, PATCH))
        padded = [np.pad(a, [(0, p) for p in PATCH] + [(0, 0)] * (a.ndim - 2)) for a in (image, mask)]
        assert batch["image"].dtype == batch["mask"].dtype == np.uint8 and batch["image"].shape == (4, *PATCH, 3)
        np.testing.assert_array_equal(batch["image"][n % 4], padded[0][cut])
        np.testing.assert_array_equal(batch["mask"][n % 4], padded[1][cut])
        centred += n % 2 == 0 and batch["mask"][n % 4].any()
    assert centred == 12


@pytest.mark.parametrize("patch", [(8,), (8, 8, 8), (0, 8)])
def test_a_patch_has_the_axes_of_the_pictures(tmp_path, patch):
    store = build(write(tmp_path / "set")[0], COLOUR)
    with pytest.raises(ConfigError, match=r"\(rows, columns\) in pixels"):
        patch_batches(store, range(4), batch_size=1, patch=patch, seed=0)


def test_slices_of_scans_keep_their_grid_or_take_the_spacing_that_is_asked_for(tmp_path):
    dataset = toy_set.make(tmp_path / "set", protocol="only")
    kept, resampled = build(dataset, SLICES), build(dataset, dataclasses.replace(SLICES, spacing=(1.2, 1.0)))
    assert len(kept) == 6 and {(r["case"], r["slice"]) for r in kept.rows} == {
        (f"c{p:02d}", z) for p in (1, 3, 5) for z in (1, 3)
    }
    for row, other in zip(kept.rows, resampled.rows):
        assert row["shape"] == row["scan_shape"] == other["scan_shape"] == [18, 20]
        assert np.allclose(row["spacing"], (0.6, 0.5)) and row["spacing"] == row["scan_spacing"] == other["scan_spacing"]
        assert other["shape"] == [9, 10] and np.allclose(other["spacing"], (1.2, 1.0))
    assert kept.dtype == np.uint8 and kept.image(0).shape == (18, 20, 1) and kept.mask(0).sum() == 40
    volumes = build(dataset, dataclasses.replace(SLICES, size=(8, 8, 2), intensity="ct"))
    assert volumes.rank == 3 and volumes.fingerprint != build(dataset, dataclasses.replace(SLICES, intensity="ct")).fingerprint


def test_slices_of_air_are_no_leak_and_copies_are(tmp_path):
    dataset = toy_set.make(tmp_path / "set", patients=3)
    for case in dataset.cases[:2]:
        scan = nibabel.load(case.images[0])
        array = np.asarray(scan.dataobj).copy()
        array[..., 0] = -1000
        nibabel.save(nibabel.Nifti1Image(array, scan.affine), case.images[0])
    parts = {"train": ["p00"], "val": ["p01"]}
    rows = build(dataset, SLICES).rows
    assert rows.columns["constant"].sum() == 2
    splits.check_no_leak(rows, splits.rows_of(rows, parts))
    splits.check_no_leak(listed := examine(dataset, SLICES).listing().rows, splits.rows_of(listed, parts))
    shutil.copy(dataset.cases[0].images[0], dataset.cases[1].images[0])
    rows = build(dataset, SLICES).rows
    with pytest.raises(DataError, match="c00 = c01"):
        splits.check_no_leak(rows, splits.rows_of(rows, parts))


def test_z_scores_of_slices_are_floats(tmp_path):
    store = build(toy_set.make(tmp_path / "set"), dataclasses.replace(SLICES, window=None, intensity="brain"))
    with patch_batches(store, [1, 2], batch_size=2, patch=(8, 8), seed=0) as stream:
        assert store.dtype == next(stream)["image"].dtype == np.float32


def test_a_protocol_that_keeps_nothing_is_refused(tmp_path):
    with pytest.raises(DataError, match="24 slices of 6 cases and none kept"):
        build(toy_set.make(tmp_path / "set", protocol="neither"), SLICES)
