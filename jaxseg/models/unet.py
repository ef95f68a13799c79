"""U-Net with two 3x3 convolutions per level and upsampling by transposed convolutions.

`unet_base` is UNet-Base of drawcodeboy/scoliosis_seg-task models/nets/UNet/unet.py (after Ronneberger et al. 2015,
arXiv 1505.04597): [conv with bias, BatchNorm, ReLU] x 2, max pooling, 2x2 transposed convolution, concatenation of
[upsampled, skip], 1x1 head. Differs from the source in having no sigmoid at the end, and any number of channels and classes.
"""

import dataclasses

import jax
from flax import nnx

from jaxseg import ops
from jaxseg.layers import Conv, ForwardContext
from jaxseg.layers.blocks import DoubleConv, up_transposed
from jaxseg.models.base import KeyMapping, Outputs, Segmenter, Variant
from jaxseg.types import Array


@dataclasses.dataclass(frozen=True)
class Config:
    """Channels of every level, finest first; the last is the bridge."""

    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)


class UNet(Segmenter):
    """U-Net for [B, H, W, C] with sizes divisible by 2^(levels - 1); logits [B, H, W, K]."""

    def __init__(self, config: Config, *, in_channels: int, num_classes: int, rngs: nnx.Rngs):
        self.in_channels, self.num_classes, self.rank = in_channels, num_classes, 2
        self.size_multiple = 2 ** (len(config.widths) - 1)
        ins, same = (in_channels, *config.widths), dict(rank=2, bias=True, rngs=rngs)
        self.encoder = nnx.List([DoubleConv(a, b, **same) for a, b in zip(ins, config.widths)])
        self.decoder = nnx.List([up_transposed(a, b, **same) for a, b in zip(config.widths[::-1], config.widths[-2::-1])])
        self.head = Conv(config.widths[0], num_classes, 1, rank=2, rngs=rngs)

    def forward(self, image: Array, context: ForwardContext) -> Outputs:
        x, skips = image, []
        for i, block in enumerate(self.encoder):
            with jax.named_scope(f"down{i + 1}"):
                x = block(x if i == 0 else ops.max_pool(x, 2), context)
            skips.append(x)
        for i, up in enumerate(self.decoder):
            with jax.named_scope(f"up{i + 1}"):
                x = up(x, skips[-2 - i], context)
        return Outputs(self.head(x))


VARIANTS = {
    "unet_base": Variant(UNet, Config(), in_channels=1),
    "unet_test": Variant(UNet, Config(widths=(4, 8, 16)), in_channels=1),
}

KEY_MAPPINGS = (
    KeyMapping(
        "scoliosis",
        (
            *(
                (rf"\.convBlk\.{theirs}{i + 1}\.", rf".convBlk.blocks.{i}.{ours}.")
                for i in range(2)
                for theirs, ours in (("conv", "conv"), ("bn", "norm"))
            ),
            *(
                (rf"^b\.{theirs}{i + 1}\.", rf"b.blocks.{i}.{ours}.")
                for i in range(2)
                for theirs, ours in (("conv", "conv"), ("bn", "norm"))
            ),
            *((rf"^e{i + 1}\.convBlk\.", f"encoder.{i}.") for i in range(4)),
            (r"^b\.", "encoder.4."),
            *((rf"^d{i + 1}\.transposeConv\.", f"decoder.{i}.up.") for i in range(4)),
            *((rf"^d{i + 1}\.convBlk\.", f"decoder.{i}.convs.") for i in range(4)),
            (r"^conv_out\.", "head."),
        ),
        ignored=(r"num_batches_tracked$",),
    ),
)
