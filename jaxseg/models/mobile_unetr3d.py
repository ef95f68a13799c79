"""The BraTS 3-D project's MobileUNETR for any rank: a MobileViT-like encoder to 1/64, transformer layers, a simple decoder.

Source: the project's mobile_unetr_3d, after Perera et al. 2024 (arXiv 2409.03062). Differs from the network of that paper in
having no skips and no patches: attention is between all positions, and the decoder uses only the deepest map.
`roi_mobileunetr3d_tiny` finds the region of the tumour at 64^3: four modalities and three coordinates, two classes.
"""

import dataclasses

import jax
from flax import nnx

from jaxseg import ops
from jaxseg.layers import Conv, ForwardContext
from jaxseg.layers.attention import TransformerLayer, apply_to_unfolded_patches
from jaxseg.layers.blocks import ConvNorm, Sequential
from jaxseg.layers.mobile import InvertedResidual, ViTBlock
from jaxseg.models.base import Outputs, Segmenter, Variant
from jaxseg.types import Array


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and choices.

    Attributes:
      steps: the encoder's inverted residuals up to 1/64: (channels, stride, expansion).
      vits: the attention blocks behind them: (width, depth, FFN width).
      deepest: channels of the last attention block and the bottleneck.
      layers, head_width, ffn: depth, width of a head and FFN width of the bottleneck.
      decoder: channels of the decoder's levels; the size doubles from one to the next.
      dropout: dropout in the bottleneck.
    """

    stem: int = 16
    steps: tuple[tuple[int, int, int], ...] = (
        (16, 1, 1),
        (24, 2, 4),
        (24, 1, 3),
        (24, 1, 3),
        (48, 2, 4),
        (64, 2, 4),
        (64, 1, 3),
        (96, 2, 4),
        (160, 2, 4),
    )
    vits: tuple[tuple[int, int, int], ...] = ((144, 2, 384), (192, 4, 576), (240, 3, 960))
    deepest: int = 320
    layers: int = 3
    head_width: int = 64
    ffn: int = 1280
    decoder: tuple[int, ...] = (196, 160, 128, 96, 64, 32, 16)
    dropout: float = 0.1


class SkiplessMobileUNETR(Segmenter):
    """MobileUNETR without skips for [B, *S, C] with sizes divisible by 64; logits [B, *S, K]."""

    size_multiple = 64

    def __init__(self, config: Config, *, in_channels: int, num_classes: int, rank: int, rngs: nnx.Rngs):
        self.in_channels, self.num_classes, self.rank = in_channels, num_classes, rank
        same = dict(rank=rank, act="silu", rngs=rngs)
        attended = dict(rank=rank, rngs=rngs)
        blocks, c = [ConvNorm(in_channels, config.stem, 3, stride=2, **same)], config.stem
        for channels, stride, expand in config.steps:
            blocks.append(InvertedResidual(c, channels, c * expand, stride=stride, **same))
            c = channels
        *shallow, last = config.vits
        blocks += [ViTBlock(c, *vit, **attended) for vit in shallow]
        blocks += [InvertedResidual(c, config.deepest, 4 * c, **same), ViTBlock(config.deepest, *last, **attended)]
        self.encoder = Sequential(*blocks)
        self.bottleneck = nnx.List(
            [
                TransformerLayer(
                    config.deepest,
                    config.ffn,
                    head_width=config.head_width,
                    qkv_bias=False,
                    dropout=config.dropout,
                    inner_dropout=config.dropout,
                    rngs=rngs,
                )
                for _ in range(config.layers)
            ]
        )
        widths = (config.deepest, *config.decoder)
        self.decoder = nnx.List([ConvNorm(a, b, 3, **same) for a, b in zip(widths, config.decoder)])
        self.head = Conv(widths[-1], num_classes, 1, rank=rank, rngs=rngs)

    def forward(self, image: Array, context: ForwardContext) -> Outputs:
        with jax.named_scope("encoder"):
            x = self.encoder(image, context)  # [B, *S/64, deepest]
        with jax.named_scope("bottleneck"):
            x = apply_to_unfolded_patches(x, self.bottleneck, 1, context)
        for i, conv in enumerate(self.decoder):
            with jax.named_scope(f"up{i}"):
                x = x if i == 0 else ops.resize(x, tuple(2 * n for n in x.shape[1:-1]))
                x = conv(x, context)
        return Outputs(self.head(x))


_TINY = Config(
    stem=4,
    steps=((4, 1, 1), (8, 2, 2), (8, 1, 2), (8, 2, 2), (8, 2, 2), (8, 2, 2), (8, 2, 2)),
    layers=1,
    vits=((8, 1, 16), (8, 1, 16)),
    deepest=16,
    head_width=4,
    ffn=16,
    decoder=(8, 8, 8, 8, 8, 4, 4),
)
VARIANTS = {
    "mobile_unetr_3d": Variant(SkiplessMobileUNETR, Config(), in_channels=2, num_classes=4, ranks=(3, 2)),
    "roi_mobileunetr3d_tiny": Variant(SkiplessMobileUNETR, Config(), in_channels=7, num_classes=2, ranks=(3, 2)),
    "mobile_unetr_3d_test": Variant(SkiplessMobileUNETR, _TINY, in_channels=2, num_classes=4, ranks=(3, 2)),
}
KEY_MAPPINGS = ()
