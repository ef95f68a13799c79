"""`model(image)`: what it keeps between calls never shows in its results."""

import gc
import threading
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxseg.layers import Conv
from jaxseg.layers.norm import Buffer
from jaxseg.models import Outputs, Segmenter, functional, inference
from jaxseg.models.segnext.nmf import NMF

IMAGE = np.random.default_rng(0).normal(size=(1, 2, 3, 2)).astype(np.float32)


class Chain(Segmenter):
    """Convolutions in a list, a tuple of settings and a head."""

    def __init__(self, *, rngs, head=1):
        self.in_channels, self.num_classes = 2, 2
        self.blocks = nnx.List([Conv(2, 2, 1, rank=2, rngs=rngs) for _ in range(3)])
        self.head = Conv(2, 2, head, rank=2, rngs=rngs)
        self.factors = (1.0, 2.0)

    def forward(self, image, context):
        x = image
        for block in self.blocks:
            x = jnp.tanh(block(x))
        return Outputs(self.head(self.factors[1] * x))


class Counter(Segmenter):
    """Counts its calls in a buffer and adds the count to its logits."""

    def __init__(self, *, rngs):
        self.in_channels, self.num_classes = 2, 2
        self.calls = Buffer(jnp.zeros((), jnp.int32))
        self.rest = Buffer(jnp.ones((2,)))

    def forward(self, image, context):
        self.calls[...] = self.calls[...] + 1
        return Outputs(image * self.rest[...] + self.calls[...])


@pytest.fixture
def splits(monkeypatch):
    """How often a module has been split, in a list's length."""
    counted, plain = [], functional.split
    monkeypatch.setattr(functional, "split", lambda module: counted.append(module) or plain(module))
    return counted


def _plainly(model):
    """The logits without anything kept."""
    network, params, state = functional.split(model)
    return np.asarray(network.apply(params, state, jnp.asarray(IMAGE))[0].logits)


def _swap(model):
    model.blocks[0], model.blocks[2] = model.blocks[2], model.blocks[0]


CHANGES = {
    "a value set": lambda m: m.head.bias.set_value(m.head.bias[...] + 1),
    "a value assigned": lambda m: m.blocks[1].weight.__setitem__(..., 3 * m.blocks[1].weight[...]),
    "weights loaded": lambda m: functional.assign(m, *functional.split(Chain(rngs=nnx.Rngs(5)))[1:]),
    "a variable replaced": lambda m: setattr(m.head, "bias", nnx.Param(jnp.full(2, 7.0))),
    "a layer replaced by one of another kernel": lambda m: setattr(m, "head", Conv(2, 2, 3, rank=2, rngs=nnx.Rngs(9))),
    "layers changed places": _swap,
    "a layer removed": lambda m: setattr(m, "blocks", nnx.List(list(m.blocks)[:2])),
    "a setting changed": lambda m: setattr(m, "factors", (1.0, -3.0)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_after_a_change_the_call_is_that_of_the_changed_network(change):
    model = Chain(rngs=nnx.Rngs(0))
    before = np.asarray(model(IMAGE))
    change(model)
    found = np.asarray(model(IMAGE))
    assert not np.allclose(found, before)
    np.testing.assert_allclose(found, _plainly(model), atol=1e-6)


def test_new_values_need_no_new_split(splits):
    model = Chain(rngs=nnx.Rngs(0))
    model(IMAGE)
    model.head.bias.set_value(model.head.bias[...] + 1)
    model(IMAGE[:, :1])
    assert len(splits) == 1


def test_networks_that_are_alike_share_a_program():
    inference._program.cache_clear()
    for seed in range(3):
        Chain(rngs=nnx.Rngs(seed))(IMAGE)
    assert inference._program.cache_info().currsize == 1


def test_state_that_inference_moves_is_written_back_and_no_other():
    model = Counter(rngs=nnx.Rngs(0))
    kept = model.rest[...]
    for count in (1, 2, 3):
        np.testing.assert_allclose(model(IMAGE), IMAGE + count, atol=1e-6)
    assert int(model.calls[...]) == 3 and model.rest[...] is kept


def test_bases_of_a_factorisation_move_as_they_do_without_the_cache():
    class Ham(Segmenter):
        def __init__(self):
            self.in_channels, self.num_classes = 2, 2
            self.ham = NMF(2, 3, initial="buffer", update="eval", rngs=nnx.Rngs(0))

        def forward(self, image, context):
            return Outputs(self.ham(jnp.abs(image), context))

    model = Ham()
    network, params, state = functional.split(model)
    for _ in range(3):
        outputs, state = network.apply(params, state, jnp.asarray(IMAGE))
        np.testing.assert_allclose(model(IMAGE), outputs.logits, atol=1e-6)
    np.testing.assert_allclose(model.ham.bases[...], state["ham.bases"], atol=1e-6)


def test_calls_from_several_threads_lose_no_change_of_state_and_no_result():
    model, counter, rounds = Chain(rngs=nnx.Rngs(0)), Counter(rngs=nnx.Rngs(0)), 25
    wanted, wrong = _plainly(model), []

    def work():
        for _ in range(rounds):
            counter(IMAGE)
            if not np.allclose(model(IMAGE), wanted, atol=1e-6):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and int(counter.calls[...]) == 4 * rounds


def test_nothing_keeps_a_model_alive_that_was_called():
    model = Chain(rngs=nnx.Rngs(0))
    model(IMAGE)
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


def test_an_image_may_lie_anywhere_that_numpy_or_jax_can_read():
    model = Chain(rngs=nnx.Rngs(0))

    class Foreign:
        shape, dtype = IMAGE.shape, IMAGE.dtype

        def __array__(self, dtype=None, copy=None):
            return IMAGE

    for image in (IMAGE, jax.device_put(IMAGE), Foreign()):
        np.testing.assert_array_equal(model(image), model(IMAGE))
