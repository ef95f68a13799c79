"""Rectangles: pasted from another sample, erased, blackened; image and mask stay together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.augment import TRANSFORMS, build, mix
from jaxseg.types import ConfigError

KEY = jax.random.key(3)


def test_cutmix_pastes_the_same_box_of_image_and_mask_from_one_other_sample():
    n = 16
    image = jnp.broadcast_to(jnp.arange(1.0, n + 1).reshape(n, 1, 1, 1), (n, 12, 14, 2))
    mask = jnp.broadcast_to(jnp.arange(1, n + 1, dtype=jnp.uint8).reshape(n, 1, 1), (n, 12, 14))
    new, labels = jax.jit(build((("cutmix", 1.0, {}),)))(KEY, image, mask)
    assert labels.dtype == jnp.uint8
    donors = []
    for b in range(n):
        np.testing.assert_array_equal(new[b, ..., 0], labels[b])
        foreign = np.argwhere(np.asarray(labels[b]) != b + 1)
        if len(foreign):
            (top, left), (bottom, right) = foreign.min(0), foreign.max(0)
            box = np.asarray(labels[b])[top : bottom + 1, left : right + 1]
            assert len(np.unique(box)) == 1  # a full rectangle from one sample
            donors.append(box[0, 0])
    assert len(donors) > n // 2 and len(set(donors)) == len(donors)  # donors are a permutation


def test_cutmix_boxes_have_the_area_lambda_prescribes():
    keys = jax.random.split(KEY, 4000)
    inside = np.asarray(jax.jit(jax.vmap(lambda k: mix._centred_box(k, jnp.sqrt(0.25), (20, 20))))(keys))
    # A box of 10 x 10 about a centre uniform on 0..19, cut: the mean of its extent along one axis, squared.
    extent = np.mean([min(c + 5, 20) - max(c - 5, 0) for c in range(20)])
    assert abs(inside.sum((1, 2)).mean() - extent**2) < 1.0  # standard error about 0.35
    own = jnp.broadcast_to(jnp.arange(2000)[:, None, None], (2000, 20, 20))
    _, labels = jax.jit(mix.CutMix())(keys[:2000], jnp.zeros((2000, 20, 20, 1)), own)
    kept = (labels == own).mean()
    assert 0.5 < kept < 0.75  # lambda is uniform, mean 0.5; cutting at the border keeps more


def test_cutout_erases_boxes_and_labels_only_if_asked():
    image, mask = jnp.ones((32, 16, 16, 1)), jnp.ones((32, 16, 16), jnp.int32)
    new, labels = jax.jit(build((("cutout", 1.0, {"fill": 0.5}),)))(KEY, image, mask)
    gone = np.asarray(new[..., 0] == 0.5)
    assert (labels == 1).all() and gone.any((1, 2)).all() and gone.sum((1, 2)).max() <= 64
    _, labels = jax.jit(build((("cutout", 1.0, {"fill": 0.5, "mask": True}),)))(KEY, image, mask)
    np.testing.assert_array_equal(np.asarray(labels) == 0, gone)


def test_the_black_rectangle_covers_the_first_corner_in_image_and_mask():
    image, mask = jnp.ones((4, 13, 10, 2)), jnp.ones((4, 13, 10), jnp.int16)
    new, labels = jax.jit(build((("black_rectangle", 1.0, {}),)))(KEY, image, mask)
    expected = np.ones((4, 13, 10))
    expected[:, :3, :3] = 0  # int(0.3 * 13), int(0.3 * 10)
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(new, np.repeat(expected[..., None], 2, -1))


def test_a_random_corner_is_any_of_the_four():
    image, mask = jnp.ones((64, 10, 10, 1)), jnp.ones((64, 10, 10), jnp.int32)
    _, labels = jax.jit(build((("black_rectangle", 1.0, {"corner": "random"}),)))(KEY, image, mask)
    corners = [tuple(int(v) for v in (l[0, 0], l[0, 9], l[9, 0], l[9, 9])) for l in np.asarray(labels)]
    assert set(corners) == {(0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 0, 1), (1, 1, 1, 0)}


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("cutmix", {"alpha": 0}, "above 0"),
        ("cutout", {"holes": 0}, "one hole"),
        ("cutout", {"fraction": 1.5}, "fraction"),
        ("black_rectangle", {"fraction": 0}, "0, 1"),
        ("black_rectangle", {"corner": "left"}, "'first' or 'random'"),
    ],
)
def test_options_that_break_a_rule_are_refused(name, options, words):
    with pytest.raises(ConfigError, match=words):
        build(((name, 0.5, options),))


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_every_transform_keeps_shapes_and_dtypes_at_every_rank_it_takes(name, rank):
    if (name, rank) in {("dflip", 2), ("affine", 3)}:
        with pytest.raises(ConfigError):
            build(((name, 0.5, {}),), rank=rank)
        return
    image, mask = jnp.zeros((2, *(8, 7, 6)[:rank], 3)), jnp.zeros((2, *(8, 7, 6)[:rank]), jnp.uint8)
    classes = int(TRANSFORMS[name].kind == "classes")  # of a cascade's previous stage, the last channel
    new, labels = jax.eval_shape(build(((name, 0.5, {}),), rank=rank, fixed_channels=classes, classes=classes), KEY, image, mask)
    assert (new.shape, new.dtype, labels.shape, labels.dtype) == (image.shape, image.dtype, mask.shape, mask.dtype)


def test_all_transforms_together_stay_finite_and_leave_other_entries_alone():
    options = {
        "elastic": {"sigma": 4.0, "alpha": 20.0},
        "colour_jitter": {"brightness": 0.3, "contrast": 0.2, "hue": 0.1, "saturation": 0.1},
    }
    names = [name for name, entry in TRANSFORMS.items() if name != "dflip" and entry.kind != "classes"]
    spec = tuple((name, 0.08, options[name] if name in options else {}) for name in names)
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.random((32, 12, 12, 3)), jnp.float32)
    mask = jnp.asarray(rng.integers(0, 3, (32, 12, 12)), jnp.uint8)
    new, labels = jax.jit(build(spec))(KEY, image, mask)
    assert bool(jnp.isfinite(new).all()) and int(labels.max()) <= 2
    same = [np.array_equal(a, b) and np.array_equal(c, d) for a, b, c, d in zip(new, image, labels, mask)]
    assert 1 <= sum(same) < 32  # 0.92^23 of 32: about 5 untouched
