"""More than 255 classes: from the masks of a folder through the store and the network's logits to the files that are written."""

import functools

import jax
import jax.numpy as jnp
import nibabel
import numpy as np
import pytest
from PIL import Image

from jaxseg.augment import compose
from jaxseg.data import datasets
from jaxseg.data.datasets import scoliosis
from jaxseg.data.formats import volumes
from jaxseg.data.geometry import to_slices, to_volume
from jaxseg.data.records import Recipe
from jaxseg.data.store import per_case, stacked
from jaxseg.infer import cases, labels
from jaxseg.metrics import counts, regions

NAMES = tuple(f"c{k}" for k in range(1, 301))
RECORD = {"values": list(range(1, 301)), "labels": list(NAMES)}


@pytest.fixture(params=[2, 3], ids=["pictures", "volumes"])
def files(request, tmp_path, monkeypatch):
    """(data set, numbers of its only mask, store) with every class in it."""
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path / "cache"))
    numbers = (np.arange(32 * 48) % 301).reshape(32, 48).astype(np.uint16)
    for part, array in (("images", (numbers % 200).astype(np.uint8)), ("masks", numbers)):
        (tmp_path / "set" / part).mkdir(parents=True)
        if request.param == 2:
            Image.fromarray(array).save(tmp_path / "set" / part / "a.png")
        else:
            image = nibabel.Nifti1Image(array.reshape(32, 8, 6).astype(np.int16), np.diag([-1.0, -1.0, 1.0, 1.0]))
            nibabel.save(image, tmp_path / "set" / part / "a.nii.gz")
    data = datasets.load("folder", tmp_path / "set", structures=NAMES)
    quiet = {"log": lambda _: None}
    if request.param == 2:
        return data, numbers, stacked.open_or_build(data, Recipe((32, 48), None, None, 1, NAMES), **quiet)
    recipe = Recipe((8, 8, 8), (100.0, 200.0), None, 1, NAMES, intensity="ct", fit="patches")
    return data, numbers.reshape(32, 8, 6), per_case.open_or_build(data, recipe, **quiet)


def test_they_stay_what_they_are_on_the_whole_way(files, tmp_path):
    data, numbers, store = files
    truth = np.asarray(store.mask(0))
    assert truth.dtype == np.uint16 and store.foreground_counts()[0].tolist() == np.bincount(numbers.ravel())[1:].tolist()
    logits = np.full((*truth.shape, 301), -1, np.float32)
    np.put_along_axis(logits, truth[..., None].astype(np.int64), 1, -1)
    found = labels.labels_of(logits)
    np.testing.assert_array_equal(found, truth)
    matrix = np.asarray(jax.jit(functools.partial(counts.confusion, num_classes=301))(jnp.asarray(found)[None], truth[None]))
    np.testing.assert_array_equal(np.diagonal(matrix), np.bincount(numbers.ravel()))
    image = volumes.read_volume(data.cases[0].images[0])
    orientation = (to_slices if volumes.is_photo(image) else to_volume)(image)[1]
    values = cases.values_of(RECORD)[found]
    values = orientation.restore(values[None] if volumes.is_photo(image) else values)
    name = cases.write_labels(tmp_path, "a", values, image)
    written = volumes.read_volume(tmp_path / name).array
    assert written.dtype == np.uint16
    np.testing.assert_array_equal(written, numbers)


def test_augmentation_moves_their_numbers_unchanged():
    mask = jnp.asarray((np.arange(2 * 8 * 8) % 301 + 170).reshape(2, 8, 8).astype(np.uint16))
    augment = compose.build((("hflip", 1.0, {}),), rank=2)
    _, moved = augment(jax.random.key(0), jnp.zeros((2, 8, 8, 1)), mask)
    np.testing.assert_array_equal(moved, mask[:, :, ::-1])


def test_regions_and_polygons_write_them():
    np.testing.assert_array_equal(
        regions.labels_from_regions(np.array([[0.9, 0.1], [0.9, 0.9], [0, 0]]), (0, 299, 300, 300)), [299, 300, 0]
    )
    assert scoliosis.draw([(299, [(0, 0), (1, 0), (1, 1), (0, 1)])], (10, 20)).max() == 300
