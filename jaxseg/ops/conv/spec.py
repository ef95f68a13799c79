"""The parameters of a convolution in one hashable record, and the sizes that follow from them."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxseg.types import Array

Ints = tuple[int, ...]


class Spec(NamedTuple):
    """Stride, (low, high) padding and dilation per spatial axis, and the number of groups."""

    stride: Ints
    padding: tuple[tuple[int, int], ...]
    dilation: Ints
    groups: int

    @property
    def plain(self) -> bool:
        """Stride 1 along every axis."""
        return all(s == 1 for s in self.stride)

    @property
    def plane(self) -> "Spec":
        """The same convolution without its first spatial axis."""
        return Spec(self.stride[1:], self.padding[1:], self.dilation[1:], self.groups)

    def output(self, size: Sequence[int], kernel: Sequence[int]) -> Ints:
        """Output size per axis: floor((n + low + high - dilation * (k - 1) - 1) / stride) + 1."""
        return tuple(
            (n + lo + hi - d * (k - 1) - 1) // s + 1
            for n, (lo, hi), k, d, s in zip(size, self.padding, kernel, self.dilation, self.stride)
        )

    def backward(self, size: Sequence[int], kernel: Sequence[int]) -> "Spec":
        """The stride-1 convolution that computes the gradient of an input of `size` from the output's gradient.

        The output's gradient has stride - 1 zeros between its entries (`spread`); the padding is low = d (k - 1) - lo and
        high = n - 1 - s (o - 1) + lo (either may be negative).
        """
        pads = tuple(
            (d * (k - 1) - lo, n - 1 - s * (o - 1) + lo)
            for n, o, (lo, _), k, d, s in zip(size, self.output(size, kernel), self.padding, kernel, self.dilation, self.stride)
        )
        return Spec((1,) * len(pads), pads, self.dilation, self.groups)

    def depthwise(self, w_shape: Sequence[int]) -> bool:
        """Whether every input channel has its own kernels: w is [*k, 1, m * C] with C groups."""
        return self.groups > 1 and w_shape[-2] == 1


def spread(g: Array, stride: Sequence[int]) -> Array:
    """Insert stride - 1 zeros between neighbours of g [B, *S, C] along each spatial axis."""
    if all(s == 1 for s in stride):
        return g
    return lax.pad(g, jnp.zeros((), g.dtype), ((0, 0, 0), *((0, 0, s - 1) for s in stride), (0, 0, 0)))
