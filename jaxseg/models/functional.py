"""Between modules and plain arrays: the only place that splits and merges nnx graphs.

Everything outside `layers/` and `models/` sees a network as two flat dictionaries of arrays under dotted names
("encoder.stages.0.1.attn.proj_1.weight"), so that jax.jit, jax.grad, optax, regex rules and checkpoints need nothing
of flax, and a name means the same in a checkpoint, a learning-rate rule and a PyTorch state dict. Flat, not nested:
list indices then never become sorted string keys ("10" before "2").
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
from flax import nnx

from jaxseg.layers import EVAL, ForwardContext, initial, number_streams
from jaxseg.types import Array, MismatchError
from jaxseg.utils.trees import differences

Tree = dict[str, Array]
M = TypeVar("M", bound=nnx.Module)


class Leaf(NamedTuple):
    """What is known of one tensor without its values."""

    path: tuple  # nnx path
    kind: type  # nnx.Param, BatchStat, Buffer
    shape: tuple[int, ...]
    dtype: str
    layout: str | None  # how the PyTorch tensor is laid out: "conv", "conv_transpose", "linear" or None (the same)


class Network(NamedTuple):
    """A network without its values: hashable, safe to close over in jitted functions."""

    graph: nnx.GraphDef
    names: tuple[str, ...]
    leaves: tuple[Leaf, ...]

    def merge(self, params: Tree, state: Tree) -> nnx.Module:
        """The module with these values (the trees must fit: see `check`)."""
        values = {**params, **state}
        flat = [
            (leaf.path, leaf.kind(values[name], **({"layout": leaf.layout} if leaf.layout else {})))
            for name, leaf in zip(self.names, self.leaves)
        ]
        return nnx.merge(self.graph, nnx.from_flat_state(flat))

    def parted(self, values: Sequence[Array]) -> tuple[Tree, Tree]:
        """(params by name, state by name) of all values in the order of `names`."""
        params: Tree = {}
        state: Tree = {}
        for name, leaf, value in zip(self.names, self.leaves, values, strict=True):
            (params if issubclass(leaf.kind, nnx.Param) else state)[name] = value
        return params, state

    def apply(self, params: Tree, state: Tree, image: Array, context: ForwardContext = EVAL):
        """Forward pass as a pure function.

        Args:
          params: trainable arrays by name.
          state: the others (BatchNorm statistics, NMF bases) by name.
          image: [B, *spatial, C].
          context: training or inference, and the key.
        Returns:
          (Outputs, new state by name).
        """
        module: Any = self.merge(params, state)
        outputs = module.outputs(image, context)
        return outputs, _values(module, self)[1]

    def shapes(self) -> tuple[Tree, Tree]:
        """(params, state) with jax.ShapeDtypeStruct in place of values."""
        trees: tuple[Tree, Tree] = {}, {}
        for name, leaf in zip(self.names, self.leaves):
            trees[not issubclass(leaf.kind, nnx.Param)][name] = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        return trees

    def check(self, params: Tree, state: Tree) -> None:
        """Raise a MismatchError that lists every missing, unexpected or misshaped tensor."""
        ours, others = self.shapes()
        lines = differences({**ours, **others}, {**params, **state})
        if lines:
            shown = "\n  ".join(lines[:20]) + (f"\n  ... {len(lines) - 20} more" if len(lines) > 20 else "")
            raise MismatchError(f"{len(lines)} tensors do not fit this network:\n  {shown}")


def split(module: nnx.Module) -> tuple[Network, Tree, Tree]:
    """(network without values, params by name, state by name) of a module, whose stochastic layers get streams of their own."""
    number_streams(module)
    graph, everything = nnx.split(module)
    flat = sorted(((".".join(map(str, path)), path, var) for path, var in nnx.to_flat_state(everything)), key=lambda f: f[0])
    leaves = tuple(
        Leaf(path, type(var), tuple(var.get_value().shape), str(var.get_value().dtype), var.get_metadata().get("layout"))
        for _, path, var in flat
    )
    network = Network(graph, tuple(name for name, _, _ in flat), leaves)
    return network, *_values(module, network)


def _values(module: nnx.Module, network: Network) -> tuple[Tree, Tree]:
    flat = {path: var.get_value() for path, var in nnx.to_flat_state(nnx.state(module))}
    return network.parted([flat[leaf.path] for leaf in network.leaves])


def assign(module: nnx.Module, params: Tree, state: Tree) -> None:
    """Put values into a module in place, after checking that they fit."""
    network, _, _ = split(module)
    network.check(params, state)
    values = {**params, **state}
    variables = dict(nnx.to_flat_state(nnx.state(module)))
    for name, leaf in zip(network.names, network.leaves):
        variables[leaf.path].set_value(jax.numpy.asarray(values[name]))
    nnx.update(module, nnx.from_flat_state(list(variables.items())))


def parameter_count(module: nnx.Module) -> int:
    """How many trainable numbers a module (or an abstract one) has."""
    return sum(math.prod(v.get_value().shape) for _, v in nnx.to_flat_state(nnx.state(module, nnx.Param)))


def abstract(build: Callable[[], M]) -> M:
    """The module that `build()` makes, with shapes in place of values; no memory, no compilation."""
    with initial.shapes_only():
        return nnx.eval_shape(build)
