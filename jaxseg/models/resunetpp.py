"""Res-UNet++: residual blocks with squeeze-and-excitation, dilated pyramids, attention in the decoder.

Sources: Jha et al. 2019 (arXiv 1911.07067); Masterjun12/brain_tumor_segmentation models/res_unet_2plus.py (Keras), which
this follows: the pyramids sum four 3x3 convolutions of dilation 6, 12, 18 and 1, each with BatchNorm and no activation.
The head and Keras' defaults are those of unet2d.py; there is no softmax at the end.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from jaxseg import ops
from jaxseg.layers import EVAL, Dropout, ForwardContext, Linear, activation, initial
from jaxseg.layers.keras import keras_conv, keras_norm
from jaxseg.models.base import Outputs, Segmenter, Variant
from jaxseg.ops import tally
from jaxseg.types import Array

_relu = activation("relu")


@dataclasses.dataclass(frozen=True)
class Config:
    """Choices of one Res-UNet++.

    Attributes:
      widths: channels of the stem and the three residual stages.
      pyramid: channels of the pyramid below them.
      dropout: dropout after that pyramid (the project's table has a row with dropout, but does not say where it is).
    """

    widths: tuple[int, ...] = (16, 32, 64, 128)
    pyramid: int = 256
    dropout: float = 0.0


class PreActConv(nnx.Module):
    """BatchNorm, ReLU, 3x3 convolution."""

    def __init__(self, cin: int, cout: int, stride: int = 1, *, rngs: nnx.Rngs):
        self.norm = keras_norm(cin, rngs=rngs)
        self.conv = keras_conv(cin, cout, 3, stride=stride, rngs=rngs)

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        return self.conv(self.norm(x, context, act="relu"))


class SqueezeExcite(nnx.Module):
    """Multiply channels by a gate from their spatial means: linear to C / 8, ReLU, linear to C, sigmoid; no biases."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        glorot = lambda a, b: initial.uniform((6.0 / (a + b)) ** 0.5)
        inner = channels // 8
        self.down = Linear(channels, inner, bias=False, weight_init=glorot(channels, inner), rngs=rngs)
        self.up = Linear(inner, channels, bias=False, weight_init=glorot(inner, channels), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        gate = jax.nn.sigmoid(self.up(_relu(self.down(ops.adaptive_avg_pool(x, 1)))))
        tally.add("mul", x.size)
        return x * gate


class Residual(nnx.Module):
    """Squeeze-and-excitation, then two pre-activated convolutions, with a 1x1 shortcut around them."""

    def __init__(self, cin: int, cout: int, stride: int = 1, *, rngs: nnx.Rngs):
        self.se = SqueezeExcite(cin, rngs=rngs)
        self.conv1 = PreActConv(cin, cout, stride, rngs=rngs)
        self.conv2 = PreActConv(cout, cout, rngs=rngs)
        self.shortcut = keras_conv(cin, cout, 1, stride=stride, rngs=rngs)

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        x = self.se(x)
        return self.conv2(self.conv1(x, context), context) + self.shortcut(x)


class Stem(nnx.Module):
    """Convolution, BatchNorm, ReLU, convolution, with a 1x1 shortcut around them."""

    def __init__(self, cin: int, cout: int, *, rngs: nnx.Rngs):
        self.conv1 = keras_conv(cin, cout, 3, rngs=rngs)
        self.conv2 = PreActConv(cout, cout, rngs=rngs)
        self.shortcut = keras_conv(cin, cout, 1, rngs=rngs)

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        return self.conv2(self.conv1(x), context) + self.shortcut(x)


class Pyramid(nnx.Module):
    """Sum of 3x3 convolutions of dilation 6, 12, 18 and 1, each with BatchNorm; then a 1x1."""

    def __init__(self, cin: int, cout: int, *, rngs: nnx.Rngs):
        self.convs = nnx.List([keras_conv(cin, cout, 3, dilation=d, rngs=rngs) for d in (6, 12, 18, 1)])
        self.norms = nnx.List([keras_norm(cout, rngs=rngs) for _ in range(4)])
        self.fuse = keras_conv(cout, cout, 1, rngs=rngs)

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        return self.fuse(sum(norm(conv(x), context) for conv, norm in zip(self.convs, self.norms)))


class Attention(nnx.Module):
    """Multiply x by an attention map that is computed from the pooled skip and x."""

    def __init__(self, skip: int, channels: int, *, rngs: nnx.Rngs):
        self.skip = PreActConv(skip, channels, rngs=rngs)
        self.signal = PreActConv(channels, channels, rngs=rngs)
        self.joint = PreActConv(channels, channels, rngs=rngs)

    def __call__(self, skip: Array, x: Array, context: ForwardContext = EVAL) -> Array:
        weight = self.joint(ops.max_pool(self.skip(skip, context), 2) + self.signal(x, context), context)
        tally.add("mul", x.size)
        return weight * x


class ResUNetPlusPlus(Segmenter):
    """Res-UNet++ for [B, H, W, C] with sizes divisible by 8; logits [B, H, W, K]."""

    def __init__(self, config: Config, *, in_channels: int, num_classes: int, rngs: nnx.Rngs):
        self.in_channels, self.num_classes, self.rank = in_channels, num_classes, 2
        self.size_multiple = 2 ** (len(config.widths) - 1)
        widths = config.widths
        self.stem = Stem(in_channels, widths[0], rngs=rngs)
        self.encoder = nnx.List([Residual(a, b, 2, rngs=rngs) for a, b in zip(widths, widths[1:])])
        self.pyramid = Pyramid(widths[-1], config.pyramid, rngs=rngs)
        self.dropout = Dropout(config.dropout)
        attentions, blocks, c = [], [], config.pyramid
        for skip, width in zip(widths[-2::-1], widths[:0:-1]):
            attentions.append(Attention(skip, c, rngs=rngs))
            blocks.append(Residual(c + skip, width, rngs=rngs))
            c = width
        self.attentions, self.decoder = nnx.List(attentions), nnx.List(blocks)
        self.out_pyramid = Pyramid(c, widths[0], rngs=rngs)
        self.head = keras_conv(widths[0], num_classes, 1, rngs=rngs)

    def forward(self, image: Array, context: ForwardContext) -> Outputs:
        x = self.stem(image, context)
        skips = [x]
        for i, block in enumerate(self.encoder):
            with jax.named_scope(f"down{i + 1}"):
                x = block(x, context)
            skips.append(x)
        x = self.dropout(self.pyramid(x, context), context)
        for i, (attention, block, skip) in enumerate(zip(self.attentions, self.decoder, skips[-2::-1])):
            with jax.named_scope(f"up{i + 1}"):
                x = ops.resize(attention(skip, x, context), skip.shape[1:-1], "nearest")
                x = block(jnp.concatenate([x, skip], axis=-1), context)
        return Outputs(self.head(self.out_pyramid(x, context)))


VARIANTS = {
    "resunetpp": Variant(ResUNetPlusPlus, Config(), in_channels=4, num_classes=4),
    "resunetpp_test": Variant(ResUNetPlusPlus, Config(widths=(8, 8, 16, 16), pyramid=16), in_channels=4, num_classes=4),
}
KEY_MAPPINGS = ()
