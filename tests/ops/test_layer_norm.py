"""Layer norm: its gradient written by hand is the derived one, wherever it runs and however it is mapped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxseg import ops
from jaxseg.ops.conv.matmul import matmul
from tests.ops import cuda_export

EPS = 1e-3


def _derived(x, weight, bias):
    return ops.normalize(x, *ops.moments(x, (-1,)), weight, bias, EPS)


def _hand(x, weight, bias):
    return ops.layer_norm(x, weight, bias, EPS)


def _arguments(*shape, dtype=jnp.float32, affine=True, offset=3.0):
    """x far from 0 beside its spread, weight and bias, and a cotangent."""
    rng = np.random.default_rng(0)
    draw = lambda *s: jnp.asarray(rng.normal(size=s), jnp.float32)
    factors = (draw(shape[-1]), draw(shape[-1])) if affine else (None, None)
    return ((draw(*shape) + offset).astype(dtype), *factors), draw(*shape).astype(dtype)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (11, 6)])
def test_gradient_equals_the_derived_one(shape, dtype, affine):
    arguments, g = _arguments(*shape, dtype=dtype, affine=affine)
    (y, pull), (wanted, pull_derived) = (jax.vjp(f, *arguments) for f in (_hand, _derived))
    np.testing.assert_array_equal(y, wanted)
    eps = float(jnp.finfo(dtype).eps)
    for a, b in zip(jax.tree.leaves(pull(g)), jax.tree.leaves(pull_derived(g)), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        # sums of some 30 numbers of size 1 in another order; in bfloat16 the derived one rounds in between
        np.testing.assert_allclose(a.astype(jnp.float32), b.astype(jnp.float32), atol=30 * eps, rtol=30 * eps)


def test_values_far_from_zero_keep_their_digits():
    """Beside the formula in double precision, whose error is that of x alone."""
    (x, weight, bias), g = _arguments(4, 16, offset=1000.0)
    found = jax.vjp(_hand, x, weight, bias)[1](g)
    with jax.enable_x64():
        wide = [jnp.asarray(np.asarray(a), jnp.float64) for a in (x, weight, bias, g)]
        formula = lambda x, w, b: (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + EPS) * w + b
        wanted = [np.asarray(a) for a in jax.vjp(formula, *wide[:3])[1](wide[3])]
    for a, b in zip(found, wanted):
        np.testing.assert_allclose(a, b, atol=1e-3)  # the mean of x is known to 6e-5, and is 4 terms of the sums


def test_vmap_over_all_arguments_equals_a_loop():
    (x, weight, bias), g = _arguments(3, 4, 6)
    weights, biases = jnp.stack([weight, 2 * weight, -weight]), jnp.stack([bias, bias, 3 * bias])
    gradient = jax.grad(lambda *a: jnp.vdot(_hand(*a[:3]), a[3]), (0, 1, 2))
    found = jax.vmap(gradient)(x, weights, biases, g)
    for i in range(3):
        for f, o in zip(found, gradient(x[i], weights[i], biases[i], g[i])):
            np.testing.assert_allclose(f[i], o, atol=1e-5)


@pytest.mark.parametrize(
    "function,extra",
    [(_hand, (6,)), (lambda x, w, b: ops.standardize(x, w, b, (1,), EPS, "relu")[0], (6,)), (lambda x, w: matmul(x, w), (6, 5))],
    ids=["layer norm", "instance norm", "matrix product"],
)
def test_under_shard_map_weights_have_the_sum_of_all_shards_gradients(function, extra):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    (x, *_), _ = _arguments(8, 3, 6)
    w = jnp.asarray(np.random.default_rng(1).normal(size=extra), jnp.float32)
    arguments = (x, w, w) if extra == (6,) else (x, w)
    gradient = jax.grad(lambda *a: jnp.sin(function(*a)).sum(), tuple(range(len(arguments))))
    specs = (P("data"), *[P()] * (len(arguments) - 1))
    found = jax.jit(jax.shard_map(gradient, mesh=mesh, in_specs=specs, out_specs=specs))(*arguments)
    for f, o in zip(found, gradient(*arguments)):
        np.testing.assert_allclose(f, o, atol=2e-5)  # float32 sums over 24 positions in another order


def test_forward_and_backward_store_nothing_of_the_inputs_size_on_a_cpu():
    def both(x, weight, bias, g):
        y, pull = jax.vjp(_hand, x, weight, bias)
        return y, pull(g)

    x, row = jax.ShapeDtypeStruct((2, 4096, 32), jnp.float32), jax.ShapeDtypeStruct((32,), jnp.float32)
    compiled = jax.jit(both).lower(x, row, row, x).compile()
    # mean, r and two products of each position: 4 numbers for its 32
    assert compiled.memory_analysis().temp_size_in_bytes < 0.2 * 4 * 2 * 4096 * 32


def test_a_gpu_gets_sums_without_barriers_or_products():
    x, row = jax.ShapeDtypeStruct((2, 64, 32), jnp.float32), jax.ShapeDtypeStruct((32,), jnp.float32)
    text = cuda_export.lowered(lambda x, w, b, g: jax.vjp(_hand, x, w, b)[1](g), x, row, row, x)
    assert "optimization_barrier" not in text and "dot_general" not in text and "stablehlo.reduce" in text
