"""DynUNet: MONAI's version of nnU-Net's U-Nets, with anisotropic kernels and strides.

Source: MONAI, monai/networks/nets/dynunet.py. Unlike `nnunet` its convolutions have no biases, its residual blocks (`residual`)
are those of ResNet with a norm in the shortcut, and the number of heads on coarser levels can be chosen (`aux`). Differs from the
source in that auxiliary logits keep the size of their level (MONAI upsamples them to the size of the image), and in having no
dropout.
"""

import dataclasses

from flax import nnx

from jaxseg.layers import Conv, ConvTranspose
from jaxseg.layers.blocks import BasicBlock, ConvNorm, Sequential, Up
from jaxseg.models.base import KeyMapping, Variant
from jaxseg.models.staged import Sizes, StagedUNet, sizes
from jaxseg.types import ConfigError


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes.

    Attributes:
      strides: strides of the stages, finest first, an int or one for each axis; the first is 1.
      kernels: kernel sizes of the stages, an int or one for each axis; () for 3.
      widths: channels of the stages; () for MONAI's: 32, doubled up to 320, with images up to 512.
      residual: whether the encoder's blocks have shortcuts.
      norm: a name of `layers.blocks.make_norm`.
      act: a name of `layers.activation`.
      up_bias: whether transposed convolutions have a bias.
      aux: number of coarser levels with a head (deep supervision), finest first.
    """

    strides: tuple[Sizes, ...] = (1, 2, 2, 2, 2, 2)
    kernels: tuple[Sizes, ...] = ()
    widths: tuple[int, ...] = ()
    residual: bool = False
    norm: str = "instance"
    act: str = "leaky_relu"
    up_bias: bool = False
    aux: int = 0


def _plain(cin: int, cout: int, kernel: tuple, *, stride: tuple, padding: tuple, **same) -> Sequential:
    first = ConvNorm(cin, cout, kernel, stride=stride, padding=padding, **same)
    return Sequential(first, ConvNorm(cout, cout, kernel, **same))


class DynUNet(StagedUNet):
    """DynUNet for [B, *S, C], sizes divisible by the product of strides; logits [B, *S, K]; aux: coarser levels, finest first."""

    def __init__(self, config: Config, *, in_channels: int, num_classes: int, rank: int = 3, rngs: nnx.Rngs):
        self.in_channels, self.num_classes, self.rank = in_channels, num_classes, rank
        n = len(config.strides)
        widths = config.widths or tuple(min(32 << i, 320 if rank == 3 else 512) for i in range(n))
        strides = sizes("strides", config.strides, rank, (1,) * n)
        kernels = sizes("kernels", config.kernels, rank, (3,) * n)
        if n < 3 or len(widths) != n or max(strides[0]) > 1 or not 0 <= config.aux < n - 1:
            raise ConfigError(
                f"got strides={config.strides}, widths={config.widths}, aux={config.aux}; must be at least three stages, the "
                "first with stride 1, a width for each, and fewer heads on coarser levels than upsamplings"
            )
        if any(s > k + 1 for stride, kernel in zip(strides, kernels) for s, k in zip(stride, kernel)):
            raise ConfigError(f"got strides={config.strides}, kernels={kernels}; a stride must be at most its kernel + 1")
        self.set_strides(strides)
        same = dict(rank=rank, norm=config.norm, act=config.act, rngs=rngs)
        block = BasicBlock if config.residual else _plain
        pads = [tuple((k - s + 1) // 2 for k, s in zip(kernel, stride)) for kernel, stride in zip(kernels, strides)]
        shapes = zip((in_channels, *widths), widths, kernels, strides, pads)
        first, *middle, last = [block(a, b, k, stride=s, padding=p, **same) for a, b, k, s, p in shapes]
        self.input_block, self.downsamples, self.bottleneck = first, nnx.List(middle), last
        up = lambda a, b, s: ConvTranspose(a, b, s, stride=s, bias=config.up_bias, rank=rank, rngs=rngs)
        self.levels = nnx.List(
            [
                Up(up(widths[i], widths[i - 1], strides[i]), _level(widths[i - 1], kernels[i], **same), skip_first=False)
                for i in range(n - 1, 0, -1)
            ]
        )
        self.heads = nnx.List([Conv(c, num_classes, 1, rank=rank, rngs=rngs) for c in widths[: config.aux + 1]])

    @property
    def stages(self) -> list:
        """The encoder's blocks, finest first."""
        return [self.input_block, *self.downsamples, self.bottleneck]


def _level(channels: int, kernel: tuple, **same) -> Sequential:
    return Sequential(ConvNorm(2 * channels, channels, kernel, **same), ConvNorm(channels, channels, kernel, **same))


VARIANTS = {
    "dynunet": Variant(DynUNet, Config(), in_channels=4, num_classes=3, ranks=(3, 2)),
    "dynunet_test": Variant(
        DynUNet,
        Config(strides=(1, (1, 2, 2), 2), kernels=((1, 3, 3), 3, 3), widths=(4, 6, 8), residual=True, aux=1),
        in_channels=1,
        num_classes=2,
        ranks=(3,),
    ),
}
# of the plain blocks and of the levels; residual blocks have conv1 to conv3 here too
_PAIRS = r"(input_block|downsamples\.\d+|bottleneck|levels\.\d+\.convs)"


def _names(name: str, residual: bool) -> KeyMapping:
    own = [(rf"^{_PAIRS}\.{part}{i + 1}\.", rf"\1.blocks.{i}.{part}.") for i in range(2) for part in ("conv", "norm")]
    paired = own if not residual else [(p.replace(_PAIRS, r"(levels\.\d+\.convs)"), r) for p, r in own]
    return KeyMapping(
        name,
        (
            (r"\.(conv[123])\.conv\.", r".\1."),
            (r"^upsamples\.(\d+)\.transp_conv\.conv\.", r"levels.\1.up."),
            (r"^upsamples\.(\d+)\.conv_block\.", r"levels.\1.convs."),
            *paired,
            *([(r"\.(conv|norm)([123])\.", r".conv\2.\1.")] if residual else []),
            (r"^output_block\.conv\.conv\.", "heads.0."),
            *((rf"^deep_supervision_heads\.{i}\.conv\.conv\.", f"heads.{i + 1}.") for i in range(8)),
        ),
        ignored=(r"^skip_layers\.", r"num_batches_tracked$"),  # the first are copies of other tensors
    )


KEY_MAPPINGS = (_names("monai", residual=False), _names("monai_residual", residual=True))
