"""nnU-Net's U-Nets with deep supervision: plain and with a residual encoder. The named networks are those that nnU-Net plans for
BraTS at 128^3; its plans for other data (kernels, strides, convolutions of each stage) are fields of `Config`.

Source: Isensee et al. 2021 (Nature Methods 18), Isensee et al. 2024 (arXiv 2404.09556, residual encoders);
MIC-DKFZ/dynamic-network-architectures, architectures/unet.py: PlainConvUNet, ResidualEncoderUNet. Convolutions with bias,
InstanceNorm and LeakyReLU; downsampling by strides; upsampling by transposed convolutions; a head on every decoder level. The
residual blocks are those of ResNet-D: the skip has average pooling, and a 1x1 convolution without bias where the channels change.
Inputs and outputs of the named networks are those of BraTS: [t1, t1ce, t2, flair], three regions.

nnU-Net's 2-D networks segment the planes of a volume one by one. Here they are 3-D networks with kernels (1, 3, 3), strides
(1, 2, 2) and windows of one voxel along the first axis, which compute the same.
"""

import dataclasses
import functools

from flax import nnx

from jaxseg import ops
from jaxseg.layers import Conv, ConvTranspose, ForwardContext
from jaxseg.layers.activation import activation
from jaxseg.layers.blocks import ConvNorm, Sequential, Up
from jaxseg.models.base import KeyMapping, Variant
from jaxseg.models.staged import Sizes, StagedUNet, each, sizes
from jaxseg.types import Array


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes.

    Attributes:
      widths: channels of the stages, finest first.
      kernels: kernel size of each stage's convolutions, an int or one for each axis; () for 3.
      strides: stride of each stage's first convolution, an int or one for each axis; () for 1, then 2.
      convs: number of convolutions (in a residual encoder: of residual blocks) of each stage; () for 2.
      decoder_convs: number of convolutions of each decoder level, coarsest first; () for 2.
      aux: have heads on the coarser decoder levels too (deep supervision).
    """

    widths: tuple[int, ...] = (32, 64, 128, 256, 320, 320)
    kernels: tuple[Sizes, ...] = ()
    strides: tuple[Sizes, ...] = ()
    convs: tuple[int, ...] = ()
    decoder_convs: tuple[int, ...] = ()
    aux: bool = True


def _convs(cin: int, cout: int, kernel: Sizes, count: int, *, stride: Sizes = 1, **same) -> Sequential:
    """`count` convolutions with norm and activation; the first has the stride and changes the channels."""
    return Sequential(*(ConvNorm(cout if i else cin, cout, kernel, stride=1 if i else stride, **same) for i in range(count)))


class Block(nnx.Module):
    """ResNet-D's basic block: act(norm(conv(act(norm(conv(x))))) + skip(x))."""

    def __init__(self, cin: int, cout: int, kernel: Sizes, *, stride: tuple[int, ...], act: str, **same):
        self.conv1 = ConvNorm(cin, cout, kernel, stride=stride, act=act, **same)
        self.conv2 = ConvNorm(cout, cout, kernel, act="identity", **same)
        self.skip = ConvNorm(cin, cout, 1, act="identity", **{**same, "bias": False}) if cin != cout else None
        self.stride, self.act = stride, act

    def __call__(self, x: Array, context: ForwardContext) -> Array:
        y = self.conv2(self.conv1(x, context), context)
        x = ops.avg_pool(x, self.stride) if max(self.stride) > 1 else x
        return activation(self.act)(y + (x if self.skip is None else self.skip(x, context)))


def _blocks(cin: int, cout: int, kernel: Sizes, count: int, *, stride: tuple[int, ...], **same) -> Sequential:
    flat = (1,) * len(stride)
    return Sequential(*(Block(cout if i else cin, cout, kernel, stride=flat if i else stride, **same) for i in range(count)))


class PlainUNet(StagedUNet):
    """U-Net for [B, *S, C], sizes divisible by the product of strides; logits [B, *S, K]; aux: coarser levels, finest first."""

    residual = False

    def __init__(self, config: Config, *, in_channels: int, num_classes: int, rank: int = 3, rngs: nnx.Rngs):
        self.in_channels, self.num_classes, self.rank = in_channels, num_classes, rank
        widths, same = config.widths, dict(rank=rank, act="leaky_relu", norm="instance", bias=True, rngs=rngs)
        n = len(widths)
        kernels = sizes("kernels", config.kernels, rank, (3,) * n)
        strides = sizes("strides", config.strides, rank, (1, *(2,) * (n - 1)))
        counts = each("convs", config.convs, n, (2,) * n)
        decoder = each("decoder_convs", config.decoder_convs, n - 1, (2,) * (n - 1))
        self.set_strides(strides)
        self.stem = ConvNorm(in_channels, widths[0], kernels[0], **same) if self.residual else None
        inputs = (widths[0] if self.residual else in_channels, *widths)
        stage = _blocks if self.residual else _convs
        self.stages = nnx.List(
            [stage(a, b, k, c, stride=s, **same) for a, b, k, c, s in zip(inputs, widths, kernels, counts, strides)]
        )
        up = functools.partial(ConvTranspose, rank=rank, rngs=rngs)
        self.levels = nnx.List(
            [
                Up(up(a, b, s, stride=s), _convs(2 * b, b, k, c, **same), skip_first=False)
                for a, b, s, k, c in zip(widths[:0:-1], widths[-2::-1], strides[:0:-1], kernels[-2::-1], decoder)
            ]
        )
        self.heads = nnx.List(
            [Conv(c, num_classes, 1, rank=rank, rngs=rngs) for c in (widths[:-1] if config.aux else widths[:1])]
        )  # finest first


class ResidualUNet(PlainUNet):
    """nnU-Net's U-Net with a residual encoder: a PlainUNet with a stem and residual blocks in its encoder."""

    residual = True


# M, L and XL are nnU-Net's memory budgets of 8, 24 and 40 GB. For isotropic scans of 1 mm it plans the same network for all of
# them, with different patches: 128^3, 192^3 and 256 x 224 x 224 voxels.
RESIDUAL = Config(convs=(1, 3, 4, 6, 6, 6), decoder_convs=(1,) * 5)
_of_brats = functools.partial(Variant, in_channels=4, num_classes=3)

VARIANTS = {
    "nnunet_plain": _of_brats(PlainUNet, Config(), ranks=(3, 2)),
    "nnunet_plain_test": _of_brats(PlainUNet, Config(widths=(4, 8, 8)), ranks=(3, 2)),
    **{f"nnunet_resenc_{size}": _of_brats(ResidualUNet, RESIDUAL, ranks=(3,)) for size in ("m", "l", "xl")},
    "nnunet_resenc_test": _of_brats(ResidualUNet, Config(widths=(4, 8), convs=(1, 2), decoder_convs=(1,)), ranks=(3,)),
}


def _names(levels: int) -> KeyMapping:
    """nnU-Net's names with a decoder of so many levels: it counts heads from the coarsest one, we from the finest."""
    return KeyMapping(
        f"nnunet_{levels}",
        (
            *((rf"^decoder\.seg_layers\.{i}\.", f"heads.{levels - 1 - i}.") for i in range(levels)),
            (r"^encoder\.stem\.convs\.0\.", "stem."),
            (r"^encoder\.stages\.(\d+)\.0\.convs\.(\d+)\.", r"stages.\1.blocks.\2."),
            (r"^encoder\.stages\.(\d+)\.blocks\.(\d+)\.skip\.[01]\.", r"stages.\1.blocks.\2.skip."),
            (r"^encoder\.stages\.(\d+)\.blocks\.", r"stages.\1.blocks."),
            (r"^decoder\.transpconvs\.(\d+)\.", r"levels.\1.up."),
            (r"^decoder\.stages\.(\d+)\.convs\.(\d+)\.", r"levels.\1.convs.blocks.\2."),
        ),
        ignored=(r"(^|\.)all_modules\.", r"^decoder\.encoder\."),  # a second copy of the same tensors
    )


KEY_MAPPINGS = tuple(_names(levels) for levels in range(1, 9))
