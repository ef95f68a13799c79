"""U-Nets of two 3x3 convolutions a level with transposed-convolution upsampling.

`unet_base` is UNet-Base of drawcodeboy/scoliosis_seg-task models/nets/UNet/unet.py (after Ronneberger et al. 2015,
arXiv 1505.04597): [conv with bias, BatchNorm, ReLU] x 2, max pooling, 2x2 transposed convolution, concatenation of
[upsampled, skip], 1x1 head. Differs from the source: no sigmoid at the end, and any number of channels and classes.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from jaxseg import ops
from jaxseg.layers import EVAL, BatchNorm, Conv, ConvTranspose, Run, activation
from jaxseg.models.base import Outputs, Segmenter, Spelling, Variant
from jaxseg.types import Array

_relu = activation("relu")


@dataclasses.dataclass(frozen=True)
class Config:
    """Channels of every level, finest first; the last is the bridge."""

    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)


class DoubleConv(nnx.Module):
    """[3x3 convolution with bias, BatchNorm, ReLU] twice."""

    def __init__(self, cin: int, cout: int, *, rngs: nnx.Rngs):
        self.conv1 = Conv(cin, cout, 3, rank=2, rngs=rngs)
        self.bn1 = BatchNorm(cout, rngs=rngs)
        self.conv2 = Conv(cout, cout, 3, rank=2, rngs=rngs)
        self.bn2 = BatchNorm(cout, rngs=rngs)

    def __call__(self, x: Array, run: Run = EVAL) -> Array:
        x = self.bn1(self.conv1(x), run, act="relu")
        return self.bn2(self.conv2(x), run, act="relu")


class Up(nnx.Module):
    """Double the size by a 2x2 transposed convolution, join [upsampled, skip], convolve twice."""

    def __init__(self, cin: int, cout: int, *, rngs: nnx.Rngs):
        self.up = ConvTranspose(cin, cout, 2, rank=2, stride=2, rngs=rngs)
        self.block = DoubleConv(2 * cout, cout, rngs=rngs)

    def __call__(self, x: Array, skip: Array, run: Run = EVAL) -> Array:
        return self.block(jnp.concatenate([self.up(x), skip], axis=-1), run)


class UNet(Segmenter):
    """U-Net for [B, H, W, C] with sizes divisible by 2^(levels - 1); logits [B, H, W, K]."""

    def __init__(self, config: Config, *, in_channels: int, num_classes: int, rngs: nnx.Rngs):
        self.in_channels, self.num_classes, self.rank = in_channels, num_classes, 2
        self.size_multiple = 2 ** (len(config.widths) - 1)
        ins = (in_channels, *config.widths)
        self.encoder = nnx.List([DoubleConv(a, b, rngs=rngs) for a, b in zip(ins, config.widths)])
        self.decoder = nnx.List([Up(a, b, rngs=rngs) for a, b in zip(config.widths[::-1], config.widths[-2::-1])])
        self.head = Conv(config.widths[0], num_classes, 1, rank=2, rngs=rngs)

    def forward(self, image: Array, run: Run) -> Outputs:
        x, skips = image, []
        for i, block in enumerate(self.encoder):
            with jax.named_scope(f"down{i + 1}"):
                x = block(x if i == 0 else ops.max_pool(x, 2), run)
            skips.append(x)
        for i, up in enumerate(self.decoder):
            with jax.named_scope(f"up{i + 1}"):
                x = up(x, skips[-2 - i], run)
        return Outputs(self.head(x))


VARIANTS = {
    "unet_base": Variant(UNet, Config(), in_channels=1),
    "unet_test": Variant(UNet, Config(widths=(4, 8, 16)), in_channels=1),
}

SPELLINGS = (
    Spelling("seed", (
        *((rf"^e{i + 1}\.convBlk\.", f"encoder.{i}.") for i in range(4)),
        (r"^b\.", "encoder.4."),
        *((rf"^d{i + 1}\.transposeConv\.", f"decoder.{i}.up.") for i in range(4)),
        *((rf"^d{i + 1}\.convBlk\.", f"decoder.{i}.block.") for i in range(4)),
        (r"^conv_out\.", "head."),
    ), ignored=(r"num_batches_tracked$",)),
)
