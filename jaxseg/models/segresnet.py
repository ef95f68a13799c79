"""SegResNet: a residual encoder with pre-activation blocks, and a small decoder whose skips are added.

Source: Myronenko 2018 (arXiv 1810.11654), without the autoencoder branch, as in MONAI (monai/networks/nets/segresnet.py). The
named network has the sizes of MONAI's brain tumour bundle (`init_filters=16`); the paper's has 32 channels. Differs from the
source in having no "pixelshuffle" upsampling.
"""

import dataclasses

import jax
from flax import nnx

from jaxseg import ops
from jaxseg.layers import ChannelDropout, Conv, ConvTranspose, ForwardContext, GroupNorm
from jaxseg.layers.blocks import Sequential, make_norm
from jaxseg.models.base import KeyMapping, Outputs, Segmenter, Variant
from jaxseg.types import Array, ConfigError


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes.

    Attributes:
      width: channels of the finest level; each further level has twice as many.
      blocks_down: number of residual blocks of the encoder's levels, finest first.
      blocks_up: number of residual blocks of the decoder's levels, coarsest first; there is one level fewer.
      norm: "group" (with `groups` groups), or another name of `layers.blocks.make_norm`.
      groups: number of groups of the norm "group".
      upsampling: "linear" or "transposed" (MONAI's nontrainable and deconv).
      dropout: channel dropout after the first convolution.
    """

    width: int = 16
    blocks_down: tuple[int, ...] = (1, 2, 2, 4)
    blocks_up: tuple[int, ...] = (1, 1, 1)
    norm: str = "group"
    groups: int = 8
    upsampling: str = "linear"
    dropout: float = 0.2


def _norm(config: Config, channels: int, rngs: nnx.Rngs):
    return (
        GroupNorm(config.groups, channels, rngs=rngs) if config.norm == "group" else make_norm(config.norm, channels, rngs=rngs)
    )


class Block(nnx.Module):
    """x + conv(relu(norm(conv(relu(norm(x))))))."""

    def __init__(self, config: Config, channels: int, *, rank: int, rngs: nnx.Rngs):
        self.norm1, self.norm2 = (_norm(config, channels, rngs) for _ in range(2))
        self.conv1, self.conv2 = (Conv(channels, channels, 3, rank=rank, bias=False, rngs=rngs) for _ in range(2))

    def __call__(self, x: Array, context: ForwardContext) -> Array:
        y = self.conv1(self.norm1(x, context, act="relu"))
        return x + self.conv2(self.norm2(y, context, act="relu"))


class UpSample(nnx.Module):
    """A 1x1 convolution to half the channels, then upsampling by 2."""

    def __init__(self, channels: int, how: str, *, rank: int, rngs: nnx.Rngs):
        half = channels // 2
        self.conv = Conv(channels, half, 1, rank=rank, bias=False, rngs=rngs)
        self.deconv = ConvTranspose(half, half, 2, stride=2, rank=rank, rngs=rngs) if how == "transposed" else None

    def __call__(self, x: Array) -> Array:
        x = self.conv(x)
        return ops.resize(x, tuple(2 * n for n in x.shape[1:-1])) if self.deconv is None else self.deconv(x)


class SegResNet(Segmenter):
    """SegResNet for [B, *S, C] with sizes divisible by 2^(levels - 1); logits [B, *S, K]."""

    def __init__(self, config: Config, *, in_channels: int, num_classes: int, rank: int = 3, rngs: nnx.Rngs):
        self.in_channels, self.num_classes, self.rank = in_channels, num_classes, rank
        if len(config.blocks_up) != len(config.blocks_down) - 1:
            raise ConfigError(
                f"got blocks_down={config.blocks_down}, blocks_up={config.blocks_up}; blocks_up must have one entry fewer"
            )
        if config.upsampling not in ("linear", "transposed"):
            raise ConfigError(f"got upsampling={config.upsampling!r}; must be 'linear' or 'transposed'")
        n, w, same = len(config.blocks_down), config.width, dict(rank=rank, rngs=rngs)
        self.size_multiple = 2 ** (n - 1)
        blocks = lambda channels, count: Sequential(*(Block(config, channels, **same) for _ in range(count)))
        self.stem = Conv(in_channels, w, 3, bias=False, **same)
        self.dropout = ChannelDropout(config.dropout)
        self.halvings = nnx.List([Conv(w << i, w << (i + 1), 3, stride=2, bias=False, **same) for i in range(n - 1)])
        self.down_layers = nnx.List([blocks(w << i, count) for i, count in enumerate(config.blocks_down)])
        self.up_samples = nnx.List([UpSample(w << i, config.upsampling, **same) for i in range(n - 1, 0, -1)])
        self.up_layers = nnx.List([blocks(w << (n - 2 - i), count) for i, count in enumerate(config.blocks_up)])
        self.norm = _norm(config, w, rngs)
        self.head = Conv(w, num_classes, 1, **same)

    def forward(self, image: Array, context: ForwardContext) -> Outputs:
        x, skips = self.dropout(self.stem(image), context), []
        for i, layer in enumerate(self.down_layers):
            with jax.named_scope(f"down{i}"):
                x = layer(self.halvings[i - 1](x) if i else x, context)  # [B, S/2^i, 2^i width]
            skips.append(x)
        skips.pop()
        for i, (up, layer) in enumerate(zip(self.up_samples, self.up_layers)):
            with jax.named_scope(f"up{i}"):
                x = layer(up(x) + skips.pop(), context)
        return Outputs(self.head(self.norm(x, context, act="relu")))


VARIANTS = {
    "segresnet": Variant(SegResNet, Config(), in_channels=4, num_classes=3, ranks=(3, 2)),
    "segresnet_test": Variant(
        SegResNet, Config(width=4, blocks_down=(1, 1, 1), blocks_up=(1, 1), groups=2), in_channels=1, num_classes=2, ranks=(3,)
    ),
}
KEY_MAPPINGS = (
    KeyMapping(
        "monai",
        (
            (r"^convInit\.conv\.", "stem."),
            # the first of a level's modules halves the size; the finest level has none
            *((rf"^down_layers\.{i}\.0\.conv\.", f"halvings.{i - 1}.") for i in range(1, 8)),
            *((rf"^down_layers\.(\d+)\.{j}\.", rf"down_layers.\1.blocks.{j - 1}.") for j in range(1, 17)),
            (r"^up_layers\.(\d+)\.(\d+)\.", r"up_layers.\1.blocks.\2."),
            (r"^up_samples\.(\d+)\.0\.conv\.", r"up_samples.\1.conv."),
            (r"^up_samples\.(\d+)\.1\.", r"up_samples.\1."),
            (r"\.conv([12])\.conv\.", r".conv\1."),
            (r"^conv_final\.0\.", "norm."),
            (r"^conv_final\.2\.conv\.", "head."),
        ),
        ignored=(r"num_batches_tracked$",),
    ),
)
