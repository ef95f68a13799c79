"""`model(image)`: one compiled program for each network and image shape, with a fast cache.

Splitting a module by flax takes twenty times as long as SegNeXt-T needs for a small image. The result of a split is therefore
kept for each module: its network, its variables, and every object that the module contains. A call compares these objects by
identity: if a layer, a variable or a setting was replaced, the module is split again. The values of the variables are read at
every call, so that new values need no new split. The program returns only the state that it changed, for most networks nothing.
"""

import contextlib
import functools
import operator
import threading
import weakref
from collections.abc import Callable

import jax
from flax import nnx

from jaxseg.layers import ForwardContext
from jaxseg.models import functional
from jaxseg.types import Array

_PROGRAMS = 64  # networks whose programs are kept


class _Split:
    """The result of splitting a module, and a lock for calls that change the module's state."""

    def __init__(self, module: nnx.Module):
        self.holders = _holders(module)
        network, _, state = functional.split(module)
        variables = {path: node for path, node in nnx.iter_graph(module) if isinstance(node, nnx.Variable)}
        self.named = {name: variables[leaf.path] for name, leaf in zip(network.names, network.leaves)}
        self.reads = [_reader(variable) for variable in self.named.values()]
        self.program = _program(network)
        self.lock, self.moves = threading.Lock(), bool(state)  # assume that state changes until a call shows that it does not

    def fits(self) -> bool:
        """Whether the module still contains the same objects at the same places."""
        for holder, kept in self.holders:
            now = _entries(holder)
            if len(now) != len(kept) or not all(map(operator.is_, now, kept)):
                return False
        return True


_splits: weakref.WeakKeyDictionary[nnx.Module, _Split] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def infer(module: nnx.Module, image: Array, key: Array | None = None):
    """Outputs of a module in inference mode; changed state is written back to it. Several threads may call this."""
    with _lock:
        split = _splits.get(module)
    if split is None or not split.fits():
        split = _Split(module)
        with _lock:
            _splits[module] = split
    with split.lock if split.moves else contextlib.nullcontext():
        outputs, moved = split.program([read() for read in split.reads], image, key)
        for name, value in moved.items():
            split.named[name].set_value(value)
    split.moves = bool(moved)
    return outputs


@functools.lru_cache(_PROGRAMS)
def _program(network: functional.Network) -> Callable:
    """The compiled function (values in the network's order, image, key) -> (Outputs, entries of the state that changed)."""

    @jax.jit
    def context(values, image, key):
        params, state = network.parted(values)
        outputs, new = network.apply(params, state, image, ForwardContext(train=False, key=key))
        return outputs, {name: value for name, value in new.items() if value is not state[name]}

    return context


def _reader(variable: nnx.Variable) -> Callable[[], Array]:
    """A function that reads the variable's value, without flax's copy where possible: it takes as long as a small network."""
    plain = isinstance(variable.get_raw_value(), jax.Array) and not variable.has_metadata("on_get_value")
    return variable.get_raw_value if plain else variable.get_value


def _holders(module: nnx.Module) -> list[tuple]:
    """(object, its entries) of all objects in a module whose entries can be replaced: layers, lists, dicts."""
    found, seen, stack = [], {id(module)}, [vars(module)]  # without the module itself: a reference to it would keep it alive
    while stack:
        holder = stack.pop()
        entries = tuple(_entries(holder))
        if not isinstance(holder, tuple):
            found.append((holder, entries))
        for entry in entries:
            holds = isinstance(entry, (nnx.Pytree, dict, list, tuple)) and not isinstance(entry, nnx.Variable)
            if holds and id(entry) not in seen:
                seen.add(id(entry))
                stack.append(vars(entry) if isinstance(entry, nnx.Pytree) else entry)
    return found


def _entries(holder):
    return holder.values() if isinstance(holder, dict) else holder
