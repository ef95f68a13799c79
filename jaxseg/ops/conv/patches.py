"""Convolutions and transposed convolutions whose stride equals their kernel: one matrix product and a reshape.

Every input (output) position belongs to exactly one window, so that nothing is summed over windows: y[i] = sum_t x[s i + t] w[t],
transposed y[s i + t] = x[i] w[t]. XLA's transposed convolution multiplies by the zeros between inputs, and its weight gradient is
slow also on a GPU (openxla/xla issue 34273), so that this is used on all platforms.
"""

from collections.abc import Sequence

from jaxseg.ops.conv.matmul import matmul
from jaxseg.ops.conv.spec import Spec
from jaxseg.types import Array


def fits(spec: Spec, kernel: Sequence[int]) -> bool:
    """Whether the kernel equals the stride, without padding, dilation or groups."""
    return tuple(kernel) == spec.stride and spec.groups == 1 and not any(map(any, spec.padding)) and set(spec.dilation) == {1}


def conv(x: Array, w: Array) -> Array:
    """Convolution whose stride is its kernel: x [B, *S, C] and w [*k, C, O] -> [B, *(S // k), O]."""
    kernel, rank = w.shape[:-2], w.ndim - 2
    size = [n // k for n, k in zip(x.shape[1:-1], kernel)]
    x = x[(slice(None), *(slice(0, n * k) for n, k in zip(size, kernel)))]
    x = x.reshape(x.shape[0], *(v for pair in zip(size, kernel) for v in pair), x.shape[-1])  # [B, S1, k1, S2, k2, ..., C]
    x = x.transpose(0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2), 2 * rank + 1)
    return matmul(x.reshape(x.shape[0], *size, -1), w.reshape(-1, w.shape[-1]))


def conv_transpose(x: Array, w: Array, padding: Sequence[tuple[int, int]]) -> Array:
    """[B, *S, C] and [*k, C, O] -> [B, *(S k - low - high), O]; `padding` (low, high) is cut off."""
    *kernel, _, out = w.shape
    rank = len(kernel)
    columns = w.transpose(rank, *range(rank), rank + 1).reshape(w.shape[-2], -1)  # [C, k1 ... kr O]
    y = matmul(x, columns).reshape(*x.shape[:-1], *kernel, out)  # [B, S1, ..., Sr, k1, ..., kr, O]
    pairs = [axis for a in range(rank) for axis in (1 + a, 1 + rank + a)]
    y = y.transpose(0, *pairs, 2 * rank + 1).reshape(x.shape[0], *(n * k for n, k in zip(x.shape[1:-1], kernel)), out)
    return y[(slice(None), *(slice(low, n - high) for n, (low, high) in zip(y.shape[1:-1], padding)))]
