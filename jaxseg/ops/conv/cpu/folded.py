"""The weight gradient of dense stride-1 convolutions for CPUs, as matrix products with taps folded into channels.

  dw[t] = x[. + t]^T g

The taps of the last axis are folded into channels of x once; a scan over the other taps multiplies shifted views of the result by
g, which is transposed first (see matmul.py). For large volumes see slabs.py.
"""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from jaxseg.ops.conv.spec import Spec
from jaxseg.types import Array


def weight_gradient(spec: Spec, kernel: Sequence[int], x: Array, g: Array) -> Array:
    """Gradient [*k, C, O] of the weights: x [B, *S, C], g [B, *S', O], any rank."""
    rank, row, channels, out = len(kernel), kernel[-1], x.shape[-1], g.shape[-1]
    x, step = _pad(spec, x), spec.dilation[-1]
    columns = [lax.slice_in_dim(x, j * step, j * step + g.shape[-2], axis=rank) for j in range(row)]
    wide = lax.optimization_barrier(jnp.concatenate(columns, -1))  # [B, ..., W', kw C]
    turned = lax.optimization_barrier(g.reshape(-1, out).T)
    size = (*g.shape[:-1], row * channels)
    offsets = [[t * d for t, d in zip(tap, spec.dilation)] for tap in itertools.product(*map(range, kernel[:-1]))]

    def contract(_, at) -> tuple[None, Array]:
        part = lax.dynamic_slice(wide, (0, *[at[i] for i in range(rank - 1)], 0, 0), size)
        return None, jnp.matmul(turned, part.reshape(-1, size[-1]), preferred_element_type=jnp.float32)

    dw = lax.scan(contract, None, jnp.asarray(offsets, jnp.int32))[1]  # [taps, O, kw C]
    return dw.reshape(-1, out, row, channels).transpose(0, 2, 3, 1).reshape(*kernel, channels, out).astype(x.dtype)


def _pad(spec: Spec, x: Array) -> Array:
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((lo, hi, 0) for lo, hi in spec.padding), (0, 0, 0)))
