"""BasicUNet: five levels with two convolutions each, max pooling, and upsampling by transposed convolutions.

Source: MONAI, monai/networks/nets/basic_unet.py, after Falk et al. 2019 (Nature Methods 16). Differs from the source in having no
dropout and only one kind of upsampling.
"""

import dataclasses
import itertools

import jax
from flax import nnx

from jaxseg.layers import Conv, ConvTranspose, ForwardContext
from jaxseg.layers.blocks import DoubleConv, Down, Up
from jaxseg.models.base import KeyMapping, Outputs, Segmenter, Variant
from jaxseg.types import Array, ConfigError


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes.

    Attributes:
      widths: six numbers of channels: those of the five levels, finest first, and those after the last upsampling.
      norm: a name of `layers.blocks.make_norm`.
      act: a name of `layers.activation`.
      bias: whether convolutions before norms have a bias.
    """

    widths: tuple[int, ...] = (32, 32, 64, 128, 256, 32)
    norm: str = "instance"
    act: str = "leaky_relu_0.1"
    bias: bool = True


class BasicUNet(Segmenter):
    """BasicUNet for [B, *S, C] with any sizes of at least 32; logits [B, *S, K]."""

    min_size = 32  # an InstanceNorm over a single position would return its bias

    def __init__(self, config: Config, *, in_channels: int, num_classes: int, rank: int = 3, rngs: nnx.Rngs):
        self.in_channels, self.num_classes, self.rank = in_channels, num_classes, rank
        if len(config.widths) != 6:
            raise ConfigError(f"got widths={config.widths}; must be six numbers: for five levels, and after the last upsampling")
        *levels, last = config.widths
        same = dict(rank=rank, norm=config.norm, act=config.act, bias=config.bias, rngs=rngs)
        self.conv_0 = DoubleConv(in_channels, levels[0], **same)
        self.downs = nnx.List([Down(a, b, **same) for a, b in itertools.pairwise(levels)])
        # the last level keeps the channels of the level below
        shapes = [(c, skip, c // 2, skip) for c, skip in zip(levels[:1:-1], levels[-2:0:-1])]
        shapes.append((levels[1], levels[0], levels[1], last))
        self.ups = nnx.List(
            [
                Up(ConvTranspose(c, up, 2, stride=2, rank=rank, rngs=rngs), DoubleConv(skip + up, out, **same), edge=True)
                for c, skip, up, out in shapes
            ]
        )
        self.final_conv = Conv(last, num_classes, 1, rank=rank, rngs=rngs)

    def forward(self, image: Array, context: ForwardContext) -> Outputs:
        x, skips = self.conv_0(image, context), []
        for i, down in enumerate(self.downs):
            skips.append(x)
            with jax.named_scope(f"down{i + 1}"):
                x = down(x, context)  # [B, S/2^(i+1), widths[i+1]]
        for i, up in enumerate(self.ups):
            with jax.named_scope(f"up{4 - i}"):
                x = up(x, skips.pop(), context)
        return Outputs(self.final_conv(x))


VARIANTS = {
    "basicunet": Variant(BasicUNet, Config(), in_channels=1, num_classes=2, ranks=(3, 2)),
    "basicunet_test": Variant(BasicUNet, Config(widths=(4, 4, 4, 6, 8, 4)), in_channels=1, num_classes=2, ranks=(3,)),
}
KEY_MAPPINGS = (
    KeyMapping(
        "monai",
        (
            *((rf"^down_{i + 1}\.", f"downs.{i}.") for i in range(4)),
            *((rf"^upcat_{4 - i}\.", f"ups.{i}.") for i in range(4)),
            (r"\.upsample\.deconv\.", ".up."),
            (r"(^|\.)conv_([01])\.conv\.", r"\1blocks.\2.conv."),
            (r"(^|\.)conv_([01])\.adn\.N\.", r"\1blocks.\2.norm."),
        ),
        ignored=(r"num_batches_tracked$",),
    ),
)
