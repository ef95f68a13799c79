"""Which lowering a convolution takes: by backend and shape."""

import math
from collections.abc import Sequence

from jaxseg.ops.conv import reference
from jaxseg.types import Array


def conv(x: Array, w: Array, *, stride: Sequence[int], padding, dilation: Sequence[int], groups: int) -> Array:
    """`api.conv` with every argument resolved."""
    if groups == 1 and math.prod(w.shape[:-2]) == 1 and not any(map(any, padding)):
        if any(s > 1 for s in stride):
            x = x[(slice(None), *(slice(None, None, s) for s in stride))]
        return x @ w.reshape(w.shape[-2:])
    return reference.conv(x, w, stride=stride, padding=padding, dilation=dilation, groups=groups)


def conv_transpose(x: Array, w: Array, *, stride: Sequence[int], padding) -> Array:
    """`api.conv_transpose` with every argument resolved."""
    return reference.conv_transpose(x, w, stride=stride, padding=padding)
