"""Layers with Keras' defaults: Glorot-uniform kernels, zero biases, BatchNorm eps 1e-3 and momentum 0.99 (0.01 here)."""

import math

from flax import nnx

from jaxseg.layers import initial
from jaxseg.layers.conv import Conv, ConvTranspose
from jaxseg.layers.norm import BatchNorm
from jaxseg.ops.conv.api import per_axis


def keras_conv(cin: int, cout: int, kernel: int, *, stride: int = 1, padding="same_tf", dilation: int = 1,
               transposed: bool = False, rank: int = 2, rngs: nnx.Rngs) -> Conv | ConvTranspose:
    """Convolution with bias, padding "same"; or, transposed, one whose stride is its kernel."""
    taps = math.prod(per_axis(kernel, rank, "kernel"))
    glorot = initial.uniform(math.sqrt(6.0 / (taps * (cin + cout))))
    if transposed:
        return ConvTranspose(cin, cout, kernel, rank=rank, stride=kernel, weight_init=glorot, bias_init=initial.zeros, rngs=rngs)
    return Conv(cin, cout, kernel, rank=rank, stride=stride, padding=padding, dilation=dilation, weight_init=glorot,
                bias_init=initial.zeros, rngs=rngs)


def keras_norm(channels: int, *, rngs: nnx.Rngs) -> BatchNorm:
    """BatchNorm as Keras makes it."""
    return BatchNorm(channels, eps=1e-3, momentum=0.01, rngs=rngs)
