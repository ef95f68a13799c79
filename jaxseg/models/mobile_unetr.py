"""MobileUNETR for images: a MobileViT encoder, a MobileViT block at 1/64, and a decoder of inverted residuals and such blocks.

Sources: Perera et al. 2024 (arXiv 2409.03062); OSUPCVLab/MobileUNETR architectures/mobileunetr.py ("official"); its encoder
is transformers' MobileViTModel ("transformers"), after Mehta and Rastegari 2021 (arXiv 2110.02178). Encoders trained on
ImageNet (apple/mobilevit-small, -x-small, -xx-small) are loaded by `from_torch.load(model, file, only="encoder.")`.

Differs from the source: the source needs sizes divisible by 128. Here any size works: a map that is not a multiple of the patch
size is resized and resized back (as in the encoder's source), and the decoder's maps are cut to the size of their skips. The
source starts from a trained encoder; an encoder that is not loaded is initialised like the decoder: convolutions normal with
variance 2 / fan-out, linear layers truncated normal with deviation 0.02. As in the source, the depths of the decoder's blocks
are (2, 4, 3), although their widths are in reverse order.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from jaxseg import ops
from jaxseg.layers import EVAL, BatchNorm, Conv, ConvTranspose, Dropout, ForwardContext, LayerNorm, Linear, initial
from jaxseg.layers.attention import TransformerLayer, apply_to_unfolded_patches
from jaxseg.layers.blocks import ConvNorm, Sequential
from jaxseg.layers.mobile import InvertedResidual, ViTBlock, round_channels
from jaxseg.models.base import KeyMapping, Outputs, Segmenter, Variant
from jaxseg.types import Array

PATCH = 2


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and choices of one MobileUNETR.

    Attributes:
      channels: channels of the stem, of the five stages at 1/2 to 1/32, and of the encoder's last 1x1 convolution.
      widths: width of the transformer layers at 1/8, 1/16 and 1/32, in encoder and decoder.
      depths: number of transformer layers at 1/8, 1/16 and 1/32 in the encoder, at 1/32, 1/16 and 1/8 in the decoder.
      expand: expansion of the encoder's inverted residuals.
      bottleneck: channels at 1/64.
      bottleneck_width, bottleneck_depth: width and number of the transformer layers at 1/64.
      last_conv: include the encoder's last convolution, which is not used.
      adapter: start with a 1x1 convolution to three channels, so that a trained stem fits other inputs (the BraTS 3-D project).
      encoder_dropout: dropout in the encoder's transformer layers.
      dropout: dropout before the classifier.
    """

    channels: tuple[int, ...] = (16, 32, 64, 96, 128, 160, 640)
    widths: tuple[int, int, int] = (144, 192, 240)
    depths: tuple[int, int, int] = (2, 4, 3)
    expand: int = 4
    bottleneck: int = 196
    bottleneck_width: int = 240
    bottleneck_depth: int = 3
    last_conv: bool = True
    adapter: bool = False
    encoder_dropout: float = 0.1
    dropout: float = 0.1


def _conv(cin: int, cout: int, kernel: int, rngs: nnx.Rngs, **more) -> ConvNorm:
    return ConvNorm(cin, cout, kernel, rank=2, act="silu", rngs=rngs, **more)


def _inverted(cin: int, cout: int, hidden: int, rngs: nnx.Rngs, stride: int = 1) -> InvertedResidual:
    return InvertedResidual(cin, cout, hidden, stride=stride, rank=2, act="silu", rngs=rngs)


class ViTStage(nnx.Module):
    """Inverted residual of stride 2, then MobileViT's block: transformer layers and a norm between convolutions."""

    def __init__(self, cin: int, cout: int, hidden: int, width: int, depth: int, dropout: float, *, rngs: nnx.Rngs):
        self.down = _inverted(cin, cout, hidden, rngs, stride=2)
        self.local = _conv(cout, cout, 3, rngs)
        self.proj_in = Conv(cout, width, 1, rank=2, bias=False, rngs=rngs)
        self.layers = nnx.List([TransformerLayer(width, 2 * width, dropout=dropout, rngs=rngs) for _ in range(depth)])
        self.norm = LayerNorm(width, rngs=rngs)
        self.proj_out, self.fuse = _conv(width, cout, 1, rngs), _conv(2 * cout, cout, 3, rngs)

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        x = self.down(x, context)
        y = self.proj_in(self.local(x, context))
        y = apply_to_unfolded_patches(y, (*self.layers, lambda t, context: self.norm(t)), PATCH, context)
        return self.fuse(jnp.concatenate([x, self.proj_out(y, context)], axis=-1), context)


class Encoder(nnx.Module):
    """MobileViT; features of its five stages, finest first, at strides 2 to 32."""

    strides = (2, 4, 8, 16, 32)

    def __init__(self, config: Config, in_channels: int, *, rngs: nnx.Rngs):
        stem, *_, last = config.channels
        self.channels = tuple(config.channels[1:-1])
        self.stem = _conv(in_channels, stem, 3, rngs, stride=2)
        hidden = [round_channels(c, config.expand) for c in config.channels]
        a, b = self.channels[:2]
        self.stages = nnx.List(
            [
                Sequential(_inverted(stem, a, hidden[0], rngs)),
                Sequential(_inverted(a, b, hidden[1], rngs, stride=2), *(_inverted(b, b, hidden[2], rngs) for _ in range(2))),
                *(
                    ViTStage(
                        self.channels[i + 1], self.channels[i + 2], hidden[i + 2], width, depth, config.encoder_dropout, rngs=rngs
                    )
                    for i, (width, depth) in enumerate(zip(config.widths, config.depths))
                ),
            ]
        )
        self.last = _conv(self.channels[-1], last, 1, rngs) if config.last_conv else None

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> list[Array]:
        x, features = self.stem(x, context), []
        for i, stage in enumerate(self.stages):
            with jax.named_scope(f"stage{i + 1}"):
                x = stage(x, context)
            features.append(x)
        return features


class DecoderStage(nnx.Module):
    """Upsampling by 2, inverted residual to the skip's channels, concatenation, another inverted residual, ViT block (or none).

    This is not `layers.blocks.Up`, which concatenates the skip directly after the transposed convolution: here a norm and a
    residual lie between them, and a map that is larger than the skip is cut at its end.
    """

    def __init__(self, cin: int, cout: int, vit: tuple[int, int, int] | None, *, rngs: nnx.Rngs):
        self.up = ConvTranspose(cin, cin, 2, rank=2, stride=2, bias=False, rngs=rngs)
        self.norm = BatchNorm(cin, rngs=rngs)
        self.shrink, self.join = _inverted(cin, cout, 4 * cin, rngs), _inverted(2 * cout, cout, 8 * cout, rngs)
        self.vit = ViTBlock(cout, *vit, rank=2, patch=PATCH, rngs=rngs) if vit else None

    def __call__(self, x: Array, skip: Array, context: ForwardContext = EVAL) -> Array:
        x = self.shrink(self.norm(self.up(x), context, act="silu"), context)
        _, h, w, _ = skip.shape  # the encoder rounded an odd size up, so that the upsampled map is longer by one, at its end
        x = self.join(jnp.concatenate([x[:, :h, :w], skip], axis=-1), context)
        return x if self.vit is None else self.vit(x, context)


class MobileUNETR(Segmenter):
    """MobileUNETR for [B, H, W, C] of any size; logits [B, H, W, K]."""

    def __init__(self, config: Config, *, in_channels: int, num_classes: int, rngs: nnx.Rngs):
        self.in_channels, self.num_classes, self.rank = in_channels, num_classes, 2
        self.adapter = Conv(in_channels, 3, 1, rank=2, rngs=rngs) if config.adapter else None
        self.encoder = Encoder(config, 3 if config.adapter else in_channels, rngs=rngs)
        first, second, *_, deepest = self.encoder.channels
        self.down = _inverted(deepest, config.bottleneck, 4 * deepest, rngs, stride=2)
        self.bottleneck = ViTBlock(
            config.bottleneck,
            config.bottleneck_width,
            config.bottleneck_depth,
            4 * config.bottleneck_width,
            rank=2,
            patch=PATCH,
            rngs=rngs,
        )
        widths, ratios = config.widths[::-1], (2, 4, 4)
        vits = [(width, depth, ratio * width) for width, depth, ratio in zip(widths, config.depths, ratios)] + [None]
        path = (config.bottleneck, *self.encoder.channels[:0:-1])
        self.ups = nnx.List([DecoderStage(a, b, vit, rngs=rngs) for a, b, vit in zip(path, path[1:], vits)])
        self.mix = _conv(second + first, second, 3, rngs)
        self.dropout = Dropout(config.dropout)
        self.classifier = Conv(second, num_classes, 1, rank=2, rngs=rngs)
        _redraw(self, rngs)

    def forward(self, image: Array, context: ForwardContext) -> Outputs:
        features = self.encoder(image if self.adapter is None else self.adapter(image), context)
        with jax.named_scope("bottleneck"):
            x = self.bottleneck(self.down(features[-1], context), context)  # [B, H/64, W/64, bottleneck]
        for i, (up, skip) in enumerate(zip(self.ups, features[:0:-1])):
            with jax.named_scope(f"up{i}"):
                x = up(x, skip, context)  # [B, H/32, ...], ..., [B, H/4, W/4, second]
        with jax.named_scope("head"):
            x = ops.resize(x, features[0].shape[1:-1], "cubic")
            x = self.dropout(self.mix(jnp.concatenate([x, features[0]], axis=-1), context), context)
            return Outputs(ops.resize(self.classifier(x).astype(jnp.float32), image.shape[1:-1], "cubic"))


def _redraw(model: nnx.Module, rngs: nnx.Rngs) -> None:
    """Initialise convolutions and linear layers, see above; transposed convolutions keep PyTorch's default."""
    for _, node in nnx.iter_graph(model):
        if isinstance(node, Conv):
            draw = initial.fan_out_normal(node.kernel, node.weight.shape[-1], node.groups)
        elif isinstance(node, Linear):
            draw = initial.truncated_normal(0.02)
        else:
            continue
        node.weight[...] = draw(rngs, node.weight.shape)
        if node.bias is not None:
            node.bias[...] = jnp.zeros_like(node.bias[...])


VARIANTS = {
    "mobile_unetr": Variant(MobileUNETR, Config()),
    "mobile_unetr_xs": Variant(
        MobileUNETR, Config(channels=(16, 32, 48, 64, 80, 96, 384), widths=(96, 120, 144), bottleneck=128, bottleneck_width=144)
    ),
    "mobile_unetr_xxs": Variant(
        MobileUNETR,
        Config(
            channels=(16, 16, 24, 48, 64, 80, 320),
            widths=(64, 80, 96),
            expand=2,
            bottleneck=96,
            bottleneck_width=96,
            encoder_dropout=0.05,
        ),
    ),
    "mobile_unetr_test": Variant(
        MobileUNETR,
        Config(
            channels=(4, 8, 12, 16, 20, 24, 32),
            widths=(8, 12, 16),
            depths=(1, 1, 1),
            expand=2,
            bottleneck=28,
            bottleneck_width=16,
            bottleneck_depth=1,
        ),
    ),
}

_RESIDUAL = ((r"\.expand_1x1\.", ".expand."), (r"\.conv_3x3\.", ".depthwise.blocks.0."), (r"\.reduce_1x1\.", ".project."))
_LAYER = (
    (r"\.attention\.attention\.query\.(weight|bias)$", r".attn.qkv.\1#0"),
    (r"\.attention\.attention\.key\.(weight|bias)$", r".attn.qkv.\1#1"),
    (r"\.attention\.attention\.value\.(weight|bias)$", r".attn.qkv.\1#2"),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".fc1."),
    (r"\.output\.dense\.", ".fc2."),
)
_ENCODER = (
    (r"^conv_stem\.", "encoder.stem."),
    (r"^conv_1x1_exp\.", "encoder.last."),
    (r"^encoder\.layer\.([01])\.layer\.", r"encoder.stages.\1.blocks."),
    (r"^encoder\.layer\.", "encoder.stages."),
    (r"\.transformer\.layer\.", ".layers."),
    (r"\.downsampling_layer\.", ".down."),
    (r"\.conv_kxk\.", ".local."),
    (r"\.conv_1x1\.convolution\.", ".proj_in."),
    (r"\.conv_projection\.", ".proj_out."),
    (r"\.fusion\.", ".fuse."),
    *_RESIDUAL,
    *_LAYER,
    (r"^(encoder\.stages\.\d)\.layernorm\.", r"\1.norm."),
    (r"\.convolution\.", ".conv."),
    (r"\.normalization\.", ".norm."),
)
# the source numbers the layers of its blocks; in the decoder's the transposed convolution and its norm come first
_UNITS = [
    (3 * i + j, f"{unit}.{part}")
    for i, unit in enumerate(("expand", "depthwise.blocks.0", "project"))
    for j, part in enumerate(("conv", "norm"))
]
_VIT = (
    *(
        (rf"(\.vit|^bottleneck)\.conv{i + 1}\.{j}\.", rf"\1.{unit}.{part}.")
        for i, unit in enumerate(("local", "proj_in", "proj_out", "fuse"))
        for j, part in enumerate(("conv", "norm"))
    ),
    *(
        (rf"\.transformer\.layers\.(\d)\.{theirs}\.", rf".layers.\1.{ours}.")
        for theirs, ours in (
            (r"0\.norm", "norm1"),
            (r"1\.norm", "norm2"),
            (r"0\.fn\.to_qkv", "attn.qkv"),
            (r"0\.fn\.to_out\.0", "attn.proj"),
            (r"1\.fn\.net\.0", "fc1"),
            (r"1\.fn\.net\.3", "fc2"),
        )
    ),
)
KEY_MAPPINGS = (
    KeyMapping("transformers", ((r"^mobilevit\.", ""), *_ENCODER), ignored=(r"num_batches_tracked$", r"^classifier\.")),
    KeyMapping(
        "official",
        (
            (r"^encoder\.encoder\.(?=conv_stem|conv_1x1_exp|encoder\.)", ""),
            *_ENCODER,
            *((rf"^bottleneck\.conv\.conv\.{n}\.", f"down.{name}.") for n, name in _UNITS),
            (r"^bottleneck\.attn\.", "bottleneck."),
            (r"^decoder\.trunk\.(\d)\.", r"ups.\1."),
            (r"^decoder\.conv_upsample_1\.0\.", "ups.3."),
            (r"^(ups\.\d)\.0\.conv\.0\.", r"\1.up."),
            (r"^(ups\.\d)\.0\.conv\.1\.", r"\1.norm."),
            *((rf"^(ups\.\d)\.0\.conv\.{n + 3}\.", rf"\1.shrink.{name}.") for n, name in _UNITS),
            *((rf"^(ups\.\d)\.1\.conv\.{n}\.", rf"\1.join.{name}.") for n, name in _UNITS),
            (r"^(ups\.\d)\.2\.", r"\1.vit."),
            *_VIT,
            (r"^decoder\.mix\.0\.", "mix.conv."),
            (r"^decoder\.mix\.1\.", "mix.norm."),
            (r"^decoder\.final\.", "classifier."),
        ),
        ignored=(r"num_batches_tracked$",),
    ),
)
