"""The weight gradient of a dense 2-D convolution for CPUs, in a loop over blocks of rows.

  dw = sum_blocks g[block]^T concat_t x[s block + t]

Blocks are cut, padded, transposed and folded while they are in the cache; a padded copy of an image, or of its patches, would go
through memory. XLA's matrix product is fastest if neither operand is transposed (ynnpack then computes it), so that g is
transposed first. XLA's own lowering, a convolution with images as kernels, runs on one core.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from jaxseg.ops import devices
from jaxseg.ops.conv.spec import Spec
from jaxseg.types import Array

_POSITIONS = 1024  # approximate number of positions in a block


def weight_gradient(spec: Spec, kernel: Sequence[int], x: Array, g: Array) -> Array:
    """Gradient [*k, C, O] of the weights: x [B, H, W, C], g [B, H', W', O]."""
    if (
        spec.plain and x.shape[-1] > g.shape[-1]
    ):  # fold the one with fewer channels: x and g can be exchanged if every tap is mirrored
        turned = weight_gradient(spec.backward(x.shape[1:-1], kernel), kernel, g, x)
        return jnp.flip(turned, (0, 1)).swapaxes(-1, -2)
    (batch, high, wide, out), (sy, sx), (dy, dx) = g.shape, spec.stride, spec.dilation
    rows = min(high, max(1, _POSITIONS // wide))
    images = min(batch, max(1, _POSITIONS // (rows * wide))) if rows == high else 1
    down, across = -(-high // rows), -(-batch // images)
    seen = sy * (rows - 1) + dy * (kernel[0] - 1) + 1  # rows of x that a block needs
    top, last = spec.padding[0][0], across * images - batch
    bottom = (down - 1) * rows * sy - top + seen - x.shape[1]  # rows that the last block sees beyond x
    low, length = spec.padding[1][0], sx * (wide - 1) + dx * (kernel[1] - 1) + 1
    columns = ((0, 0, 0), (0, 0, 0), (low, length - low - x.shape[2], 0), (0, 0, 0))

    def step(total, n) -> tuple[Array, None]:
        image, row = n // down * images, n % down * rows
        near = _block(g, image, row, images, rows, (last, 0, down * rows - high)).reshape(-1, out)
        here = _block(x, image, row * sy - top, images, seen, (last, max(top, 0), max(bottom, 0)))
        here = lax.pad(here, jnp.zeros((), x.dtype), columns)
        turned, here = lax.optimization_barrier((near.T, here))
        views = [
            here[:, i * dy : i * dy + sy * (rows - 1) + 1 : sy, j * dx : j * dx + sx * (wide - 1) + 1 : sx]
            for i in range(kernel[0])
            for j in range(kernel[1])
        ]
        patches = lax.optimization_barrier(jnp.concatenate(views, -1)).reshape(turned.shape[-1], -1)
        return total + jnp.matmul(turned, patches, preferred_element_type=jnp.float32), None

    zero = jnp.zeros((out, kernel[0] * kernel[1] * x.shape[-1]), jnp.float32)
    total = lax.scan(step, devices.varying(zero, x, g), jnp.arange(across * down))[0]
    return total.T.reshape(*kernel, x.shape[-1], out).astype(x.dtype)


def _block(a: Array, image, row, images: int, rows: int, beyond: tuple[int, int, int]) -> Array:
    """[images, rows, W, C] of `a` [B, H, W, C] from (image, row) on, with zeros outside.

    `beyond` = (images after the last, rows before the first, rows after the last) is the largest distance from `a`.
    """
    sizes = min(images, a.shape[0]), min(rows, a.shape[1])
    starts = [jnp.clip(s, 0, n - size) for s, n, size in zip((image, row), a.shape, sizes)]
    cut = lax.dynamic_slice(a, (*starts, 0, 0), (*sizes, *a.shape[2:]))
    if not any(beyond):
        return cut
    last, before, after = beyond
    wide = jnp.pad(lax.optimization_barrier(cut), [(0, last), (before, after), (0, 0), (0, 0)])
    return lax.dynamic_slice(wide, (image - starts[0], row - starts[1] + before, 0, 0), (images, rows, *a.shape[2:]))
