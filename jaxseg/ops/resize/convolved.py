"""The convolution of an upsampled map, computed at the map's own size."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.ops import space, tally
from jaxseg.ops.conv.api import conv
from jaxseg.ops.conv.matmul import matmul
from jaxseg.ops.resize.api import linear_matrix, resize
from jaxseg.types import Array


def convolve_resized(x: Array, size: Sequence[int], w: Array, *, align_corners: bool = False) -> Array:
    """`conv(resize(x, size), w)` for linear interpolation and an odd kernel with the padding that keeps the size.

    Resizing is a matrix product over positions and each tap of the kernel one over channels, whose order does not matter. So the
    products over channels have as many rows as x has positions, and the matrix of each axis shifts and interpolates at once. For
    the maps of a pyramid pooling (1 to 36 positions, upsampled to thousands) almost nothing remains. `tally` has the operations
    of the definition.

    Args:
      x: [B, *S, C].
      size: spatial size of the result.
      w: [*k, C, O], k odd.
      align_corners: as for `resize`.
    Returns:
      [B, *size, O] in x's dtype.
    """
    size, here, kernel = tuple(size), x.shape[1:-1], w.shape[:-2]
    if math.prod(here) >= math.prod(size) or space.count() > 1:
        return conv(resize(x, size, align_corners=align_corners), w)
    b, c, o = x.shape[0], x.shape[-1], w.shape[-1]
    tally.add("conv", b * math.prod(size) * math.prod(w.shape))
    tally.add("resize", 4 * b * math.prod(size) * c)
    y = matmul(x, jnp.moveaxis(w, -2, 0).reshape(c, -1).astype(x.dtype)).reshape(b, *here, *kernel, o)
    y = y.astype(jnp.promote_types(y.dtype, jnp.float32))
    for axis, (old, new, taps) in enumerate(zip(here, size, kernel), 1):
        weights = jnp.asarray(_shifted(linear_matrix(old, new, align_corners), taps), y.dtype)
        y = jnp.moveaxis(jnp.tensordot(weights, y, axes=((0, 2), (x.ndim - 1, axis)), precision=lax.Precision.HIGHEST), 0, axis)
    return y.astype(x.dtype)


def _shifted(matrix: np.ndarray, taps: int) -> np.ndarray:
    """[taps, n_out, n_in]: the rows of a matrix [n_out, n_in] that each tap of a kernel sees; zeros beyond the border."""
    n, half = len(matrix), taps // 2
    padded = np.pad(matrix, ((half, half), (0, 0)))
    return np.stack([padded[t : t + n] for t in range(taps)])
