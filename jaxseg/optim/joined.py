"""Join many small arrays into one vector, so that an element-wise operation on all of them needs a single kernel.

A network has hundreds of small arrays (biases, scales) and a few dozen large ones with nearly all of its numbers. Updating each
array separately costs one kernel per array to compile, load and launch, however small the array is.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax import lax
from jax.experimental import multihost_utils

from jaxseg.ops.materialize import stored_apart
from jaxseg.types import Array

SMALL = 2**14  # numbers; a larger array is not joined
VECTOR = "joined/"  # start of a vector's name; no parameter's name has a slash

Member = tuple[str, tuple[int, ...]]  # name, shape
Starts = Mapping[str, Sequence[Array]]  # {name of the vector: the index of each of its arrays' first number}


class Layout(NamedTuple):
    """The arrays that are joined into each vector, in order. Without vectors nothing is joined.

    Attributes:
      vectors: {name of the vector: its arrays}.
      multiple: vectors are zero-padded to a multiple of this length, so that this many devices can share them.
    """

    vectors: Mapping[str, tuple[Member, ...]] = {}
    multiple: int = 1

    def join(self, tree: Mapping[str, Array]) -> dict[str, Array]:
        """Join the small arrays of a dict. The vectors are numpy arrays, or traced arrays inside a jitted function.

        An empty dict stays empty (for instance a moving average that is not used).
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

    def starts(self) -> Starts:
        """Where each array begins in its vector: arguments of a program that calls `part`."""
        sizes = {vector: [math.prod(shape) for _, shape in members] for vector, members in self.vectors.items()}
        return {vector: tuple(np.cumsum([0, *each[:-1]], dtype=np.uint32)) for vector, each in sizes.items()}

    def part(self, tree: Mapping[str, Array], starts: Starts | None = None) -> dict[str, Array]:
        """The inverse of `join`. Outside jitted functions small arrays are numpy copies, so that nothing has to be compiled.

        Args:
          tree: what `join` returned.
          starts: `starts()` as arguments of the program, on a CPU. Constant places make a kernel of its own of each operation on
            a small array; with these, operations on arrays of one shape share a kernel (SegNeXt-T's step has 566 instead of 977).
        """
        if not tree:
            return {}
        out = {name: value for name, value in tree.items() if name not in self.vectors}
        for vector, members in self.vectors.items():
            value, sizes = tree[vector], [math.prod(shape) for _, shape in members]
            pieces: Sequence[Array]
            if starts:
                pieces = stored_apart(tuple(lax.dynamic_slice(value, (i,), (n,)) for i, n in zip(starts[vector], sizes)))
            elif _traced(value):
                pieces = lax.split(value, [*sizes, value.size - sum(sizes)])
            else:
                pieces = np.split(_on_host(value), np.cumsum(sizes))
            out |= {name: piece.reshape(shape) for (name, shape), piece in zip(members, pieces)}
        return out


def plan(tree: Mapping[str, Array], alike: Callable[[str], Hashable] = lambda name: None, *, multiple: int = 1) -> Layout:
    """Plan vectors of arrays that have at most SMALL numbers, the same dtype and the same value of `alike`.

    Scalars are not joined: they are learnable loss weights, which do not belong to the network.

    Args:
      tree: arrays or shapes by name.
      alike: function of the name; arrays of one vector have the same value (such as their learning-rate factor).
      multiple: see `Layout`.
    """
    classes: dict[Hashable, list[Member]] = {}
    for name in sorted(tree):
        shape = tuple(np.shape(tree[name]))  # learnable loss weights are plain numbers
        if shape and 0 < math.prod(shape) <= SMALL:
            classes.setdefault((np.dtype(tree[name].dtype).name, alike(name)), []).append((name, shape))
    several = [members for members in classes.values() if len(members) > 1]
    return Layout({f"{VECTOR}{i}": tuple(members) for i, members in enumerate(several)}, multiple)


def _on_host(value: Array) -> np.ndarray:
    """A copy on the host; for an array that several processes share, all of them must call this."""
    if isinstance(value, jax.Array) and not (value.is_fully_addressable or value.is_fully_replicated):
        return np.array(multihost_utils.process_allgather(value, tiled=True))
    return np.array(value)


def _traced(value: Array) -> bool:
    return isinstance(value, jax.core.Tracer)
