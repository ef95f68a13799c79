"""Multi-head attention: fused on a GPU where cuDNN allows it, bounded in memory elsewhere.

Which path: cuDNN's flash attention on a GPU from compute capability 8.0 on, for 16-bit inputs with a head size that is a
multiple of 8 and at most 256 (128 before Hopper); otherwise the score matrix as it is, or, when it would exceed
`MAX_SCORES` numbers (on a CPU: what a cache holds), block by block (`streamed`). cuDNN trains a bias at even lengths alone: odd
ones (Swin's 7^3 = 343 positions a window) get one more row and one more, forbidden, key.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg.ops import tally
from jaxseg.ops.attention import reference, streamed
from jaxseg.types import Array

MAX_SCORES = 2**26  # numbers in one score matrix: 256 MiB in float32
CACHED = 2**19  # numbers of a block on a CPU: 2 MiB in float32


def attention(q: Array, k: Array, v: Array, *, bias: Array | None = None, regions: Array | None = None,
              scale: float | None = None) -> Array:
    """softmax(scale q k' + bias) v, per head; the softmax in float32.

    Args:
      q: [B, T, heads, d].
      k, v: [B, S, heads, d].
      bias: added to the scores, [B or 1, heads or 1, T, S].
      regions: integers [M, T] where B is a multiple of M and S = T: entry b of the batch takes row b % M. To the scores of two
        positions in different regions -100 is added (Swin's windows that the shift joined from opposite edges).
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
    if regions is not None and (regions.ndim != 2 or regions.shape[1] != t or s != t or not len(regions) or b % len(regions)):
        raise ValueError(f"got regions {regions.shape} for scores [{b}, {h}, {t}, {s}]; they are [M, T], M a divisor of {b}, and "
                         "T = S")
    scale = d ** -0.5 if scale is None else scale
    tally.add("matmul", 2 * b * h * t * s * d)
    tally.add("mul", b * h * t * s)  # the scale, which torchprofile counts
    regions = None if regions is None else jnp.asarray(regions, jnp.int32)
    fallback = functools.partial(_plain, scale=scale)
    if not _cudnn_allows(q, k, v):
        return fallback(q, k, v, bias, regions)
    fused = functools.partial(_cudnn, scale=scale)
    try:
        jax.eval_shape(fused, q, k, v, bias, regions)
    except (NotImplementedError, RuntimeError):  # no cuDNN, or a rule of this version that `_cudnn_allows` does not know
        return fallback(q, k, v, bias, regions)
    return lax.platform_dependent(q, k, v, bias, regions, cuda=fused, default=fallback)


def _plain(q: Array, k: Array, v: Array, bias: Array | None, regions: Array | None, *, scale: float) -> Array:
    b, t, h, _ = q.shape
    block, most = (CACHED, 2 * CACHED) if jax.default_backend() == "cpu" else (MAX_SCORES, MAX_SCORES)
    if b * h * t * k.shape[1] <= most:
        return reference.attention(q, k, v, bias=reference.joined(bias, regions, b), scale=scale)
    return streamed.attention(q, k, v, bias=bias, regions=regions, scale=scale, block=block)


def _cudnn_allows(q: Array, k: Array, v: Array) -> bool:
    """The rules of cuDNN's flash attention as jax 0.10 to 0.12 checks them."""
    if jax.default_backend() != "gpu" or q.shape[-1] != v.shape[-1]:
        return False
    if not q.dtype == k.dtype == v.dtype or q.dtype not in (jnp.bfloat16, jnp.float16):
        return False
    capability = tuple(map(int, getattr(jax.devices()[0], "compute_capability", "0.0").split(".")))
    return capability >= (8, 0) and q.shape[-1] % 8 == 0 and q.shape[-1] <= (256 if capability >= (9, 0) else 128)


def _cudnn(q: Array, k: Array, v: Array, bias: Array | None, regions: Array | None = None, *, scale: float,
           implementation: str = "cudnn") -> Array:
    bias = reference.joined(bias, regions, len(q))
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
