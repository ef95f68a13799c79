"""Transforms of a previous stage's classes are those of batchgeneratorsv2 (`stage_live.py`), and classes stay zeros and ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.augment import build, stage
from jaxseg.types import ConfigError
from tests.augment import stage_live

EXPECTED = np.load(stage_live.FILE)
GIVEN = np.moveaxis(stage_live.classes(), 0, -1)  # [X, Y, Z, 2]


def test_balls_of_every_radius_dilate_erode_close_and_open_as_there():
    apply = jax.jit(functools.partial(stage.morph, largest=8))
    for number, name in enumerate(stage_live.OPERATIONS):
        for radius in stage_live.RADII:
            new = np.asarray(apply(GIVEN[..., 1] > 0, number, int(2 * radius + 1)))
            np.testing.assert_array_equal(new, EXPECTED[f"{name}_{radius}"][1], err_msg=f"{name} {radius}")
            assert (new != (GIVEN[..., 1] > 0)).any()


@pytest.mark.slow
def test_a_class_that_grows_takes_voxels_from_the_others():
    transform = stage.Morphology(radius=(2.0, 2.0), per_class=1.0)
    new = np.asarray(jax.jit(jax.vmap(transform, (0, None)))(jax.random.split(jax.random.key(0), 16), jnp.asarray(GIVEN)))
    assert (new.sum(-1) <= 1).all() and set(np.unique(new)) == {0.0, 1.0}
    assert all((one != GIVEN).any((0, 1, 2)).all() for one in new)  # both classes
    never = jax.jit(stage.Morphology(per_class=0.0))(jax.random.key(0), jnp.asarray(GIVEN))
    np.testing.assert_array_equal(never, GIVEN)


@pytest.mark.parametrize("most", [0.15, pytest.param(0.01, marks=pytest.mark.slow)])
def test_one_of_the_components_that_are_small_enough_is_dropped(most):
    keys = jax.random.split(jax.random.key(1), 200)
    found = np.asarray(jax.jit(jax.vmap(lambda key: stage.without_component(GIVEN[..., 1] > 0, key, most)))(keys))
    theirs = {one.tobytes() for one in EXPECTED[f"dropped_{most}"][:, 1]}
    assert {one.tobytes() for one in found} == theirs and len(theirs) > 1


@pytest.mark.slow
def test_after_a_rotation_the_class_with_the_largest_share_wins():
    image = jnp.concatenate([jnp.full((*GIVEN.shape[:-1], 1), 0.5), jnp.asarray(GIVEN)], -1)[None]
    mask = jnp.asarray(GIVEN.argmax(-1) + 1, jnp.uint8)[None] * (GIVEN.sum(-1) > 0)
    spec = (("rotate", 1.0, {"degrees": (20.0, 30.0), "axes": ("d",)}),)
    new, labels = jax.jit(build(spec, rank=3, fixed_channels=2, classes=2))(jax.random.key(2), image, mask.astype(jnp.uint8))
    found = np.asarray(new[0, ..., 1:])
    assert set(np.unique(found)) == {0.0, 1.0} and (found.sum(-1) <= 1).all()
    numbers = found @ np.array([1, 2])
    assert (numbers != np.asarray(labels[0])).mean() < 0.1 and (numbers != np.asarray(mask[0])).mean() > 0.2  # moved together


def test_of_equal_shares_the_background_and_then_the_lower_class_wins():
    shares = jnp.array([[0.5, 0.0], [0.5, 0.5], [0.2, 0.5], [0.0, 0.0], [0.3, 0.3]])
    np.testing.assert_array_equal(stage.binary(shares), [[0, 0], [1, 0], [0, 1], [0, 0], [0, 0]])


def test_without_a_previous_stage_the_transforms_are_refused():
    with pytest.raises(ConfigError, match="stage_drop.*data.previous"):
        build((("mirror", 0.5, {}), ("stage_drop", 0.2, {})), rank=3)
    for name, options, word in (("stage_morphology", {"radius": (3.0, 2.0)}, "rising"), ("stage_drop", {"most": 2.0}, "0..1")):
        with pytest.raises(ConfigError, match=word):
            build(((name, 0.5, options),), rank=3, fixed_channels=1, classes=1)
