"""Maxima and cut activations: PyTorch's gradients at ties and edges, and no gradient that compares numbers for equality."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.interpreters import partial_eval

from jaxseg import ops
from jaxseg.layers.activation import activation
from jaxseg.losses import TERMS
from jaxseg.models import create_model, functional, list_models
from jaxseg.models.dual_branch import blocks
from jaxseg.models.functional import ForwardContext
from jaxseg.models.registry import variants
from jaxseg.ops.activation.table import ACTS, FUSED

QUICK = {
    "dualbranch_03_unet_test",
    "effisegnet_test",
    "pspnet_test",
    "resunetpp_test",
    "segformer_test",
    "segnext_test",
    "swin_unetr_test",
    "unet2d_test",
    "unet3d_test",
    "unet3p_test",
    "unet_test",
}
TEST = [pytest.param(n, max(variants()[n].ranks), marks=() if n in QUICK else pytest.mark.slow) for n in list_models("_test")]


def comparisons(f, *arguments) -> list:
    """The equations of f's gradient, and of all that it calls, that ask whether two computed numbers are equal."""
    closed = jax.make_jaxpr(jax.grad(f))(*arguments)
    return list(_comparisons(partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))[0]))


def _comparisons(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "eq" and not any(hasattr(v, "val") for v in equation.invars):
            if jnp.issubdtype(equation.invars[0].aval.dtype, jnp.floating):
                yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from _comparisons(inner)


def test_the_search_for_comparisons_sees_the_gradients_of_jnp_max_and_maximum():
    for f in (jnp.max, lambda x: jnp.maximum(x, 2 * x).sum(), jax.jit(jnp.max)):
        assert comparisons(f, jnp.ones(3))
    assert not comparisons(lambda x: (jax.nn.softmax(x) * jax.nn.relu(x)).sum(), jnp.ones(3))


@pytest.mark.parametrize("name, rank", TEST)
def test_no_gradient_of_a_network_compares_numbers_for_equality(name, rank):
    model = create_model(name, rank=rank, abstract=True)
    network, params, state = functional.split(model)
    size = next(n for n in range(32, 130) if _taken(model, n))

    def loss(params, state, image):
        outputs, _ = network.apply(params, state, image, ForwardContext(train=True, key=jax.random.key(0)))
        return sum(jnp.mean(jnp.square(a)) for a in (outputs.logits, *outputs.aux))

    image = jax.ShapeDtypeStruct((1, *(size,) * rank, model.in_channels), jnp.float32)
    assert not comparisons(loss, params, state, image)


def _taken(model, n) -> bool:
    try:
        model.check((1, *(n,) * model.rank, model.in_channels))
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("name", sorted(TERMS))
def test_no_gradient_of_a_loss_compares_numbers_for_equality(name, classes):
    if (name, classes) == ("cross_entropy", 1):
        pytest.skip("one channel has no cross entropy")
    options = {"log_floor": -5.0} if name == "bce" else {}
    loss = lambda z, y: TERMS[name](z, y, **options)[0]
    logits = jax.ShapeDtypeStruct((2, 6, 7, classes), jnp.float32)
    assert not comparisons(loss, logits, jax.ShapeDtypeStruct((2, 6, 7), jnp.int32))


def _bad_gradients(params, loss) -> list[str]:
    return [name for name, g in jax.jit(jax.grad(loss))(params).items() if not np.isfinite(g).all()]


def test_channel_attention_has_finite_gradients_without_optimisations(unoptimised):
    """XLA then computes x anew for the gradient, in another rounding, where jnp.max's is 0/0: 8 of these tensors were NaN."""
    network, params, state = functional.split(blocks.UPS["shuffle_v1_r2"](16, 8, 8, act="relu", rank=2, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    x, skip = (rng.normal(size=size).astype(np.float32) for size in ((2, 8, 8, 16), (2, 16, 16, 8)))
    assert not _bad_gradients(
        params, lambda p: jnp.mean(jnp.square(network.merge(p, state)(x, skip, ForwardContext(train=True)) - 1))
    )


@pytest.mark.slow
def test_a_network_of_channel_attention_has_finite_gradients_without_optimisations(unoptimised):
    network, params, state = functional.split(create_model("dualbranch_18_shufflenet_v1_test", in_channels=2, rank=3))
    image = np.random.default_rng(0).normal(size=(1, 32, 32, 32, 2)).astype(np.float32)
    assert not _bad_gradients(
        params, lambda p: jnp.mean(jnp.square(network.apply(p, state, image, ForwardContext(train=True))[0].logits))
    )


@pytest.mark.parametrize("size", [(5, 6), (3, 4, 5), (1, 1), (7,)], ids=str)
def test_the_spatial_maximum_is_the_maximum_and_its_gradient_goes_to_one_place(size):
    x = np.random.default_rng(0).integers(-2, 3, (3, *size, 4)).astype(np.float32)  # many ties
    found, pull = jax.vjp(ops.spatial_max, x)
    np.testing.assert_array_equal(found, x.max(tuple(range(1, x.ndim - 1)), keepdims=True))
    g = np.random.default_rng(1).normal(size=found.shape).astype(np.float32)
    (grad,) = pull(jnp.asarray(g))
    first = x.reshape(3, -1, 4).argmax(1)  # of equal numbers the first, as in PyTorch
    expected = np.zeros((3, x[0, ..., 0].size, 4), np.float32)
    np.put_along_axis(expected, first[:, None], g.reshape(3, 1, 4), axis=1)
    np.testing.assert_array_equal(grad, expected.reshape(x.shape))


@pytest.mark.parametrize("f", [ops.spatial_max, lambda x: ops.max_pool(x, 2), lambda x: ops.larger(x, 0.0)])
def test_a_maximum_of_nan_is_nan(f):
    x = jnp.ones((1, 2, 2, 1)).at[0, 1, 0, 0].set(jnp.nan)
    assert bool(jnp.isnan(f(x)).any())


def test_maxima_take_any_floating_dtype_and_vmap():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 6, 5)).astype(np.float32)
    low = jnp.asarray(x, jnp.bfloat16)
    assert ops.spatial_max(low).dtype == jnp.bfloat16 and ops.max_pool(low, 2).dtype == jnp.bfloat16
    np.testing.assert_array_equal(jax.vmap(ops.spatial_max)(x), x.max((2, 3), keepdims=True))


@pytest.mark.parametrize("name", ["relu6", "hard_sigmoid", "hard_swish"])
def test_cut_activations_equal_pytorch_at_their_edges_too(name):
    torch = pytest.importorskip("torch", reason="parity needs the extra [parity]")
    theirs = {
        "relu6": torch.nn.functional.relu6,
        "hard_sigmoid": torch.nn.functional.hardsigmoid,
        "hard_swish": torch.nn.functional.hardswish,
    }[name]
    x = np.array([-9, -3.5, -3, -1, -0.0, 0, 1, 2.5, 3, 5, 6, 7, 9], np.float32)
    x = x[np.abs(x) != 3] if name == "hard_swish" else x  # at its two corners PyTorch takes the slope of the other side
    t = torch.tensor(x, requires_grad=True)
    theirs(t).sum().backward()
    f = activation(name)
    np.testing.assert_allclose(f(x), theirs(torch.tensor(x)).numpy(), atol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda x: f(x).sum())(jnp.asarray(x)), t.grad.numpy(), atol=1e-6)
    assert np.isnan(f(jnp.float32(np.nan)))


def test_max_pooling_gives_ties_to_the_first_as_pytorch_does():
    torch = pytest.importorskip("torch", reason="parity needs the extra [parity]")
    x = np.random.default_rng(0).integers(0, 2, (2, 6, 8, 3)).astype(np.float32)  # as after a ReLU: zeros everywhere
    t = torch.tensor(np.moveaxis(x, -1, 1).copy(), requires_grad=True)
    g = np.random.default_rng(1).normal(size=(2, 3, 3, 4)).astype(np.float32)
    torch.nn.functional.max_pool2d(t, 2).backward(torch.tensor(g))
    (grad,) = jax.vjp(lambda x: ops.max_pool(x, 2), jnp.asarray(x))[1](jnp.moveaxis(jnp.asarray(g), 1, -1))
    np.testing.assert_array_equal(grad, np.moveaxis(t.grad.numpy(), 1, -1))


@pytest.mark.parametrize("name", sorted(FUSED))
def test_an_activation_behind_a_norm_has_the_gradient_of_the_same_name_alone(name):
    z = jnp.asarray([-9.0, -0.3, 0.2, 1.0, 5.0, 6.5])
    alone = jax.vjp(activation(name), z)
    np.testing.assert_allclose(ACTS[name].value(z), alone[0], atol=1e-6)
    np.testing.assert_allclose(ACTS[name].pull(z, jnp.ones_like(z)), alone[1](jnp.ones_like(z))[0], atol=1e-6)
