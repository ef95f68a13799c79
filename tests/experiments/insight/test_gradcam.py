"""Seg-Grad-CAM: the map of a linear network worked by hand; it lies where the network looks, and other weights move it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxseg.experiments.insight import gradcam
from jaxseg.layers import ForwardContext, Linear, Tap
from jaxseg.models import create_model, functional
from jaxseg.models.base import Outputs, Segmenter
from jaxseg.types import ConfigError


class TwoLinear(Segmenter):
    """features: C -> 3, at half the size; head: 3 -> 2, repeated to the size of the image."""

    in_channels, num_classes, rank = 2, 2, 2

    def __init__(self, seed: int):
        rngs = nnx.Rngs(seed)
        self.features, self.head = Linear(2, 3, bias=False, rngs=rngs), Linear(3, 2, bias=False, rngs=rngs)

    def forward(self, image, context):
        small = self.features(image[:, ::2, ::2])
        return Outputs(jnp.repeat(jnp.repeat(self.head(small), 2, 1), 2, 2))


def parts(seed: int = 0):
    return functional.split(TwoLinear(seed))


def test_the_map_of_a_linear_network_is_that_of_the_formula():
    network, params, state = parts()
    image = np.random.default_rng(0).normal(size=(1, 8, 10, 2)).astype(np.float32)
    region = np.zeros((8, 10), bool)
    region[2:6, 4:8] = True
    found = gradcam.heat(network, params, state, jnp.asarray(image), "features", 1, region)
    features = image[:, ::2, ::2] @ np.asarray(params["features.weight"])
    slopes = np.asarray(params["head.weight"])[:, 1] * region[::2, ::2, None] * 4  # each small voxel is four large ones
    small = np.maximum((features[0] * slopes.mean((0, 1))).sum(-1), 0)
    large = np.asarray(jax.image.resize(small, (8, 10), "linear"))
    assert found.map == pytest.approx(large / large.max(), abs=1e-5)
    assert found.inside == pytest.approx(large[region].sum() / large.sum(), abs=1e-5)


def test_the_map_lies_on_what_decides_and_random_weights_move_it():
    network, _, state = parts()
    image = np.full((1, 32, 32, 2), -1, np.float32)
    image[0, 8:16, 8:16, 0] = image[0, 20:30, 4:28, 1] = 1
    region = image[0, ..., 0] > 0
    trained = {"features.weight": np.eye(2, 3, dtype=np.float32), "head.weight": np.array([[0, 1], [0, 0], [0, 0]], np.float32)}
    seen = gradcam.heat(network, trained, state, jnp.asarray(image), "features", 1, region)
    assert seen.inside > 0.85 and seen.map[11, 11] == 1
    others = [gradcam.heat(network, parts(seed)[1], state, jnp.asarray(image), "features", 1, region) for seed in (1, 2, 3)]
    assert max(np.abs(seen.map - other.map).max() for other in others) > 0.3


def test_a_tap_adds_to_any_layer_of_a_network_and_leaves_it_as_it_was():
    shape = (1, 16, 16, 1)
    network, params, state = functional.split(create_model("unet_test", in_channels=1, num_classes=2))
    outputs = gradcam.outputs_of(network, params, state, shape)
    layer = gradcam.chosen_layer(outputs, 2)
    assert np.prod(outputs[layer][1:-1]) == min(np.prod(s[1:-1]) for s in outputs.values() if len(s) == 4)

    @jax.jit
    def run(image, added):
        plain, tap = network.apply(params, state, image)[0].logits, Tap(added)
        moved = network.apply(params, state, image, ForwardContext(taps={layer: tap}))[0].logits
        return plain, moved, network.apply(params, state, image)[0].logits, tap.output

    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    plain, moved, again, output = run(image, np.ones(outputs[layer], np.float32))
    assert output.shape == outputs[layer] and not np.allclose(plain, moved, atol=1e-6) and np.array_equal(plain, again)


def test_a_layer_that_does_not_exist_or_has_no_space_is_refused():
    outputs = {"a.conv": (1, 4, 4, 8), "a.psi": (1, 4, 4, 1), "a.gate": (1, 1, 1, 8), "b": (1, 16, 8)}
    assert gradcam.chosen_layer(outputs, 2) == "a.conv"
    with pytest.raises(ConfigError, match="did you mean a.conv"):
        gradcam.chosen_layer(outputs, 2, "a.cnv")
    with pytest.raises(ConfigError, match=r"'b': its output has the shape \(1, 16, 8\)"):
        gradcam.chosen_layer(outputs, 2, "b")
