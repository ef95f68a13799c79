"""The products of an MLP decoder, joined for each level, against its definition: linear, resize, concatenate, 1x1 convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxseg.layers import Conv, ForwardContext, Linear
from jaxseg.layers.context import Tap
from jaxseg.layers.pyramid import fused, joined
from jaxseg.models import create_model, functional
from jaxseg.ops import tally

CHANNELS, WIDTH = (8, 5, 12), 6
SIZES = {2: ((9, 14), (5, 7), (2, 3)), 3: ((6, 5, 8), (3, 3, 4), (1, 2, 2))}


def levels(rank, layer, dtype):
    """(features, branches, convolution) with random values."""
    rng, rngs = np.random.default_rng(0), nnx.Rngs(0)
    features = [jnp.asarray(rng.normal(size=(2, *s, c)).astype(dtype)) for s, c in zip(SIZES[rank], CHANNELS)]
    branches = [Linear(c, WIDTH, rngs=rngs) if layer == "linear" else Conv(c, WIDTH, 1, rank=rank, rngs=rngs) for c in CHANNELS]
    return features, branches, Conv(WIDTH * len(CHANNELS), WIDTH, 1, rank=rank, bias=False, rngs=rngs)


def defined(features, branches, fuse, size):
    return fuse(joined(features, branches, size))


@pytest.mark.parametrize("layer", ["linear", "conv"])
@pytest.mark.parametrize("rank", [2, 3])
def test_results_gradients_and_counts_are_those_of_the_definition(rank, layer):
    with jax.enable_x64(True):
        features, *layers = levels(rank, layer, "float64")
        graph, weights = nnx.split(layers)
        weights = jax.tree.map(lambda w: w.astype(jnp.float64), weights)
        found = {}
        for way in (fused, defined):

            def loss(weights, features, way=way):
                branches, fuse = nnx.merge(graph, weights)
                out = way(features, branches, fuse, SIZES[rank][0])
                return jnp.sum(jnp.sin(out)), out

            with tally.counting() as counts:
                (_, out), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(weights, features)
            found[way] = jax.tree.leaves((out, gradients)), counts["conv"] + counts["linear"], counts["resize"]
        (ours, *ours_counts), (theirs, *their_counts) = found[fused], found[defined]
        assert ours_counts == their_counts and len(ours) == len(theirs) > 8
        for a, b in zip(ours, theirs):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * float(jnp.abs(b).max()))


def test_sixteen_bits_round_no_more_than_in_the_definition():
    exact = defined(*levels(2, "linear", "float32"), SIZES[2][0])
    error = {}
    for way in (fused, defined):
        out = way(*levels(2, "linear", jnp.bfloat16), SIZES[2][0])
        assert out.dtype == jnp.bfloat16
        error[way] = float(jnp.sqrt(jnp.mean((out.astype(jnp.float32) - exact) ** 2)))
    assert error[fused] < 1.2 * error[defined]


@pytest.mark.parametrize(
    "name, layers",
    [
        ("segformer_test", ("decoder.linears.3", "decoder.fuse")),
        ("segformer_test+mlp", ("decoder.branches.0", "decoder.fuse", "decoder.fuse.conv")),
        ("pspnet_test", ("ppm.convs.0", "head.conv", "head.conv.conv")),
    ],
)
def test_layers_whose_products_are_joined_can_be_tapped(name, layers):
    network, params, state = functional.split(create_model(name, in_channels=1, num_classes=2))
    image = jnp.asarray(np.random.default_rng(0).normal(size=(1, 64, 64, 1)).astype(np.float32))
    taps = {layer: Tap() for layer in layers}
    tapped = network.apply(params, state, image, ForwardContext(taps=taps))[0].logits
    assert all(tap.output is not None for tap in taps.values())
    plain = network.apply(params, state, image)[0].logits
    np.testing.assert_allclose(plain, tapped, rtol=0, atol=2e-5 * float(tapped.std()))
