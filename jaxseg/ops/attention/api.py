"""Multi-head attention: fused on a GPU where cuDNN supports it, with bounded memory elsewhere.

Programs for CUDA use cuDNN's flash attention (`cudnn`) if this process's GPU supports it. Otherwise the whole score matrix is
computed or, if it would exceed `MAX_SCORES` numbers (on a CPU: the size of a cache), block by block (`streamed`).
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.ops import plain, tally
from jaxseg.ops.attention import cudnn, reference, streamed
from jaxseg.types import Array

MAX_SCORES = 2**26  # numbers in one score matrix: 256 MiB in float32
CACHED = 2**19  # numbers of a block on a CPU: 2 MiB in float32


def attention(
    q: Array, k: Array, v: Array, *, bias: Array | None = None, regions: Array | None = None, scale: float | None = None
) -> Array:
    """softmax(scale q k' + bias) v, per head; the softmax in float32.

    Args:
      q: [B, T, heads, d].
      k, v: [B, S, heads, d].
      bias: added to the scores, [B or 1, heads or 1, T, S].
      regions: integers [M, T], where B is a multiple of M and S = T; entry b of the batch uses row b % M. -100 is added to the
        scores of two positions in different regions (Swin's shifted windows with parts from opposite borders).
      scale: factor of q k'; None: d^-1/2.
    Returns:
      [B, T, heads, d] in v's dtype.
    Raises:
      ValueError: the shapes do not fit.
    """
    b, t, h, d = q.shape
    s = k.shape[1]
    if k.shape != (b, s, h, d) or v.shape[:3] != (b, s, h):
        raise ValueError(f"got q {q.shape}, k {k.shape}, v {v.shape}; must be [B, T, heads, d], and [B, S, heads, d] for k and v")
    if bias is not None and (
        bias.ndim != 4 or bias.shape[2:] != (t, s) or bias.shape[0] not in (1, b) or bias.shape[1] not in (1, h)
    ):
        raise ValueError(f"got bias {bias.shape} for scores [{b}, {h}, {t}, {s}]; must be [B or 1, heads or 1, T, S]")
    if regions is not None and (regions.ndim != 2 or regions.shape[1] != t or s != t or not len(regions) or b % len(regions)):
        raise ValueError(
            f"got regions {regions.shape} for scores [{b}, {h}, {t}, {s}]; must be [M, T] with M a divisor of {b}, and T = S"
        )
    scale = d**-0.5 if scale is None else scale
    tally.add("matmul", 2 * b * h * t * s * d)
    tally.add("mul", b * h * t * s)  # the scale, which torchprofile counts
    rows = None if regions is None else jnp.asarray(regions, jnp.int32)
    if plain.wanted():
        return _whole(scale)(q, k, v, bias, rows)
    cpu = _plain(q.shape, k.shape, scale, CACHED, 2 * CACHED)
    other = _plain(q.shape, k.shape, scale, MAX_SCORES, MAX_SCORES)
    branches = {"default": other} if cpu is other else {"cpu": cpu, "default": other}
    if cudnn.fits(q, k, v, bias, regions):
        given = regions if isinstance(regions, np.ndarray) else None  # constant regions become features, traced ones a bias
        branches["cuda"] = lambda q, k, v, bias, rows: cudnn.attention(
            q, k, v, bias, rows if given is None else given, scale=scale
        )
    if len(branches) == 1:
        return other(q, k, v, bias, rows)
    return lax.platform_dependent(q, k, v, bias, rows, **branches)


@functools.cache
def _whole(scale: float) -> Callable:
    def attend(q: Array, k: Array, v: Array, bias: Array | None, regions: Array | None) -> Array:
        return reference.attention(q, k, v, bias=reference.joined(bias, regions, q.shape[0]), scale=scale)

    return attend


def _plain(q_shape, k_shape, scale: float, block: int, most: int) -> Callable:
    """Attention with the whole score matrix if it has at most `most` numbers, else with `block` numbers at a time."""
    b, t, h, _ = q_shape
    if (
        not isinstance(b, int) or b * h * t * k_shape[1] <= most
    ):  # blocks need a known batch size, which `jax.export` may not have
        return _whole(scale)
    return lambda q, k, v, bias, regions: streamed.attention(q, k, v, bias=bias, regions=regions, scale=scale, block=block)
