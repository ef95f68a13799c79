"""Geometry: landmarks land where the formula says, and resampling equals scipy's."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from jaxseg.augment import build, spatial
from jaxseg.types import ConfigError

SIZE = (33, 41)


def blob(size, centre, radius=4):
    """A Gaussian blob (image) and a disc (mask) at `centre`, pixels from the image's centre."""
    grids = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in size), indexing="ij")
    d2 = sum((g - c) ** 2 for g, c in zip(grids, centre))
    image = np.exp(-d2 / (2 * 1.5**2)).astype(np.float32)[None, ..., None]
    return jnp.asarray(image), jnp.asarray((d2 <= radius**2).astype(np.uint8))[None]


def centroid(weights):
    w = np.asarray(weights[0], np.float64)
    grids = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in w.shape), indexing="ij")
    return np.array([(g * w).sum() / w.sum() for g in grids])


# (name, options, where (down, right) = (-3, 6) must go)
TURN = math.radians(30)
LANDMARKS = [
    ("hflip", {}, (-3, -6)),
    ("vflip", {}, (3, 6)),
    ("rotate", {"degrees": (90, 90)}, (-6, -3)),  # counter-clockwise: the right goes to the top
    ("rotate", {"degrees": (30, 30)}, (-3 * math.cos(TURN) - 6 * math.sin(TURN), -3 * math.sin(TURN) + 6 * math.cos(TURN))),
    ("scale", {"factor": (1.2, 1.2)}, (-3.6, 7.2)),
    ("scale", {"factor": (1.2, 1.2), "axes": ("w",)}, (-3, 7.2)),
    ("translate", {"fraction": (0.1, 0.1)}, (-3 + 3.3, 6 + 4.1)),
    ("shear", {"factor": (0.5, 0.5)}, (-3, 6 - 1.5)),  # above the centre: to the left
    ("shear", {"degrees": (45, 45), "move": "h", "along": "w"}, (3, 6)),
    ("affine", {"degrees": 90, "translate": 0.125, "scale": 0.75}, (-4.5 + 33 / 8, -2.25 + 41 / 8)),
]


@pytest.mark.parametrize("name, options, expected", LANDMARKS, ids=[f"{n}{i}" for i, (n, _, _) in enumerate(LANDMARKS)])
def test_a_landmark_of_image_and_mask_moves_to_the_place_the_formula_gives(name, options, expected):
    image, mask = jax.jit(build(((name, 1.0, options),)))(jax.random.key(0), *blob(SIZE, (-3, 6)))
    assert mask.dtype == jnp.uint8
    np.testing.assert_allclose(centroid(image[..., 0]), expected, atol=0.05)  # linear interpolation of a narrow blob
    np.testing.assert_allclose(centroid(mask), expected, atol=0.35)  # nearest pixel of a small disc


@pytest.mark.parametrize("axis, expected", [("d", (1, -5, -2)), ("h", (-5, -2, 1)), ("w", (2, 1, 5))])
def test_a_volume_turns_about_the_named_axis(axis, expected):
    spec = (("rotate", 1.0, {"degrees": (90, 90), "axes": (axis,)}),)
    image, mask = jax.jit(build(spec, rank=3))(jax.random.key(0), *blob((23, 23, 23), (1, -2, 5), radius=2))
    np.testing.assert_allclose(centroid(image[..., 0]), expected, atol=0.05)
    np.testing.assert_allclose(centroid(mask), expected, atol=0.05)


def test_a_run_of_transforms_is_their_composition_in_the_order_of_the_list():
    spec = (("rotate", 1.0, {"degrees": (90, 90)}), ("translate", 1.0, {"fraction": (0.1, 0.1)}), ("hflip", 1.0, {}))
    image, _ = jax.jit(build(spec))(jax.random.key(0), *blob(SIZE, (-3, 6)))
    np.testing.assert_allclose(centroid(image[..., 0]), (-6 + 3.3, -(-3 + 4.1)), atol=0.05)


@pytest.mark.parametrize("size, channels", [((17, 20), 2), ((9, 11, 8), 1)])
@pytest.mark.parametrize("border, mode", [("constant", "grid-constant"), ("reflect", "mirror")])
def test_warp_equals_scipy(size, channels, border, mode):
    rng, rank = np.random.default_rng(0), len(size)
    image = rng.normal(size=(2, *size, channels)).astype(np.float32)
    mask = rng.integers(0, 5, (2, *size))
    matrix = (np.eye(rank) + 0.3 * rng.normal(size=(2, rank, rank))).astype(np.float32)
    offset = (3 * rng.normal(size=(2, rank))).astype(np.float32)

    @jax.jit
    def warp(image, mask, matrix, offset):
        return spatial.warp(image, mask, spatial.positions(matrix, offset, size), border=border, fill=0.7)

    new, labels = warp(image, mask, matrix, offset)
    centre = (np.array(size) - 1) / 2
    for b in range(2):
        shift = offset[b] + centre - matrix[b] @ centre
        for c in range(channels):
            expected = scipy.ndimage.affine_transform(image[b, ..., c], matrix[b], shift, order=1, mode=mode, cval=0.7)
            np.testing.assert_allclose(new[b, ..., c], expected, atol=5e-5)  # positions ~20 in float32, slopes ~3
        expected = scipy.ndimage.affine_transform(mask[b], matrix[b], shift, order=0, mode=mode, cval=0)
        assert np.mean(np.asarray(labels[b]) != expected) < 5e-3  # a position within rounding of a half may go either way


@pytest.mark.parametrize("size", [(6, 7), (4, 5, 6)])
def test_flips_that_are_resampled_are_exact(size):
    rng, rank = np.random.default_rng(0), len(size)
    image, mask = rng.normal(size=(2, *size, 2)).astype(np.float32), rng.integers(0, 3, (2, *size), np.int8)
    spec = (("hflip", 1.0, {}), ("vflip", 1.0, {}), ("translate", 1.0, {"fraction": 0.0}))
    new, labels = jax.jit(build(spec, rank=rank))(jax.random.key(0), jnp.asarray(image), jnp.asarray(mask))
    np.testing.assert_array_equal(new, image[..., ::-1, ::-1, :])
    np.testing.assert_array_equal(labels, mask[..., ::-1, ::-1])


@pytest.mark.parametrize("size", [(6, 7), (4, 5, 6)])
def test_reverse_equals_numpys_flips_for_every_choice_of_axes(size):
    choices = np.array(list(itertools.product((False, True), repeat=len(size))))
    x = np.random.default_rng(0).normal(size=(len(choices), *size, 3)).astype(np.float32)
    new = jax.jit(spatial.reverse)(jnp.asarray(x), list(jnp.asarray(choices.T)))
    for found, old, flags in zip(new, x, choices):
        np.testing.assert_array_equal(found, np.flip(old, np.flatnonzero(flags)))


def test_a_flip_that_is_listed_twice_is_undone():
    image, mask = jnp.arange(12.0).reshape(1, 3, 4, 1), jnp.arange(12).reshape(1, 3, 4)
    new, labels = jax.jit(build((("hflip", 1.0, {}),) * 2))(jax.random.key(0), image, mask)
    np.testing.assert_array_equal(new, image)
    np.testing.assert_array_equal(labels, mask)


def test_what_comes_from_outside_is_fill_and_label_zero():
    spec = (("translate", 1.0, {"fraction": (1.0, 1.0)}),)
    image, mask = jax.jit(build(spec, fill=-2.0))(jax.random.key(0), jnp.ones((1, 8, 8, 1)), jnp.ones((1, 8, 8), jnp.int32))
    assert (image == -2.0).all() and (mask == 0).all()


@pytest.mark.parametrize("extra", [(), (("translate", 1.0, {"fraction": 0.0}),)], ids=["reversed", "resampled"])
def test_left_and_right_labels_change_places_with_a_flip_and_only_then(extra):
    mask = jnp.tile(jnp.asarray([[0, 1, 2, 3]]), (64, 4, 1))
    image = jnp.zeros((64, 4, 4, 1))
    _, new = jax.jit(build((("hflip", 0.5, {"swap": ((1, 2),)}), *extra)))(jax.random.key(1), image, mask)
    flipped = np.asarray(new[:, 0, 0] == 3)
    assert 0 < flipped.sum() < 64
    np.testing.assert_array_equal(new[flipped][:, 0], np.tile([3, 1, 2, 0], (flipped.sum(), 1)))
    np.testing.assert_array_equal(new[~flipped][:, 0], np.tile([0, 1, 2, 3], ((~flipped).sum(), 1)))


def test_gaussian_matrix_equals_scipy():
    x = np.random.default_rng(0).normal(size=(19, 23))

    @jax.jit
    def blurred(x, sigma):
        return spatial.along_axes(x[..., None], [spatial.gaussian_matrix(n, sigma) for n in x.shape])

    for sigma in (0.3, 1.0, 3.3):
        new = blurred(jnp.asarray(x, jnp.float32), jnp.float32(sigma))
        np.testing.assert_allclose(new[..., 0], scipy.ndimage.gaussian_filter(x, sigma), atol=2e-6)  # float32 sums of ~30


def test_elastic_equals_scipys_warp_by_its_own_field():
    rng = np.random.default_rng(0)
    image, mask = rng.random((1, 40, 36, 1)).astype(np.float32), rng.integers(0, 3, (1, 40, 36))
    transform = spatial.Elastic(rank=2, alpha=60.0, sigma=4.0)
    field = np.asarray(jax.jit(lambda key: transform.displacement(key, (40, 36)))(jax.random.key(3)))
    assert 1.0 < field.std() < 3.5  # 0.16 * 60 / 4 = 2.4 pixels

    @jax.jit
    def warp(image, mask, field):
        where = spatial.positions(jnp.eye(2)[None], jnp.zeros((1, 2)), (40, 36), field[None])
        return spatial.warp(image, mask, where, border="reflect")

    new, _ = warp(image, mask, field)
    grid = np.stack(np.meshgrid(np.arange(40), np.arange(36), indexing="ij"))
    expected = scipy.ndimage.map_coordinates(image[0, ..., 0], grid + field.transpose(2, 0, 1), order=1, mode="mirror")
    np.testing.assert_allclose(new[0, ..., 0], expected, atol=2e-5)


def test_alpha_affine_maps_the_three_points_where_they_were_moved():
    transform = spatial.Elastic(rank=2, alpha=0.0, sigma=4.0, alpha_affine=3.0)
    key, s = jax.random.key(5), 33 // 3
    matrix, offset = jax.jit(lambda key: transform.pull(key, SIZE))(key)
    points = np.array([[s, s], [s, -s], [-s, -s]], np.float64)
    moved = points + np.asarray(jax.random.uniform(jax.random.fold_in(key, 1), (3, 2), jnp.float32, -3.0, 3.0))
    np.testing.assert_allclose(moved @ np.asarray(matrix).T + np.asarray(offset), points, atol=1e-4)


def test_elastic_keeps_image_and_mask_together():
    image, mask = blob((48, 48), (5, -8), radius=6)
    image = mask[..., None].astype(jnp.float32)
    spec = (("elastic", 1.0, {"alpha": 150.0, "sigma": 6.0, "alpha_affine": 4.0}),)
    new, labels = jax.jit(build(spec))(jax.random.key(2), image, mask)
    assert not np.array_equal(labels, mask)
    assert np.mean((np.asarray(new[..., 0]) > 0.5) == np.asarray(labels == 1)) > 0.99  # linear and nearest differ on the rim


@pytest.mark.parametrize(
    "name, options, rank, words",
    [
        ("rotate", {"degrees": (10, -10)}, 2, "low <= high"),
        ("rotate", {"axes": ("d",)}, 2, "leave axes out"),
        ("dflip", {}, 2, "no axis 'd'"),
        ("scale", {"factor": (0.0, 1.0)}, 2, "above 0"),
        ("scale", {"factor": "big"}, 2, "number"),
        ("shear", {"degrees": 10, "factor": 0.1}, 2, "one of them"),
        ("shear", {"degrees": 90}, 2, "-90 and 90"),
        ("shear", {"move": "h"}, 2, "two axes"),
        ("affine", {}, 3, "rank 2"),
        ("elastic", {"border": "wrap"}, 2, "reflect"),
        ("elastic", {"sigma": 0.0}, 2, "above 0"),
        ("elastic", {"alpha_affine": 1.0}, 3, "rank 2"),
        ("hflip", {"swap": ((1, 2), (2, 3))}, 2, "only one pair"),
        ("mirror", {"axes": ("x",)}, 3, "no axis 'x'"),
    ],
)
def test_options_that_break_a_rule_are_refused(name, options, rank, words):
    with pytest.raises(ConfigError, match=words):
        build(((name, 0.5, options),), rank=rank)
