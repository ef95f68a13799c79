"""Channels made from the image alone: k-means against scipy, edges, painting, the autoencoder's picture, and the order."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.cluster.vq import kmeans2

from jaxseg.data.prepare import channels
from jaxseg.types import ConfigError, DataError

RNG = np.random.default_rng(0)


def brain(shape=(40, 44), c=3):
    """A disc of five tissues with noise, background exactly 0."""
    r, k = np.indices(shape)
    tissue = (np.hypot(r - shape[0] / 2, k - shape[1] / 2) // 4).astype(int)
    image = (
        np.array([2.0, 4.0, 1.0, 5.0, 3.0])[np.minimum(tissue, 4)][..., None] * np.linspace(0.8, 1.2, c)
        + np.random.default_rng(0).normal(0, 0.2, (*shape, c))
    ).astype(np.float32)
    image[tissue > 4] = 0
    return image, tissue


@pytest.mark.parametrize("c", [1, 3])
def test_kmeans_is_lloyds_algorithm_from_quantiles_and_marks_the_middle_cluster(c):
    image, tissue = brain(c=c)
    inside = image.any(-1)
    points = image[inside].astype(np.float64)
    order = np.argsort(points.mean(-1), kind="stable")
    start = np.stack([points[part].mean(0) for part in np.array_split(order, 5)])
    centres, labels = kmeans2(points, start, iter=100, minit="matrix")
    expected = np.zeros(inside.shape, np.float32)
    expected[inside] = labels == np.argsort(centres.mean(-1))[2]
    found = channels.kmeans(image)
    assert found.dtype == np.float32 and (found != expected).mean() < 1e-3  # float32 ties at a border between clusters
    assert found[tissue == 4].mean() > 0.9 and found[tissue < 4].mean() < 0.1  # the tissue of the middle brightness
    np.testing.assert_array_equal(channels.kmeans(image), found)


def test_kmeans_of_a_blank_or_flat_slice_does_not_fail():
    assert not channels.kmeans(np.zeros((6, 6, 2), np.float32)).any()
    assert set(np.unique(channels.kmeans(np.ones((6, 6, 2), np.float32)))) <= {0.0, 1.0}


def test_edges_are_the_foreground_pixels_with_another_class_beside_them():
    labels = RNG.integers(0, 3, (12, 15)) * (ndimage.gaussian_filter(RNG.normal(size=(12, 15)), 2) > 0)
    for array in (labels, np.ones((5, 6), int), np.zeros((5, 6), int)):
        padded = np.pad(array, 1, mode="edge")
        differs = np.zeros(array.shape, bool)
        for dr, dc in ((0, 1), (2, 1), (1, 0), (1, 2)):
            differs |= padded[dr : dr + array.shape[0], dc : dc + array.shape[1]] != array
        np.testing.assert_array_equal(channels.edge_map(array), differs & (array > 0))
    assert not channels.edge_map(np.ones((5, 6), int)).any()  # the image's border is none


def test_painted_edges_have_the_highest_value_of_their_channel_and_nothing_else_moves():
    image, tissue = brain()
    edges = channels.edge_map((tissue < 2).astype(int))
    painted = channels.paint_edges(image, edges)
    np.testing.assert_allclose(painted[edges], np.broadcast_to(image.max((0, 1)), painted[edges].shape), rtol=1e-6)
    np.testing.assert_array_equal(painted[~edges], image[~edges])
    half = channels.paint_edges(image, edges * 0.5)
    np.testing.assert_allclose(half, (image + painted) / 2, rtol=1e-5, atol=1e-6)


def test_a_composite_is_above_one_half_where_the_tumour_is_and_only_there():
    image, tissue = brain()
    labels = np.where(tissue == 1, 2, np.where(tissue == 0, 1, 0))
    drawn = channels.composite(image, labels)
    assert drawn.shape == (*labels.shape, 1) and drawn.dtype == np.float32 and 0 <= drawn.min() and drawn.max() <= 1
    assert (drawn[..., 0][labels > 0] >= 0.5).all() and (drawn[..., 0][labels == 0] <= 0.5).all()
    assert len(np.unique(drawn[labels > 0])) > 10  # the tumour keeps its texture
    assert channels.composite(np.full((3, 3, 1), 7.0), np.zeros((3, 3), int)).tolist() == np.zeros((3, 3, 1)).tolist()


def test_extra_channels_come_after_the_images_in_their_own_order():
    image, _ = brain()
    seen = []

    def generate(images):
        seen.append(images)
        return np.stack([images[..., 0] * 0 + 0.25, images[..., 0] * 0 + 0.75], -1)

    stack = np.stack([image, image[::-1]])
    names = ("autoencoder", "kmeans", "edge")
    out = channels.extend(stack, names, generate)
    assert channels.added(names) == 3 and channels.trained(names) == ("autoencoder", "edge") and out.shape == (2, 40, 44, 6)
    np.testing.assert_array_equal(out[..., :3], stack)
    assert (out[..., 3] == 0.25).all() and (out[..., 5] == 0.75).all()
    np.testing.assert_array_equal(out[1, ..., 4], channels.kmeans(image[::-1]))
    np.testing.assert_array_equal(seen[0], stack)
    assert channels.extend(stack, (), None) is stack


def test_maps_of_8_bit_images_are_8_bit_and_the_images_unchanged():
    image = RNG.integers(0, 256, (1, 5, 6, 1), np.uint8)
    out = channels.extend(image, ("edge",), lambda images: images * 0 + 0.5)
    assert out.dtype == np.uint8 and (out[..., 1] == 128).all()
    np.testing.assert_array_equal(out[..., :1], image)
    painted = channels.extend(image, ("painted_edge",), lambda images: images * 0 + 1)
    assert painted.shape == image.shape and (painted == image.max()).all()


def test_names_and_maps_that_do_not_fit_are_refused():
    image = np.ones((1, 4, 4, 1), np.float32)
    with pytest.raises(ConfigError, match="kmeens.*kmeans"):
        channels.added(("kmeens",))
    with pytest.raises(ConfigError, match="each name must occur once"):
        channels.added(("edge", "edge"))
    with pytest.raises(ConfigError, match="another run"):
        channels.extend(image, ("edge",), None)
    with pytest.raises(DataError, match="NaN or Inf"):
        channels.extend(image, ("edge",), lambda images: images * np.nan)
    with pytest.raises(DataError, match=r"must be \(1, 4, 4, 1\)"):
        channels.extend(image, ("edge",), lambda images: images[..., 0])
