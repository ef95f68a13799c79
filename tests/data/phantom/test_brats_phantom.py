"""The brain tumour phantom: nested regions in a brain on exact zero, the same bytes for a seed, no prey for a threshold."""

import nibabel
import numpy as np
import pytest

from jaxseg.data import datasets, splits
from jaxseg.data.formats import volumes
from jaxseg.data.phantom import brain_tumour
from jaxseg.data.prepare import intensity
from jaxseg.data.records import Recipe
from jaxseg.data.store import per_case
from jaxseg.data.stream import patches
from jaxseg.types import ConfigError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    brain_tumour.write_phantom(folder, kind="quick")
    return folder


@pytest.fixture(scope="module")
def cases(made):
    """[(images int16 [X, Y, Z, 4], classes)] of the quick set."""
    data = datasets.load("brats", made)
    return [
        (np.stack([volumes.read_volume(p).array for p in c.images], -1), data.map_mask(volumes.read_volume(c.mask).array))
        for c in data.cases
    ]


def test_volumes_are_those_of_the_real_layout(made):
    for path in made.rglob("*.nii.gz"):
        image = nibabel.load(path)
        assert image.shape == (40, 40, 32) and image.get_data_dtype() == np.int16
        assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S") and image.affine[1, 3] == 39
    assert sorted(p.name for p in made.iterdir()) == ["HGG", "LGG", "SYNTHETIC.txt"]


def test_the_brain_is_the_same_in_all_sequences_and_stands_on_exact_zero(cases):
    for images, classes in cases:
        inside = images > 0
        assert (inside == inside[..., :1]).all() and images.min() == 0
        assert 0.25 < inside[..., 0].mean() < 0.5 and not inside[0].any() and not inside[:, :, 0].any()
        assert not classes[~inside[..., 0]].any()


def test_regions_are_nested_and_of_a_tumours_size(cases):
    for images, classes in cases:
        counts = np.bincount(classes.ravel(), minlength=4)
        share = counts[1:].sum() / (images[..., 0] > 0).sum()
        assert 0.02 < share < 0.12 and (counts[1:] > 30).all(), counts


def test_tissue_has_its_contrast(cases):
    """Oedema bright in FLAIR, the rim bright and the dead core dark in enhanced T1."""
    t1ce, flair = ([intensity.brain(images[..., c]) for images, _ in cases] for c in (1, 3))
    mean = lambda scores, k: np.concatenate([s[m == k] for s, (_, m) in zip(scores, cases)]).mean()
    assert mean(flair, 2) > 1.0 and mean(t1ce, 3) > 1.0 and mean(t1ce, 1) < -0.3


def test_no_threshold_and_no_band_finds_a_region(cases):
    """The best over sequences and bands, per region (pooled threshold over the full set: WT 0.46, TC 0.26, ET 0.24)."""
    edges, best = np.linspace(-3, 5, 33), {}
    scores = [intensity.brain(images) for images, _ in cases]
    inside = [images[..., 0] > 0 for images, _ in cases]
    for name, members in (("WT", (1, 2, 3)), ("TC", (1, 3)), ("ET", (3,))):
        for c in range(4):
            true, found, size = [], [], []
            for s, b, (_, classes) in zip(scores, inside, cases):
                at, truth = np.digitize(s[b][:, c], edges), np.isin(classes[b], members)
                true.append(np.cumsum([0, *np.bincount(at, truth.astype(float), len(edges) + 1)]))
                found.append(np.cumsum([0, *np.bincount(at, None, len(edges) + 1)]))
                size.append(truth.sum())
            true, found, size = np.array(true), np.array(found), np.array(size)
            bands = [
                np.mean(2 * (true[:, j] - true[:, i]) / (found[:, j] - found[:, i] + size))
                for i in range(true.shape[1])
                for j in range(i + 1, true.shape[1])
            ]
            best[name] = max(best.get(name, 0), *bands)
    assert all(value < 0.55 for value in best.values()) and np.mean(list(best.values())) < 0.42, best


def test_a_case_depends_on_seed_and_number_alone(made, tmp_path, monkeypatch):
    monkeypatch.setitem(brain_tumour.KINDS, "quick", (2, (40, 40, 32)))
    for seed in (0, 1):
        brain_tumour.write_phantom(tmp_path / str(seed), kind="quick", seed=seed)
    files = sorted(p.relative_to(tmp_path / "0") for p in (tmp_path / "0").rglob("*.nii.gz"))
    assert len(files) == 10
    for name in files:
        assert (tmp_path / "0" / name).read_bytes() == (made / name).read_bytes() != (tmp_path / "1" / name).read_bytes()


def test_the_phantom_is_built_once_and_marked(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path))
    monkeypatch.setitem(brain_tumour.KINDS, "quick", (2, (16, 16, 12)))
    root = datasets.phantom("brats", "quick")
    before = (root / "SYNTHETIC.txt").stat().st_mtime_ns
    assert root.parent == tmp_path and datasets.phantom("brats", "quick") == root
    assert (root / "SYNTHETIC.txt").stat().st_mtime_ns == before
    data = datasets.load("brats", root)
    assert data.synthetic and len(data.labels) == datasets.label_count("brats")


def test_training_patches_read_no_volume_of_another_split(tmp_path, monkeypatch):
    """The files of validation and test volumes are deleted before the first patch is drawn, and training does not need them."""
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path))
    monkeypatch.setitem(brain_tumour.KINDS, "quick", (6, (16, 16, 12)))
    data = datasets.load("brats", datasets.phantom("brats", "quick"), modalities=("t1ce", "flair"))
    recipe = Recipe((8, 8, 8), None, None, 2, data.labels, intensity="brain", modalities=data.modalities, fit="patches")
    store = per_case.open_or_build(data, recipe, log=lambda line: None)
    rows = splits.split_rows(store.rows, data, split="fold", fractions=(), folds=6, fold=2, seed=0)
    for i in (*rows["val"], *rows["test"]):
        for path in store.folder.glob(f"{i:05d}.*"):
            path.unlink()
    with patches.patch_batches(store, rows["train"], batch_size=4, patch=(8, 8, 8), seed=0, per_volume=2) as batches:
        drawn = [next(batches)["index"] for _ in range(6)]  # three epochs of 4 volumes x 2 patches
    assert sorted(set(np.concatenate(drawn).tolist())) == rows["train"].tolist()


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="quikc.*did you mean quick"):
        datasets.phantom("brats", "quikc")
    with pytest.raises(ConfigError, match="unknown layout 'brats18'"):
        brain_tumour.write_phantom(tmp_path, layout="brats18")
    with pytest.raises(ConfigError, match="seed=-1"):
        brain_tumour.write_phantom(tmp_path, seed=-1)
