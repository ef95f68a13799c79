"""The rules that pick a lowering for each direction of a convolution on a CPU; the measurements behind them: table.py."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxseg.ops.conv import depthwise, folded, planes, reference, slabs, stems
from jaxseg.ops.conv.spec import Spec


class Choice(NamedTuple):
    """The function that computes each direction; their arguments are those of `reference`."""

    forward: Callable
    input_gradient: Callable
    weight_gradient: Callable


_FEW_CHANNELS = 4  # up to which strides are worth turning into channels
_LARGE_SLICE = 2**9  # positions of a slice from which on one step of a loop over slices is worth its overhead

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
        return XLA._replace(weight_gradient=folded.weight_gradient) if _fold_in_2d(spec, x_shape, w_shape) else XLA
    if not spec.plain:
        return Choice(planes.forward, planes.input_gradient, planes.weight_gradient)
    if math.prod(x_shape[2:-1]) >= _LARGE_SLICE:
        return Choice(slabs.forward, slabs.input_gradient, slabs.weight_gradient)
    return Choice(planes.forward, planes.input_gradient, folded.weight_gradient)


def _fold_in_2d(spec: Spec, x_shape: Sequence[int], w_shape: Sequence[int]) -> bool:
    return spec.plain and w_shape[-2] >= 64 and math.prod(x_shape[:-1]) >= 2**13
