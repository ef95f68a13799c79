"""SegNeXt: MSCAN encoder and Hamburger decoder, in the official definition and in the haemorrhage-CT project's variant.

Sources: Guo et al. 2022 (arXiv 2209.08575); Visual-Attention-Network/SegNeXt mmseg/models/backbones/mscan.py,
mmseg/models/decode_heads/ham_head.py, local_configs/segnext; Mr-TalhaIlyas/SegNext and its copy in
drawcodeboy/scoliosis_seg-task models/nets/SegNeXt ("ich").

The two differ in the following (fields of Config): the input of the strip convolutions is the output of the 5x5 ("official") or
its input ("ich"); a shortcut inside the attention; norms after the downsampling convolutions; the norm at the end of a stage;
GroupNorms in the decoder; the convolution that aligns the factorised features; the decoder's width; the origin of the
factorisation's bases, and the gradient through the factorisation; align_corners of the last resize.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from jaxseg import ops
from jaxseg.layers import (
    EVAL,
    BatchNorm,
    ChannelDropout,
    Conv,
    DropPath,
    ForwardContext,
    GroupNorm,
    LayerNorm,
    LayerScale,
    activation,
    drop_path_rates,
    initial,
)
from jaxseg.layers.pyramid import StagedEncoder
from jaxseg.models.base import KeyMapping, Outputs, Segmenter, Variant
from jaxseg.models.segnext.nmf import NMF
from jaxseg.types import Array

_gelu, _relu = activation("gelu"), activation("relu")


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and choices of one SegNeXt.

    Attributes:
      dims, depths, ffn_ratios: channels, blocks and FFN expansion of the four stages.
      ham_width: channels of the factorisation (D).
      decoder_width: channels before the classifier.
      bases: rank R of the factorisation.
      drop_path: stochastic depth of the last block.
      dropout: channel dropout before the classifier.
      ich: the haemorrhage-CT project's block and decoder layout instead of the official one.
      norm_momentum: PyTorch momentum of the encoder's BatchNorms.
      ham_bases: "random" or "buffer", see `nmf.NMF`.
      ham_update: "none", "train" or "eval" (the update of "ich", in inference instead of training), see `nmf.NMF`.
    """

    dims: tuple[int, ...]
    depths: tuple[int, ...]
    ffn_ratios: tuple[int, ...] = (8, 8, 4, 4)
    ham_width: int = 256
    decoder_width: int = 256
    bases: int = 16
    drop_path: float = 0.1
    dropout: float = 0.1
    ich: bool = False
    norm_momentum: float = 0.1
    ham_bases: str = "random"
    ham_update: str = "none"


def _conv(config: Config, cin: int, cout: int, kernel, *, stride=1, groups: int = 1, rngs: nnx.Rngs) -> Conv:
    """Convolution with this family's initialisation: normal by fan-out; bias 0 ("official") or PyTorch's default ("ich")."""
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    return Conv(
        cin,
        cout,
        kernel,
        rank=2,
        stride=stride,
        groups=groups,
        weight_init=initial.fan_out_normal(kernel, cout, groups),
        bias_init=None if config.ich else initial.zeros,
        rngs=rngs,
    )


def _norm(config: Config, channels: int, rngs: nnx.Rngs) -> BatchNorm:
    return BatchNorm(channels, momentum=config.norm_momentum, rngs=rngs)


class MSCA(nnx.Module):
    """Multi-scale convolutional attention: a 5x5 and three pairs of strip convolutions, summed, then a 1x1, gate the input."""

    def __init__(self, config: Config, dim: int, *, rngs: nnx.Rngs):
        depthwise = lambda kernel: _conv(config, dim, dim, kernel, groups=dim, rngs=rngs)
        self.from_input = config.ich
        self.conv0 = depthwise((5, 5))
        self.strips = nnx.List([nnx.List([depthwise((1, k)), depthwise((k, 1))]) for k in (7, 11, 21)])
        self.conv3 = _conv(config, dim, dim, 1, rngs=rngs)

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        both = lambda layer: (layer.weight[...], layer.bias[...])
        return ops.msca(
            x,
            both(self.conv0),
            [(both(row), both(column)) for row, column in self.strips],
            both(self.conv3),
            from_input=self.from_input,
        )


class Attention(nnx.Module):
    """1x1, GELU, MSCA, 1x1; the official variant adds the input."""

    def __init__(self, config: Config, dim: int, *, rngs: nnx.Rngs):
        self.shortcut = not config.ich
        self.proj_1 = _conv(config, dim, dim, 1, rngs=rngs)
        self.msca = MSCA(config, dim, rngs=rngs)
        self.proj_2 = _conv(config, dim, dim, 1, rngs=rngs)

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        y = self.proj_2(self.msca(_gelu(self.proj_1(x))))
        return y + x if self.shortcut else y


class FFN(nnx.Module):
    """1x1 expansion, depthwise 3x3, GELU, 1x1 back."""

    def __init__(self, config: Config, dim: int, hidden: int, *, rngs: nnx.Rngs):
        self.fc1 = _conv(config, dim, hidden, 1, rngs=rngs)
        self.dwconv = _conv(config, hidden, hidden, 3, groups=hidden, rngs=rngs)
        self.fc2 = _conv(config, hidden, dim, 1, rngs=rngs)

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        return self.fc2(_gelu(ops.materialize(self.dwconv(ops.materialize(self.fc1(x))))))


class Block(nnx.Module):
    """x + path(scale * attention(norm(x))), then the same with the FFN."""

    def __init__(self, config: Config, dim: int, ratio: int, drop: float, *, rngs: nnx.Rngs):
        self.norm1 = _norm(config, dim, rngs)
        self.attn = Attention(config, dim, rngs=rngs)
        self.layer_scale_1 = LayerScale(dim, 1e-2, rngs=rngs)
        self.drop_path_1 = DropPath(drop)
        self.norm2 = _norm(config, dim, rngs)
        self.mlp = FFN(config, dim, dim * ratio, rngs=rngs)
        self.layer_scale_2 = LayerScale(dim, 1e-2, rngs=rngs)
        self.drop_path_2 = DropPath(drop)

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        x = x + self.drop_path_1(self.layer_scale_1(self.attn(self.norm1(x, context), context)), context)
        return x + self.drop_path_2(self.layer_scale_2(self.mlp(self.norm2(x, context), context)), context)


class Stem(nnx.Module):
    """Two 3x3 convolutions of stride 2: conv, BatchNorm, GELU, conv, BatchNorm."""

    def __init__(self, config: Config, cin: int, cout: int, *, rngs: nnx.Rngs):
        self.conv1 = _conv(config, cin, cout // 2, 3, stride=2, rngs=rngs)
        self.norm1 = _norm(config, cout // 2, rngs)
        self.conv2 = _conv(config, cout // 2, cout, 3, stride=2, rngs=rngs)
        self.norm2 = _norm(config, cout, rngs)

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        return self.norm2(self.conv2(self.norm1(self.conv1(x), context, act="gelu")), context)


class Downsample(nnx.Module):
    """3x3 convolution of stride 2, with a BatchNorm in the official variant."""

    def __init__(self, config: Config, cin: int, cout: int, *, rngs: nnx.Rngs):
        self.proj = _conv(config, cin, cout, 3, stride=2, rngs=rngs)
        self.norm = None if config.ich else _norm(config, cout, rngs)

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        x = self.proj(x)
        return x if self.norm is None else self.norm(x, context)


class Encoder(StagedEncoder):
    """MSCAN: features of the four stages, finest first, at strides 4, 8, 16, 32."""

    strides = (4, 8, 16, 32)

    def __init__(self, config: Config, in_channels: int, *, rngs: nnx.Rngs):
        self.channels = config.dims
        rates = drop_path_rates(config.drop_path, config.depths)
        ins = (in_channels, *config.dims)
        self.embeds = nnx.List([(Downsample if i else Stem)(config, ins[i], ins[i + 1], rngs=rngs) for i in range(4)])
        self.stages = nnx.List(
            [
                nnx.List([Block(config, dim, config.ffn_ratios[i], rates[i][j], rngs=rngs) for j in range(config.depths[i])])
                for i, dim in enumerate(config.dims)
            ]
        )
        self.norms = nnx.List([_norm(config, dim, rngs) if config.ich else LayerNorm(dim, rngs=rngs) for dim in config.dims])


class Squeeze(nnx.Module):
    """1x1 convolution without bias, GroupNorm(32) in the official variant, ReLU if `relu`."""

    def __init__(self, config: Config, cin: int, cout: int, relu: bool, *, rngs: nnx.Rngs):
        self.conv = Conv(cin, cout, 1, rank=2, bias=False, weight_init=initial.fan_out_normal((1, 1), cout), rngs=rngs)
        self.norm = None if config.ich else GroupNorm(32, cout, rngs=rngs)
        self.relu = relu

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        x = self.conv(x)
        if self.norm is None:
            return _relu(x) if self.relu else x
        return self.norm(x, context, act="relu" if self.relu else "identity")


class Decoder(nnx.Module):
    """Hamburger decoder: stages 2 to 4 at the size of stage 2, 1x1 convolution, matrix factorisation with a residual, 1x1."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        width = config.ham_width
        self.squeeze = Squeeze(config, sum(config.dims[1:]), width, True, rngs=rngs)
        self.ham_in = _conv(config, width, width, 1, rngs=rngs)
        self.ham = NMF(
            width,
            config.bases,
            train_steps=6,
            eval_steps=6 if config.ich else 7,
            eps=1e-7 if config.ich else 1e-6,
            quotient_first=config.ich,
            frozen_steps=config.ich,
            initial=config.ham_bases,
            update=config.ham_update,
            rngs=rngs,
        )
        self.ham_out = Squeeze(config, width, width, False, rngs=rngs)
        self.align = (
            _conv(config, width, config.decoder_width, 1, rngs=rngs)
            if config.ich
            else Squeeze(config, width, config.decoder_width, True, rngs=rngs)
        )

    def __call__(self, features: list[Array], context: ForwardContext = EVAL) -> Array:
        size = features[1].shape[1:-1]
        x = jnp.concatenate([ops.resize(f, size) for f in features[1:]], axis=-1)  # [B, H/8, W/8, sum of dims]
        x = self.squeeze(x)
        x = _relu(x + self.ham_out(self.ham(_relu(self.ham_in(x)), context)))
        return self.align(x)


class SegNeXt(Segmenter):
    """SegNeXt for [B, H, W, C] of any size; logits [B, H, W, K]."""

    def __init__(self, config: Config, *, in_channels: int, num_classes: int, rngs: nnx.Rngs):
        self.in_channels, self.num_classes, self.rank = in_channels, num_classes, 2
        self.align_corners = config.ich
        self.encoder = Encoder(config, in_channels, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)
        self.dropout = ChannelDropout(config.dropout)
        self.classifier = _conv(config, config.decoder_width, num_classes, 1, rngs=rngs)

    def forward(self, image: Array, context: ForwardContext) -> Outputs:
        features = self.encoder(image, context)
        with jax.named_scope("decoder"):
            x = self.classifier(self.dropout(self.decoder(features, context), context))  # [B, H/8, W/8, K]
            return Outputs(ops.resize(x.astype(jnp.float32), image.shape[1:-1], align_corners=self.align_corners))


# Table 2 of the paper and local_configs/segnext: dims, depths, decoder width, rank of the factorisation, drop path.
_SIZES = {
    "t": ((32, 64, 160, 256), (3, 3, 5, 2), 256, 16, 0.1),
    "s": ((64, 128, 320, 512), (2, 2, 4, 2), 256, 16, 0.1),
    "b": ((64, 128, 320, 512), (3, 3, 12, 3), 512, 64, 0.1),
    "l": ((64, 128, 320, 512), (3, 5, 27, 3), 1024, 64, 0.3),
}
_ICH = dict(ham_width=512, bases=64, drop_path=0.0, ich=True, norm_momentum=0.9, ham_bases="buffer")

VARIANTS = {
    f"segnext_{size}": Variant(
        SegNeXt, Config(dims, depths, ham_width=width, decoder_width=width, bases=rank, drop_path=rate), num_classes=150
    )
    for size, (dims, depths, width, rank, rate) in _SIZES.items()
}
VARIANTS |= {
    f"segnext_{size}_ich": Variant(SegNeXt, Config(dims, depths, decoder_width=width, **_ICH), in_channels=1)
    for size, (dims, depths, width, _, _) in _SIZES.items()
}
_TINY = dict(dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), ffn_ratios=(2, 2, 2, 2))
VARIANTS |= {
    "segnext_test": Variant(SegNeXt, Config(**_TINY, ham_width=32, decoder_width=32, bases=4)),
    "segnext_test_ich": Variant(
        SegNeXt, Config(**_TINY, decoder_width=16, **{**_ICH, "ham_width": 24, "bases": 8}), in_channels=1
    ),
}

_STRIPS = (("conv0_1", "conv0_2"), ("conv1_1", "conv1_2"), ("conv2_1", "conv2_2"))
_ICH_STRIPS = (("conv17_0", "conv17_1"), ("conv111_0", "conv111_1"), ("conv211_0", "conv211_1"))
_STEM = (("0", "conv1"), ("1", "norm1"), ("3", "conv2"), ("4", "norm2"))


def _strip_rules(names, prefix: str):
    return tuple(
        (rf"{prefix}\.{name}\.", rf"msca.strips.{i}.{j}.") for i, pair in enumerate(names) for j, name in enumerate(pair)
    )


KEY_MAPPINGS = (
    KeyMapping(
        "official",
        (
            *((rf"^(?:backbone\.)?patch_embed1\.proj\.{a}\.", f"encoder.embeds.0.{b}.") for a, b in _STEM),
            *((rf"^(?:backbone\.)?patch_embed{i + 1}\.", f"encoder.embeds.{i}.") for i in range(4)),
            *((rf"^(?:backbone\.)?block{i + 1}\.", f"encoder.stages.{i}.") for i in range(4)),
            *((rf"^(?:backbone\.)?norm{i + 1}\.", f"encoder.norms.{i}.") for i in range(4)),
            *_strip_rules(_STRIPS, r"spatial_gating_unit"),
            (r"spatial_gating_unit\.", "msca."),
            (r"mlp\.dwconv\.dwconv\.", "mlp.dwconv."),
            (r"(layer_scale_[12])$", r"\1.weight"),
            (r"^decode_head\.hamburger\.ham_in\.conv\.", "decoder.ham_in."),
            (r"^decode_head\.hamburger\.", "decoder."),
            (r"^decode_head\.conv_seg\.", "classifier."),
            (r"^decode_head\.", "decoder."),
            (r"^(decoder\..*)\.gn\.", r"\1.norm."),
        ),
        ignored=(r"num_batches_tracked$", r"^head\."),
    ),  # head: the classifier of ImageNet files (which lack "backbone.")
    KeyMapping(
        "ich",
        (
            *((rf"^encoder\.input_embed1\.proj\.{a}\.(norm\.)?", f"encoder.embeds.0.{b}.") for a, b in _STEM),
            *((rf"^encoder\.input_embed{i + 1}\.", f"encoder.embeds.{i}.") for i in range(4)),
            *((rf"^encoder\.stage{i + 1}\.", f"encoder.stages.{i}.") for i in range(4)),
            *((rf"^encoder\.norm_layer{i + 1}\.(norm\.)?", f"encoder.norms.{i}.") for i in range(4)),
            (r"msca_block\.norm\.(norm\.)?", "norm1."),
            (r"ffn_block\.norm\.(norm\.)?", "norm2."),
            (r"msca_block\.layer_scale\.layer_scale$", "layer_scale_1.weight"),
            (r"ffn_block\.layer_scale\.layer_scale$", "layer_scale_2.weight"),
            *_strip_rules(_ICH_STRIPS, r"msca_block\.msca"),
            (r"msca_block\.msca\.conv55\.", "msca_block.msca.conv0."),
            (r"msca_block\.msca\.conv11\.", "msca_block.msca.conv3."),
            (r"msca_block\.proj([12])\.", r"attn.proj_\1."),
            (r"msca_block\.", "attn."),
            (r"(stages\.\d+\.\d+\.)msca\.strips", r"\1attn.msca.strips"),
            (r"ffn_block\.ffn\.dwconv\.dwconv\.", "mlp.dwconv."),
            (r"ffn_block\.ffn\.", "mlp."),
            (r"^decoder\.ham_attn\.lower_bread\.0\.", "decoder.ham_in."),
            (r"^decoder\.ham_attn\.upper_bread\.", "decoder.ham_out.conv."),
            (r"^decoder\.ham_attn\.ham\.", "decoder.ham."),
            (r"^cls_conv\.1\.", "classifier."),
        ),
        ignored=(r"num_batches_tracked$", r"ham_attn\.cheese\."),
    ),
)
