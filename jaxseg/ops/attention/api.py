"""Multi-head attention: fused on a GPU where cuDNN allows it, bounded in memory elsewhere.

Which path: cuDNN's flash attention on a GPU for 16-bit inputs with a head size that is a multiple of 8 and at most 256,
even lengths where a bias is trained, and a bias of full size; otherwise the score matrix as it is, or, when it would
exceed `MAX_SCORES` numbers, chunk by chunk over the queries, each chunk recomputed in the backward pass.
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
    if not _cudnn_allows(q, k, bias):
        return fallback(q, k, v, bias)
    fused = functools.partial(_cudnn, scale=scale)
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


def _cudnn_allows(q: Array, k: Array, bias: Array | None) -> bool:
    """The rules of cuDNN's flash attention as jax 0.10 to 0.12 checks them."""
    sizes = q.dtype in (jnp.bfloat16, jnp.float16) and q.shape[-1] % 8 == 0 and q.shape[-1] <= 256
    lengths = bias is None or (q.shape[1] % 2 == 0 and k.shape[1] % 2 == 0)
    return jax.default_backend() == "gpu" and sizes and lengths


def _cudnn(q: Array, k: Array, v: Array, bias: Array | None, *, scale: float) -> Array:
    bias = None if bias is None else bias.astype(q.dtype)
    return jax.nn.dot_product_attention(q, k, v, bias=bias, scale=scale, implementation="cudnn")
