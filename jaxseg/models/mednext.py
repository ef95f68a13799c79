"""MedNeXt: a U-Net of ConvNeXt blocks (depthwise convolution, InstanceNorm, expansion, GELU), also for down- and upsampling.

Source: Roy et al. 2023 (arXiv 2303.09975), table 1; MIC-DKFZ/MedNeXt and MONAI's monai/networks/nets/mednext.py, whose GroupNorm
has a group for each channel. The paper has kernels of 3 and 5 (`kernel=5`). Differs from the source in having no global response
normalisation.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from jaxseg import ops
from jaxseg.layers import Conv, ConvTranspose, ForwardContext, InstanceNorm
from jaxseg.layers.blocks import Sequential
from jaxseg.models.base import KeyMapping, Outputs, Segmenter, Variant
from jaxseg.types import Array, ConfigError


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes, finest level first.

    Attributes:
      width: channels of the finest level; each further level has twice as many.
      kernel: kernel size of the depthwise convolutions, odd.
      blocks: number of blocks in each encoder level and in the bottleneck; decoder levels have as many as encoder levels.
      ratios: expansion ratio of the blocks in each encoder level and in the bottleneck.
      ratio_below: downsampling blocks have the ratio of the level below, as in MIC-DKFZ/MedNeXt, instead of their own level's,
        as in MONAI; the numbers of parameters differ for sizes above S.
      aux: have heads on the coarser levels, including the bottleneck (deep supervision).
    """

    width: int = 32
    kernel: int = 3
    blocks: tuple[int, ...] = (2, 2, 2, 2, 2)
    ratios: tuple[int, ...] = (2, 2, 2, 2, 2)
    ratio_below: bool = False
    aux: bool = False


class Block(nnx.Module):
    """MedNeXt block: conv3(gelu(conv2(norm(conv1(x))))) + shortcut; conv1 is depthwise, the others have kernel 1.

    Args:
      cin, cout: channels.
      ratio: expansion ratio; conv2 has ratio * cin outputs.
      how: "" keeps the size; "down" halves it by the stride of conv1; "up" doubles it by a transposed conv1, whose result is
        zero-padded by one position at the start of each axis.
    """

    def __init__(self, cin: int, cout: int, ratio: int, kernel: int, how: str = "", *, rank: int, rngs: nnx.Rngs):
        same = dict(rank=rank, rngs=rngs)
        stride, conv = (2 if how else 1), ConvTranspose if how == "up" else Conv
        self.conv1 = conv(cin, cin, kernel, stride=stride, padding=kernel // 2, groups=cin, **same)
        self.norm = InstanceNorm(cin, rngs=rngs)
        self.conv2, self.conv3 = Conv(cin, ratio * cin, 1, **same), Conv(ratio * cin, cout, 1, **same)
        self.res_conv = conv(cin, cout, 1, stride=2, **same) if how else None
        self.how = how

    def __call__(self, x: Array, context: ForwardContext) -> Array:
        y = self.conv3(ops.gelu(self.conv2(self.norm(self.conv1(x), context))))
        y = y + (x if self.res_conv is None else self.res_conv(x))
        return jnp.pad(y, [(0, 0), *((1, 0),) * (y.ndim - 2), (0, 0)]) if self.how == "up" else y


class MedNeXt(Segmenter):
    """MedNeXt for [B, *S, C] with sizes divisible by 2^levels; logits [B, *S, K]; aux: the coarser levels, finest first."""

    def __init__(self, config: Config, *, in_channels: int, num_classes: int, rank: int = 3, rngs: nnx.Rngs):
        self.in_channels, self.num_classes, self.rank = in_channels, num_classes, rank
        counts, ratios, w = config.blocks, config.ratios, config.width
        if len(counts) != len(ratios):
            raise ConfigError(f"got blocks={counts}, ratios={ratios}; must have an entry for every level and for the bottleneck")
        if config.kernel % 2 == 0:
            raise ConfigError(f"got kernel={config.kernel}; must be odd")
        n, same = len(counts) - 1, dict(rank=rank, rngs=rngs)
        self.size_multiple = 2**n
        self.min_size = 2 * self.size_multiple  # an InstanceNorm over a single position would return its bias
        stage = lambda i: Sequential(*(Block(w << i, w << i, ratios[i], config.kernel, **same) for _ in range(counts[i])))
        turn = lambda a, b, ratio, how: Block(w << a, w << b, ratio, config.kernel, how, **same)
        head = lambda i: ConvTranspose(w << i, num_classes, 1, stride=1, **same)  # transposed, as in the sources
        up = range(n - 1, -1, -1)
        self.stem = Conv(in_channels, w, 1, **same)
        self.enc_stages = nnx.List([stage(i) for i in range(n)])
        self.down_blocks = nnx.List([turn(i, i + 1, ratios[i + config.ratio_below], "down") for i in range(n)])
        self.bottleneck = stage(n)
        self.up_blocks = nnx.List([turn(i + 1, i, ratios[i], "up") for i in up])
        self.dec_stages = nnx.List([stage(i) for i in up])
        self.out_0 = head(0)
        self.out_blocks = nnx.List([head(i) for i in range(n, 0, -1)] if config.aux else [])  # coarsest first

    def forward(self, image: Array, context: ForwardContext) -> Outputs:
        x, skips, maps = self.stem(image), [], []
        for i, (stage, down) in enumerate(zip(self.enc_stages, self.down_blocks)):
            with jax.named_scope(f"down{i}"):
                x = stage(x, context)
                skips.append(x)
                x = down(x, context)  # [B, S/2^(i+1), 2^(i+1) width]
        with jax.named_scope("bottleneck"):
            x = self.bottleneck(x, context)
        for i, (up, stage) in enumerate(zip(self.up_blocks, self.dec_stages)):
            maps.append(x)
            with jax.named_scope(f"up{i}"):
                x = stage(up(x, context) + skips.pop(), context)
        aux = [head(m) for head, m in zip(self.out_blocks, maps)] if context.train else []
        return Outputs(self.out_0(x), tuple(aux[::-1]))


_B = (2, 3, 4, 4, 4)
_SIZES = {  # table 1
    "s": Config(),
    "b": Config(ratios=_B),
    "m": Config(blocks=(3, 4, 4, 4, 4), ratios=_B),
    "l": Config(blocks=(3, 4, 8, 8, 8), ratios=(3, 4, 8, 8, 8)),
}
VARIANTS = {
    **{f"mednext_{size}": Variant(MedNeXt, c, in_channels=1, num_classes=2, ranks=(3, 2)) for size, c in _SIZES.items()},
    "mednext_test": Variant(
        MedNeXt, Config(width=4, blocks=(1, 1, 1), ratios=(2, 3, 2), aux=True), in_channels=1, num_classes=2, ranks=(3,)
    ),
}
KEY_MAPPINGS = (
    KeyMapping(
        "monai",
        (
            (r"^(enc_stages|dec_stages)\.(\d+)\.", r"\1.\2.blocks."),
            (r"^bottleneck\.", "bottleneck.blocks."),
            (r"^(out_0|out_blocks\.\d+)\.conv_out\.", r"\1."),
        ),
    ),
    KeyMapping(
        "official",
        (
            (r"^enc_block_(\d)\.", r"enc_stages.\1.blocks."),
            (r"^down_(\d)\.", r"down_blocks.\1."),
            (r"^bottleneck\.", "bottleneck.blocks."),
            *((rf"^up_{3 - i}\.", f"up_blocks.{i}.") for i in range(4)),
            *((rf"^dec_block_{3 - i}\.", f"dec_stages.{i}.blocks.") for i in range(4)),
            *((rf"^out_{4 - i}\.conv_out\.", f"out_blocks.{i}.") for i in range(4)),
            (r"^out_0\.conv_out\.", "out_0."),
        ),
        ignored=(r"^dummy_tensor$",),
    ),
)
