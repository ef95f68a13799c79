"""The gradient of `standardize` written by hand is the one XLA derives from the formulas, for every output."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import ops


def _plain(x, weight, bias, axes, eps):
    mean, var = ops.moments(x, axes)
    return ops.normalize(x, mean, var, weight, bias, eps), mean, var


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2)], ids=["batch", "instance"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_gradient_equals_the_derived_one(axes, dtype):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape) + 3, dtype)
    x, weight, bias = draw(3, 4, 5, 6), draw(6).astype(jnp.float32), draw(6).astype(jnp.float32)
    found, pull = jax.vjp(lambda *a: ops.standardize(*a, axes, 1e-5), x, weight, bias)
    wanted, pull_plain = jax.vjp(lambda *a: _plain(*a, axes, 1e-5), x, weight, bias)
    cotangents = tuple(jnp.asarray(rng.normal(size=y.shape), y.dtype) for y in wanted)
    tolerance = 100 * float(jnp.finfo(dtype).eps)  # sums of 60 numbers of size 3, in another order
    for a, b in zip((*found, *pull(cotangents)), (*wanted, *pull_plain(cotangents))):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(a.astype(jnp.float32), b.astype(jnp.float32), atol=tolerance, rtol=tolerance)
