"""Images whose first spatial axis is divided over several devices; neighbours exchange the rows at their borders.

The mesh in context (`devices.over`, `jax.set_mesh`) then has an axis "space". Operations with windows of several rows compute
their reach by `halo`. Each device runs them on its own rows and those of its neighbours within reach (`over_rows`). If the rows
are not divisible by the number of devices, or a device has fewer rows than the reach, each device computes the whole image
(`whole`); this happens only for the small images deep in a network. All other operations (sums, norms, products) are left to
XLA's partitioner.

Windows are not left to it because, if the rows are not a multiple of the devices, XLA's partitioner (jax 0.10) silently computes
wrong weight gradients of convolutions (two or four times too large). The cost is a copy of the input with the neighbours' rows,
which is made again for the gradient instead of being stored.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from jaxseg.ops import devices
from jaxseg.types import Array, ConfigError

AXIS = "space"
_computed_whole: contextvars.ContextVar[set[int] | None] = contextvars.ContextVar("computed_whole", default=None)


def check(space: int, devices: int) -> None:
    """Refuse a config.mesh.space that does not divide the number of devices of one process.

    Raises:
      ConfigError: it does not; the message names the largest smaller value that does.
    """
    if devices % space:
        below = max(n for n in range(1, devices + 1) if devices % n == 0 and n <= space)
        raise ConfigError(
            f"config.mesh.space={space}: must divide the number of devices of a process, which is {devices} here; "
            f"set config.mesh.space={below}"
        )


@contextlib.contextmanager
def noting_whole() -> Iterator[set[int]]:
    """Collect, while a program is traced, the numbers of rows of the images that every device computes whole."""
    found: set[int] = set()
    before = _computed_whole.set(found)
    try:
        yield found
    finally:
        _computed_whole.reset(before)


def _note(x: Array) -> None:
    found = _computed_whole.get()
    if found is not None and count() > 1:
        found.add(x.shape[1])


class Halo(NamedTuple):
    """Rows of its neighbours that a device needs: before its first and after its last row."""

    before: int
    after: int


def count() -> int:
    """Return the number of devices that share the first spatial axis of images in the program being traced; 1: not shared."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape[AXIS] if AXIS in mesh.auto_axes else 1


def divides(*sizes: int) -> bool:
    """Return whether the devices can share axes of these sizes."""
    return not any(size % count() for size in sizes)


def halo(size: int, kernel: int, stride: int = 1, *, dilation: int = 1, padding: tuple[int, int] = (0, 0)) -> Halo | None:
    """Return the reach of windows along an axis of `size`; None if each device must compute the whole image.

    Args:
      size: rows of the whole image.
      kernel, stride, dilation, padding: of the windows along this axis.
    """
    own, (low, high) = size // count(), padding
    windows = (size + low + high - dilation * (kernel - 1) - 1) // stride + 1
    if size % (count() * stride) or windows * stride != size or low < 0:
        return None
    after = max(dilation * (kernel - 1) - low - stride + 1, 0)
    return Halo(low, after) if max(low, after) <= own else None


def over_rows(function: Callable[..., Array], x: Array, *same: Array, reach: Halo = Halo(0, 0), **options) -> Array:
    """Apply `function(rows, *same)` to each device's rows of x, extended by the neighbours' rows within reach.

    Args:
      function: [b, before + n + after, ...] -> [b, m, ...], where the whole result has m rows for each device.
      x: [B, S, ...], S divisible by the devices.
      same: arrays that all devices have.
      reach: the neighbours' rows that are needed, at most S / devices.
      **options: `fill` and `cyclic` of `exchange`.
    """
    run = lambda x, *same: function(exchange(x, reach, **options), *same)
    place = PartitionSpec(_batch(x), AXIS)
    shared = _manual(run, (place, *(PartitionSpec(),) * len(same)), place)
    # the extended copy is not kept for the gradient
    return (jax.checkpoint(shared) if any(reach) else shared)(x, *same)


def whole(function: Callable[..., Array], x: Array, *same: Array) -> Array:
    """Apply `function(x, *same)` to all rows of x [B, S, ...] on every device (for its part of the batch)."""
    _note(x)
    return _gathered(function, x, *same)


def maximum(function: Callable[[Array], Array], x: Array) -> Array:
    """Apply a maximum over all rows, [B, S, ...] -> [B, 1, ...]: each device's own, then that of all devices."""
    return _gathered(function, over_rows(function, x) if divides(x.shape[1]) else x)


def _gathered(function: Callable[..., Array], x: Array, *same: Array) -> Array:
    place = PartitionSpec(_batch(x))
    return _manual(function, (place, *(PartitionSpec(),) * len(same)), place)(x, *same)


def by_windows(function: Callable[[Array], Array], x: Array, rows: int) -> Array:
    """Apply `function` to x [B, S, ...], whose results come from windows of `rows` rows that do not overlap."""
    if count() == 1:
        return function(x)
    return whole(function, x) if halo(x.shape[1], rows, rows) is None else over_rows(function, x)


def exchange(x: Array, reach: Halo, *, fill: float = 0.0, cyclic: bool = False) -> Array:
    """Extend each device's rows x [b, n, ...] by those of its neighbours: [b, before + n + after, ...]; for `over_rows`.

    Args:
      fill: value of the rows beyond the image.
      cyclic: the first row follows the last one.
    """
    n, parts = lax.axis_size(AXIS), [x]
    for rows, step in ((reach.before, 1), (reach.after, -1)):
        if not rows:
            continue
        edge = x[:, x.shape[1] - rows :] if step == 1 else x[:, :rows]
        pairs = [(i, (i + step) % n) for i in range(n) if cyclic or 0 <= i + step < n]
        edge = lax.ppermute(edge, AXIS, pairs)  # zeros where nothing comes
        if fill and not cyclic:
            edge = jnp.where(lax.axis_index(AXIS) == (0 if step == 1 else n - 1), jnp.asarray(fill, x.dtype), edge)
        parts = [edge, *parts] if step == 1 else [*parts, edge]
    return jnp.concatenate(parts, axis=1) if len(parts) > 1 else x


def product(matrix: np.ndarray, x: Array) -> Array:
    """Multiply x [B, S, ...] by a matrix [M, S] along its first spatial axis, in x's dtype: [B, M, ...].

    If the devices share both axes, and the matrix is banded (interpolation), neighbours exchange rows.
    """
    n, (rows, columns) = count(), matrix.shape
    apply = lambda matrix, x: jnp.moveaxis(jnp.tensordot(matrix, x, axes=(1, 1), precision=lax.Precision.HIGHEST), 0, 1)
    weights, place = matrix.astype(x.dtype), PartitionSpec(_batch(x), AXIS)
    if not divides(rows):
        if rows > columns or not divides(columns):
            return whole(lambda x, weights: apply(weights, x), x, weights)
        run = lambda x, part: lax.psum(apply(part, x), AXIS)  # few rows: each device sums over its own
        return _manual(run, (place, PartitionSpec(None, AXIS)), PartitionSpec(_batch(x)))(x, weights)
    reach, own = Halo(0, 0), columns // n
    if divides(columns):
        used = [np.flatnonzero(part.any(0)) for part in np.split(matrix, n)]
        before = max(0, *(i * own - u[0] for i, u in enumerate(used) if len(u)))
        after = max(0, *(u[-1] + 1 - (i + 1) * own for i, u in enumerate(used) if len(u)))
        reach = Halo(int(before), int(after))
    if not divides(columns) or max(reach) > own:  # x is whole on each device, its result is shared
        split = weights.reshape(n, rows // n, columns)
        run = lambda x, part: apply(part[0], x)
        return _manual(run, (PartitionSpec(_batch(x)), PartitionSpec(AXIS)), place)(x, split)
    padded = np.pad(weights, ((0, 0), reach))
    split = np.stack([padded[i * rows // n : (i + 1) * rows // n, i * own : (i + 1) * own + sum(reach)] for i in range(n)])
    run = lambda x, part: apply(part[0], exchange(x, reach))
    return jax.checkpoint(_manual(run, (place, PartitionSpec(AXIS)), place))(x, split)


def over_queries(attend: Callable[..., Array], q: Array, k: Array, v: Array) -> Array:
    """Apply attend(q, k, v) to tokens [B, T, heads, d]: each device has its part of the queries, and all keys and values."""
    if count() == 1:
        return attend(q, k, v)
    batch = _batch(q)
    place = PartitionSpec(batch, AXIS if divides(q.shape[1]) else None)
    return _manual(attend, (place, PartitionSpec(batch), PartitionSpec(batch)), place)(q, k, v)


class WindowShares(NamedTuple):
    """Windows along the first spatial axis of images [B, S, ...], which each device cuts from its own rows.

    The windows [B * windows, ...] of all devices form one array, in which those of a device are adjacent. If rows are not shared,
    or a device's rows are not a multiple of the window (`parts` is 1), each device has all windows of its part of the batch.

    Attributes:
      parts: number of devices that have only the windows of their own rows; 1: each has all windows.
      batch: the mesh axis over which the images are divided.
      shift: rows by which the image is moved upwards, cyclically, before it is cut.
    """

    parts: int
    batch: str | None
    shift: int

    def cut(self, function: Callable[[Array], Array], x: Array) -> Array:
        """Apply `function(rows) -> windows`, [b, n, ...] -> [b * windows, ...], which does not shift along this axis itself."""
        run = lambda x: function(exchange(x, Halo(0, self.shift), cyclic=True)[:, self.shift :])
        alone = lambda x: function(jnp.roll(x, -self.shift, 1) if self.shift else x)
        return self._run(run, alone, self._rows, self._windows)(x)

    def join(self, function: Callable[[Array], Array], windows: Array) -> Array:
        """Invert `cut`: apply `function(windows) -> rows`, then move the rows back."""

        def run(windows: Array) -> Array:
            x = function(windows)
            return exchange(x, Halo(self.shift, 0), cyclic=True)[:, : x.shape[1]]

        alone = lambda windows: jnp.roll(function(windows), self.shift, 1) if self.shift else function(windows)
        return self._run(run, alone, self._windows, self._rows)(windows)

    def attend(self, function: Callable[..., Array], q: Array, k: Array, v: Array, bias: Array, regions) -> Array:
        """Apply `function(q, k, v, bias=, regions=)`: q, k, v [B * windows, n, heads, d], regions [windows per image, n]."""
        run = lambda q, k, v, bias, *regions: function(q, k, v, bias=bias, regions=regions[0] if regions else None)
        if count() == 1:
            return function(q, k, v, bias=bias, regions=regions)
        given = () if regions is None else (regions,)
        specs = (*(self._windows,) * 3, PartitionSpec(), *(PartitionSpec(AXIS if self.parts > 1 else None),) * len(given))
        return _manual(run, specs, self._windows)(q, k, v, bias, *given)

    @property
    def _rows(self) -> PartitionSpec:
        return PartitionSpec(self.batch, AXIS if self.parts > 1 else None)

    @property
    def _windows(self) -> PartitionSpec:
        return PartitionSpec(tuple(filter(None, (self.batch, AXIS if self.parts > 1 else None))) or None)

    def _run(self, shared: Callable, alone: Callable, given: PartitionSpec, made: PartitionSpec) -> Callable:
        if count() == 1:
            return alone
        return _manual(shared if self.parts > 1 else alone, (given,), made)


def windows(x: Array, window: int, shift: int = 0) -> WindowShares:
    """Return how windows of `window` rows are cut from images [B, S, ...], with S a multiple of the window."""
    if x.shape[1] % (window * count()):
        _note(x)
        return WindowShares(1, _batch(x), shift)
    return WindowShares(count(), _batch(x), shift)


def _batch(x: Array) -> str | None:
    """Return the mesh axis over which the batch of x is divided."""
    return devices.AXIS if devices.share(x.shape) != x.shape else None


def _manual(function: Callable, in_specs, out_specs) -> Callable:
    """Return `function`, run by each device on its parts of the arguments; nothing is left to XLA's partitioner."""
    names = set(jax.sharding.get_abstract_mesh().auto_axes) & {devices.AXIS, AXIS}
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, axis_names=names)
