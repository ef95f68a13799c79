"""nnU-Net's plain convolutional U-Net with deep supervision, in the shape it plans for BraTS at 128^3.

Source: Isensee et al. 2021 (Nature Methods 18), MIC-DKFZ/dynamic-network-architectures PlainConvUNet. Two convolutions a
stage with bias, InstanceNorm and LeakyReLU; down by stride; up by transposed convolution; a head on every decoder level.
The four inputs are [t1, t1ce, t2, flair]; the three outputs the regions of BraTS.
"""

import dataclasses

import jax
from flax import nnx

from jaxseg.layers import Conv, ForwardContext
from jaxseg.layers.blocks import DoubleConv, up_transposed
from jaxseg.models.base import Outputs, Segmenter, Variant
from jaxseg.types import Array


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes.

    Attributes:
      widths: channels of the stages, finest first.
      aux: heads on the coarser decoder levels (deep supervision).
    """

    widths: tuple[int, ...] = (32, 64, 128, 256, 320, 320)
    aux: bool = True


class PlainUNet(Segmenter):
    """[B, *S, C] with sizes divisible by 2^(stages - 1); logits [B, *S, K]; aux: the coarser levels, finest first."""

    def __init__(self, config: Config, *, in_channels: int, num_classes: int, rank: int, rngs: nnx.Rngs):
        self.in_channels, self.num_classes, self.rank = in_channels, num_classes, rank
        widths, same = config.widths, dict(rank=rank, act="leaky_relu", norm="instance", bias=True, rngs=rngs)
        self.size_multiple = 2 ** (len(widths) - 1)
        self.min_size = 2 * self.size_multiple  # an InstanceNorm over one position returns its bias
        self.stages = nnx.List(
            [DoubleConv(a, b, stride=2 if i else 1, **same) for i, (a, b) in enumerate(zip((in_channels, *widths), widths))]
        )
        self.levels = nnx.List([up_transposed(a, b, **same) for a, b in zip(widths[:0:-1], widths[-2::-1])])
        self.heads = nnx.List(
            [Conv(c, num_classes, 1, rank=rank, rngs=rngs) for c in (widths[:-1] if config.aux else widths[:1])]
        )  # finest first

    def forward(self, image: Array, context: ForwardContext) -> Outputs:
        x, skips, maps = image, [], []
        for i, stage in enumerate(self.stages):
            with jax.named_scope(f"down{i}"):
                x = stage(x, context)
            skips.append(x)
        skips.pop()
        for i, level in enumerate(self.levels):
            with jax.named_scope(f"up{i + 1}"):
                x = level(x, skips.pop(), context)
            maps.insert(0, x)
        used = self.heads if context.train else self.heads[:1]
        logits = [head(m) for head, m in zip(used, maps)]
        return Outputs(logits[0], tuple(logits[1:]))


VARIANTS = {
    "nnunet_plain": Variant(PlainUNet, Config(), in_channels=4, num_classes=3, ranks=(3, 2)),
    "nnunet_plain_test": Variant(PlainUNet, Config(widths=(4, 8, 8)), in_channels=4, num_classes=3, ranks=(3, 2)),
}
KEY_MAPPINGS = ()
