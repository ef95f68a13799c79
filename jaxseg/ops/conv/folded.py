"""The weights' gradient of dense stride-1 convolutions for CPUs, as matrix products over folded taps.

  dw[t] = x[. + t]^T g

`weight_gradient`: the taps of the last axis become channels of x once, and a scan over the other taps contracts shifted
views of that with g, which is transposed beforehand (see matmul.py).
`slabs` (3-D): a scan over slices of x instead, with the taps of a plane folded into channels of x and those of the depth
into channels of g. Few channels make tall thin products, which XLA computes slowly; this one is kd kh kw times
fatter, and a slice stays in the cache where a folded volume would not (im2col of 64^3 is 46 times slower than PyTorch).
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


def slabs(spec: Spec, kernel: Sequence[int], x: Array, g: Array) -> Array:
    """`weight_gradient` in 3-D, slice by slice."""
    (kd, kh, kw), (dd, dh, dw) = kernel, spec.dilation
    channels, out, (height, width) = x.shape[-1], g.shape[-1], g.shape[2:4]
    x = _pad(spec, x)
    reach = dd * (kd - 1)
    g = jnp.pad(g, ((0, 0), (reach, reach), *[(0, 0)] * 3))
    plane = lambda a, d: lax.dynamic_index_in_dim(a, d, axis=1, keepdims=False)

    def contract(total, d) -> tuple[Array, None]:
        one = plane(x, d)  # slice d of x meets slice d - t dd of g, which is d + reach - t dd of the padded g
        near = jnp.concatenate([plane(g, d + reach - t * dd) for t in range(kd)], -1).reshape(-1, kd * out)
        taps = [one[:, i * dh:i * dh + height, j * dw:j * dw + width] for i in range(kh) for j in range(kw)]
        fold, turned = lax.optimization_barrier((jnp.concatenate(taps, -1).reshape(-1, kh * kw * channels), near.T))
        return total + jnp.matmul(turned, fold, preferred_element_type=jnp.float32), None

    zero = jnp.zeros((kd * out, kh * kw * channels), jnp.float32)
    total = lax.scan(contract, zero, jnp.arange(x.shape[1]))[0]
    return total.reshape(kd, out, kh, kw, channels).transpose(0, 2, 3, 4, 1).astype(x.dtype)


def _pad(spec: Spec, x: Array) -> Array:
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((lo, hi, 0) for lo, hi in spec.padding), (0, 0, 0)))

