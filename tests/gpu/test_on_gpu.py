"""On a GPU: kernels against numpy in float64, twice with the same bits. Skipped elsewhere.

Structured inputs: channels and rows differ in scale and sign, so that a halo read from the neighbouring row or block, which is
1 % of a sum over 128 rows, is not lost in the noise of the others. Odd sizes, and channels that are no power of two.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import ops
from jaxseg.models import create_model, functional
from jaxseg.ops.attention import reference as attention_reference
from jaxseg.ops.conv.gpu import depthwise
from jaxseg.ops.conv.spec import Spec


@pytest.fixture(autouse=True)
def _gpu():
    if jax.default_backend() != "gpu":
        pytest.skip("needs a GPU")


# x [B, *S, C], kernel, dilation
CONVS = (
    ((2, 41, 67, 24), (1, 7), 1),
    ((2, 67, 41, 40), (11, 1), 1),
    ((2, 130, 43, 144), (1, 21), 1),
    ((2, 129, 33, 64), (21, 1), 1),
    ((3, 33, 35, 40), (3, 3), 1),
    ((2, 37, 41, 24), (5, 5), 1),
    ((2, 37, 41, 144), (5, 5), 1),
    ((1, 29, 31, 24), (7, 7), 1),
    ((1, 17, 19, 21, 40), (3, 3, 3), 1),
    ((1, 17, 19, 21, 24), (3, 3, 3), 3),
    ((1, 13, 15, 17, 24), (5, 5, 5), 2),
    ((1, 15, 17, 19, 24), (7, 7, 7), 1),
    ((1, 15, 14, 17, 16), (13, 13, 13), 1),
)
LIMITS = {"float32": 1e-5, "bfloat16": 5e-3}  # of the largest value; inputs are exact in both, results are rounded


def structured(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Normals times a slope along every axis, rounded to bfloat16: what a wrong neighbour would bring stands out."""
    x = np.random.default_rng(seed).normal(size=shape)
    for axis, n in enumerate(shape):
        x = x * np.linspace(0.5, 2.0, n).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    x[(slice(None), *(slice(None, None, 7) for _ in shape[1:-1]))] += 3.0
    return np.asarray(jnp.asarray(x, jnp.bfloat16).astype(jnp.float32), np.float64)


def taps(spec: Spec, kernel, out):
    """(tap, slices of the padded input that meet it)."""
    for tap in itertools.product(*map(range, kernel)):
        starts = [t * d for t, d in zip(tap, spec.dilation)]
        yield tap, (slice(None), *(slice(a, a + (o - 1) * s + 1, s) for a, o, s in zip(starts, out, spec.stride)))


@functools.cache
def exact(shape, kernel, dilation):
    """(spec, x, w, g, output, input gradient, weight gradient), in float64."""
    rank, channels = len(kernel), shape[-1]
    pads = tuple((dilation * (k - 1) // 2,) * 2 for k in kernel)
    spec = Spec((1,) * rank, pads, (dilation,) * rank, channels)
    out = spec.output(shape[1:-1], kernel)
    x, w, g = structured(shape, 0), structured((*kernel, 1, channels), 1), structured((shape[0], *out, channels), 2)
    padded = np.pad(x, ((0, 0), *pads, (0, 0)))
    y, dx, dw = np.zeros(g.shape), np.zeros(padded.shape), np.zeros(w.shape)
    for tap, where in taps(spec, kernel, out):
        y += padded[where] * w[tap]
        dx[where] += g * w[tap]
        dw[tap][0] = (padded[where] * g).sum(tuple(range(rank + 1)))
    inner = (slice(None), *(slice(lo, lo + n) for (lo, _), n in zip(pads, shape[1:-1])))
    return spec, x, w, g, y, dx[inner], dw


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("case", CONVS, ids=lambda c: f"{'x'.join(map(str, c[1]))}-{c[0][-1]}-dilation{c[2]}")
def test_depthwise_kernels_equal_numpy_in_float64(case, dtype):
    spec, x, w, g, *wanted = exact(*case)
    x, w, g = (jnp.asarray(a, dtype) for a in (x, w, g))
    calls = (
        jax.jit(functools.partial(depthwise.forward, spec)),
        jax.jit(functools.partial(depthwise.input_gradient, spec, case[0][1:-1])),
        jax.jit(functools.partial(depthwise.weight_gradient, spec, case[1])),
    )
    for call, arrays, right in zip(calls, ((x, w), (g, w), (x, g)), wanted):
        found, again = (np.asarray(call(*arrays), np.float64) for _ in range(2))
        np.testing.assert_array_equal(found, again)
        assert np.abs(found - right).max() <= LIMITS[dtype] * np.abs(right).max()


@pytest.mark.parametrize("bias, regions", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("t, s, d", [(343, 343, 16), (1024, 64, 32), (216, 216, 24)])
def test_attention_and_its_gradients_equal_the_whole_score_matrix(t, s, d, bias, regions):
    if regions and t != s:
        pytest.skip("regions are of positions that attend to each other")
    b, heads = 8, 3
    q, k, v, g = (
        jnp.asarray(np.random.default_rng(i).normal(size=(b, n, heads, d)), jnp.bfloat16) for i, n in enumerate((t, s, s, t))
    )
    added = jnp.asarray(np.random.default_rng(9).normal(size=(1, heads, t, s)), jnp.float32) if bias else None
    rows = np.stack([np.zeros(t, np.int32), np.arange(t, dtype=np.int32) * 5 // t]) if regions else None
    ours = lambda q, k, v, added: ops.attention(q, k, v, bias=added, regions=rows)

    def plain(q, k, v, added):
        joined = attention_reference.joined(added, None if rows is None else jnp.asarray(rows), b)
        return attention_reference.attention(q, k, v, bias=joined, scale=d**-0.5)

    both = lambda f: jax.jit(lambda q, k, v, added, g: (f(q, k, v, added), *jax.vjp(f, q, k, v, added)[1](g)))
    wide = [None if a is None else a.astype(jnp.float32) for a in (q, k, v, added, g)]
    with jax.default_matmul_precision("highest"):
        wanted = both(plain)(*wide)
    for found, right in zip(jax.tree.leaves(both(ours)(q, k, v, added, g)), jax.tree.leaves(wanted)):
        found, right = np.asarray(found, np.float32), np.asarray(right)
        assert np.linalg.norm(found - right) <= 1e-2 * np.linalg.norm(right)  # bfloat16 weights of the softmax


NETWORKS = ("segnext_test", "segformer_test", "effisegnet_test", "unet3d_test", "swin_unetr_test", "nnunet_plain_test")


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_in_float32_equal_the_cpu_and_bfloat16_is_close(name, monkeypatch):
    monkeypatch.setenv("JAXSEG_CONV", "pallas")  # the sizes are below those from which kernels are chosen
    network, params, state = functional.split(create_model(name))
    rank = len(next(p for n, p in params.items() if p.ndim >= 4).shape) - 2
    size = (64,) * rank
    image = np.random.default_rng(0).normal(size=(2, *size, create_model(name).in_channels)).astype(np.float32)
    run = lambda p, s, x: network.apply(p, s, x)[0].logits
    here = jax.devices("cpu")[0]
    wanted = np.asarray(jax.jit(run)(*jax.device_put((params, state, image), here)))
    with jax.default_matmul_precision("highest"):
        found = np.asarray(jax.jit(run)(params, state, image))
    scale = wanted.std()
    assert np.abs(found - wanted).max() <= 1e-3 * scale
    low = np.asarray(jax.jit(run)(params, state, image.astype(jnp.bfloat16)))
    assert np.sqrt(np.mean((low - wanted) ** 2)) <= 0.1 * scale
