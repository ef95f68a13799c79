"""The rules that pick a lowering for each direction of a convolution on a CPU; the measurements behind them: table.py."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxseg.ops.conv import blocks, depthwise, folded, planes, products, reference, slabs, stems, threaded
from jaxseg.ops.conv.spec import Spec


class Choice(NamedTuple):
    """The function that computes each direction; their arguments are those of `reference`."""

    forward: Callable
    input_gradient: Callable
    weight_gradient: Callable


_FEW_CHANNELS = 4  # up to which strides are worth turning into channels
_LARGE_SLICE = 2**9  # positions of a slice from which on one step of a loop over slices is worth its overhead
_MANY = 2**12  # positions of a batch of images, from which on a loop over blocks of them is worth its overhead

XLA = Choice(reference.forward, reference.input_gradient, reference.weight_gradient)


def lowerings(spec: Spec, x_shape: Sequence[int], w_shape: Sequence[int]) -> Choice:
    """The choice for one shape: x_shape [B, *S, C], w_shape [*k, C/groups, O]."""
    rank = len(x_shape) - 2
    if rank >= 2 and spec.depthwise(w_shape):
        return Choice(depthwise.forward, depthwise.input_gradient, depthwise.weight_gradient)
    if spec.groups > 1 or rank < 2:
        return XLA
    if rank == 2 and not spec.plain and set(spec.dilation) == {1} and w_shape[-2] <= _FEW_CHANNELS:
        return XLA._replace(forward=stems.forward)
    if rank == 2:
        choice = Choice(*_unchanged_in_2d(spec, x_shape, w_shape), _weight_gradient_in_2d(spec, x_shape, w_shape))
    elif not spec.plain:
        return Choice(planes.forward, planes.input_gradient, planes.weight_gradient)
    elif math.prod(x_shape[2:-1]) >= _LARGE_SLICE:
        choice = Choice(slabs.forward, slabs.input_gradient, slabs.weight_gradient)
    else:
        choice = Choice(planes.forward, planes.input_gradient, folded.weight_gradient)
    if spec.plain and _few_positions(x_shape, w_shape):
        return choice._replace(forward=products.forward, input_gradient=products.input_gradient)
    return choice


def _few_positions(x_shape: Sequence[int], w_shape: Sequence[int]) -> bool:
    """Whether the weights are larger than what they are applied to."""
    return math.prod(x_shape[:-1]) < 2 * min(w_shape[-2:])


def _unchanged_in_2d(spec: Spec, x_shape: Sequence[int], w_shape: Sequence[int]) -> tuple[Callable, Callable]:
    """Forward and input gradient where neither taps nor strides change places."""
    if spec.plain and math.prod(x_shape[:-1]) >= _MANY:
        return threaded.forward, threaded.input_gradient
    return reference.forward, reference.input_gradient


def _weight_gradient_in_2d(spec: Spec, x_shape: Sequence[int], w_shape: Sequence[int]) -> Callable:
    channels = min(w_shape[-2:])
    if not spec.plain or channels < 32:
        return reference.weight_gradient
    if _few_positions(x_shape, w_shape) or channels <= 256 and math.prod(x_shape[:-1]) >= _MANY:
        return blocks.weight_gradient
    return folded.weight_gradient if channels >= 64 else reference.weight_gradient
