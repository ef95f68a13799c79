"""`model(image)`: one compiled program for each network and shape, found again at the price of a walk over the module.

To split a module anew takes flax twenty times as long as SegNeXt-T needs for a small image. What a split found is therefore
kept beside the module: its network, its variables, and every object that hangs on it. A call compares those objects by
identity, so that a layer, a variable or a setting put in place of another means a new split, and reads the variables, so
that new values need none. The program returns the state that it changed and nothing else: for most networks nothing at all.
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
    """What is known of a module, and the lock under which state is changed that a call reads and writes."""

    def __init__(self, module: nnx.Module):
        self.holders = _holders(module)
        network, _, state = functional.split(module)
        variables = {path: node for path, node in nnx.iter_graph(module) if isinstance(node, nnx.Variable)}
        self.named = {name: variables[leaf.path] for name, leaf in zip(network.names, network.leaves)}
        self.reads = [_reader(variable) for variable in self.named.values()]
        self.program = _program(network)
        self.lock, self.moves = threading.Lock(), bool(state)  # until a call has shown that nothing moves

    def fits(self) -> bool:
        """Whether everything that hung on the module still hangs there, in its place."""
        for holder, kept in self.holders:
            now = _entries(holder)
            if len(now) != len(kept) or not all(map(operator.is_, now, kept)):
                return False
        return True


_splits: weakref.WeakKeyDictionary[nnx.Module, _Split] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def infer(module: nnx.Module, image: Array, key: Array | None = None):
    """Outputs of a module in inference mode; state that moved is written back. May be called from several threads."""
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
    """(values in the network's order, image, key) -> (Outputs, the entries of state that the pass changed), compiled."""

    @jax.jit
    def context(values, image, key):
        params, state = network.parted(values)
        outputs, new = network.apply(params, state, image, ForwardContext(train=False, key=key))
        return outputs, {name: value for name, value in new.items() if value is not state[name]}

    return context


def _reader(variable: nnx.Variable) -> Callable[[], Array]:
    """What reads its value: past flax's copy, which takes as long as a small network does, where that is all it adds."""
    plain = isinstance(variable.get_raw_value(), jax.Array) and not variable.has_metadata("on_get_value")
    return variable.get_raw_value if plain else variable.get_value


def _holders(module: nnx.Module) -> list[tuple]:
    """(holder, its entries) of everything that hangs on a module and whose entries can be replaced: layers, lists, dicts."""
    found, seen, stack = [], {id(module)}, [vars(module)]  # not the module itself, which nothing here may keep alive
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
