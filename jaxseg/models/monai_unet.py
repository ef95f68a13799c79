"""MONAI's UNet: convolutions with strides down, transposed ones up, with or without residual units.

Source: MONAI, monai/networks/nets/unet.py and monai/networks/blocks/convolutions.py, after Kerfoot et al. 2018 (STACOM 2018). The
named network has the sizes of MONAI's spleen bundle. Differs from the source in having no dropout.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from jaxseg.layers import Conv, ConvTranspose, ForwardContext
from jaxseg.layers.activation import PReLU
from jaxseg.layers.blocks import make_norm
from jaxseg.models.base import KeyMapping, Outputs, Variant
from jaxseg.models.staged import Sizes, StagedUNet, sizes
from jaxseg.types import Array, ConfigError


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes.

    Attributes:
      widths: channels of the levels, finest first.
      strides: strides of all levels but the last, an int or one for each axis.
      units: convolutions of a residual unit of the encoder (MONAI's num_res_units); 0: one convolution without a shortcut.
      kernel: kernel size of convolutions.
      up_kernel: kernel size of transposed convolutions.
      norm: a name of `layers.blocks.make_norm`.
      act: "prelu", or a name of `layers.activation`.
      bias: whether convolutions have a bias.
    """

    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    strides: tuple[Sizes, ...] = (2, 2, 2, 2)
    units: int = 2
    kernel: int = 3
    up_kernel: int = 3
    norm: str = "batch"
    act: str = "prelu"
    bias: bool = True


class NormAct(nnx.Module):
    """A convolution, and unless it is the network's last one a norm and an activation."""

    def __init__(self, conv: nnx.Module, cout: int, config: Config, *, alone: bool = False, rngs: nnx.Rngs):
        self.conv, self.act_name = conv, config.act
        self.norm = None if alone else make_norm(config.norm, cout, rngs=rngs)
        self.act = PReLU(rngs=rngs) if config.act == "prelu" and not alone else None

    def __call__(self, x: Array, context: ForwardContext) -> Array:
        x = self.conv(x)
        if self.norm is None:
            return x
        return self.act(self.norm(x, context)) if self.act is not None else self.norm(x, context, act=self.act_name)


class ResidualUnit(nnx.Module):
    """`units` convolutions, the first with the stride, and a shortcut; 0: one convolution without a shortcut.

    The shortcut is a convolution where size or channels change: of kernel 1 at stride 1, else of the same kernel.
    """

    def __init__(
        self, cin: int, cout: int, stride, units: int, config: Config, *, alone: bool = False, rank: int, rngs: nnx.Rngs
    ):
        n, k, same = max(units, 1), config.kernel, dict(bias=config.bias, rank=rank, rngs=rngs)
        convs = [Conv(cout if i else cin, cout, k, stride=1 if i else stride, **same) for i in range(n)]
        self.units = nnx.List([NormAct(c, cout, config, alone=alone and i == n - 1, rngs=rngs) for i, c in enumerate(convs)])
        halves = max(stride) > 1
        changed = units > 0 and (halves or cin != cout)
        self.shortcut = Conv(cin, cout, k if halves else 1, stride=stride, **same) if changed else None
        self.residual = units > 0

    def __call__(self, x: Array, context: ForwardContext) -> Array:
        y = x
        for unit in self.units:
            y = unit(y, context)
        return y + (x if self.shortcut is None else self.shortcut(x)) if self.residual else y


class UpUnit(nnx.Module):
    """A transposed convolution, and with residual units one of a single convolution."""

    def __init__(self, cin: int, cout: int, stride, config: Config, *, top: bool, rank: int, rngs: nnx.Rngs):
        pad = (config.up_kernel - 1) // 2
        pads = tuple((pad, pad - (s - 1)) for s in stride)  # PyTorch's output_padding of stride - 1
        conv = ConvTranspose(cin, cout, config.up_kernel, stride=stride, padding=pads, bias=config.bias, rank=rank, rngs=rngs)
        self.up = NormAct(conv, cout, config, alone=top and not config.units, rngs=rngs)
        one = (1,) * rank
        self.unit = ResidualUnit(cout, cout, one, 1, config, alone=top, rank=rank, rngs=rngs) if config.units else None

    def __call__(self, x: Array, context: ForwardContext) -> Array:
        x = self.up(x, context)
        return x if self.unit is None else self.unit(x, context)


class MonaiUNet(StagedUNet):
    """UNet for [B, *S, C] with sizes divisible by the product of the strides; logits [B, *S, K]."""

    def __init__(self, config: Config, *, in_channels: int, num_classes: int, rank: int = 3, rngs: nnx.Rngs):
        self.in_channels, self.num_classes, self.rank = in_channels, num_classes, rank
        w, n = config.widths, len(config.widths)
        if n < 2 or len(config.strides) != n - 1 or not (config.kernel % 2 and config.up_kernel % 2):
            raise ConfigError(
                f"got widths={w}, strides={config.strides}, kernel={config.kernel}, up_kernel={config.up_kernel}; must be "
                "two widths or more, one stride fewer, and odd kernels"
            )
        strides = sizes("strides", config.strides, rank, (2,) * (n - 1))
        self.set_strides(strides)
        same = dict(rank=rank, rngs=rngs)
        levels = list(zip((in_channels, *w), w, strides))
        self.downs = nnx.List([ResidualUnit(a, b, s, config.units, config, **same) for a, b, s in levels])
        self.bottom = ResidualUnit(w[-2], w[-1], (1,) * rank, config.units, config, **same)
        ups = [(w[i] + (w[i + 1] if i == n - 2 else w[i]), w[i - 1] if i else num_classes, strides[i]) for i in range(n - 1)]
        self.ups = nnx.List([UpUnit(a, b, s, config, top=i == 0, **same) for i, (a, b, s) in enumerate(ups)])  # finest first

    def forward(self, image: Array, context: ForwardContext) -> Outputs:
        x, skips = image, []
        for i, down in enumerate(self.downs):
            with jax.named_scope(f"down{i}"):
                x = down(x, context)
            skips.append(x)
        x = self.bottom(x, context)
        for i, up in reversed(list(enumerate(self.ups))):
            with jax.named_scope(f"up{i}"):
                x = up(jnp.concatenate([skips[i], x], -1), context)
        return Outputs(x)


VARIANTS = {
    "monai_unet": Variant(MonaiUNet, Config(), in_channels=1, num_classes=2, ranks=(3, 2)),
    "monai_unet_test": Variant(MonaiUNet, Config(widths=(4, 6, 8), strides=(2, 2)), in_channels=1, num_classes=2, ranks=(3,)),
}
_BELOW = r"1\.submodule\."
KEY_MAPPINGS = (
    KeyMapping(
        "monai",
        (
            *((rf"^model\.(?:{_BELOW}){{{i}}}0\.", f"downs.{i}.") for i in range(12)),
            *((rf"^model\.(?:{_BELOW}){{{i}}}2\.0\.", f"ups.{i}.up.") for i in range(12)),
            *((rf"^model\.(?:{_BELOW}){{{i}}}2\.1\.", f"ups.{i}.unit.") for i in range(12)),
            *((rf"^model\.(?:{_BELOW}){{{i}}}2\.", f"ups.{i}.up.") for i in range(12)),
            (rf"^model\.(?:{_BELOW})+", "bottom."),
            (r"\.conv\.unit(\d+)\.", r".units.\1."),
            (r"^(downs\.\d+|bottom)\.(conv|adn)\.", r"\1.units.0.\2."),
            (r"^(ups\.\d+\.unit)\.conv\.conv\.", r"\1.units.0.conv."),
            (r"\.residual\.", ".shortcut."),
            (r"\.adn\.N\.", ".norm."),
            (r"\.adn\.A\.", ".act."),
        ),
        ignored=(r"num_batches_tracked$",),
    ),
)
