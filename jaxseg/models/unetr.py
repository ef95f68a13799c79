"""UNETR: a vision transformer on patches of 16 voxels; the upsampled outputs of layers 4, 7 and 10 are the skips of a U-Net.

Source: Hatamizadeh et al. 2022 (arXiv 2103.10504), as in MONAI (monai/networks/nets/unetr.py), without the norms and the
cross-attention that MONAI 1.4 and later create but never use.
"""

import dataclasses

import jax
from einops import rearrange
from flax import nnx

from jaxseg.layers import EVAL, Conv, ForwardContext, LayerNorm, initial
from jaxseg.layers.attention import TransformerLayer
from jaxseg.layers.res_unet import RULES, ResBlock, res_up, upsample
from jaxseg.models.base import KeyMapping, Outputs, Segmenter, Variant
from jaxseg.ops.conv.api import per_axis
from jaxseg.types import Array

_PATCH = 16


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes.

    Attributes:
      image_size: the spatial size of images (one int, or one per axis), divisible by 16; fixed by the position embedding.
      width: channels of the finest decoder level.
      hidden, heads, mlp, depth: width, attention heads, MLP width and number of layers of the transformer.
      taps: number of layers before each of the three skips, finest first.
    """

    image_size: int | tuple[int, ...] = 96
    width: int = 16
    hidden: int = 768
    heads: int = 12
    mlp: int = 3072
    depth: int = 12
    taps: tuple[int, int, int] = (4, 7, 10)


class SkipUpsampler(nnx.Module):
    """Upsample from the patch grid by 2^(more + 1): transposed convolutions, each but the first followed by a residual block."""

    def __init__(self, cin: int, cout: int, more: int, *, rank: int, rngs: nnx.Rngs):
        same = dict(rank=rank, rngs=rngs)
        self.transp_conv_init = upsample(cin, cout, **same)
        self.blocks = nnx.List([nnx.List([upsample(cout, cout, **same), ResBlock(cout, cout, **same)]) for _ in range(more)])

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        x = self.transp_conv_init(x)
        for up, block in self.blocks:
            x = block(up(x), context)
        return x


class UNETR(Segmenter):
    """UNETR for [B, D, H, W, C] with [D, H, W] = image_size; logits [B, D, H, W, K]."""

    def __init__(self, config: Config, *, in_channels: int, num_classes: int, rngs: nnx.Rngs):
        self.in_channels, self.num_classes, self.rank = in_channels, num_classes, 3
        self.size_multiple = _PATCH
        self.image_size, self.taps = per_axis(config.image_size, 3, "image_size"), config.taps
        if any(n % _PATCH for n in self.image_size):
            raise ValueError(f"got image_size={config.image_size}; each must be divisible by {_PATCH}")
        f, hidden, same = config.width, config.hidden, dict(rank=3, rngs=rngs)
        tokens = 1
        for n in self.image_size:
            tokens *= n // _PATCH
        self.embed = Conv(in_channels, hidden, _PATCH, stride=_PATCH, padding=0, **same)
        self.position = nnx.Param(initial.truncated_normal(0.02)(rngs, (1, tokens, hidden)))
        self.layers = nnx.List(
            [
                TransformerLayer(hidden, config.mlp, act="gelu", heads=config.heads, qkv_bias=False, rngs=rngs)
                for _ in range(config.depth)
            ]
        )
        self.norm = LayerNorm(hidden, rngs=rngs)
        self.encoder1 = ResBlock(in_channels, f, **same)
        self.encoder2, self.encoder3, self.encoder4 = (
            SkipUpsampler(hidden, f * m, more, **same) for m, more in ((2, 2), (4, 1), (8, 0))
        )
        self.decoder5, self.decoder4, self.decoder3, self.decoder2 = (
            res_up(a, b, **same) for a, b in ((hidden, 8 * f), (8 * f, 4 * f), (4 * f, 2 * f), (2 * f, f))
        )
        self.out = Conv(f, num_classes, 1, **same)

    def check(self, shape: tuple[int, ...]) -> None:
        super().check(shape)
        if tuple(shape[1:-1]) != self.image_size:
            raise ValueError(
                f"got an image of spatial size {tuple(shape[1:-1])}; this UNETR needs {self.image_size}: take that size, or give "
                f"the network the option image_size={tuple(shape[1:-1])}"
            )

    def forward(self, image: Array, context: ForwardContext) -> Outputs:
        with jax.named_scope("vit"):
            grid = self.embed(image)  # [B, *S/16, hidden]
            x = rearrange(grid, "b ... c -> b (...) c") + self.position[...].astype(grid.dtype)
            taken = {}
            for i, layer in enumerate(self.layers):
                x = layer(x, context)
                taken[i + 1] = x
            skips = [taken[tap].reshape(grid.shape) for tap in self.taps]
            x = self.norm(x).reshape(grid.shape)
        with jax.named_scope("decoder"):
            x = self.decoder5(x, self.encoder4(skips[2], context), context)
            x = self.decoder4(x, self.encoder3(skips[1], context), context)
            x = self.decoder3(x, self.encoder2(skips[0], context), context)
            x = self.decoder2(x, self.encoder1(image, context), context)
        return Outputs(self.out(x))


_TINY = Config(image_size=32, width=4, hidden=16, heads=2, mlp=32, depth=4, taps=(1, 2, 3))
VARIANTS = {
    "unetr": Variant(UNETR, Config(), in_channels=4, num_classes=4, ranks=(3,)),
    "unetr_test": Variant(UNETR, _TINY, in_channels=1, num_classes=2, ranks=(3,)),
}
KEY_MAPPINGS = (
    KeyMapping(
        "monai",
        (
            *RULES,
            (r"^vit\.patch_embedding\.position_embeddings$", "position"),
            (r"^vit\.patch_embedding\.patch_embeddings\.", "embed."),
            (r"^vit\.blocks\.(\d+)\.mlp\.linear([12])\.", r"layers.\1.fc\2."),
            (r"^vit\.blocks\.(\d+)\.attn\.out_proj\.", r"layers.\1.attn.proj."),
            (r"^vit\.blocks\.", "layers."),
            (r"^vit\.norm\.", "norm."),
        ),
        ignored=(r"norm_cross_attn\.", r"\.cross_attn\."),
    ),
)
