"""Networks that combine the encoder of one family with a decoder of another: "segnext_t+unet".

Any variant whose family has an `Encoder` (a feature pyramid with `.channels` and `.strides`) can be combined with any decoder of
`layers.pyramid.DECODERS`. Weights of the encoder are imported by `from_torch.load(model, file, only="encoder.")`.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxseg import ops
from jaxseg.layers import ChannelDropout, Conv, ForwardContext
from jaxseg.layers.pyramid import DECODERS
from jaxseg.models.base import Outputs, Segmenter
from jaxseg.types import Array, ConfigError
from jaxseg.utils.lookup import lookup


class Composite(Segmenter):
    """Encoder and decoder for images [B, H, W, C]; logits [B, H, W, K].

    Args:
      encoder: the family's Encoder class.
      config: the configuration of the encoder.
      decoder: a key of DECODERS.
      width: channels of the decoder's finest level.
      dropout: channel dropout before the classifier.
    """

    min_size = 32

    def __init__(
        self,
        encoder: type,
        config,
        decoder: str,
        *,
        in_channels: int,
        num_classes: int,
        width: int = 32,
        dropout: float = 0.1,
        rngs: nnx.Rngs,
    ):
        self.in_channels, self.num_classes, self.rank = in_channels, num_classes, 2
        self.encoder = encoder(config, in_channels, rngs=rngs)
        self.decoder = lookup("decoder", decoder, DECODERS)(self.encoder.channels, width=width, rngs=rngs)
        self.dropout = ChannelDropout(dropout)
        self.classifier = Conv(self.decoder.channels, num_classes, 1, rank=2, rngs=rngs)

    def forward(self, image: Array, context: ForwardContext) -> Outputs:
        features = self.encoder(image, context)
        with jax.named_scope("decoder"):
            x = self.classifier(self.dropout(self.decoder(features, context), context))
            return Outputs(ops.resize(x.astype(jnp.float32), image.shape[1:-1]))


def encoder_of(name: str, family) -> type:
    """The Encoder class of a family.

    Args:
      name: the model's name, for the error.
      family: the module of the family.
    Raises:
      ConfigError: the family has no separate encoder.
    """
    if not hasattr(family, "Encoder"):
        raise ConfigError(
            f"model {name!r}: {name.split('+')[0]!r} has no separate encoder; segformer, segnext, effisegnet, "
            "pspnet and mobile_unetr have one"
        )
    return family.Encoder
