"""U-Net 3+ as in the BraTS 2-D project: every decoder level uses the maps of all encoder and decoder levels.

Sources: Huang et al. 2020 (arXiv 2004.08790); Masterjun12/brain_tumor_segmentation models/unet3plus*.py (Keras). In a decoder
level each map is resized (finer maps by max pooling, coarser maps bilinearly) and convolved to `branch` channels; the results
are concatenated and fused by another convolution. Every convolution is 3x3, BatchNorm, ReLU. `unet3p` and `unet3p_3conv` have no
1024-channel bridge. Differs from the source in having no softmax or sigmoid at the end.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from jaxseg import ops
from jaxseg.layers import EVAL, Dropout, ForwardContext
from jaxseg.layers.keras import keras_conv, keras_conv_norm
from jaxseg.models.base import Outputs, Segmenter, Variant
from jaxseg.types import Array


@dataclasses.dataclass(frozen=True)
class Config:
    """Choices of one U-Net 3+.

    Attributes:
      widths: channels of the encoder's levels, finest first.
      bridge: channels of the block below them; 0: none.
      convs: convolutions per encoder block.
      branch: channels to which each map is convolved in a decoder level.
      dilation: dilation of every 3x3 convolution.
      dropout: dropout after the third encoder level.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512)
    bridge: int = 0
    convs: int = 2
    branch: int = 64
    dilation: int = 1
    dropout: float = 0.0


class Level(nnx.Module):
    """One decoder level: each map is resized to this level's size and convolved; the results are concatenated and fused."""

    def __init__(self, sources: list[int], branch: int, dilation: int, *, rngs: nnx.Rngs):
        self.branches = nnx.List([keras_conv_norm(c, branch, 3, dilation=dilation, rngs=rngs) for c in sources])
        self.fuse = keras_conv_norm(branch * len(sources), branch * len(sources), 3, dilation=dilation, rngs=rngs)

    def __call__(self, sources: list[Array], size: tuple[int, ...], context: ForwardContext = EVAL) -> Array:
        maps = []
        for branch, x in zip(self.branches, sources):
            if x.shape[1] > size[0]:
                x = ops.max_pool(x, x.shape[1] // size[0])
            elif x.shape[1] < size[0]:
                x = ops.resize(x, size)
            maps.append(branch(x, context))
        return self.fuse(jnp.concatenate(maps, axis=-1), context)


class UNet3Plus(Segmenter):
    """U-Net 3+ for [B, H, W, C] with sizes divisible by 8 (16 with a bridge); logits [B, H, W, K]."""

    def __init__(self, config: Config, *, in_channels: int, num_classes: int, rngs: nnx.Rngs):
        self.in_channels, self.num_classes, self.rank = in_channels, num_classes, 2
        n = len(config.widths)
        self.size_multiple = 2 ** (n if config.bridge else n - 1)
        widths = (*config.widths, config.bridge) if config.bridge else config.widths
        self.encoder = nnx.List(
            [
                nnx.List(
                    [
                        keras_conv_norm(a if j == 0 else b, b, 3, dilation=config.dilation, rngs=rngs)
                        for j in range(2 if i == n else config.convs)
                    ]
                )
                for i, (a, b) in enumerate(zip((in_channels, *widths), widths))
            ]
        )
        self.dropout = Dropout(config.dropout)
        total = config.branch * (n + bool(config.bridge))
        levels = []
        for depth in reversed(range(n)):  # finer encoders and this one, then coarser decoders, then the bridge
            sources = [*config.widths[: depth + 1], *[total] * (n - 1 - depth), *([config.bridge] if config.bridge else [])]
            levels.append(Level(sources, config.branch, config.dilation, rngs=rngs))
        self.decoder = nnx.List(levels)
        self.head = keras_conv(total, num_classes, 1, rngs=rngs)

    def forward(self, image: Array, context: ForwardContext) -> Outputs:
        x, encoded = image, []
        for i, convs in enumerate(self.encoder):
            with jax.named_scope(f"down{i + 1}"):
                x = x if i == 0 else ops.max_pool(x, 2)
                for conv in convs:
                    x = conv(x, context)
                x = self.dropout(x, context) if i == 2 else x
            encoded.append(x)
        n = len(self.decoder)
        below, decoded = encoded[n:], []  # the bridge, if any; decoder outputs, finest first
        for i, level in enumerate(self.decoder):
            depth = n - 1 - i
            with jax.named_scope(f"up{i + 1}"):
                decoded.insert(0, level([*encoded[: depth + 1], *decoded, *below], encoded[depth].shape[1:-1], context))
        return Outputs(self.head(decoded[0]))


_CONFIGS = {
    "unet3p": (Config(), 4),
    "unet3p_bridge": (Config(bridge=1024), 4),
    "unet3p_3conv": (Config(convs=3), 5),
    "unet3p_test": (Config(widths=(4, 6, 8, 10), branch=4), 4),
}
VARIANTS = {
    name: Variant(UNet3Plus, config, in_channels=channels, num_classes=4) for name, (config, channels) in _CONFIGS.items()
}
KEY_MAPPINGS = ()
