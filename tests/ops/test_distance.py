"""The distance transform equals scipy's and its reference implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxseg.ops.distance import api, reference

TOLERANCE = 1e-4  # distances up to 200 in float32: one unit in the last place is 1.5e-5
transform = jax.jit(api.distance_transform, static_argnames="spacing")


def masks(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Random and adversarial masks of one shape."""
    rng = np.random.default_rng(0)
    grid = np.indices(shape)
    centre = tuple(n // 3 for n in shape)
    single, hole = np.zeros(shape, bool), np.ones(shape, bool)
    single[centre], hole[centre] = True, False
    corner = np.ones(shape, bool)
    corner[(-1,) * len(shape)] = False
    return {
        "sparse": rng.random(shape) < 0.1,
        "half": rng.random(shape) < 0.5,
        "dense": rng.random(shape) < 0.995,
        "single": single,
        "hole": hole,
        "corner": corner,
        "empty": np.zeros(shape, bool),
        "checkerboard": grid.sum(0) % 2 == 0,
        "diagonal": grid[0] == grid[-1],
        "holes on a diagonal": grid[0] != grid[-1],
        "slab": np.broadcast_to(grid[0] > 2, shape),
    }


@pytest.mark.parametrize(
    "shape,spacing",
    [
        ((23,), (0.7,)),
        ((19, 30), None),
        ((19, 30), (3.0, 0.5)),
        ((7, 14, 11), None),
        ((7, 14, 11), (5.0, 1.0, 1.0)),
        ((7, 14, 11), (0.3, 2.0, 0.9)),
    ],
)
def test_equals_scipy_and_the_reference_implementation(shape, spacing):
    named = masks(shape)
    batch = np.stack(list(named.values()))
    ours, plain = np.asarray(transform(batch, spacing)), np.asarray(reference.distance_transform(batch, spacing))
    np.testing.assert_allclose(ours, plain, rtol=1e-6, atol=1e-6)  # the same sums of the same products
    assert ours.dtype == np.float32
    for name, mask, mine in zip(named, batch, ours):
        if not mask.all():
            np.testing.assert_allclose(mine, ndimage.distance_transform_edt(mask, spacing), atol=TOLERANCE, err_msg=name)


def test_without_a_false_voxel_all_distances_are_infinite_and_neighbours_in_the_batch_are_not():
    batch = np.ones((2, 19, 30), bool)
    batch[1, 4, 5] = False
    ours = np.asarray(transform(batch))
    assert np.isposinf(ours[0]).all()
    np.testing.assert_allclose(ours[1], ndimage.distance_transform_edt(batch[1]), atol=TOLERANCE)


def test_vmap_equals_the_batch():
    batch = np.stack(list(masks((9, 10)).values()))
    mapped = jax.jit(jax.vmap(api.distance_transform))(jnp.asarray(batch)[:, None])
    np.testing.assert_array_equal(np.asarray(mapped)[:, 0], np.asarray(api.distance_transform(batch)))


def test_signed_distance_is_negative_inside_and_positive_outside():
    mask = masks((19, 30))["half"]
    signed = np.asarray(api.signed_distance(mask[None], (2.0, 1.0)))[0]
    np.testing.assert_allclose(np.where(mask, -signed, 0), ndimage.distance_transform_edt(mask, (2, 1)), atol=TOLERANCE)
    np.testing.assert_allclose(np.where(mask, 0, signed), ndimage.distance_transform_edt(~mask, (2, 1)), atol=TOLERANCE)
    extremes = np.asarray(api.signed_distance(np.stack([np.zeros((19, 30)), np.ones((19, 30))])))
    assert np.isposinf(extremes[0]).all() and np.isneginf(extremes[1]).all()


@pytest.mark.parametrize(
    "shape,spacing",
    [((4,), None), ((1, 2, 2, 2, 2), None), ((1, 4, 4), (1.0,)), ((1, 4, 4), (1.0, 0.0)), ((1, 4, 4), (1.0, float("nan")))],
)
def test_ranks_and_spacings_that_do_not_fit_are_refused(shape, spacing):
    with pytest.raises(ValueError, match="spatial axes"):
        api.distance_transform(np.ones(shape, bool), spacing)
