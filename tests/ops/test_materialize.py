"""Laws of `ops.materialize`: the identity, also under gradients, vmap and for what no number equals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import ops


@pytest.mark.parametrize("value", [0.0, 1.0, np.inf, np.nan])
def test_stored_is_the_identity_for_any_number(value):
    x = jnp.full((2, 3), value, jnp.bfloat16)
    for f in (ops.materialize, jax.jit(ops.materialize), jax.vmap(ops.materialize)):
        np.testing.assert_array_equal(f(x).astype(jnp.float32), x.astype(jnp.float32))
    np.testing.assert_array_equal(jax.grad(lambda x: (ops.materialize(x) * 3).sum())(x), jnp.full((2, 3), 3, jnp.bfloat16))


def test_a_stored_array_is_computed_once_however_many_read_it():
    def program(keep):
        def f(x):
            y = keep(sum(jnp.roll(x, t, 0) * (t + 1.5) for t in range(6)))
            return jnp.pad(y, ((1, 1), (0, 0))), jnp.pad(y, ((0, 0), (1, 1))), y * 2

        return jax.jit(f).lower(jnp.ones((64, 64))).compile().cost_analysis()["flops"]

    assert program(ops.materialize) < 0.6 * program(lambda y: y)
