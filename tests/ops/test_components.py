"""Connected components equal scipy's, also where components are as long as they can be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxseg.ops.components import api, device, host

label = jax.jit(api.label, static_argnames="connectivity")


def expected(mask: np.ndarray, connectivity: int) -> np.ndarray:
    """scipy's labels, renumbered in the order of the first voxel."""
    labels, count = ndimage.label(mask, ndimage.generate_binary_structure(mask.ndim, connectivity))
    _, first = np.unique(labels, return_index=True)
    order = np.argsort(first[-count:]) if count else np.zeros(0, int)
    renumber = np.zeros(count + 1, int)
    renumber[order + 1] = np.arange(1, count + 1)
    return renumber[labels]


def spiral(n: int) -> np.ndarray:
    """One line, one voxel wide, from the rim to the centre, with gaps of one voxel between its turns."""
    mask = np.zeros((n, n), bool)
    row, column, (dy, dx) = 0, 0, (0, 1)
    mask[0, 0] = True
    stuck = 0
    while stuck < 2:
        ahead, beyond = (row + dy, column + dx), (row + 2 * dy, column + 2 * dx)
        inside = 0 <= ahead[0] < n and 0 <= ahead[1] < n and not mask[ahead]
        if inside and not (0 <= beyond[0] < n and 0 <= beyond[1] < n and mask[beyond]):
            (row, column), stuck = ahead, 0
            mask[row, column] = True
        else:
            (dy, dx), stuck = (dx, -dy), stuck + 1
    return mask


def snake(n: int) -> np.ndarray:
    mask = np.zeros((n, n), bool)
    mask[::2] = True
    mask[1::4, -1] = mask[3::4, 0] = True
    return mask


@pytest.mark.parametrize(
    "shape,connectivity", [((200,), 1), ((31, 32), 1), ((31, 32), 2), ((9, 10, 11), 1), ((9, 10, 11), 2), ((9, 10, 11), 3)]
)
def test_random_masks_of_every_density_are_labelled_as_scipy_does(shape, connectivity):
    rng = np.random.default_rng(0)
    for density in (0.0, 0.05, 0.2, 0.35, 0.5, 0.6, 0.7, 0.9, 1.0):
        mask = rng.random(shape) < density
        for ours in (label(mask, connectivity), api.label(mask, connectivity), api.label(jnp.asarray(mask), connectivity)):
            assert ours.dtype == jnp.int32
            np.testing.assert_array_equal(np.asarray(ours), expected(mask, connectivity), err_msg=f"density {density}")


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_snakes_and_spirals_are_one_component_however_they_lie(turn):
    two = spiral(64)
    assert ndimage.label(two)[1] == 1 and two.sum() > 64 * 64 // 3
    for mask in (two, snake(64), ~two, ~snake(64), two[::-1] & ~snake(64)):
        mask = np.rot90(mask, turn)
        for ours in (label(mask), api.label(mask)):  # rot90 is a view: memory runs another way than the axes
            np.testing.assert_array_equal(np.asarray(ours), expected(mask, 1))


def test_a_path_through_a_volume_in_an_order_of_indices_that_misleads():
    rng = np.random.default_rng(1)
    mask = np.zeros((16, 16, 16), bool)
    for _ in range(12):  # random walks of even coordinates: long, thin, crossing the indices' order
        at = rng.integers(0, 8, 3) * 2
        for _ in range(60):
            axis, step = rng.integers(3), rng.choice((-1, 1))
            for _ in range(2):
                at[axis] = np.clip(at[axis] + step, 0, 15)
                mask[tuple(at)] = True
    for connectivity in (1, 2, 3):
        np.testing.assert_array_equal(np.asarray(label(mask, connectivity)), expected(mask, connectivity))


def test_vmap_labels_each_image_of_a_batch():
    masks = np.random.default_rng(2).random((3, 12, 12)) < 0.5
    ours = np.asarray(jax.jit(jax.vmap(api.label))(masks))
    np.testing.assert_array_equal(ours, np.stack([expected(m, 1) for m in masks]))


def test_sizes_and_centroids_equal_scipys_and_missing_components_are_zero_and_nan():
    mask = np.random.default_rng(3).random((9, 10, 11)) < 0.3
    labels = label(mask, 1)
    count = int(labels.max())
    index = np.arange(1, count + 1)
    sizes, centres = api.sizes(labels, count + 2), np.asarray(api.centroids(labels, count + 2))
    np.testing.assert_array_equal(np.asarray(sizes), [*ndimage.sum_labels(mask, np.asarray(labels), index), 0, 0])
    np.testing.assert_allclose(centres[:count], ndimage.center_of_mass(mask, np.asarray(labels), index), atol=1e-5)  # float32
    assert np.isnan(centres[count:]).all()
    np.testing.assert_array_equal(np.asarray(api.sizes(labels, 3)), np.asarray(sizes)[:3])  # later labels are not counted
    np.testing.assert_allclose(np.asarray(api.centroids(labels, 3)), centres[:3])


def test_largest_is_the_component_of_most_voxels_and_the_first_of_equals():
    mask = np.random.default_rng(4).random((31, 32)) < 0.5
    for connectivity in (1, 2):
        labels = expected(mask, connectivity)
        for largest in (jax.jit(api.largest, static_argnames="connectivity"), api.largest):
            ours = np.asarray(largest(mask, connectivity))
            np.testing.assert_array_equal(ours, labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1)
    equals = np.zeros((5, 5), bool)
    equals[0, :2] = equals[3, 3:] = True
    for largest in (api.largest, jax.jit(api.largest)):
        assert np.asarray(largest(equals)).sum() == 2 and np.asarray(largest(equals))[0, 0]
        assert not np.asarray(largest(np.zeros((5, 5), bool))).any()


def test_remove_small_keeps_components_of_at_least_so_many_voxels():
    mask = np.random.default_rng(5).random((31, 32)) < 0.4
    labels = expected(mask, 1)
    counts = np.bincount(labels.ravel())
    for voxels in (0, 1, 4, 10, 10_000):
        for remove_small in (jax.jit(api.remove_small), api.remove_small):
            np.testing.assert_array_equal(np.asarray(remove_small(mask, voxels)), mask & (counts[labels] >= voxels))


def test_a_mask_is_labelled_where_it_lies_and_the_result_stays_there(monkeypatch):
    mask = np.random.default_rng(6).random((9, 8)) < 0.5
    seen = []
    for module in (host, device):
        plain = module.label
        monkeypatch.setattr(module, "label", lambda *a, plain=plain, module=module: seen.append(module) or plain(*a))
    on_last = jax.device_put(mask, jax.devices()[-1])
    assert isinstance(api.label(mask), np.ndarray)
    assert api.label(on_last).devices() == on_last.devices()
    jax.jit(api.label)(on_last)
    assert seen == [host, host, device]


@pytest.mark.parametrize("connectivity", [0, 3])
def test_a_connectivity_that_the_rank_does_not_have_is_refused(connectivity):
    with pytest.raises(ValueError, match="connectivity"):
        api.label(np.ones((3, 3), bool), connectivity)
