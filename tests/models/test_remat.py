"""Blocks that are computed again for the gradient: the same values, gradients and statistics, and less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxseg.layers import Conv, ForwardContext
from jaxseg.layers.norm import BatchNorm
from jaxseg.models import create_model, functional, remat
from jaxseg.models.base import Outputs, Segmenter
from jaxseg.train import mesh as meshes
from jaxseg.types import ConfigError


class Block(nnx.Module):
    def __init__(self, channels, rngs):
        self.conv, self.norm = Conv(channels, channels, 3, rank=2, rngs=rngs), BatchNorm(channels, rngs=rngs)

    def __call__(self, x, context):
        kept = jax.random.bernoulli(context.stream(7), 0.8, x.shape).astype(x.dtype)
        return x + jnp.sin(self.norm(self.conv(jnp.sin(x)), context)) * kept


class Chain(Segmenter):
    def __init__(self, *, in_channels, num_classes, rank, rngs):
        self.in_channels, self.num_classes, self.rank = in_channels, num_classes, rank
        self.first, self.head = (Conv(a, b, 1, rank=2, rngs=rngs) for a, b in ((in_channels, 8), (8, num_classes)))
        self.blocks = nnx.List([Block(8, rngs) for _ in range(6)])

    def forward(self, image, context):
        x = self.first(image)
        for block in self.blocks:
            x = block(x, context)
        return Outputs(self.head(x))


def program(network, names):
    def loss(params, state, image):
        context = ForwardContext(train=True, key=jax.random.key(3))
        outputs, new = remat.apply(network, params, state, image, context, names)
        return jnp.square(outputs.logits.astype(jnp.float32)).mean(), new

    return jax.value_and_grad(loss, has_aux=True)


def compared(network, params, state, image, names):
    """Both programs, compiled, after their results were compared."""
    compiled = [jax.jit(program(network, n)).lower(params, state, image).compile() for n in ((), names)]
    (values, gradients), (again, recomputed) = (c(params, state, image) for c in compiled)
    largest = max(float(jnp.abs(g).max()) for g in gradients.values())
    for found, wanted, scale in (
        *zip(jax.tree.leaves(again), jax.tree.leaves(values), [1.0] * 99),
        *((recomputed[k], gradients[k], largest) for k in gradients),
    ):
        np.testing.assert_allclose(found, wanted, atol=2e-6 * scale, rtol=2e-5)
    return compiled


def test_blocks_give_the_same_with_less_memory_on_one_device_and_on_two():
    network, params, state = functional.split(create_model(Chain, in_channels=3, num_classes=2, rank=2))
    names = remat.chosen(network, ("blocks",))
    assert names == tuple(f"blocks.{i}" for i in range(6))
    image = jnp.asarray(np.random.default_rng(0).normal(size=(2, 64, 64, 3)), jnp.float32)
    plain, less = (c.memory_analysis().temp_size_in_bytes for c in compared(network, params, state, image, names))
    assert less < 0.6 * plain

    mesh = meshes.make(2)
    sharded = jax.device_put(image, meshes.batched(mesh))
    params, state = jax.device_put((params, state), meshes.replicated(mesh))
    _, compiled = compared(network, params, state, sharded, names)
    assert "all-gather" not in compiled.as_text() and "all-to-all" not in compiled.as_text()


def test_names_that_choose_nothing_or_twice_are_refused():
    network, _, _ = functional.split(create_model(Chain, in_channels=3, num_classes=2, rank=2, abstract=True))
    assert remat.chosen(network, (r"blocks\.[01]", "head")) == ("blocks.0", "blocks.1", "head")
    for patterns, words in (
        (("blocks.9",), "has no layer 'blocks.9'; some of its layers: blocks.0, "),
        (("blocks", r"blocks\.0\.conv"), "the layer blocks.0.conv and blocks.0"),
        (("(",), "not a regular expression"),
    ):
        with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
            remat.chosen(network, patterns)


def test_a_layer_that_is_not_called_is_refused():
    network, params, state = functional.split(create_model("segformer_test", in_channels=1, num_classes=1, abstract=True))
    (name,) = remat.chosen(network, (r"decoder\.linears\.0",))
    context, image = ForwardContext(train=True, key=jax.random.key(0)), jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32)
    run = lambda name: jax.eval_shape(lambda p, s, x: remat.apply(network, p, s, x, context, (name,)), params, state, image)
    with pytest.raises(ConfigError, match=r"computes decoder\.linears\.0 together with other layers.*name the layer of which"):
        run(name)
    run("decoder")  # the remedy


@pytest.mark.full
@pytest.mark.parametrize("name", ["segnext_test", "segformer_test", "unet3d_test", "swin_unetr_test", "nnunet_plain_test"])
def test_networks_give_the_same(name):
    model = create_model(name)
    network, params, state = functional.split(model)
    size = (64,) * model.rank if model.rank == 3 else (64, 64)
    image = jnp.asarray(np.random.default_rng(0).normal(size=(2, *size, model.in_channels)), jnp.float32)
    compared(network, params, state, image, remat.chosen(network, ("blocks",)))
