"""Caches of z-scored slices, extra channels and targets: volumes are normalised before they are cut, no mask makes a channel."""

import dataclasses

import nibabel
import numpy as np
import pytest

from jaxseg.data.prepare import channels, intensity
from jaxseg.data.records import Case, DataSet, Recipe
from jaxseg.data.store import stacked as caches
from jaxseg.data.stream import pipeline
from jaxseg.evaluate import baseline
from jaxseg.types import ConfigError, DataError

LABELS = ("NCR", "ED", "ET")
RECIPE = Recipe(size=(20, 18), window=None, spacing=None, channels=2, labels=LABELS, intensity="brain")


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path / "root"))


def make(root, patients=3, depth=5):
    """Volumes [18, 20, depth] of two modalities, one file each, with nested tumours of three classes."""
    root.mkdir(parents=True, exist_ok=True)
    cases = []
    for p in range(patients):
        random = np.random.default_rng(p)
        x, y = np.indices((18, 20))
        mask = np.zeros((18, 20, depth), np.uint8)
        mask[5:12, 6:14, 1:4], mask[7:10, 8:12, 1:4], mask[8, 9:11, 1:4] = 2, 3, 1
        names = []
        for m in range(2):
            image = np.where((np.hypot(x - 9, y - 10) < 8)[..., None], random.normal(400, 50, mask.shape), 0)
            image[mask > 0] += 120 * (m + 1)
            names.append(root / f"p{p}_{m}.nii")
            nibabel.save(nibabel.Nifti1Image(image.astype(np.int16), np.diag([-1.0, -1.0, 1.0, 1.0])), names[-1])
        nibabel.save(nibabel.Nifti1Image(mask, np.diag([-1.0, -1.0, 1.0, 1.0])), root / f"p{p}_seg.nii")
        cases.append(Case(f"p{p}", f"p{p}", tuple(names), root / f"p{p}_seg.nii"))
    return DataSet("toy_brats", root, tuple(cases), LABELS, lambda raw: raw.astype(np.uint8), synthetic=True)


def build(dataset, recipe=RECIPE, **options):
    return caches.open_or_build(dataset, recipe, log=lambda line: None, **options)


def scores(dataset, i):
    """Slices [Z, Y, X, 2] of a case, each modality normalised over its own volume."""
    read = [intensity.brain(np.asarray(nibabel.load(path).dataobj)) for path in dataset.cases[i].images]
    return np.stack(read, -1).transpose(2, 1, 0, 3)


def test_slices_are_bits_of_the_volume_normalised_as_a_whole(tmp_path):
    dataset = make(tmp_path / "d")
    cache = build(dataset)
    assert cache.images.dtype == np.float32 and cache.images.shape == (15, 20, 18, 2) and cache.masks.dtype == np.uint8
    for i in range(3):
        np.testing.assert_array_equal(cache.images[5 * i : 5 * i + 5], scores(dataset, i))
    cache.verify()
    left = build(dataclasses.replace(dataset, normalised=True))  # z-scores already: taken as they are
    assert left.images.max() > 300 and left.folder != cache.folder


def test_another_size_is_linear_and_unrounded(tmp_path):
    torch = pytest.importorskip("torch", reason="parity needs the extra [parity]")
    dataset = make(tmp_path / "d", 1)
    cache = build(dataset, dataclasses.replace(RECIPE, size=(25, 24)))
    theirs = (
        torch.nn.functional.interpolate(
            torch.tensor(scores(dataset, 0)).permute(0, 3, 1, 2), size=(25, 24), mode="bilinear", align_corners=False
        )
        .permute(0, 2, 3, 1)
        .numpy()
    )
    np.testing.assert_allclose(cache.images, theirs, atol=1e-5)


def test_batches_keep_the_caches_dtype(tmp_path):
    cache = build(make(tmp_path / "d"))
    with pipeline.eval_batches(cache, np.arange(15), batch_size=4) as batches:
        first = next(batches)
    assert first["image"].dtype == np.float32 and "target" not in first
    np.testing.assert_array_equal(first["image"], cache.images[:4])


def test_baselines_and_pictures_of_floats_are_in_z_scores(tmp_path):
    cache = build(make(tmp_path / "d"))
    low, high = cache.span
    assert (low, high) == (cache.images[..., 0].min(), cache.images[..., 0].max())
    found = baseline.histograms(cache.images, cache.masks, np.arange(15), 3, span=cache.span)
    assert found[-1].sum() == cache.masks.size and found[0].sum() == (cache.masks == 1).sum()
    for k in range(3):
        best = baseline.best_threshold(found[k], found[-1])
        cut = low + best.low / 256 * (high - low)
        assert cache.value(best.low) == f"z {cut:.2f}"
        positive, truth = cache.images[..., 0] >= cut, cache.masks == k + 1
        assert abs(2 * (positive & truth).sum() / (positive.sum() + truth.sum()) - best.dice) < 1e-3  # float32 at a bin's border
    assert cache.picture(2).dtype == np.uint8 and cache.picture(2)[0, 0, 0] == int(256 * -low / (high - low))  # background
    with pytest.raises(ValueError, match="span"):
        baseline.histograms(cache.images, cache.masks, np.arange(15), 3)
    assert cache.value(0) == f"z {low:.2f}" and cache.value(256) == f"z {high:.2f}"


def test_a_channel_without_brain_names_the_case(tmp_path):
    dataset = make(tmp_path / "d", 2)
    nibabel.save(nibabel.Nifti1Image(np.zeros((18, 20, 5), np.int16), np.diag([-1.0, -1.0, 1.0, 1.0])), tmp_path / "d/p1_0.nii")
    with pytest.raises(DataError, match="case p1.*no voxel above 0"):
        build(dataset)


def test_the_channel_of_k_means_is_that_of_the_prepared_image(tmp_path):
    dataset = make(tmp_path / "d", 1)
    cache = build(dataset, dataclasses.replace(RECIPE, channels=3, extra=("kmeans",)))
    np.testing.assert_array_equal(cache.images[..., :2], scores(dataset, 0))
    np.testing.assert_array_equal(cache.images[2, ..., 2], channels.kmeans(scores(dataset, 0)[2]))
    with pytest.raises(DataError, match="set data.channels=3"):
        build(dataset, dataclasses.replace(RECIPE, extra=("kmeans",)))


def test_a_networks_channel_sees_images_alone_and_its_weights_decide_the_folder(tmp_path):
    dataset, seen = make(tmp_path / "d", 4), []

    def generate(images):
        seen.append(images.shape)
        return images[..., :1] * 0 + 0.5

    recipe = dataclasses.replace(RECIPE, channels=3, extra=("edge",))
    cache = build(dataset, recipe, extra=generate, extra_id="aa")
    assert seen == [(16, 20, 18, 2), (4, 20, 18, 2)] and (cache.images[..., 2] == 0.5).all()
    assert build(dataset, recipe, extra=generate, extra_id="aa").folder == cache.folder and len(seen) == 2
    assert build(dataset, recipe, extra=generate, extra_id="bb").folder != cache.folder
    emptied = dataclasses.replace(dataset, map_mask=lambda raw: np.zeros_like(raw, np.uint8))
    np.testing.assert_array_equal(build(emptied, recipe, extra=generate, extra_id="aa").images, cache.images)
    for wrong in ({}, {"extra": generate}, {"extra_id": "aa"}):
        with pytest.raises(ConfigError, match="edge needs both"):
            build(dataset, recipe, **wrong)
    with pytest.raises(ConfigError, match="neither"):
        build(dataset, RECIPE, extra=generate, extra_id="aa")


def test_a_network_of_edges_learns_the_edges_of_the_labels(tmp_path):
    dataset = make(tmp_path / "d", 1)
    plain = build(dataset)
    cache = build(dataset, dataclasses.replace(RECIPE, labels=("edge",), target="edges"))
    np.testing.assert_array_equal(cache.masks, np.stack([channels.edge_map(m) for m in plain.masks]))
    np.testing.assert_array_equal(cache.images, plain.images)
    assert cache.labels == ("edge",) == caches.target_labels(LABELS, "edges") and cache.foreground_counts().shape == (5, 1)
    with pytest.raises(ConfigError, match=r"\('edge',\)"):
        build(dataset, dataclasses.replace(RECIPE, target="edges"))
    with pytest.raises(ConfigError, match="data.target"):
        build(dataset, dataclasses.replace(RECIPE, target="mask"))


def test_an_autoencoders_target_travels_with_its_batch_and_is_verified(tmp_path):
    dataset = make(tmp_path / "d", 1)
    plain = build(dataset)
    cache = build(dataset, dataclasses.replace(RECIPE, labels=("foreground",), target="composite"))
    np.testing.assert_array_equal(cache.targets, np.stack([channels.composite(i, m) for i, m in zip(plain.images, plain.masks)]))
    np.testing.assert_array_equal(cache.masks, plain.masks > 0)
    with pipeline.train_batches(cache, np.arange(5), batch_size=2, seed=0) as batches:
        batch = next(batches)
    np.testing.assert_array_equal(batch["target"], cache.targets[batch["index"]])
    path = cache.folder / "targets.npy"
    with open(path, "r+b") as file:  # in place: a mapped file that is cut kills its readers
        file.seek(-3, 2)
        byte = file.read(1)[0]
        file.seek(-3, 2)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(DataError, match="example 4"):
        caches.open_cache(cache.folder).verify()


def test_a_crop_says_how_much_foreground_it_cut_away(tmp_path):
    dataset, lines = make(tmp_path / "d", 1), []
    plain = build(dataset)
    cache = caches.open_or_build(dataset, dataclasses.replace(RECIPE, size=(10, 10), crop=(10, 10)), log=lines.append)
    np.testing.assert_array_equal(cache.images, plain.images[:, 5:15, 4:14])
    np.testing.assert_array_equal(cache.masks, plain.masks[:, 5:15, 4:14])
    lost, there = int((plain.masks > 0).sum() - (cache.masks > 0).sum()), int((plain.masks > 0).sum())
    assert (f"cut {lost} of {there} foreground" in lines[0]) == (lost > 0)
    small = dataclasses.replace(RECIPE, size=(4, 4), crop=(4, 4))
    caches.open_or_build(dataset, small, log=lines.append)
    assert any(" foreground pixels away" in line for line in lines)
    with pytest.raises(DataError, match="data.crop"):
        build(dataset, dataclasses.replace(RECIPE, crop=(30, 10)))
