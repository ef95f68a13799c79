"""Multi-head attention: fused on a GPU where cuDNN allows it, bounded in memory elsewhere.

Which path: cuDNN's flash attention (`cudnn`) where the program is lowered for CUDA and this process's GPU takes it; otherwise
the score matrix as it is, or, when it would exceed `MAX_SCORES` numbers (on a CPU: what a cache holds), block by block
(`streamed`).
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
    if bias is not None and (
        bias.ndim != 4 or bias.shape[2:] != (t, s) or bias.shape[0] not in (1, b) or bias.shape[1] not in (1, h)
    ):
        raise ValueError(f"got bias {bias.shape} for scores [{b}, {h}, {t}, {s}]; it is [B or 1, heads or 1, T, S]")
    if regions is not None and (regions.ndim != 2 or regions.shape[1] != t or s != t or not len(regions) or b % len(regions)):
        raise ValueError(
            f"got regions {regions.shape} for scores [{b}, {h}, {t}, {s}]; they are [M, T], M a divisor of {b}, and T = S"
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
        given = regions if isinstance(regions, np.ndarray) else None  # known numbers become features, traced ones a bias
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
    """The scores at once up to `most` numbers, else `block` of them at a time."""
    b, t, h, _ = q_shape
    if not isinstance(b, int) or b * h * t * k_shape[1] <= most:  # blocks want a batch of known size (`jax.export` may not)
        return _whole(scale)
    return lambda q, k, v, bias, regions: streamed.attention(q, k, v, bias=bias, regions=regions, scale=scale, block=block)
