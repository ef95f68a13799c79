"""U-Nets for volumes (and images): four levels and a bottleneck, downsampling by pooling or strides, two or four modalities.

Source: the BraTS 3-D project's models/model_3d_unet.py, after Cicek et al. 2016 (arXiv 1606.06650). Differs from the
source: the bottleneck is pooled to 1/16; the source keeps it at 1/8 and crops the centre of the upsampled map, which
`faithful_bottleneck` does too. The parameters are the same.
Two channels are [t1ce, flair], four are [t1, t1ce, t2, flair]; the region-of-interest network has three coordinates besides.
"""

import dataclasses

import jax
from flax import nnx

from jaxseg.layers import Conv, ForwardContext
from jaxseg.layers.blocks import DoubleConv, Down, up_halved
from jaxseg.models.base import Outputs, Segmenter, Variant
from jaxseg.types import Array


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and choices.

    Attributes:
      widths: channels of the levels, finest first, the bottleneck last.
      down: "pool" or "stride".
      upsampling: "transposed" (convolution) or "linear".
      norm: "batch", "instance" or "group".
      faithful_bottleneck: keep the bottleneck at the size of the level above, as in the source.
    """

    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    down: str = "pool"
    upsampling: str = "transposed"
    norm: str = "batch"
    faithful_bottleneck: bool = False


class BratsUNet(Segmenter):
    """U-Net for [B, *S, C] of any size of at least 2^levels; logits [B, *S, K].

    This is not `unet.UNet`: it allows odd sizes, strides and linear upsampling, skips come first in the concatenation, and the
    tensors have the source's names.
    """

    def __init__(self, config: Config, *, in_channels: int, num_classes: int, rank: int, rngs: nnx.Rngs):
        self.in_channels, self.num_classes, self.rank = in_channels, num_classes, rank
        widths, same = config.widths, dict(rank=rank, norm=config.norm, rngs=rngs)
        self.min_size = 2 ** (len(widths) - 1)
        self.stem = DoubleConv(in_channels, widths[0], **same)
        halved = len(widths) - (2 if config.faithful_bottleneck else 1)
        self.downs = nnx.List(
            [Down(a, b, how=config.down, halve=i < halved, **same) for i, (a, b) in enumerate(zip(widths, widths[1:]))]
        )
        skips = widths[-2::-1]
        # with linear upsampling each level's last convolution halves the channels, because nothing else does
        outs = skips if config.upsampling == "transposed" else (*skips[1:], widths[0])
        self.ups = nnx.List(
            [up_halved(c, out, skip, how=config.upsampling, **same) for c, out, skip in zip((widths[-1], *outs), outs, skips)]
        )
        self.head = Conv(outs[-1], num_classes, 1, rank=rank, rngs=rngs)

    def forward(self, image: Array, context: ForwardContext) -> Outputs:
        with jax.named_scope("stem"):
            features = [self.stem(image, context)]
        for i, down in enumerate(self.downs):
            with jax.named_scope(f"down{i + 1}"):
                features.append(down(features[-1], context))
        x = features.pop()
        for i, up in enumerate(self.ups):
            with jax.named_scope(f"up{i + 1}"):
                x = up(x, features.pop(), context)
        return Outputs(self.head(x))


_BASE = {"xs": 16, "s": 32, "m": 64, "l": 128}


def _widths(base: int) -> tuple[int, ...]:
    return tuple(base * 2**i for i in range(5))


_CONFIGS = {f"unet3d_{size}": (Config(_widths(base)), 2, 4) for size, base in _BASE.items()}
_CONFIGS |= {f"unet3d_stride_{size}": (Config(_widths(base), down="stride"), 2, 4) for size, base in _BASE.items()}
_CONFIGS |= {
    "unet3d_2modal_s": (Config(_widths(32)), 2, 4),
    "unet3d_4modal_s": (Config(_widths(32)), 4, 4),
    "roi_unet3d_small": (Config((16, 32, 64, 128, 128), upsampling="linear"), 7, 2),
    "unet3d_test": (Config((4, 8, 8, 16), down="stride"), 2, 4),
    "roi_unet3d_test": (Config((4, 8, 8), upsampling="linear", norm="group"), 7, 2),
}
VARIANTS = {
    name: Variant(BratsUNet, config, in_channels=channels, num_classes=classes, ranks=(3, 2))
    for name, (config, channels, classes) in _CONFIGS.items()
}
KEY_MAPPINGS = ()
