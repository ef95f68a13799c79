"""Small arrays that lie one after another in one vector: what is done to every number alike is then one operation.

A network has hundreds of biases and scales and a few dozen arrays that hold nearly all of its numbers. An update costs a
kernel for each array, to compile, to load and to launch, whatever the array's size; a vector of the small ones costs one.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax import lax
from jax.experimental import multihost_utils

from jaxseg.types import Array

SMALL = 2**14  # numbers: an array with more stays on its own
VECTOR = "joined/"  # begins the name of a vector; no parameter's name holds a stroke

Member = tuple[str, tuple[int, ...]]  # name, shape


class Layout(NamedTuple):
    """Which arrays lie in which vector, and in what order. Without any it changes nothing.

    Attributes:
      vectors: name of the vector -> its arrays.
      multiple: a vector is filled up with zeros to a multiple of this, so that so many devices can share it.
    """

    vectors: Mapping[str, tuple[Member, ...]] = {}
    multiple: int = 1

    def join(self, tree: Mapping[str, Array]) -> dict[str, Array]:
        """The arrays of a tree by name, the small ones as vectors: numpy arrays, or traced ones in a jitted function.

        An empty tree stays empty (a moving average that is not kept).
        """
        if not tree:
            return {}
        inside = {name for members in self.vectors.values() for name, _ in members}
        out = {name: value for name, value in tree.items() if name not in inside}
        for vector, members in self.vectors.items():
            pieces = [tree[name] for name, _ in members]
            fill = -sum(np.size(piece) for piece in pieces) % self.multiple
            if any(map(_traced, pieces)):
                flat = [lax.reshape(piece, (piece.size,)) for piece in pieces]
                out[vector] = lax.concatenate([*flat, lax.full((fill,), 0, flat[0].dtype)] if fill else flat, 0)
            else:
                out[vector] = np.pad(np.concatenate([np.asarray(piece).reshape(-1) for piece in pieces]), (0, fill))
        return out

    def part(self, tree: Mapping[str, Array]) -> dict[str, Array]:
        """The inverse of `join`. Outside jitted functions the small arrays come as numpy copies: nothing is compiled for them."""
        if not tree:
            return {}
        out = {name: value for name, value in tree.items() if name not in self.vectors}
        for vector, members in self.vectors.items():
            value, sizes = tree[vector], [math.prod(shape) for _, shape in members]
            sizes.append(value.size - sum(sizes))  # what fills it up
            pieces: Sequence[Array] = (
                lax.split(value, sizes) if _traced(value) else np.split(_on_host(value), np.cumsum(sizes)[:-1])
            )
            out |= {name: piece.reshape(shape) for (name, shape), piece in zip(members, pieces)}
        return out


def plan(tree: Mapping[str, Array], alike: Callable[[str], Hashable] = lambda name: None, *, multiple: int = 1) -> Layout:
    """Join the arrays with at most SMALL numbers that have one dtype and one value of `alike`.

    Scalars stay apart: a learnable loss weight is trained beside the network and is no part of it.

    Args:
      tree: arrays or shapes by name.
      alike: name -> what arrays of one vector have in common, for instance their factor of the learning rate.
      multiple: of the layout.
    """
    classes: dict[Hashable, list[Member]] = {}
    for name in sorted(tree):
        shape = tuple(np.shape(tree[name]))  # learnable loss weights are plain numbers
        if shape and 0 < math.prod(shape) <= SMALL:
            classes.setdefault((np.dtype(tree[name].dtype).name, alike(name)), []).append((name, shape))
    several = [members for members in classes.values() if len(members) > 1]
    return Layout({f"{VECTOR}{i}": tuple(members) for i, members in enumerate(several)}, multiple)


def _on_host(value: Array) -> np.ndarray:
    """A copy; of an array that several processes share, all of them have to ask for it."""
    if isinstance(value, jax.Array) and not (value.is_fully_addressable or value.is_fully_replicated):
        return np.array(multihost_utils.process_allgather(value, tiled=True))
    return np.array(value)


def _traced(value: Array) -> bool:
    return isinstance(value, jax.core.Tracer)
