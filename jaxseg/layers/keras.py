"""Layers with Keras' defaults: Glorot-uniform kernels, zero biases, BatchNorm eps 1e-3 and momentum 0.99 (PyTorch: 0.01)."""

import math

from flax import nnx

from jaxseg.layers import initial
from jaxseg.layers.blocks import ConvNorm
from jaxseg.layers.conv import Conv, ConvTranspose
from jaxseg.layers.norm import BatchNorm
from jaxseg.ops.conv.api import per_axis


def keras_conv(
    cin: int,
    cout: int,
    kernel: int,
    *,
    stride: int = 1,
    padding="same_tf",
    dilation: int = 1,
    transposed: bool = False,
    rank: int = 2,
    rngs: nnx.Rngs,
) -> Conv | ConvTranspose:
    """Convolution with bias and padding "same"; with `transposed` a transposed convolution with its kernel as stride."""
    glorot = _glorot(cin, cout, kernel, rank)
    if transposed:
        return ConvTranspose(cin, cout, kernel, rank=rank, stride=kernel, weight_init=glorot, bias_init=initial.zeros, rngs=rngs)
    return Conv(
        cin,
        cout,
        kernel,
        rank=rank,
        stride=stride,
        padding=padding,
        dilation=dilation,
        weight_init=glorot,
        bias_init=initial.zeros,
        rngs=rngs,
    )


def keras_norm(channels: int, *, rngs: nnx.Rngs) -> BatchNorm:
    """BatchNorm with Keras' eps and momentum."""
    return BatchNorm(channels, eps=1e-3, momentum=0.01, rngs=rngs)


def keras_conv_norm(cin: int, cout: int, kernel: int, *, dilation: int = 1, rank: int = 2, rngs: nnx.Rngs) -> ConvNorm:
    """`keras_conv`, then `keras_norm`, then ReLU."""
    return ConvNorm(
        cin,
        cout,
        kernel,
        rank=rank,
        norm=keras_norm,
        bias=True,
        padding="same_tf",
        dilation=dilation,
        weight_init=_glorot(cin, cout, kernel, rank),
        bias_init=initial.zeros,
        rngs=rngs,
    )


def _glorot(cin: int, cout: int, kernel: int, rank: int) -> initial.Initializer:
    return initial.uniform(math.sqrt(6.0 / (math.prod(per_axis(kernel, rank, "kernel")) * (cin + cout))))
