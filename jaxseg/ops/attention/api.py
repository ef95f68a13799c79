"""Multi-head attention: fused on a GPU where cuDNN allows it, bounded in memory elsewhere.

Which path: cuDNN's flash attention on a GPU from compute capability 8.0 on, for 16-bit inputs with a head size that is a
multiple of 8 and at most 256 (128 before Hopper); otherwise the score matrix as it is, or, when it would exceed
`MAX_SCORES` numbers, chunk by chunk over the queries, each chunk recomputed in the backward pass. cuDNN trains a bias at even
lengths alone: odd ones (Swin's 7^3 = 343 positions a window) get one more row and one more, forbidden, key.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg.ops import tally
from jaxseg.ops.attention import reference
from jaxseg.types import Array

MAX_SCORES = 2**26  # numbers in one score matrix: 256 MiB in float32


def attention(q: Array, k: Array, v: Array, *, bias: Array | None = None, scale: float | None = None) -> Array:
    """softmax(scale q k' + bias) v, per head; the softmax in float32.

    Args:
      q: [B, T, heads, d].
      k, v: [B, S, heads, d].
      bias: added to the scores, [B or 1, heads or 1, T, S] (a mask is a bias of large negative numbers).
      scale: d^-1/2 when None.
    Returns:
      [B, T, heads, d] in v's dtype.
    Raises:
      ValueError: shapes that do not fit each other.
    """
    b, t, h, d = q.shape
    s = k.shape[1]
    if k.shape != (b, s, h, d) or v.shape[:3] != (b, s, h):
        raise ValueError(f"got q {q.shape}, k {k.shape}, v {v.shape}; need [B, T, heads, d], [B, S, heads, d] twice")
    if bias is not None and (bias.ndim != 4 or bias.shape[2:] != (t, s) or bias.shape[0] not in (1, b)
                             or bias.shape[1] not in (1, h)):
        raise ValueError(f"got bias {bias.shape} for scores [{b}, {h}, {t}, {s}]; it is [B or 1, heads or 1, T, S]")
    scale = d ** -0.5 if scale is None else scale
    tally.add("matmul", 2 * b * h * t * s * d)
    tally.add("mul", b * h * t * s)  # the scale, which torchprofile counts
    fallback = functools.partial(_plain, scale=scale)
    if not _cudnn_allows(q, k, v):
        return fallback(q, k, v, bias)
    fused = functools.partial(_cudnn, scale=scale)
    try:
        jax.eval_shape(fused, q, k, v, bias)
    except (NotImplementedError, RuntimeError):  # no cuDNN, or a rule of this version that `_cudnn_allows` does not know
        return fallback(q, k, v, bias)
    return lax.platform_dependent(q, k, v, bias, cuda=fused, default=fallback)


def _plain(q: Array, k: Array, v: Array, bias: Array | None, *, scale: float) -> Array:
    b, t, h, _ = q.shape
    chunks = math.ceil(b * h * t * k.shape[1] / MAX_SCORES)
    if chunks <= 1:
        return reference.attention(q, k, v, bias=bias, scale=scale)
    size = math.ceil(t / chunks)
    padding = -t % size
    parts = jnp.moveaxis(jnp.pad(q, ((0, 0), (0, padding), (0, 0), (0, 0))).reshape(b, -1, size, *q.shape[2:]), 1, 0)
    if bias is None:
        one = jax.checkpoint(lambda part: reference.attention(part, k, v, bias=None, scale=scale))
        out = lax.map(one, parts)
    else:
        rows = jnp.pad(bias, ((0, 0), (0, 0), (0, padding), (0, 0)))
        rows = jnp.moveaxis(rows.reshape(*bias.shape[:2], -1, size, bias.shape[3]), 2, 0)
        one = jax.checkpoint(lambda both: reference.attention(both[0], k, v, bias=both[1], scale=scale))
        out = lax.map(one, (parts, rows))
    return jnp.moveaxis(out, 0, 1).reshape(b, t + padding, h, -1)[:, :t]


def _cudnn_allows(q: Array, k: Array, v: Array) -> bool:
    """The rules of cuDNN's flash attention as jax 0.10 to 0.12 checks them."""
    if jax.default_backend() != "gpu" or q.shape[-1] != v.shape[-1]:
        return False
    if not q.dtype == k.dtype == v.dtype or q.dtype not in (jnp.bfloat16, jnp.float16):
        return False
    capability = tuple(map(int, getattr(jax.devices()[0], "compute_capability", "0.0").split(".")))
    return capability >= (8, 0) and q.shape[-1] % 8 == 0 and q.shape[-1] <= (256 if capability >= (9, 0) else 128)


def _cudnn(q: Array, k: Array, v: Array, bias: Array | None, *, scale: float, implementation: str = "cudnn") -> Array:
    run = functools.partial(jax.nn.dot_product_attention, scale=scale, implementation=implementation)
    if bias is None:
        return run(q, k, v)
    t, rows, keys = q.shape[1], q.shape[1] % 2, k.shape[1] % 2
    more = lambda a, n: jnp.pad(a, ((0, 0), (0, n), (0, 0), (0, 0))) if n else a
    bias = bias.astype(q.dtype)
    if rows or keys:
        never = jnp.finfo(q.dtype).min / 2  # not -inf, whose gradient is NaN
        bias = jnp.pad(bias, ((0, 0), (0, 0), (0, 0), (0, keys)), constant_values=never)
        bias = jnp.pad(bias, ((0, 0), (0, 0), (0, rows), (0, 0)))
    return run(more(q, rows), more(k, keys), more(v, keys), bias=bias)[:, :t]
