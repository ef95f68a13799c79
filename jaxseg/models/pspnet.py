"""PSPNet: dilated ResNet with a deep stem, pyramid pooling, auxiliary head on the third stage.

Sources: Zhao et al. 2017 (arXiv 1612.01105); hszhao/semseg model/pspnet.py and model/resnet.py; as used in
superbunny38/Multi-Object-Semantic-Segmentation, whose notebooks build a ResNet-50 (its README says 101) and concatenate the
pooled maps in the order `bins=(6, 3, 2, 1)` (hszhao: (1, 2, 3, 6)).

Output stride 8: the third stage has stride 1 and dilation 2, the fourth stride 1 and dilation 4. All resizes align corners.
Differs from the source in accepting any input size (hszhao: only sizes 8 n + 1).
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxseg import ops
from jaxseg.layers import EVAL, ChannelDropout, Conv, ForwardContext, activation, initial
from jaxseg.layers.blocks import ConvNorm
from jaxseg.models.base import KeyMapping, Outputs, Segmenter, Variant
from jaxseg.types import Array

_relu = activation("relu")
EXPANSION = 4


@dataclasses.dataclass(frozen=True)
class Config:
    """Choices of one PSPNet.

    Attributes:
      depths: bottlenecks of the four stages.
      width: channels of the first stage's bottlenecks; the stem ends with twice as many.
      bins: sizes of the pooled maps, in the order of their concatenation.
      head: channels of the head and of the pooled maps; the auxiliary head has half as many.
      aux: have an auxiliary head on the third stage.
      dropout: channel dropout before the classifiers.
    """

    depths: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    bins: tuple[int, ...] = (1, 2, 3, 6)
    head: int = 512
    aux: bool = True
    dropout: float = 0.1


def _conv(cin: int, cout: int, kernel: int, *, act: str = "relu", rngs: nnx.Rngs, **more) -> ConvNorm:
    """Convolution with He initialisation, BatchNorm, and an activation (ReLU by default)."""
    return ConvNorm(
        cin, cout, kernel, rank=2, act=act, weight_init=initial.fan_out_normal((kernel, kernel), cout), rngs=rngs, **more
    )


class Bottleneck(nnx.Module):
    """ResNet bottleneck: convolutions 1x1, 3x3 (with stride and dilation), 1x1; ReLU after the sum with the shortcut."""

    def __init__(self, cin: int, width: int, stride: int, dilation: int, project: bool, *, rngs: nnx.Rngs):
        cout = width * EXPANSION
        self.conv1 = _conv(cin, width, 1, rngs=rngs)
        self.conv2 = _conv(width, width, 3, stride=stride, dilation=dilation, rngs=rngs)
        self.conv3 = _conv(width, cout, 1, act="identity", rngs=rngs)
        self.shortcut = _conv(cin, cout, 1, stride=stride, act="identity", rngs=rngs) if project else None

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        y = self.conv3(self.conv2(self.conv1(x, context), context), context)
        return _relu(y + (x if self.shortcut is None else self.shortcut(x, context)))


class Encoder(nnx.Module):
    """Dilated ResNet: features of the four stages, finest first, at strides 4, 8, 8, 8."""

    strides = (4, 8, 8, 8)

    def __init__(self, config: Config, in_channels: int, *, rngs: nnx.Rngs):
        w = config.width
        self.channels = tuple(w * 2**i * EXPANSION for i in range(4))
        self.stem = nnx.List(
            [_conv(in_channels, w, 3, stride=2, rngs=rngs), _conv(w, w, 3, rngs=rngs), _conv(w, 2 * w, 3, rngs=rngs)]
        )
        stages, cin = [], 2 * w
        for i, (depth, stride, dilation) in enumerate(zip(config.depths, (1, 2, 1, 1), (1, 1, 2, 4))):
            blocks = [
                Bottleneck(self.channels[i] if j else cin, w * 2**i, 1 if j else stride, dilation, j == 0, rngs=rngs)
                for j in range(depth)
            ]
            stages.append(nnx.List(blocks))
            cin = self.channels[i]
        self.stages = nnx.List(stages)

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> list[Array]:
        for layer in self.stem:
            x = layer(x, context)
        x = ops.max_pool(x, 3, stride=2, padding=1)
        features = []
        for i, blocks in enumerate(self.stages):
            with jax.named_scope(f"stage{i + 1}"):
                for block in blocks:
                    x = block(x, context)
            features.append(x)
        return features


class PyramidPooling(nnx.Module):
    """The averages of a map over several coarse grids, each after a 1x1 convolution: [B, n, n, width] for each n of `bins`."""

    def __init__(self, channels: int, width: int, bins: tuple[int, ...], *, rngs: nnx.Rngs):
        self.bins = bins
        self.convs = nnx.List([_conv(channels, width, 1, rngs=rngs) for _ in bins])

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> list[Array]:
        return [conv(ops.adaptive_avg_pool(x, n), context) for n, conv in zip(self.bins, self.convs)]


class Head(nnx.Module):
    """3x3 convolution of a map and the pooled maps, upsampled to its size, one behind the other; dropout, 1x1 classifier."""

    def __init__(self, cin: int, width: int, classes: int, dropout: float, *, rngs: nnx.Rngs):
        self.conv = _conv(cin, width, 3, rngs=rngs)
        self.dropout = ChannelDropout(dropout)
        self.classifier = Conv(width, classes, 1, rank=2, rngs=rngs)

    def __call__(self, x: Array, context: ForwardContext = EVAL, pooled: Sequence[Array] = ()) -> Array:
        size = x.shape[1:-1]
        if context.taps:  # of layers that are called
            x = self.conv(jnp.concatenate([x, *(ops.resize(p, size, align_corners=True) for p in pooled)], axis=-1), context)
        else:
            ends = np.cumsum([part.shape[-1] for part in (x, *pooled)])
            own, *others = jnp.split(self.conv.conv.weight[...], ends[:-1], axis=-2)  # the kernel's part for each map
            x = ops.conv(x, own)
            for part, w in zip(pooled, others):
                x += ops.convolve_resized(part, size, w, align_corners=True)
            x = self.conv.finish(x, context)
        return self.classifier(self.dropout(x, context))


class PSPNet(Segmenter):
    """PSPNet for [B, H, W, C]; logits [B, H, W, K]; one auxiliary output, logits of the third stage at full size."""

    min_size = 8

    def __init__(self, config: Config, *, in_channels: int, num_classes: int, rngs: nnx.Rngs):
        self.in_channels, self.num_classes, self.rank = in_channels, num_classes, 2
        self.encoder = Encoder(config, in_channels, rngs=rngs)
        channels = self.encoder.channels
        pooled = channels[3] // len(config.bins)
        self.ppm = PyramidPooling(channels[3], pooled, config.bins, rngs=rngs)
        self.head = Head(channels[3] + pooled * len(config.bins), config.head, num_classes, config.dropout, rngs=rngs)
        self.aux = Head(channels[2], config.head // 2, num_classes, config.dropout, rngs=rngs) if config.aux else None

    def forward(self, image: Array, context: ForwardContext) -> Outputs:
        size = image.shape[1:-1]
        full = lambda x: ops.resize(x.astype(jnp.float32), size, align_corners=True)
        features = self.encoder(image, context)
        with jax.named_scope("decoder"):
            logits = full(self.head(features[3], context, self.ppm(features[3], context)))
        if self.aux is None or not context.train:
            return Outputs(logits)
        with jax.named_scope("aux"):
            return Outputs(logits, (full(self.aux(features[2], context)),))


VARIANTS = {
    "pspnet_r50": Variant(PSPNet, Config(), num_classes=150),
    "pspnet_r101": Variant(PSPNet, Config(depths=(3, 4, 23, 3)), num_classes=150),
    "pspnet_test": Variant(PSPNet, Config(depths=(1, 1, 1, 1), width=8, bins=(6, 3, 2, 1), head=16)),
}

_STEM = (("0", "0.conv"), ("1", "0.norm"), ("3", "1.conv"), ("4", "1.norm"), ("6", "2.conv"), ("7", "2.norm"))
KEY_MAPPINGS = (
    KeyMapping(
        "hszhao",
        (
            *((rf"^layer0\.{a}\.", f"encoder.stem.{b}.") for a, b in _STEM),
            *((rf"^layer{i + 1}\.", f"encoder.stages.{i}.") for i in range(4)),
            (r"(stages\.\d+\.\d+)\.bn([123])\.", r"\1.conv\2.norm."),
            (r"(stages\.\d+\.\d+)\.conv([123])\.(weight)", r"\1.conv\2.conv.\3"),
            (r"\.downsample\.0\.", ".shortcut.conv."),
            (r"\.downsample\.1\.", ".shortcut.norm."),
            (r"^ppm\.features\.(\d)\.1\.", r"ppm.convs.\1.conv."),
            (r"^ppm\.features\.(\d)\.2\.", r"ppm.convs.\1.norm."),
            *((rf"^{a}\.0\.", f"{b}.conv.conv.") for a, b in (("cls", "head"), ("aux", "aux"))),
            *((rf"^{a}\.1\.", f"{b}.conv.norm.") for a, b in (("cls", "head"), ("aux", "aux"))),
            *((rf"^{a}\.4\.", f"{b}.classifier.") for a, b in (("cls", "head"), ("aux", "aux"))),
        ),
        ignored=(r"num_batches_tracked$",),
    ),
)
