"""EffiSegNet: EfficientNet encoder, whose features are each upsampled to full size and summed, then two Ghost modules.

Sources: Vezakis et al. 2024 (arXiv 2407.16298); ivezakis/effisegnet models/effisegnet.py; its encoder is MONAI's
EfficientNetBNFeatures (monai/networks/nets/efficientnet.py), after Tan and Le 2019 (arXiv 1905.11946, tables 1 and 4).

Differs from the source: TensorFlow-style padding and the decoder's upsampling are computed from the actual input size, so
that any size works; at the variant's nominal size (`NOMINAL`) both equal MONAI's, which are fixed for this size. The
encoder's conv_head, which the source has but never uses, is an option (`conv_head`), so that parameter counts and state dicts
agree. Deep supervision (one logit map per tap, coarsest last) is an option. An encoder trained on ImageNet is loaded by
`from_torch.load(model, file, only="encoder.")`. `effisegnet_lite0` has the encoder of EfficientNet-Lite0 (TensorFlow's
tpu/models/official/efficientnet/lite), for which a package has pretrained weights (`weights.pretrained`).
"""

import dataclasses
import math

import jax
from flax import nnx

from jaxseg import ops
from jaxseg.layers import EVAL, BatchNorm, Conv, DropPath, ForwardContext, activation
from jaxseg.layers.keras import keras_norm
from jaxseg.layers.mobile import GhostModule, round_channels
from jaxseg.models.base import KeyMapping, Outputs, Segmenter, Variant
from jaxseg.ops import tally
from jaxseg.types import Array

_relu = activation("relu")
# Table 1 of EfficientNet: repeats, kernel, stride, expansion, in, out.
_STACKS = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
_TAPS = (0, 1, 2, 4, 6)  # stacks whose outputs are features, at strides 2, 4, 8, 16, 32
# Compound scaling: width, depth; and the size the source trains each variant at.
_SCALES = {
    "b0": (1.0, 1.0),
    "b1": (1.0, 1.1),
    "b2": (1.1, 1.2),
    "b3": (1.2, 1.4),
    "b4": (1.4, 1.8),
    "b5": (1.6, 2.2),
    "b6": (1.8, 2.6),
    "b7": (2.0, 3.1),
}
NOMINAL = {"b0": 224, "b1": 240, "b2": 260, "b3": 300, "b4": 380, "b5": 456, "b6": 528, "b7": 600}


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and choices of one EffiSegNet.

    Attributes:
      width_scale, depth_scale: EfficientNet's compound scaling.
      width: channels of the decoder.
      drop_connect: rate of stochastic depth; it rises from 0 in the first of n blocks to drop_connect (n - 1) / n in the last.
      conv_head: include the encoder's unused last 1x1 convolution and its norm.
      deep_supervision: one auxiliary logit map per tap.
      squeeze: squeeze and excitation in the encoder's blocks.
      act: activation of the encoder. EfficientNet-Lite has no squeeze and excitation, and "relu6".
    """

    width_scale: float = 1.0
    depth_scale: float = 1.0
    width: int = 32
    drop_connect: float = 0.2
    conv_head: bool = True
    deep_supervision: bool = False
    squeeze: bool = True
    act: str = "silu"


def _conv(cin: int, cout: int, kernel: int, *, rngs: nnx.Rngs, stride: int = 1, groups: int = 1, bias: bool = False) -> Conv:
    return Conv(cin, cout, kernel, rank=2, stride=stride, padding="same_tf", groups=groups, bias=bias, rngs=rngs)


class MBConv(nnx.Module):
    """Inverted bottleneck, with squeeze and excitation if asked; residual with stochastic depth where the shape is kept."""

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel: int,
        stride: int,
        expansion: int,
        drop: float,
        *,
        squeeze: bool,
        act: str,
        rngs: nnx.Rngs,
    ):
        self.act = act
        hidden = cin * expansion
        self.expand_conv = _conv(cin, hidden, 1, rngs=rngs) if expansion > 1 else None
        self.bn0 = keras_norm(hidden, rngs=rngs) if expansion > 1 else None
        self.depthwise_conv = _conv(hidden, hidden, kernel, stride=stride, groups=hidden, rngs=rngs)
        self.bn1 = keras_norm(hidden, rngs=rngs)
        squeezed = max(1, int(cin * 0.25))
        self.se_reduce = _conv(hidden, squeezed, 1, bias=True, rngs=rngs) if squeeze else None
        self.se_expand = _conv(squeezed, hidden, 1, bias=True, rngs=rngs) if squeeze else None
        self.project_conv = _conv(hidden, cout, 1, rngs=rngs)
        self.bn2 = keras_norm(cout, rngs=rngs)
        self.drop_path = DropPath(drop) if stride == 1 and cin == cout else None

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        y = x if self.expand_conv is None else self.bn0(self.expand_conv(x), context, act=self.act)
        y = self.bn1(self.depthwise_conv(y), context, act=self.act)
        if self.se_reduce is not None:
            gate = ops.adaptive_avg_pool(y, 1)  # [B, 1, 1, hidden]
            gate = jax.nn.sigmoid(self.se_expand(activation(self.act)(self.se_reduce(gate))))
            tally.add("mul", y.size)
            y = y * gate
        y = self.bn2(self.project_conv(y), context)
        return y if self.drop_path is None else x + self.drop_path(y, context)


class Encoder(nnx.Module):
    """EfficientNet trunk; features of five stacks, finest first, at strides 2 to 32."""

    strides = (2, 4, 8, 16, 32)

    def __init__(self, config: Config, in_channels: int, *, rngs: nnx.Rngs):
        self.act, scaled = config.act, lambda c: round_channels(c, config.width_scale)
        self.channels = tuple(scaled(_STACKS[i][5]) for i in _TAPS)
        self.conv_stem = _conv(in_channels, scaled(32), 3, stride=2, rngs=rngs)
        self.bn0 = keras_norm(scaled(32), rngs=rngs)
        repeats = [math.ceil(config.depth_scale * s[0]) for s in _STACKS]
        blocks, ends = [], []
        for n, (_, kernel, stride, expansion, cin, cout) in zip(repeats, _STACKS):
            for j in range(n):
                blocks.append(
                    MBConv(
                        scaled(cout if j else cin),
                        scaled(cout),
                        kernel,
                        1 if j else stride,
                        expansion,
                        config.drop_connect * len(blocks) / sum(repeats),
                        squeeze=config.squeeze,
                        act=config.act,
                        rngs=rngs,
                    )
                )
            ends.append(len(blocks) - 1)
        self.blocks = nnx.List(blocks)  # numbered consecutively over all stacks, as in ImageNet checkpoints
        self.taps = tuple(ends[i] for i in _TAPS)
        last = scaled(_STACKS[-1][5])
        self.conv_head = _conv(last, scaled(1280), 1, rngs=rngs) if config.conv_head else None
        self.bn1 = keras_norm(scaled(1280), rngs=rngs) if config.conv_head else None

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> list[Array]:
        x = self.bn0(self.conv_stem(x), context, act=self.act)
        features = []
        for i, block in enumerate(self.blocks):
            with jax.named_scope(f"block{i}"):
                x = block(x, context)
            if i in self.taps:
                features.append(x)
        return features


class EffiSegNet(Segmenter):
    """EffiSegNet for [B, H, W, C] of any size; logits [B, H, W, K]; with deep supervision auxiliary logits for each tap."""

    def __init__(self, config: Config, *, in_channels: int, num_classes: int, rngs: nnx.Rngs):
        self.in_channels, self.num_classes, self.rank = in_channels, num_classes, 2
        width = config.width
        self.encoder = Encoder(config, in_channels, rngs=rngs)
        self.taps = nnx.List([Conv(c, width, 3, rank=2, bias=False, rngs=rngs) for c in self.encoder.channels])
        self.tap_norms = nnx.List([BatchNorm(width, rngs=rngs) for _ in self.encoder.channels])
        self.norm = BatchNorm(width, rngs=rngs)
        self.ghost1 = GhostModule(width, width, kernel=1, act_first=True, rank=2, rngs=rngs)
        self.ghost2 = GhostModule(width, width, kernel=1, act_first=True, rank=2, rngs=rngs)
        self.classifier = Conv(width, num_classes, 1, rank=2, bias=False, rngs=rngs)
        aux = self.encoder.channels if config.deep_supervision else ()
        self.aux_norms = nnx.List([BatchNorm(width, rngs=rngs) for _ in aux])
        self.aux_heads = nnx.List([Conv(width, num_classes, 1, rank=2, bias=False, rngs=rngs) for _ in aux])

    def forward(self, image: Array, context: ForwardContext) -> Outputs:
        size = image.shape[1:-1]
        features = self.encoder(image, context)
        with jax.named_scope("decoder"):
            maps = [norm(_relu(conv(f)), context) for conv, norm, f in zip(self.taps, self.tap_norms, features)]
            maps = [ops.resize(m, size, "nearest") for m in maps]  # each straight to [B, H, W, width]
            x = self.norm(sum(maps[1:], maps[0]), context)
            logits = self.classifier(self.ghost2(self.ghost1(x, context), context))
            if not context.train:
                return Outputs(logits)
            return Outputs(logits, tuple(head(norm(m, context)) for head, norm, m in zip(self.aux_heads, self.aux_norms, maps)))


VARIANTS = {f"effisegnet_{size}": Variant(EffiSegNet, Config(*scales)) for size, scales in _SCALES.items()}
VARIANTS["effisegnet_lite0"] = Variant(EffiSegNet, Config(squeeze=False, act="relu6"))
VARIANTS["effisegnet_test"] = Variant(EffiSegNet, Config(0.25, 0.3, width=8))

# Three sources have the same encoder under different names: the network (encoder._blocks.<stack>.<block>.), MONAI's encoder alone
# (without "encoder.") and ImageNet checkpoints (_blocks.<block>.). Blocks are numbered consecutively over all stacks in each.
KEY_MAPPINGS = (
    KeyMapping(
        "official",
        (
            (r"^(encoder\.)?_blocks\.(\d+\.)?(\d+)\._", r"encoder.blocks.\3."),
            (r"^(encoder\.)?_(conv_stem|conv_head|bn[01])\.", r"encoder.\2."),
            *((rf"^conv{i + 1}\.", f"taps.{i}.") for i in range(5)),
            *((rf"^bn{i + 1}\.", f"tap_norms.{i}.") for i in range(5)),
            (r"^bn6\.", "norm."),
            (r"^conv6\.", "classifier."),
            *((rf"^conv{i + 7}\.", f"aux_heads.{i}.") for i in range(5)),
            *((rf"^bn{i + 7}\.", f"aux_norms.{i}.") for i in range(5)),
            (r"^(ghost[12])\.primary_conv\.0\.", r"\1.primary.conv."),
            (r"^(ghost[12])\.primary_conv\.2\.", r"\1.primary.norm."),
            (r"^(ghost[12])\.cheap_operation\.0\.", r"\1.cheap.conv."),
            (r"^(ghost[12])\.cheap_operation\.2\.", r"\1.cheap.norm."),
        ),
        ignored=(r"num_batches_tracked$", r"^(encoder\.)?_fc\."),
    ),
)
