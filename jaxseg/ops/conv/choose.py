"""The rules that pick a lowering for each direction of a convolution on a CPU; measurements behind them in table.py."""

from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

from jaxseg.ops.conv import depthwise, reference
from jaxseg.ops.conv.spec import Spec


class Choice(NamedTuple):
    """The module whose function of that name computes each direction."""

    forward: ModuleType
    input_gradient: ModuleType
    weight_gradient: ModuleType


XLA = Choice(reference, reference, reference)


def lowerings(spec: Spec, x_shape: Sequence[int], w_shape: Sequence[int]) -> Choice:
    """The choice for one shape: x_shape [B, *S, C], w_shape [*k, C/groups, O]."""
    if len(x_shape) < 4:
        return XLA
    if spec.depthwise(w_shape):
        return Choice(depthwise, depthwise, depthwise)
    return XLA
