"""Laws of joined arrays."""

import jax
import numpy as np
import pytest

from jaxseg.optim import joined
from jaxseg.optim.joined import Layout, plan

TREE = {
    "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.bias": np.float32([7, 8]),
    "c.scale": np.float32([[9]]),
    "large": np.zeros(joined.SMALL + 1, np.float32),
    "alone": np.float32(1),
    "count": np.int32([1, 2]),
    "none": np.zeros((0, 3), np.float32),
}


def test_small_arrays_of_one_kind_lie_one_after_another_by_name():
    layout = plan(TREE)
    together = layout.join(TREE)
    assert together.keys() == {"large", "alone", "count", "none", "joined/0"}
    np.testing.assert_array_equal(together["joined/0"], [7, 8, 0, 1, 2, 3, 4, 5, 9])


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["numpy", "jit"])
def test_parting_is_the_inverse_of_joining(wrap):
    layout = plan(TREE)
    back = wrap(lambda tree: layout.part(layout.join(tree)))(TREE)
    assert back.keys() == TREE.keys()
    for name, value in TREE.items():
        assert back[name].shape == value.shape and back[name].dtype == value.dtype
        np.testing.assert_array_equal(back[name], value)


def test_parting_by_places_that_are_arguments_gives_the_same_and_arrays_of_one_shape_share_their_kernels():
    tree = {f"{i}.scale": np.arange(5, dtype=np.float32) + i for i in range(6)}
    layout = plan(tree)
    vectors = layout.join(tree)
    assert list(layout.starts()["joined/0"]) == [0, 5, 10, 15, 20, 25]
    part = jax.jit(layout.part)
    back = part(vectors, layout.starts())
    for name, value in tree.items():
        np.testing.assert_array_equal(back[name], value)
    text = part.lower(vectors, layout.starts()).compile().as_text()
    assert text.count("dynamic-slice(") == 6 and " slice(" not in text


def test_arrays_that_differ_in_what_must_be_alike_are_not_joined():
    layout = plan(TREE, alike=lambda name: name == "c.scale")
    assert layout.vectors == {"joined/0": (("a.bias", (2,)), ("b.weight", (2, 3)))}


def test_what_is_parted_outside_a_program_is_a_copy_that_the_next_step_cannot_change():
    vector = np.zeros(9, np.float32)
    parted = plan(TREE).part({"joined/0": vector})
    vector += 1
    assert not any(value.any() for value in parted.values())


def test_an_empty_tree_stays_empty_and_an_empty_layout_changes_nothing():
    assert plan(TREE).join({}) == plan(TREE).part({}) == {}
    assert Layout().join(TREE).keys() == Layout().part(TREE).keys() == TREE.keys()
