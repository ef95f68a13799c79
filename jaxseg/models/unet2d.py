"""The BraTS 2-D project's U-Nets: plain, without bridge, with three convolutions per level, dilated, with an attention gate.

Source: Masterjun12/brain_tumor_segmentation models/*.py (Keras), after Ronneberger et al. 2015 (arXiv 1505.04597) and, for
the gate, Oktay et al. 2018 (arXiv 1804.03999). "No bridge" leaves out the 1024-channel block; the skips stay.

Keras' defaults are used where they matter: BatchNorm eps 1e-3 and momentum 0.99 (0.01 in PyTorch's definition), Glorot-uniform
kernels, zero biases. Differs from the source in having no softmax at the end. The project's numbers of parameters include the
running statistics of BatchNorm.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from jaxseg import ops
from jaxseg.layers import EVAL, ConvTranspose, Dropout, ForwardContext, activation
from jaxseg.layers.keras import keras_conv, keras_norm
from jaxseg.models.base import Outputs, Segmenter, Variant
from jaxseg.ops import tally
from jaxseg.types import Array

_relu = activation("relu")


@dataclasses.dataclass(frozen=True)
class Config:
    """Choices of one U-Net.

    Attributes:
      widths: channels of the encoder's levels, finest first.
      bridge: channels of the block below them; 0: none.
      convs: 3x3 convolutions per block.
      norm: place of BatchNorm: "none", "before" the ReLU, or "after" it.
      dilations: dilations of the encoder's levels.
      bridge_dilation: dilation of the bridge.
      upsampling: upsampling of the decoder's levels, deepest first: "conv" (2x2 transposed convolution) or "nearest".
      gate: whether the deepest skip has an attention gate.
      extra: channels of 3x3 convolutions (ReLU, no norm) before the head.
      dropout: dropout between the first two convolutions of the third level and of the decoder's deepest level.
      bridge_dropout: dropout after the bridge.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512)
    bridge: int = 1024
    convs: int = 2
    norm: str = "none"
    dilations: tuple[int, ...] = (1, 1, 1, 1)
    bridge_dilation: int = 1
    upsampling: tuple[str, ...] = ("conv", "conv", "conv", "conv")
    gate: bool = False
    extra: tuple[int, ...] = ()
    dropout: float = 0.0
    bridge_dropout: float = 0.0


class Block(nnx.Module):
    """`config.convs` 3x3 convolutions with ReLU and, depending on `config.norm`, BatchNorm; dropout after the first one."""

    def __init__(self, config: Config, cin: int, cout: int, dilation: int = 1, dropout: float = 0.0, *, rngs: nnx.Rngs):
        self.convs = nnx.List(
            [keras_conv(cin if i == 0 else cout, cout, 3, dilation=dilation, rngs=rngs) for i in range(config.convs)]
        )
        self.norms = nnx.List([keras_norm(cout, rngs=rngs) if config.norm != "none" else None for _ in range(config.convs)])
        self.before = config.norm == "before"
        self.dropout = Dropout(dropout)

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms)):
            x = conv(x)
            if norm is None:
                x = _relu(x)
            else:
                x = norm(x, context, act="relu") if self.before else norm(_relu(x), context)
            if i == 0:
                x = self.dropout(x, context)
        return x


class Gate(nnx.Module):
    """Additive attention: the skip [B, H, W, C] times sigmoid(psi(relu(theta(skip) + phi(signal)))) at half its size."""

    def __init__(self, skip: int, signal: int, inner: int, *, rngs: nnx.Rngs):
        self.theta = keras_conv(skip, inner, 2, stride=2, padding=0, rngs=rngs)
        self.phi = keras_conv(signal, inner, 1, rngs=rngs)
        self.psi = keras_conv(inner, 1, 1, rngs=rngs)

    def __call__(self, skip: Array, signal: Array) -> Array:
        weight = jax.nn.sigmoid(self.psi(_relu(self.theta(skip) + self.phi(signal))))
        tally.add("mul", skip.size)
        return skip * ops.resize(weight, skip.shape[1:-1], "nearest")


class KerasUNet(Segmenter):
    """U-Net for [B, H, W, C] with sizes divisible by 16; logits [B, H, W, K].

    This is not `unet.UNet`: Keras' padding, initial values and order of norm and activation differ, and so do the tensor names.
    """

    def __init__(self, config: Config, *, in_channels: int, num_classes: int, rngs: nnx.Rngs):
        self.in_channels, self.num_classes, self.rank = in_channels, num_classes, 2
        self.size_multiple = 2 ** len(config.widths)
        ins = (in_channels, *config.widths)
        third = len(config.widths) - 2
        self.encoder = nnx.List(
            [
                Block(config, a, b, d, config.dropout if i == third else 0.0, rngs=rngs)
                for i, (a, b, d) in enumerate(zip(ins, config.widths, config.dilations))
            ]
        )
        self.bridge = (
            Block(config, config.widths[-1], config.bridge, config.bridge_dilation, rngs=rngs) if config.bridge else None
        )
        self.bridge_dropout = Dropout(config.bridge_dropout)
        c = config.bridge or config.widths[-1]
        self.gate = Gate(config.widths[-1], c, config.widths[-1] // 2, rngs=rngs) if config.gate else None
        ups, blocks = [], []
        for i, (kind, width) in enumerate(zip(config.upsampling, config.widths[::-1])):
            ups.append(_up(c, width, rngs) if kind == "conv" else None)
            joined = (width if kind == "conv" else c) + width
            blocks.append(Block(config, joined, width, 1, config.dropout if i == 0 else 0.0, rngs=rngs))
            c = width
        self.ups, self.decoder = nnx.List(ups), nnx.List(blocks)
        extras = (c, *config.extra)
        self.extra = nnx.List([keras_conv(a, b, 3, rngs=rngs) for a, b in zip(extras, config.extra)])
        self.head = keras_conv(extras[-1], num_classes, 1, rngs=rngs)

    def forward(self, image: Array, context: ForwardContext) -> Outputs:
        x, skips = image, []
        for i, block in enumerate(self.encoder):
            with jax.named_scope(f"down{i + 1}"):
                x = block(x, context)
                skips.append(x)
                x = ops.max_pool(x, 2)
        if self.bridge is not None:
            with jax.named_scope("bridge"):
                x = self.bridge_dropout(self.bridge(x, context), context)
        if self.gate is not None:
            skips[-1] = self.gate(skips[-1], x)
        for i, (up, block, skip) in enumerate(zip(self.ups, self.decoder, skips[::-1])):
            with jax.named_scope(f"up{i + 1}"):
                x = ops.resize(x, skip.shape[1:-1], "nearest") if up is None else up(x)
                x = block(jnp.concatenate([x, skip], axis=-1), context)
        for conv in self.extra:
            x = _relu(conv(x))
        return Outputs(self.head(x))


def _up(cin: int, cout: int, rngs: nnx.Rngs) -> ConvTranspose:
    return keras_conv(cin, cout, 2, transposed=True, rngs=rngs)


_NEAREST = ("nearest",) * 4
_CONFIGS = {
    "unet2d": Config(),
    "unet2d_nobridge": Config(bridge=0),
    "unet2d_3conv": Config(convs=3, norm="before"),
    "unet2d_3conv_nobridge": Config(convs=3, norm="before", bridge=0),
    "unet2d_dilated": Config(dilations=(2, 3, 4, 4), bridge_dilation=8, upsampling=_NEAREST),
    "unet2d_dilated_nobridge": Config(bridge=0, dilations=(3, 3, 3, 3), upsampling=("conv", *_NEAREST[1:])),
    "attention_unet2d": Config(norm="after", gate=True, extra=(32, 32), bridge_dropout=0.5),
    "unet2d_test": Config(widths=(4, 8, 12, 16), bridge=24, norm="after", gate=True, extra=(4,)),
}
VARIANTS = {name: Variant(KerasUNet, config, in_channels=4, num_classes=4) for name, config in _CONFIGS.items()}
KEY_MAPPINGS = ()
