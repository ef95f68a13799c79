"""Swin UNETR: a residual U-Net whose encoder is a Swin transformer of four stages.

Source: Hatamizadeh et al. 2022 (arXiv 2201.01266), as in MONAI (monai/networks/nets/swin_unetr.py). The order in which
patches are merged is that of MONAI since 1.5 ("merging"), of its class for v2 ("mergingv2"), or of MONAI before 1.5
("legacy"), which published weights need; the parameters are the same.
"""

import dataclasses

import jax
from flax import nnx

from jaxseg.layers import EVAL, Conv, ForwardContext, LayerNorm
from jaxseg.layers.res_unet import RULES, ResBlock, res_up
from jaxseg.models.base import KeyMapping, Outputs, Segmenter, Variant
from jaxseg.models.swin_unetr.windows import PatchMerging, WindowBlock
from jaxseg.types import Array


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and choices.

    Attributes:
      width: channels of the first stage, doubled by every merging.
      depths, heads: blocks and attention heads of the four stages.
      window: edge of a window, in patches of two voxels at the first stage.
      merging: "merging", "mergingv2" or "legacy".
    """

    width: int = 48
    depths: tuple[int, ...] = (2, 2, 2, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    merging: str = "merging"


class Stage(nnx.Module):
    """Transformer blocks, every second one with shifted windows, then patch merging."""

    def __init__(self, config: Config, i: int, *, rngs: nnx.Rngs):
        channels = config.width * 2**i
        self.blocks = nnx.List(
            [
                WindowBlock(channels, config.heads[i], config.window, shifted=j % 2 == 1, rank=3, rngs=rngs)
                for j in range(config.depths[i])
            ]
        )
        self.downsample = PatchMerging(channels, order=config.merging, rngs=rngs)

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        for block in self.blocks:
            x = block(x, context)
        return self.downsample(x, context)


class SwinUNETR(Segmenter):
    """Swin UNETR for [B, D, H, W, C] with sizes divisible by 32 and at least 64; logits [B, D, H, W, K]."""

    size_multiple = 32
    min_size = 64  # an InstanceNorm over a single position would return zero

    def __init__(self, config: Config, *, in_channels: int, num_classes: int, rngs: nnx.Rngs):
        self.in_channels, self.num_classes, self.rank = in_channels, num_classes, 3
        f, same = config.width, dict(rank=3, rngs=rngs)
        self.embed = Conv(in_channels, f, 2, stride=2, padding=0, **same)
        self.stages = nnx.List([Stage(config, i, rngs=rngs) for i in range(4)])
        self.norms = nnx.List([LayerNorm(f * 2**i, affine=False, rngs=rngs) for i in range(5)])
        self.encoder1 = ResBlock(in_channels, f, **same)
        self.encoder2, self.encoder3, self.encoder4, self.encoder10 = (ResBlock(f * m, f * m, **same) for m in (1, 2, 4, 16))
        self.decoder5, self.decoder4, self.decoder3, self.decoder2, self.decoder1 = (
            res_up(f * a, f * b, **same) for a, b in ((16, 8), (8, 4), (4, 2), (2, 1), (1, 1))
        )
        self.out = Conv(f, num_classes, 1, **same)

    def forward(self, image: Array, context: ForwardContext) -> Outputs:
        x = self.embed(image)  # [B, D/2, H/2, W/2, f]
        maps = [self.norms[0](x)]
        for i, stage in enumerate(self.stages):
            with jax.named_scope(f"stage{i + 1}"):
                x = stage(x, context)  # the input of the next stage is not normalised
                maps.append(self.norms[i + 1](x))
        with jax.named_scope("decoder"):
            x = self.decoder5(self.encoder10(maps[4], context), maps[3], context)
            x = self.decoder4(x, self.encoder4(maps[2], context), context)
            x = self.decoder3(x, self.encoder3(maps[1], context), context)
            x = self.decoder2(x, self.encoder2(maps[0], context), context)
            x = self.decoder1(x, self.encoder1(image, context), context)
        return Outputs(self.out(x))


_TINY = Config(width=4, depths=(2, 1, 1, 1), heads=(1, 1, 2, 2), window=3)
VARIANTS = {
    name: Variant(SwinUNETR, config, in_channels=4, num_classes=4, ranks=(3,))
    for name, config in {"swin_unetr": Config(), "swin_unetr_24": Config(width=24), "swin_unetr_test": _TINY}.items()
}
KEY_MAPPINGS = (
    KeyMapping(
        "monai",
        (
            *RULES,
            (r"^swinViT\.patch_embed\.proj\.", "embed."),
            *((rf"^swinViT\.layers{i + 1}\.0\.", f"stages.{i}.") for i in range(4)),
            (r"\.mlp\.linear([12])\.", r".fc\1."),
        ),
        ignored=(r"relative_position_index$",),
    ),
)
