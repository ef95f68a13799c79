"""Rules that choose a lowering for each direction of a convolution on a CPU; table.py has the measurements."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxseg.ops.conv import reference
from jaxseg.ops.conv.cpu import blocks, depthwise, folded, planes, products, slabs, spectral, stems, threaded
from jaxseg.ops.conv.spec import Spec
from jaxseg.ops.sizes import known


class Choice(NamedTuple):
    """The functions for the three directions, with the arguments of those in `reference`."""

    forward: Callable
    input_gradient: Callable
    weight_gradient: Callable


_SPECTRAL = 9**3  # number of taps of a depthwise kernel from which all directions use spectral.py, and
_SPECTRAL_WEIGHTS = 7**3  # from which the weight gradient does
_FEW_CHANNELS = 4  # up to this number of channels strides are turned into channels
_LARGE_SLICE = 2**9  # positions of a slice from which on one step of a loop over slices is worth its overhead
_MANY = 2**12  # positions of a batch of images, from which on a loop over blocks of them is worth its overhead

XLA = Choice(reference.forward, reference.input_gradient, reference.weight_gradient)


def lowerings(spec: Spec, x_shape: Sequence[int], w_shape: Sequence[int]) -> Choice:
    """The choice for one shape: x_shape [B, *S, C], w_shape [*k, C/groups, O]."""
    rank = len(x_shape) - 2
    if rank >= 2 and spec.depthwise(w_shape):
        return _depthwise(spec, math.prod(w_shape[:-2]), rank)
    if spec.groups > 1 or rank < 2:
        return XLA
    if rank == 2 and not spec.plain and set(spec.dilation) == {1} and w_shape[-2] <= _FEW_CHANNELS:
        return XLA._replace(forward=stems.forward)
    x_shape = known(x_shape)
    positions, channels = math.prod(x_shape[:-1]), min(w_shape[-2:])
    if rank == 2:
        choice = _dense_2d(spec, positions, channels)
    elif not spec.plain:
        return Choice(planes.forward, planes.input_gradient, planes.weight_gradient)
    elif math.prod(x_shape[2:-1]) >= _LARGE_SLICE:
        choice = Choice(slabs.forward, slabs.input_gradient, slabs.weight_gradient)
    else:
        choice = Choice(planes.forward, planes.input_gradient, folded.weight_gradient)
    few = positions < 2 * channels  # the weights are larger than what they are applied to
    if spec.plain and few:
        choice = choice._replace(forward=products.forward)
    if spec.plain and (few or positions == 2 * channels >= 1024):  # turning the weights costs XLA as much
        choice = choice._replace(input_gradient=products.input_gradient)
    return choice


def _depthwise(spec: Spec, taps: int, rank: int) -> Choice:
    """The choice by the number of taps: each tap is a pass over the volume, while the cost of spectra does not depend on them."""
    choice = Choice(depthwise.forward, depthwise.input_gradient, depthwise.weight_gradient)
    if rank < 3 or not spec.plain or set(spec.dilation) != {1}:
        return choice
    if taps >= _SPECTRAL:
        return Choice(spectral.forward, spectral.input_gradient, spectral.weight_gradient)
    return choice._replace(weight_gradient=spectral.weight_gradient) if taps >= _SPECTRAL_WEIGHTS else choice


def _dense_2d(spec: Spec, positions: int, channels: int) -> Choice:
    """The choice by the number of positions in the batch, and the smaller number of channels."""
    if not spec.plain:
        return XLA
    choice = Choice(threaded.forward, threaded.input_gradient, XLA.weight_gradient) if positions >= _MANY else XLA
    if channels < 32:
        return choice
    if positions < 2 * channels or channels <= 256 and positions >= _MANY:
        return choice._replace(weight_gradient=blocks.weight_gradient)
    return choice._replace(weight_gradient=folded.weight_gradient) if channels >= 64 else choice
