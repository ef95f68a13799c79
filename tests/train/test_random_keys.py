"""Random keys: every number that a run draws has a key of its own, within a step and between micro-batches, steps and warm-up."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxseg.augment import TRANSFORMS, build
from jaxseg.data.stream import patches, pipeline
from jaxseg.layers import ChannelDropout, Conv, Dropout, DropPath
from jaxseg.losses import compose as losses
from jaxseg.models import Segmenter, functional
from jaxseg.models.base import Outputs
from jaxseg.optim import build as optimizers
from jaxseg.train import mesh as meshes
from jaxseg.train import state as states
from jaxseg.train import step as steps
from jaxseg.types import ConfigError

DRAWS = ("bernoulli", "beta", "bits", "normal", "permutation", "truncated_normal", "uniform")


class Ledger:
    """Which keys were made, divided and drawn from, as numbers, however often a compiled program ran."""

    def __init__(self, monkeypatch):
        self.made, self.divided, self.drawn = (collections.Counter() for _ in range(3))
        self._own = 0  # depth of jax's own functions, which derive keys from the one that they were given
        for name in DRAWS:
            self._wrap(monkeypatch, name, lambda key, _: [(self.drawn, key)])
        for name in ("split", "fold_in"):
            self._wrap(monkeypatch, name, lambda key, children: [(self.made, children)] if children is not None else [])
        self._parents(monkeypatch)

    def _wrap(self, monkeypatch, name, entries):
        real = getattr(jax.random, name)

        def function(key, *args, **kwargs):
            self._own += 1
            try:
                result = real(key, *args, **kwargs)
            finally:
                self._own -= 1
            if not self._own:
                for counter, keys in entries(key, result):
                    self._write(counter, keys)
            return result

        monkeypatch.setattr(jax.random, name, function)

    def _parents(self, monkeypatch):
        real = jax.random.split

        def split(key, *args, **kwargs):
            if not self._own:
                self._write(self.divided, key)
            return real(key, *args, **kwargs)

        monkeypatch.setattr(jax.random, "split", split)

    def _write(self, counter, keys):
        def enter(data):
            counter.update(map(tuple, np.asarray(data).reshape(-1, 2).tolist()))

        jax.debug.callback(enter, jax.random.key_data(keys))

    def faults(self) -> dict[str, list]:
        """Keys that were made twice, drawn from twice, or drawn from and divided."""
        jax.effects_barrier()
        twice = lambda counter: [key for key, count in counter.items() if count > 1]
        return {
            "made twice": twice(self.made),
            "drawn from twice": twice(self.drawn),
            "divided twice": twice(self.divided),
            "drawn from and divided": sorted(self.drawn.keys() & self.divided.keys()),
        }


NONE = {"made twice": [], "drawn from twice": [], "divided twice": [], "drawn from and divided": []}


class Droppy(Segmenter):
    """Three stochastic layers in a row."""

    def __init__(self, *, rngs):
        self.in_channels = self.num_classes = 1
        self.conv = Conv(1, 1, 1, rank=2, rngs=rngs)
        self.dropout, self.channels, self.path = Dropout(0.5), ChannelDropout(0.5), DropPath(0.5)

    def forward(self, image, context):
        return Outputs(self.path(self.channels(self.dropout(self.conv(image), context), context), context))


@pytest.fixture
def ledger(monkeypatch):
    return Ledger(monkeypatch)


OPTIONS = {
    "elastic": {"sigma": 2.0, "alpha_affine": 1.0},
    "cutout": {"holes": 2},
    "colour_jitter": {"brightness": 0.3, "contrast": 0.2},
    "blur": {"per_channel": 0.5},
}


def test_the_ledger_sees_keys_that_overlap(ledger):
    key = jax.random.key(0)
    jax.jit(lambda k: (jax.random.fold_in(k, 1), jax.random.split(k)))(key)
    assert ledger.faults()["made twice"]  # fold_in(key, 1) is split(key)[1]
    jax.vmap(lambda k: jax.random.uniform(k) + jax.random.normal(k))(jax.random.split(jax.random.key(1), 2))
    assert len(ledger.faults()["drawn from twice"]) == 2


def test_no_key_is_used_twice_in_two_steps_of_two_micro_batches_and_their_warm_up(ledger, unoptimised):
    names = [name for name, entry in TRANSFORMS.items() if name not in ("dflip", "affine") and entry.kind != "classes"]
    spec = [(name, 0.5, OPTIONS[name] if name in OPTIONS else {}) for name in names]
    network, params, net_state = functional.split(Droppy(rngs=nnx.Rngs(0)))
    rule, mesh = optimizers.build(params, name="sgd"), meshes.make(1)
    step = steps.build(
        network, losses.build((("bce", 1.0),)), rule, lambda s: jnp.float32(1), build(spec), mesh, lr=0.1, accumulate=2, seed=3
    )
    warm = steps.build_warm(network, rule, build(spec), mesh, seed=3)
    joined = states.storage(network, rule).join(states.create(params, net_state, rule, ema=False))
    state = states.place(joined, meshes.replicated(mesh))
    image = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 1), np.uint8)
    batch = {"image": image, "mask": image[..., 0] // 128, "index": np.arange(4)}
    for _ in range(2):
        state, _ = step(state, meshes.put(batch, mesh))
    for number in range(2):
        state = warm(state, meshes.put(batch, mesh), number)
    assert ledger.faults() == NONE
    assert len(ledger.drawn) > 4 * 2 * len(spec)  # every sample of every transform, in every step


def test_no_key_is_used_twice_by_the_transforms_of_volumes(ledger, unoptimised):
    spec = [
        (name, 0.5, OPTIONS[name] if name in OPTIONS and name != "elastic" else {})
        for name in TRANSFORMS
        if name not in ("affine", "elastic", "equalize")
    ]
    image = jnp.zeros((2, 4, 5, 6, 2))  # the last channel is a class of a previous stage
    change = jax.jit(build(spec, rank=3, fixed_channels=1, classes=1))
    jax.block_until_ready(change(jax.random.key(0), image, jnp.zeros(image.shape[:-1], jnp.int32)))
    assert ledger.faults() == NONE and ledger.drawn


def test_layers_of_a_network_that_was_built_directly_draw_from_streams_of_their_own():
    network, params, state = functional.split(Droppy(rngs=nnx.Rngs(0)))
    model = network.merge(params, state)
    assert len({model.dropout.stream, model.channels.stream, model.path.stream}) == 3


def test_an_axis_is_mirrored_by_one_draw_alone():
    with pytest.raises(ConfigError, match="each axis once"):
        build((("mirror", 0.5, {"axes": ("w", "h", "w")}),))


@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_cutmix_draws_partners_and_boxes_from_keys_of_their_own(ledger, alpha):
    image = jnp.zeros((3, 6, 6, 1))
    jax.jit(build((("cutmix", 1.0, {"alpha": alpha}),)))(jax.random.key(0), image, jnp.zeros((3, 6, 6), jnp.int32))
    assert ledger.faults() == NONE and len(ledger.drawn) == 3 * 4  # whether, how much, where, and from whom


def test_orders_and_places_of_a_stream_never_share_random_words():
    words = lambda key, counter: np.random.Philox(key=np.array(key, np.uint64), counter=counter).random_raw(64).tolist()
    seen = collections.Counter()
    for seed in range(3):
        for n in range(6):
            seen.update(words([seed, n], [0, 0, 0, 0]))  # the order of epoch n
            seen.update(words([seed, n], [0, 0, 0, 1])[: patches.WORDS])  # the place of patch n
    assert max(seen.values()) == 1
    orders = {tuple(pipeline.permutation(50, seed, epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16
