"""Resizing, pooling, transposed convolution, normalisation and GELU agree with PyTorch, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import ops
from jaxseg.layers import BatchNorm, ForwardContext, GroupNorm, InstanceNorm, LayerNorm
from jaxseg.ops import tally

torch = pytest.importorskip("torch", reason="parity needs the extra [parity]")
F = torch.nn.functional

CLOSE = dict(atol=3e-5, rtol=3e-5)  # float32 sums of some hundred unit-variance products in another order


def _array(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _torch(x):
    return torch.tensor(np.moveaxis(x, -1, 1).copy(), requires_grad=True)


def _last(t):
    return np.moveaxis(t.detach().numpy(), 1, -1)


def _same(ours, theirs, x):
    """ours(x) == theirs(x) and so are their gradients at x, for a random cotangent."""

    @jax.jit
    def both(x, g):
        y, pull = jax.vjp(ours, x)
        return y, pull(g)[0]

    tx = _torch(x)
    ty = theirs(tx)
    g = _array(*_last(ty).shape, seed=1)
    y, gradient = both(x, g)
    np.testing.assert_allclose(y, _last(ty), **CLOSE)
    ty.backward(torch.tensor(np.moveaxis(g, -1, 1).copy()))
    np.testing.assert_allclose(gradient, _last(tx.grad), **CLOSE)


@pytest.mark.parametrize("size,new", [((5, 7), (11, 13)), ((8, 6), (3, 4)), ((1, 4), (5, 1)), ((3, 4, 5), (6, 5, 9))], ids=str)
@pytest.mark.parametrize("align", [False, True])
def test_linear_resize_equals_interpolate(size, new, align):
    mode = "bilinear" if len(size) == 2 else "trilinear"
    _same(
        lambda x: ops.resize(x, new, align_corners=align),
        lambda t: F.interpolate(t, new, mode=mode, align_corners=align),
        _array(2, *size, 3),
    )


@pytest.mark.parametrize(
    "size,new,kernel",
    [((1, 1), (9, 6), 3), ((6, 5), (11, 13), 3), ((2, 3), (4, 3), 5), ((7, 6), (3, 4), 3), ((2, 1, 3), (5, 4, 6), 3)],
    ids=str,
)
@pytest.mark.parametrize("align", [False, True])
def test_convolutions_of_resized_maps_equal_convolutions_after_interpolate(size, new, kernel, align):
    mode, convolve = ("bilinear", F.conv2d) if len(size) == 2 else ("trilinear", F.conv3d)
    w = _array(*(kernel,) * len(size), 3, 4)
    _same(
        lambda x: ops.convolve_resized(x, new, jnp.asarray(w), align_corners=align),
        lambda t: convolve(
            F.interpolate(t, new, mode=mode, align_corners=align),
            torch.tensor(np.moveaxis(w, (-1, -2), (0, 1)).copy()),
            padding=kernel // 2,
        ),
        _array(2, *size, 3),
    )


def test_convolutions_of_resized_maps_count_what_they_stand_for_and_have_the_gradient_of_the_kernel():
    x, w = jnp.asarray(_array(2, 3, 2, 3)), jnp.asarray(_array(3, 3, 3, 4))
    found = {}
    for way in (
        lambda x, w: ops.convolve_resized(x, (8, 9), w, align_corners=True),
        lambda x, w: ops.conv(ops.resize(x, (8, 9), align_corners=True), w),
    ):
        with tally.counting() as counts:
            gradient = jax.grad(lambda w, way=way: jnp.sum(jnp.sin(way(x, w))))(w)
        found[way] = dict(counts), gradient
    (counts, gradient), (wanted, reference) = found.values()
    assert counts == wanted
    np.testing.assert_allclose(gradient, reference, **CLOSE)


@pytest.mark.parametrize("size,new", [((5, 7), (10, 7)), ((8, 6), (5, 13)), ((1, 2), (3, 3))])
def test_cubic_resize_equals_interpolate(size, new):
    _same(lambda x: ops.resize(x, new, "cubic"), lambda t: F.interpolate(t, new, mode="bicubic"), _array(2, *size, 3))


@pytest.mark.parametrize("size,new", [((5, 7), (11, 13)), ((9, 8), (4, 3)), ((4, 6), (8, 12)), ((3, 4, 5), (7, 4, 2))], ids=str)
def test_nearest_resize_equals_interpolate_at_any_ratio(size, new):
    _same(lambda x: ops.resize(x, new, "nearest"), lambda t: F.interpolate(t, new, mode="nearest"), _array(2, *size, 3))


@pytest.mark.parametrize("size,bins", [((7, 10), (3, 4)), ((6, 6), (2, 3)), ((5, 4, 7), (2, 4, 3))], ids=str)
def test_adaptive_average_pool_equals_torch(size, bins):
    theirs = F.adaptive_avg_pool2d if len(size) == 2 else F.adaptive_avg_pool3d
    _same(lambda x: ops.adaptive_avg_pool(x, bins), lambda t: theirs(t, bins), _array(2, *size, 3))


@pytest.mark.parametrize("size,kernel,stride,pad", [((7, 8), 2, 2, 0), ((9, 7), 3, 2, 1), ((5, 6, 7), 2, 2, 0)], ids=str)
def test_max_pool_equals_torch(size, kernel, stride, pad):
    theirs = F.max_pool2d if len(size) == 2 else F.max_pool3d
    _same(
        lambda x: ops.max_pool(x, kernel, stride=stride, padding=pad),
        lambda t: theirs(t, kernel, stride, pad),
        _array(2, *size, 3),
    )


@pytest.mark.parametrize("size", [(7, 8), (5, 4, 6)], ids=str)
def test_average_pool_equals_torch(size):
    theirs = F.avg_pool2d if len(size) == 2 else F.avg_pool3d
    _same(lambda x: ops.avg_pool(x, 2), lambda t: theirs(t, 2), _array(2, *size, 3))


@pytest.mark.parametrize(
    "size,kernel,stride,pad", [((4, 5), 2, 2, 0), ((3, 4), 4, 2, 1), ((3, 3, 2), 2, 2, 0), ((4, 3), 3, 3, 1)], ids=str
)
def test_transposed_convolution_equals_torch(size, kernel, stride, pad):
    theirs = F.conv_transpose2d if len(size) == 2 else F.conv_transpose3d
    x, w = _array(2, *size, 3), _array(*(kernel,) * len(size), 3, 4, seed=2)
    tw = torch.tensor(np.moveaxis(w, (-2, -1), (0, 1)).copy(), requires_grad=True)
    _same(
        lambda x: ops.conv_transpose(x, jnp.asarray(w), stride=stride, padding=pad),
        lambda t: theirs(t, tw, stride=stride, padding=pad),
        x,
    )
    dw = jax.grad(lambda w: jnp.square(ops.conv_transpose(jnp.asarray(x), w, stride=stride, padding=pad)).sum())(jnp.asarray(w))
    tw.grad = None
    theirs(_torch(x), tw, stride=stride, padding=pad).square().sum().backward()
    np.testing.assert_allclose(dw, np.moveaxis(tw.grad.numpy(), (0, 1), (-2, -1)), rtol=1e-4, atol=1e-3)  # sums of squares ~100


def test_gelu_and_both_derivatives_equal_torch():
    x = np.linspace(-6, 6, 241, dtype=np.float32)
    t = torch.tensor(x, requires_grad=True)
    first = torch.autograd.grad(F.gelu(t).sum(), t, create_graph=True)[0]
    second = torch.autograd.grad(first.sum(), t)[0]
    grad = jax.vmap(jax.grad(ops.gelu))
    np.testing.assert_allclose(ops.gelu(x), F.gelu(t).detach(), atol=1e-6)
    np.testing.assert_allclose(grad(x), first.detach(), atol=1e-6)
    np.testing.assert_allclose(jax.vmap(jax.grad(jax.grad(ops.gelu)))(x), second, atol=2e-6)


NORMS = {
    "batch": (lambda r: BatchNorm(6, rngs=r), lambda t, w, b: F.batch_norm(t, None, None, w, b, training=True)),
    "layer": (lambda r: LayerNorm(6, rngs=r), lambda t, w, b: F.layer_norm(t.movedim(1, -1), (6,), w, b).movedim(-1, 1)),
    "group": (lambda r: GroupNorm(3, 6, rngs=r), lambda t, w, b: F.group_norm(t, 3, w, b)),
    "instance": (lambda r: InstanceNorm(6, rngs=r), lambda t, w, b: F.instance_norm(t, weight=w, bias=b)),
}


@pytest.mark.parametrize("name", NORMS)
def test_normalisation_and_its_gradients_equal_torch(name):
    from flax import nnx

    make, theirs = NORMS[name]
    layer = make(nnx.Rngs(0))
    weight, bias = _array(6, seed=3), _array(6, seed=4)
    tw, tb = torch.tensor(weight, requires_grad=True), torch.tensor(bias, requires_grad=True)

    def ours(x, weight, bias):
        fresh = make(nnx.Rngs(0))
        fresh.weight.set_value(weight), fresh.bias.set_value(bias)
        return fresh(x, ForwardContext(train=True))

    assert layer.eps == 1e-5
    x = _array(2, 5, 7, 6) + 3
    _same(lambda x: ours(x, weight, bias), lambda t: theirs(t, tw, tb), x)
    g = _array(*x.shape, seed=1)
    _, pull = jax.vjp(ours, jnp.asarray(x), jnp.asarray(weight), jnp.asarray(bias))
    for found, wanted in zip(pull(jnp.asarray(g))[1:], (tw, tb)):  # `_same` has left the gradients for the same cotangent
        np.testing.assert_allclose(found, wanted.grad, **CLOSE)
