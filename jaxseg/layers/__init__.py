"""Layers that several network families share, for any number of spatial axes. Attribute names follow PyTorch's state dicts."""

from jaxseg.layers.activation import activation
from jaxseg.layers.context import EVAL, ForwardContext, Tap
from jaxseg.layers.conv import Conv, ConvTranspose, Linear
from jaxseg.layers.norm import BatchNorm, BatchStat, GroupNorm, InstanceNorm, LayerNorm
from jaxseg.layers.residual import ChannelDropout, Dropout, DropPath, LayerScale, Stochastic, drop_path_rates, number_streams

__all__ = [
    "BatchNorm",
    "BatchStat",
    "ChannelDropout",
    "Conv",
    "ConvTranspose",
    "DropPath",
    "Dropout",
    "EVAL",
    "ForwardContext",
    "Tap",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "LayerScale",
    "Linear",
    "Stochastic",
    "activation",
    "drop_path_rates",
    "number_streams",
]
