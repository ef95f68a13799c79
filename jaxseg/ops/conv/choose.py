"""The rules that pick a lowering for each direction of a convolution on a CPU; the measurements behind them: table.py."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxseg.ops.conv import depthwise, folded, planes, reference
from jaxseg.ops.conv.spec import Spec


class Choice(NamedTuple):
    """The function that computes each direction; their arguments are those of `reference`."""

    forward: Callable
    input_gradient: Callable
    weight_gradient: Callable


XLA = Choice(reference.forward, reference.input_gradient, reference.weight_gradient)


def lowerings(spec: Spec, x_shape: Sequence[int], w_shape: Sequence[int]) -> Choice:
    """The choice for one shape: x_shape [B, *S, C], w_shape [*k, C/groups, O]."""
    rank = len(x_shape) - 2
    if rank >= 2 and spec.depthwise(w_shape):
        return Choice(depthwise.forward, depthwise.input_gradient, depthwise.weight_gradient)
    if spec.groups > 1 or rank < 2:
        return XLA
    if rank == 2:
        return XLA._replace(weight_gradient=folded.weight_gradient) if _fold_in_2d(spec, x_shape, w_shape) else XLA
    return Choice(planes.forward, planes.input_gradient, _volume_weights(spec, x_shape, w_shape))


def _fold_in_2d(spec: Spec, x_shape: Sequence[int], w_shape: Sequence[int]) -> bool:
    return spec.plain and w_shape[-2] >= 64 and math.prod(x_shape[:-1]) >= 2**13


def _volume_weights(spec: Spec, x_shape: Sequence[int], w_shape: Sequence[int]) -> Callable:
    if not spec.plain:
        return planes.weight_gradient
    if math.prod(x_shape[1:-1]) >= 2**14 and max(w_shape[-2:]) <= 32:  # tall and thin
        return folded.slabs
    return folded.weight_gradient
