"""SegFormer: Mix Transformer encoder (MiT-B0 to B5) and all-MLP decoder.

Sources: Xie et al. 2021 (arXiv 2105.15203); NVlabs/SegFormer mmseg/models/backbones/mix_transformer.py and
decode_heads/segformer_head.py ("official"); bubbliiiing/segformer-pytorch nets/ and its copy in
drawcodeboy/scoliosis_seg-task ("ich").

The two differ in the GELU (erf; tanh in "ich"), the decoder's BatchNorm (eps 1e-5, momentum 0.1; 1e-3 and 0.03 in
"ich") and the last resize (align_corners False; True in "ich"). transformers' SegformerForSemanticSegmentation is the
official network with eps 1e-5 in every LayerNorm (`block_eps=1e-5`) and without the last resize. Here the logits have the input's
resolution, and there is no sigmoid at the end.
"""

import dataclasses

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from jaxseg import ops
from jaxseg.layers import (
    EVAL,
    BatchNorm,
    ChannelDropout,
    Conv,
    DropPath,
    ForwardContext,
    LayerNorm,
    Linear,
    activation,
    drop_path_rates,
    initial,
)
from jaxseg.layers.pyramid import StagedEncoder, fused, joined
from jaxseg.models.base import KeyMapping, Outputs, Segmenter, Variant
from jaxseg.ops import space, tally
from jaxseg.types import Array

HEADS, REDUCTIONS = (1, 2, 5, 8), (8, 4, 2, 1)


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and choices of one SegFormer.

    Attributes:
      dims, depths: channels and blocks of the four stages.
      width: channels of the decoder.
      mlp_ratio: expansion of the Mix-FFN.
      drop_path: stochastic depth of the last block.
      dropout: channel dropout before the classifier.
      gelu: "gelu" (erf) or "gelu_tanh".
      block_eps: eps of the LayerNorms of blocks and stages (those of embeddings and reductions have 1e-5).
      norm_eps, norm_momentum: eps and PyTorch's momentum of the decoder's BatchNorm.
      align_corners: whether the resize to the input's size aligns corners.
    """

    dims: tuple[int, ...]
    depths: tuple[int, ...]
    width: int
    mlp_ratio: int = 4
    drop_path: float = 0.1
    dropout: float = 0.1
    gelu: str = "gelu"
    block_eps: float = 1e-6
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1
    align_corners: bool = False


def _linear(cin: int, cout: int, rngs: nnx.Rngs) -> Linear:
    return Linear(cin, cout, weight_init=initial.truncated_normal(0.02), bias_init=initial.zeros, rngs=rngs)


def _conv(cin: int, cout: int, kernel: int, *, rngs: nnx.Rngs, stride: int = 1, padding=None, groups: int = 1) -> Conv:
    return Conv(
        cin,
        cout,
        kernel,
        rank=2,
        stride=stride,
        padding=padding,
        groups=groups,
        bias_init=initial.zeros,
        weight_init=initial.fan_out_normal((kernel, kernel), cout, groups),
        rngs=rngs,
    )


class Attention(nnx.Module):
    """Self-attention whose keys and values come from a map that a strided convolution has downsampled."""

    def __init__(self, dim: int, heads: int, reduction: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.q, self.kv = _linear(dim, dim, rngs), _linear(dim, 2 * dim, rngs)
        self.sr = _conv(dim, dim, reduction, stride=reduction, padding=0, rngs=rngs) if reduction > 1 else None
        self.norm = LayerNorm(dim, rngs=rngs) if reduction > 1 else None
        self.proj = _linear(dim, dim, rngs)

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        source = x if self.sr is None else self.norm(self.sr(x))
        keys, values = jnp.split(self.kv(source), 2, axis=-1)
        q, k, v = (rearrange(a, "b h w (heads d) -> b (h w) heads d", heads=self.heads) for a in (self.q(x), keys, values))
        found = space.over_queries(ops.attention, q, k, v)
        return self.proj(rearrange(found, "b (h w) heads d -> b h w (heads d)", h=x.shape[1]))


class MixFFN(nnx.Module):
    """Linear, depthwise 3x3, GELU, linear."""

    def __init__(self, dim: int, hidden: int, gelu: str, *, rngs: nnx.Rngs):
        self.fc1 = _linear(dim, hidden, rngs)
        self.dwconv = _conv(hidden, hidden, 3, groups=hidden, rngs=rngs)
        self.fc2 = _linear(hidden, dim, rngs)
        self.gelu = gelu

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        x = self.dwconv(self.fc1(x))
        tally.add("mul", 4 * x.size if self.gelu == "gelu_tanh" else 0)  # written out there, so torchprofile counts it
        return self.fc2(activation(self.gelu)(x))


class Block(nnx.Module):
    """x + path(attention(norm(x))), then the same with the Mix-FFN."""

    def __init__(self, config: Config, dim: int, heads: int, reduction: int, drop: float, *, rngs: nnx.Rngs):
        self.norm1 = LayerNorm(dim, eps=config.block_eps, rngs=rngs)
        self.attn = Attention(dim, heads, reduction, rngs=rngs)
        self.drop_path_1 = DropPath(drop)
        self.norm2 = LayerNorm(dim, eps=config.block_eps, rngs=rngs)
        self.mlp = MixFFN(dim, dim * config.mlp_ratio, config.gelu, rngs=rngs)
        self.drop_path_2 = DropPath(drop)

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        x = x + self.drop_path_1(self.attn(self.norm1(x), context), context)
        return x + self.drop_path_2(self.mlp(self.norm2(x), context), context)


class PatchEmbed(nnx.Module):
    """Overlapping strided convolution and LayerNorm."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int, *, rngs: nnx.Rngs):
        self.proj = _conv(cin, cout, kernel, stride=stride, rngs=rngs)
        self.norm = LayerNorm(cout, rngs=rngs)

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        return self.norm(self.proj(x))


class Encoder(StagedEncoder):
    """MiT: features of the four stages, finest first, at strides 4, 8, 16, 32."""

    strides = (4, 8, 16, 32)

    def __init__(self, config: Config, in_channels: int, *, rngs: nnx.Rngs):
        self.channels = config.dims
        rates = drop_path_rates(config.drop_path, config.depths)
        ins = (in_channels, *config.dims)
        self.embeds = nnx.List([PatchEmbed(ins[i], ins[i + 1], 3 if i else 7, 2 if i else 4, rngs=rngs) for i in range(4)])
        self.stages = nnx.List(
            [
                nnx.List([Block(config, dim, HEADS[i], REDUCTIONS[i], rates[i][j], rngs=rngs) for j in range(config.depths[i])])
                for i, dim in enumerate(config.dims)
            ]
        )
        self.norms = nnx.List([LayerNorm(dim, eps=config.block_eps, rngs=rngs) for dim in config.dims])


class Decoder(nnx.Module):
    """A linear layer for each stage, upsampling to stride 4, concatenation (coarsest first), fusion by a 1x1 convolution."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.linears = nnx.List([Linear(dim, config.width, rngs=rngs) for dim in config.dims])
        self.fuse = Conv(4 * config.width, config.width, 1, rank=2, bias=False, rngs=rngs)
        self.norm = BatchNorm(config.width, eps=config.norm_eps, momentum=config.norm_momentum, rngs=rngs)

    def __call__(self, features: list[Array], context: ForwardContext = EVAL) -> Array:
        features, linears, size = features[::-1], self.linears[::-1], features[0].shape[1:-1]
        if context.taps:  # of layers that are called
            x = self.fuse(joined(features, linears, size))
        else:
            x = fused(features, linears, self.fuse, size)  # [B, H/4, W/4, width]
        return self.norm(x, context, act="relu")


class SegFormer(Segmenter):
    """SegFormer for [B, H, W, C] of at least 32 pixels a side; logits [B, H, W, K]."""

    min_size = 32

    def __init__(self, config: Config, *, in_channels: int, num_classes: int, rngs: nnx.Rngs):
        self.in_channels, self.num_classes, self.rank = in_channels, num_classes, 2
        self.align_corners = config.align_corners
        self.encoder = Encoder(config, in_channels, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)
        self.dropout = ChannelDropout(config.dropout)
        self.classifier = Conv(config.width, num_classes, 1, rank=2, rngs=rngs)

    def forward(self, image: Array, context: ForwardContext) -> Outputs:
        features = self.encoder(image, context)
        with jax.named_scope("decoder"):
            x = self.classifier(self.dropout(self.decoder(features, context), context))  # [B, H/4, W/4, K]
            return Outputs(ops.resize(x.astype(jnp.float32), image.shape[1:-1], align_corners=self.align_corners))


# Table 7 of the paper: dims, depths, decoder width.
_SIZES = {
    "b0": ((32, 64, 160, 256), (2, 2, 2, 2), 256),
    "b1": ((64, 128, 320, 512), (2, 2, 2, 2), 256),
    "b2": ((64, 128, 320, 512), (3, 4, 6, 3), 768),
    "b3": ((64, 128, 320, 512), (3, 4, 18, 3), 768),
    "b4": ((64, 128, 320, 512), (3, 8, 27, 3), 768),
    "b5": ((64, 128, 320, 512), (3, 6, 40, 3), 768),
    "test": ((8, 16, 40, 64), (1, 1, 1, 1), 16),
}
_ICH = dict(gelu="gelu_tanh", norm_eps=1e-3, norm_momentum=0.03, align_corners=True)

VARIANTS = {f"segformer_{size}": Variant(SegFormer, Config(*sizes), num_classes=150) for size, sizes in _SIZES.items()}
VARIANTS |= {f"segformer_{size}_ich": Variant(SegFormer, Config(*sizes, **_ICH), in_channels=1) for size, sizes in _SIZES.items()}

_STAGES = range(4)
KEY_MAPPINGS = (
    KeyMapping(
        "official",
        (
            *((rf"^(backbone\.)?patch_embed{i + 1}\.", f"encoder.embeds.{i}.") for i in _STAGES),
            *((rf"^(backbone\.)?block{i + 1}\.", f"encoder.stages.{i}.") for i in _STAGES),
            *((rf"^(backbone\.)?norm{i + 1}\.", f"encoder.norms.{i}.") for i in _STAGES),
            (r"mlp\.dwconv\.dwconv\.", "mlp.dwconv."),
            *((rf"^decode_head\.linear_c{i + 1}\.proj\.", f"decoder.linears.{i}.") for i in _STAGES),
            (r"^decode_head\.linear_fuse\.conv\.", "decoder.fuse."),
            (r"^decode_head\.linear_fuse\.bn\.", "decoder.norm."),
            (r"^decode_head\.linear_pred\.", "classifier."),
        ),
        ignored=(r"num_batches_tracked$", r"^decode_head\.conv_seg\."),
    ),  # conv_seg: created by mmseg's base class, but never used
    KeyMapping(
        "transformers",
        (  # published files have the first name of each pair, models in transformers 5 the second
            (r"^(segformer\.)?encoder\.patch_embeddings\.(\d)\.", r"encoder.embeds.\2."),
            (r"^(segformer\.)?stages\.(\d)\.patch_embeddings\.", r"encoder.embeds.\2."),
            (r"^(segformer\.)?encoder\.block\.(\d)\.", r"encoder.stages.\2."),
            (r"^(segformer\.)?stages\.(\d)\.blocks\.", r"encoder.stages.\2."),
            (r"^(segformer\.)?encoder\.layer_norm\.(\d)\.", r"encoder.norms.\2."),
            (r"^(segformer\.)?stages\.(\d)\.layer_norm\.", r"encoder.norms.\2."),
            (r"^(encoder\.embeds\.\d)\.layer_norm\.", r"\1.norm."),
            (r"\.(layer_norm_1|layernorm_before)\.", ".norm1."),
            (r"\.(layer_norm_2|layernorm_after)\.", ".norm2."),
            (r"\.attention\.(self\.query|q_proj)\.", ".attn.q."),
            (r"\.attention\.(self\.key|k_proj)\.(weight|bias)$", r".attn.kv.\2#0"),
            (r"\.attention\.(self\.value|v_proj)\.(weight|bias)$", r".attn.kv.\2#1"),
            (r"\.attention\.(self\.sr|sequence_reduction\.sequence_reduction)\.", ".attn.sr."),
            (r"\.attention\.(self|sequence_reduction)\.layer_norm\.", ".attn.norm."),
            (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
            (r"\.mlp\.dense([12])\.", r".mlp.fc\1."),
            (r"\.mlp\.dwconv\.dwconv\.", ".mlp.dwconv."),
            (r"^decode_head\.linear_(c|projections)\.(\d)\.proj\.", r"decoder.linears.\2."),
            (r"^decode_head\.linear_fuse\.", "decoder.fuse."),
            (r"^decode_head\.batch_norm\.", "decoder.norm."),
            (r"^decode_head\.classifier\.", "classifier."),
        ),
        ignored=(r"num_batches_tracked$",),
    ),
)
