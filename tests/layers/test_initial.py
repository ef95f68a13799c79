"""Initial values: the keys that parameters are drawn with are those of flax, without its dispatches."""

import jax
import numpy as np
import pytest
from flax import nnx

from jaxseg.layers import initial


@pytest.mark.parametrize("seed", [0, 42, 2**31 - 1])
def test_a_key_and_a_number_fold_to_the_words_of_jax(seed):
    key = jax.random.key(seed)
    for number in (0, 1, 356, 2**32 - 1):
        theirs = np.asarray(jax.random.key_data(jax.random.fold_in(key, np.uint32(number))))
        assert initial.fold_in(np.asarray(jax.random.key_data(key)), number) == theirs.tolist()


def test_parameters_are_drawn_in_turn_from_the_stream_that_flax_keeps():
    ours, theirs = nnx.Rngs(7), nnx.Rngs(7)
    for _ in range(3):
        drawn = initial.normal(2.0)(ours, (3, 4))
        seed = np.asarray(jax.random.key_data(theirs.params())).tolist()
        np.testing.assert_array_equal(drawn, np.random.default_rng(seed).normal(0.0, 2.0, (3, 4)).astype(np.float32))
    assert jax.random.key_data(ours.params()).tolist() == jax.random.key_data(theirs.params()).tolist()  # and goes on with flax
