"""Mirroring and ensembles at test time: the mean of the logits over all flips, or over several runs, for each window."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.types import Array


def mirrored(
    forward: Callable[[Array], Array], axes: Sequence[int], swap: Mapping[int, Sequence[tuple[int, int]]] | None = None
) -> Callable[[Array], Array]:
    """Return a forward function that averages the logits over the 2^n flips along n axes, each flipped back first.

    It can be passed to `window.sliding_window` like any forward function; one accumulator then holds the mean. The flips are a
    compiled loop, so that the network is compiled once.

    Args:
      forward: windows [n, *S, C] -> logits [n, *S, K].
      axes: spatial axes to flip, counted from 0.
      swap: axis -> pairs of classes that a flip along this axis exchanges (such as left and right kidney); None: no pairs.
    Returns:
      The averaging function; it is hashed by its arguments, so that calls with equal arguments share one compiled program.
    Raises:
      ValueError: an axis is negative or given twice, a swap is along an axis that is not flipped, or a class is in two pairs.
    """
    axes = tuple(int(a) for a in axes)
    if len(set(axes)) != len(axes) or min(axes, default=0) < 0:
        raise ValueError(f"got axes={axes}; must be distinct spatial axes, counted from 0")
    pairs = tuple(sorted((int(a), tuple((int(i), int(j)) for i, j in p)) for a, p in (swap or {}).items()))
    for axis, exchanged in pairs:
        classes = [c for pair in exchanged for c in pair]
        if axis not in axes or len(set(classes)) != len(classes):
            raise ValueError(
                f"got swap={swap} with axes={axes}; swap may name only axes in axes, and each class in at most one pair"
            )
    inner = forward if isinstance(forward, jax.tree_util.Partial) else jax.tree_util.Partial(forward)
    return jax.tree_util.Partial(_Mirror(axes, pairs), inner) if axes else inner


def one_by_one(forward: jax.tree_util.Partial, axes: Sequence[int]) -> jax.tree_util.Partial:
    """Return a forward function that averages the logits over the flips as `mirrored` does, each flip and each sum by itself.

    Its order is nnU-Net's: no flip, those of one axis, of two, of three. As nothing is joined into one program, the mean has the
    bits that the same steps have in numpy, which rounding to fewer bits afterwards needs (`window.sliding_window`, sums).

    Args:
      forward: windows [n, *S, C] -> logits [n, *S, K].
      axes: spatial axes to flip, counted from 0.
    """
    return jax.tree_util.Partial(_Apart(tuple(axes)), forward)


@dataclasses.dataclass(frozen=True)
class _Apart:
    """The loop over the flips, outside of any program."""

    axes: tuple[int, ...]

    def __call__(self, forward: jax.tree_util.Partial, windows: Array) -> Array:
        flips = [tuple(a + 1 for a in some) for n in range(len(self.axes) + 1) for some in itertools.combinations(self.axes, n)]
        each = (jnp.flip(_alone(forward, jnp.flip(windows, axes)).astype(jnp.float32), axes) for axes in flips)
        return functools.reduce(jnp.add, each) / len(flips)


@jax.jit
def _alone(forward: jax.tree_util.Partial, windows: Array) -> Array:
    return forward(windows)


def averaged(forward: Callable[..., Array], weights: Sequence[tuple]) -> Callable[[Array], Array]:
    """Return a forward function that averages the logits of one network with several sets of weights (folds, seeds).

    It can be passed to `window.sliding_window` and to `mirrored` like any forward function; one accumulator holds the mean. The
    sets are a compiled loop over stacked weights, so that the network is compiled once for any number of sets.

    Args:
      forward: (*weights, windows [n, *S, C]) -> logits [n, *S, K].
      weights: one tuple of trees for each set; all with the same names and shapes.
    Returns:
      The averaging function; calls with the same `forward` and equally many sets share one compiled program.
    Raises:
      ValueError: there is no set of weights, or their names or shapes differ.
    """
    if not weights:
        raise ValueError("got no weights to average over; give at least one")
    if len(weights) == 1:
        return jax.tree_util.Partial(forward, *weights[0])
    shapes = [jax.tree.map(jnp.shape, w) for w in weights]
    if any(s != shapes[0] for s in shapes):
        raise ValueError(f"got {len(weights)} sets of weights whose names or shapes differ; all must belong to the same network")
    return jax.tree_util.Partial(_Ensemble(forward), jax.tree.map(lambda *leaves: jnp.stack(leaves), *weights))


@dataclasses.dataclass(frozen=True)
class _Ensemble:
    """The loop over the sets of weights; instances with the same forward function are equal and have the same hash."""

    forward: Callable[..., Array]

    def __call__(self, stacked: tuple, windows: Array) -> Array:
        shape = jax.eval_shape(self.forward, *jax.tree.map(lambda a: a[0], stacked), windows).shape
        add = lambda total, one: (total + self.forward(*one, windows).astype(jnp.float32), None)
        total, _ = lax.scan(add, jnp.zeros(shape, jnp.float32), stacked)
        return total / len(jax.tree.leaves(stacked)[0])


@dataclasses.dataclass(frozen=True)
class _Mirror:
    """The loop over the flips; instances with equal axes and swaps are equal and have the same hash."""

    axes: tuple[int, ...]
    swap: tuple[tuple[int, tuple[tuple[int, int], ...]], ...]

    def __call__(self, forward: Callable[[Array], Array], windows: Array) -> Array:
        if max(self.axes) >= windows.ndim - 2:
            raise ValueError(
                f"got axes={self.axes} for windows of shape {windows.shape}: spatial axes are 0 to {windows.ndim - 3}"
            )
        codes = np.array(list(itertools.product((False, True), repeat=len(self.axes))))
        swap = dict(self.swap)

        def one(total, code):
            x = windows
            for flipped, axis in zip(code, self.axes):
                x = jnp.where(flipped, jnp.flip(x, axis + 1), x)
            y = forward(x).astype(jnp.float32)
            for flipped, axis in zip(code, self.axes):
                back = jnp.flip(y, axis + 1)
                if axis in swap:
                    back = back[..., _exchanged(y.shape[-1], swap[axis])]
                y = jnp.where(flipped, back, y)
            return total + y, None

        shape = jax.eval_shape(forward, windows).shape
        return lax.scan(one, jnp.zeros(shape, jnp.float32), jnp.asarray(codes))[0] / len(codes)


def _exchanged(classes: int, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return the class order [K] with the given pairs exchanged."""
    order = np.arange(classes)
    for i, j in pairs:
        if not 0 <= i < classes or not 0 <= j < classes:
            raise ValueError(f"got a swap of classes {i} and {j} with {classes} logits; classes are 0 to {classes - 1}")
        order[[i, j]] = order[[j, i]]
    return order
