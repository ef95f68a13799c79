"""Encoders of one family with the shared decoders."""

import jax.numpy as jnp
import pytest

from jaxseg.layers.pyramid import DECODERS
from jaxseg.models import create_model
from jaxseg.models.functional import parameter_count
from jaxseg.types import ConfigError


@pytest.mark.parametrize("decoder", sorted(DECODERS))
@pytest.mark.parametrize("encoder", ["segformer_b0", "segnext_t", "effisegnet_b0", "pspnet_r50"])
def test_every_pyramid_goes_with_every_decoder(encoder, decoder):
    model = create_model(f"{encoder}+{decoder}", in_channels=2, num_classes=3, abstract=True)
    assert parameter_count(model) > 1e6


def test_a_composite_computes_at_the_input_size():
    model = create_model("segformer_test+unet", in_channels=1, num_classes=2, width=4)
    logits = model(jnp.ones((1, 41, 52, 1)))
    assert logits.shape == (1, 41, 52, 2) and logits.dtype == jnp.float32


@pytest.mark.parametrize(
    "name, words",
    [("segnext_t+unett", "did you mean unet"), ("segnxt_t+unet", "segnext_t"), ("unet_base+unet", "no separate encoder")],
)
def test_unknown_parts_are_named(name, words):
    with pytest.raises(ConfigError, match=words):
        create_model(name, abstract=True)
