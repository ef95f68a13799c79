"""Norms with the activation that follows: one function, whose gradient written by hand is the one derived from the formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxseg import ops
from jaxseg.layers import BatchNorm, ForwardContext, GroupNorm, InstanceNorm, activation


def _plain(x, weight, bias, axes, eps, act, groups):
    if groups is None:
        mean, var = ops.moments(x, axes)
    else:
        grouped = x.reshape(*x.shape[:-1], groups, -1)
        mean, var = (jnp.repeat(m[..., 0], x.shape[-1] // groups, -1) for m in ops.moments(grouped, (*axes, x.ndim)))
    return activation(act)(ops.normalize(x, mean, var, weight, bias, eps)), mean, var


@pytest.mark.parametrize(
    "axes,groups,act,dtype",
    [
        ((0, 1, 2), None, "identity", jnp.float32),
        ((1, 2), None, "identity", jnp.bfloat16),
        ((0, 1, 2), None, "relu", jnp.float32),
        ((1, 2), None, "leaky_relu", jnp.float32),
        ((1, 2), 2, "silu", jnp.float32),
        ((0, 1, 2), None, "gelu", jnp.float32),
        ((0, 1, 2), None, "relu6", jnp.float32),
        ((0, 1, 2), None, "relu", jnp.bfloat16),
    ],
)
def test_gradient_equals_the_derived_one(axes, groups, act, dtype):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape) + 3, dtype)
    x, weight, bias = draw(3, 4, 5, 6), draw(6).astype(jnp.float32), draw(6).astype(jnp.float32) - 3
    outputs = jax.eval_shape(lambda *a: _plain(*a, axes, 1e-5, act, groups), x, weight, bias)
    cotangents = tuple(jnp.asarray(rng.normal(size=y.shape), y.dtype) for y in outputs)

    def both(norm, x, weight, bias, cotangents):
        y, pull = jax.vjp(lambda *a: norm(*a, axes, 1e-5, act, groups), x, weight, bias)
        return (*y, *pull(cotangents))

    tolerance = 100 * float(jnp.finfo(dtype).eps)  # sums of 60 numbers of size 3, in another order
    for a, b in zip(
        *(jax.jit(both, static_argnums=0)(norm, x, weight, bias, cotangents) for norm in (ops.standardize, _plain)), strict=True
    ):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(a.astype(jnp.float32), b.astype(jnp.float32), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("act", ["relu", "hard_swish"], ids=["fused", "applied afterwards"])
@pytest.mark.parametrize(
    "make",
    [BatchNorm, InstanceNorm, lambda c, **more: GroupNorm(2, c, **more), lambda c, **more: InstanceNorm(c, affine=False, **more)],
    ids=["batch", "instance", "group", "instance without affine"],
)
def test_a_norm_given_an_activation_is_the_norm_and_then_the_activation(make, act):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 6)), jnp.float32)
    norms = [make(6, rngs=nnx.Rngs(0)) for _ in range(2)]
    for run in (ForwardContext(train=True), ForwardContext(train=False)):
        np.testing.assert_allclose(norms[0](x, run, act=act), activation(act)(norms[1](x, run)), atol=1e-6)
    for a, b in zip(*(jax.tree.leaves(nnx.state(norm)) for norm in norms)):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(Exception, match="mish"):
        norms[0](x, act="mish")


def test_the_sums_of_a_norm_store_nothing_on_a_cpu():
    """XLA would keep x - mean, which four expressions hold, from the forward to the backward pass."""

    def both(x, weight, bias, g):
        y, pull = jax.vjp(lambda *a: ops.standardize(*a, (0, 1, 2), 1e-5, "relu")[0], x, weight, bias)
        return y, pull(g)

    x, row = jax.ShapeDtypeStruct((2, 32, 32, 32), jnp.float32), jax.ShapeDtypeStruct((32,), jnp.float32)
    compiled = jax.jit(both).lower(x, row, row, x).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.1 * 4 * 2 * 32**3
