"""Attention in blocks equals attention with the whole score matrix, gradients included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import ops
from jaxseg.ops import devices
from jaxseg.ops.attention import api, reference, streamed


def _arrays(b, t, s, h, d, dtype=np.float32):
    rng = np.random.default_rng(b * t + s)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
    return draw(b, t, h, d), draw(b, s, h, d), draw(b, s, h, d), draw(b, t, h, d)


def _addends(b, t, s, h, batches, heads, rows):
    rng = np.random.default_rng(7)
    bias = jnp.asarray(rng.normal(size=(batches, heads, t, s)), jnp.float32) if batches else None
    return bias, jnp.asarray(rng.integers(0, 3, (rows, t)), jnp.int32) if rows else None


def _with_gradients(run, *arrays):
    """run(*arrays) and its gradients, as one program; the last array is the gradient of the result."""

    def both(*arrays):
        out, back = jax.vjp(run, *arrays[:-1])
        return (out, *jax.tree.leaves(back(arrays[-1])))

    return jax.jit(both)(*arrays)


CASES = {  # b, t, s, heads, d, entries and heads of the bias, rows of regions, numbers in a block
    "one head at a time": (2, 9, 9, 3, 4, 1, 3, 2, 100),
    "several heads": (2, 9, 9, 4, 4, 1, 4, 1, 200),
    "several entries": (6, 5, 5, 2, 4, 1, 2, 3, 100),
    "blocks of rows, the last one short": (2, 11, 7, 2, 4, 0, 0, 0, 30),
    "rows and regions": (2, 11, 11, 2, 4, 0, 0, 2, 40),
    "rows, a bias for each entry, one for all heads": (2, 11, 7, 2, 4, 2, 1, 0, 30),
    "regions alone": (4, 6, 6, 1, 8, 0, 0, 2, 72),
    "a row larger than the block": (1, 3, 40, 2, 4, 1, 1, 0, 10),
}


@pytest.mark.parametrize("case", CASES)
def test_blocks_equal_the_whole_matrix(case):
    b, t, s, h, d, batches, heads, rows, block = CASES[case]
    q, k, v, grad = _arrays(b, t, s, h, d)
    bias, regions = _addends(b, t, s, h, batches, heads, rows)
    mine = lambda q, k, v, bias: streamed.attention(q, k, v, bias=bias, regions=regions, scale=0.3, block=block)
    plain = lambda q, k, v, bias: reference.attention(q, k, v, bias=reference.joined(bias, regions, b), scale=0.3)
    both = (_with_gradients(run, q, k, v, bias, grad) for run in (mine, plain))
    for found, wanted in zip(*both, strict=True):
        np.testing.assert_allclose(found, wanted, atol=3e-6, rtol=1e-5)


_RUN = functools.partial(streamed.attention, bias=None, regions=None, scale=0.5, block=32)
_PLAIN = functools.partial(reference.attention, bias=None, scale=0.5)


def test_blocks_in_bfloat16_stay_near_float32():
    arrays = _arrays(2, 24, 24, 2, 8)
    half = tuple(a.astype(jnp.bfloat16) for a in arrays)
    for found, exact in zip(_with_gradients(_RUN, *half), _with_gradients(_PLAIN, *arrays), strict=True):
        assert found.dtype == jnp.bfloat16
        assert np.abs(np.asarray(found, np.float32) - exact).max() < 0.03 * np.abs(exact).max()


def test_blocks_can_be_mapped():
    q, k, v, _ = _arrays(3, 8, 8, 2, 4)
    one = lambda f: jax.jit(jax.vmap(lambda q, k, v: f(q[None], k[None], v[None])[0]))(q, k, v)
    np.testing.assert_allclose(one(_RUN), one(_PLAIN), atol=2e-6)


def test_blocks_can_be_differentiated_twice():
    q, k, v, _ = _arrays(3, 8, 8, 2, 4)
    twice = lambda f: jax.jit(jax.grad(lambda q: jnp.sum(jax.grad(lambda q: jnp.sum(f(q, k, v) ** 2))(q) ** 2)))(q)
    np.testing.assert_allclose(twice(_RUN), twice(_PLAIN), atol=1e-4)


def test_large_scores_are_cut_and_small_ones_are_not(monkeypatch):
    monkeypatch.setattr(api, "CACHED", 64)
    q, k, v, _ = _arrays(4, 8, 8, 2, 4)
    assert "while" in jax.jit(ops.attention).lower(q, k, v).as_text()
    assert "while" not in jax.jit(ops.attention).lower(q[:1], k[:1], v[:1]).as_text()


def test_several_devices_each_take_their_part_of_the_batch(monkeypatch):
    monkeypatch.setattr(api, "CACHED", 64)
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    q, k, v, grad = _arrays(2 * jax.device_count(), 9, 9, 2, 4)
    bias, regions = _addends(len(q), 9, 9, 2, 1, 2, 2)
    run = lambda *arrays: _with_gradients(functools.partial(_parted, regions=regions), *arrays)
    found = jax.jit(devices.over(mesh, run))(*(jax.device_put(a, spread) for a in (q, k, v)), bias, jax.device_put(grad, spread))
    plain = lambda q, k, v, bias: reference.attention(q, k, v, bias=reference.joined(bias, regions, len(q)), scale=0.5)
    for mine, wanted in zip(found, _with_gradients(plain, q, k, v, bias, grad), strict=True):
        np.testing.assert_allclose(mine, wanted, atol=3e-6, rtol=1e-5)


def _parted(q, k, v, bias, *, regions):
    return ops.attention(q, k, v, bias=bias, regions=regions, scale=0.5)


@pytest.mark.parametrize("regions, keys", [((3, 9), 9), ((2, 8), 9), ((0, 9), 9), ((2, 9), 7)])
def test_regions_that_do_not_fit_are_refused(regions, keys):
    q, k, v, _ = _arrays(4, 9, keys, 2, 4)
    with pytest.raises(ValueError, match="M a divisor of 4, and T = S"):
        ops.attention(q, k, v, regions=np.zeros(regions, np.int32))
