"""Networks as plain arrays: split and merge lose nothing, order nothing anew and check everything."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxseg.layers import BatchNorm, Conv, Dropout, ForwardContext
from jaxseg.models import Outputs, Segmenter, create_model, functional
from jaxseg.types import MismatchError

BLOCKS = 12  # "10" sorts before "2"


class Chain(Segmenter):
    """Twelve 1x1 convolutions in a list, so that a list restored in the order of strings gives other logits."""

    def __init__(self, *, in_channels=2, num_classes=2, rank=2, rngs, drop=0.0):
        self.in_channels, self.num_classes, self.rank = in_channels, num_classes, rank
        self.blocks = nnx.List([Conv(in_channels, in_channels, 1, rank=rank, rngs=rngs) for _ in range(BLOCKS)])
        self.norm = BatchNorm(in_channels, rngs=rngs)
        self.dropout = Dropout(drop)
        self.head = Conv(in_channels, num_classes, 1, rank=rank, rngs=rngs)

    def forward(self, image, context):
        x = image
        for block in self.blocks:
            x = jnp.tanh(3 * block(x))
        return Outputs(self.head(self.dropout(self.norm(x, context), context)))


@pytest.fixture
def chain():
    return Chain(rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).normal(size=(2, 3, 4, 2)).astype(np.float32)


def test_split_then_merge_is_the_same_network(chain, image):
    network, params, state = functional.split(chain)
    again = network.merge(params, state)
    np.testing.assert_array_equal(again(image), chain(image))
    network2, params2, state2 = functional.split(again)
    assert network2 == network and hash(network2) == hash(network)
    assert list(params2) == list(params) and list(state2) == list(state)


def test_params_are_trainable_and_state_is_not(chain):
    _, params, state = functional.split(chain)
    assert set(state) == {"norm.running_mean", "norm.running_var"}
    assert len(params) == 2 * BLOCKS + 4 and functional.parameter_count(chain) == sum(v.size for v in params.values())


def test_eleven_blocks_and_more_keep_their_order_whatever_the_order_of_the_dictionary(chain, image):
    network, params, state = functional.split(chain)
    shuffled = dict(sorted(params.items(), key=lambda item: item[0][::-1]))
    assert list(shuffled) != list(params)
    np.testing.assert_array_equal(network.merge(shuffled, state)(image), chain(image))
    for i in range(BLOCKS):
        np.testing.assert_array_equal(params[f"blocks.{i}.weight"], chain.blocks[i].weight[...])
    swapped = {**params, "blocks.2.weight": params["blocks.10.weight"], "blocks.10.weight": params["blocks.2.weight"]}
    assert not np.allclose(network.merge(swapped, state)(image), chain(image))  # the test could fail


def test_check_lists_every_difference(chain):
    network, params, state = functional.split(chain)
    bad = dict(params)
    del bad["head.bias"]
    bad |= {"extra": jnp.ones(3), "blocks.0.bias": jnp.ones(5), "blocks.1.bias": jnp.ones(2, jnp.bfloat16)}
    with pytest.raises(MismatchError) as caught:
        network.check(bad, state)
    for part in (
        "4 tensors",
        "missing head.bias",
        "unexpected extra",
        "shape of blocks.0.bias: expected (2,), found (5,)",
        "dtype of blocks.1.bias: expected float32, found bfloat16",
    ):
        assert part in str(caught.value)
    network.check(params, state)


def test_assign_checks_before_it_changes_anything(chain, image):
    _, params, state = functional.split(chain)
    before = np.asarray(chain(image))
    with pytest.raises(MismatchError):
        functional.assign(chain, {n: v for n, v in params.items() if n != "head.bias"}, state)
    np.testing.assert_array_equal(chain(image), before)
    functional.assign(chain, {**params, "head.bias": params["head.bias"] + 1}, state)
    np.testing.assert_allclose(chain(image), before + 1, atol=1e-6)


def test_inference_changes_no_state_and_training_returns_the_new_one(chain, image):
    network, params, state = functional.split(chain)
    _, kept = network.apply(params, state, image)
    outputs, moved = network.apply(params, state, image, ForwardContext(train=True))
    assert all(np.array_equal(kept[n], state[n]) for n in state)
    assert all(not np.array_equal(moved[n], state[n]) for n in state)
    assert outputs.logits.shape == (2, 3, 4, 2)
    again = functional.split(chain)[2]
    assert all(np.array_equal(again[n], state[n]) for n in state)  # apply is pure


def test_the_network_is_a_static_argument_that_compiles_once(chain, image):
    traces = []

    def forward(network, params, state, image):
        traces.append(1)
        return network.apply(params, state, image)[0].logits

    jitted = jax.jit(forward, static_argnums=0)
    for _ in range(2):
        jitted(*functional.split(chain), image)
    assert len(traces) == 1


@pytest.mark.parametrize(
    "name,shape", [("unet_test", (1, 8, 12, 1)), pytest.param("segnext_test_ich", (1, 33, 47, 1), marks=pytest.mark.full)]
)
def test_a_call_under_jit_equals_the_call_without(name, shape):
    model = create_model(name)
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    # float32 sums in two programs
    np.testing.assert_allclose(jax.jit(lambda x: model(x))(image), model(image), rtol=1e-4, atol=1e-4)


def test_calls_without_a_key_are_repeatable():
    model = create_model("segnext_test")
    image = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(model(image), model(image))


def test_a_stochastic_layer_without_a_key_is_refused(image):
    chain = Chain(rngs=nnx.Rngs(0), drop=0.5)
    with pytest.raises(ValueError, match="no random key for .*; pass ForwardContext"):
        chain(jnp.asarray(image), ForwardContext(train=True))


def test_an_abstract_network_has_shapes_and_no_values():
    network, params, _ = functional.split(create_model("segnext_t", abstract=True))
    assert all(isinstance(v, jax.ShapeDtypeStruct) for v in params.values())
    assert network == functional.split(create_model("segnext_t", abstract=True))[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, bool])
def test_integer_images_are_refused_with_the_remedy(chain, dtype):
    with pytest.raises(ValueError, match=f"dtype {np.dtype(dtype).name}.*convert it first"):
        chain(np.zeros((1, 3, 4, 2), dtype))


@pytest.mark.parametrize("shape", [(3, 4, 2), (1, 3, 4, 3), (1, 2, 3, 4, 2)])
def test_images_of_another_rank_or_channels_are_refused_with_the_shape_that_would_do(chain, shape):
    with pytest.raises(ValueError, match=r"needs \[B, H, W, 2\]"):
        chain(np.zeros(shape, np.float32))


def test_an_int_kernel_of_flax_convolves_one_axis_and_ours_all():
    x = jnp.zeros((1, 5, 7, 2)).at[0, 2, 3].set(1.0)
    theirs = nnx.Conv(2, 1, 3, use_bias=False, rngs=nnx.Rngs(0))
    ours = Conv(2, 1, 3, rank=2, bias=False, rngs=nnx.Rngs(0))
    rows = lambda y: set(np.nonzero(np.asarray(y))[1].tolist())
    assert rows(theirs(x)) == {2} and rows(ours(x)) == {1, 2, 3}


@pytest.mark.parametrize("shape", [(5, 7, 2), (1, 2, 5, 7, 2)])
def test_a_convolution_checks_the_rank_of_its_input(shape):
    with pytest.raises(ValueError, match="rank-2 convolution; must be"):
        Conv(2, 1, 3, rank=2, rngs=nnx.Rngs(0))(jnp.zeros(shape))
