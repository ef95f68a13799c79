"""cuDNN's flash attention, extended to odd lengths and to the regions of Swin's shifted windows.

cuDNN needs 16-bit inputs, compute capability 8.0, and a head size that is a multiple of 8 and at most 256 (128 before Hopper).
It supports even lengths alone: odd ones (Swin's 7^3 = 343 positions per window) get an additional row, and an additional key that
a bias masks out.

Regions [M, T] are passed as features, because a bias [B, heads, T, T] would need 490 MB per block for Swin UNETR at 96^3, batch
2. With at most R different regions in a row, q and k get R more entries that are non-zero at the position's own region, such that
the score of two positions in the same region rises by 100. For the softmax this is the same as -100 between different regions.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.ops import gpu_probe
from jaxseg.ops.attention.reference import APART, joined
from jaxseg.types import Array

MAX_MASK = 2**22  # numbers in a bias whose only purpose is to mask the additional key of odd lengths: 8 MiB in bfloat16


def fits(q: Array, k: Array, v: Array, bias: Array | None, regions) -> bool:
    """Whether this process's GPU, cuDNN and jax support these arrays, in the forward and the backward pass."""
    capability, d = gpu_probe.capability(), q.shape[-1]
    if capability is None or capability < (8, 0) or d != v.shape[-1]:
        return False
    if not q.dtype == k.dtype == v.dtype or q.dtype not in (jnp.bfloat16, jnp.float16):
        return False
    most = 256 if capability >= (9, 0) else 128
    if d % 8 or d + _features(regions) > most:
        return False
    t, s = q.shape[1], k.shape[1]
    if bias is None and (t % 2 or s % 2) and t * s > MAX_MASK:
        return False
    one = lambda a: None if a is None else jax.ShapeDtypeStruct((1, *a.shape[1:]), a.dtype)
    rows = None if regions is None else regions[:1]
    forward = lambda q, k, v, bias: attention(q, k, v, bias, rows, scale=d**-0.5)
    backward = lambda q, k, v, bias: jax.vjp(forward, q, k, v, bias)[1](v if v.shape == q.shape else q)
    key = (*q.shape[1:], k.shape[1], str(q.dtype), None if bias is None else (bias.shape[1], str(bias.dtype)), _features(regions))
    return gpu_probe.compiles("cuDNN attention", key, forward, backward, arguments=(one(q), one(k), one(v), one(bias)))


def attention(q: Array, k: Array, v: Array, bias: Array | None, regions, *, scale: float, implementation: str = "cudnn") -> Array:
    """`api.attention` by `jax.nn.dot_product_attention`; regions in a numpy array become features, others part of the bias."""
    t, d = q.shape[1], v.shape[-1]
    if isinstance(regions, np.ndarray):
        mark = jnp.asarray(_marks(regions.tobytes(), regions.shape, str(regions.dtype)), q.dtype)  # [M, T, R]
        mark = jnp.tile(mark, (q.shape[0] // len(regions), 1, 1))[:, :, None]
        more = lambda a, m: jnp.concatenate([a, jnp.broadcast_to(m, (*a.shape[:3], m.shape[-1]))], axis=-1)
        q, k, v = more(q, mark * (-APART / scale)), more(k, mark), more(v, jnp.zeros_like(mark))
    else:
        bias = joined(bias, regions, q.shape[0])
    run = functools.partial(jax.nn.dot_product_attention, scale=scale, implementation=implementation)
    rows, keys = t % 2, k.shape[1] % 2
    if bias is None and not (rows or keys):
        return run(q, k, v)[..., :d]
    bias = jnp.zeros((1, 1, t, k.shape[1])) if bias is None else bias
    longer = lambda a, n: jnp.pad(a, ((0, 0), (0, n), (0, 0), (0, 0))) if n else a
    bias = bias.astype(q.dtype)
    if rows or keys:
        never = jnp.finfo(q.dtype).min / 2  # not -inf, whose gradient is NaN
        bias = jnp.pad(bias, ((0, 0), (0, 0), (0, 0), (0, keys)), constant_values=never)
        bias = jnp.pad(bias, ((0, 0), (0, 0), (0, rows), (0, 0)))
    return run(longer(q, rows), longer(k, keys), longer(v, keys), bias=bias)[:, :t, :, :d]


def _features(regions) -> int:
    return 0 if not isinstance(regions, np.ndarray) else _marks(regions.tobytes(), regions.shape, str(regions.dtype)).shape[-1]


@functools.lru_cache(maxsize=64)
def _marks(content: bytes, shape: tuple[int, int], dtype: str) -> np.ndarray:
    """One-hot encoding [M, T, R] of each position's region among those of its row, R a multiple of 8."""
    rows = [np.unique(row, return_inverse=True)[1] for row in np.frombuffer(content, dtype).reshape(shape)]
    own = np.stack(rows)
    return np.eye(-(-(own.max() + 1) // 8) * 8, dtype=np.float32)[own]
