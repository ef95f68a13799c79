"""Convert nnx modules to plain arrays and back; the only module that splits and merges nnx graphs.

Everything outside `layers/` and `models/` sees a network as two flat dictionaries of arrays with dotted names
("encoder.stages.0.1.attn.proj_1.weight"). jax.jit, jax.grad, optax, regular expressions and checkpoints therefore do not depend
on flax, and a name means the same in a checkpoint, a learning-rate rule and a PyTorch state dict. The dictionaries are flat, not
nested, so that list indices never become string keys that sort in the wrong order ("10" before "2").
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
from flax import nnx

from jaxseg.layers import EVAL, ForwardContext, Tap, initial, number_streams
from jaxseg.types import Array, MismatchError
from jaxseg.utils.lookup import lookup
from jaxseg.utils.trees import differences

Tree = dict[str, Array]
M = TypeVar("M", bound=nnx.Module)


class Leaf(NamedTuple):
    """The properties of one tensor without its values."""

    path: tuple  # nnx path
    kind: type  # nnx.Param, BatchStat, Buffer
    shape: tuple[int, ...]
    dtype: str
    layout: str | None  # PyTorch's layout of the tensor: "conv", "conv_transpose", "linear" or None (the same as here)


class Network(NamedTuple):
    """A network without its values; it is hashable, so that jitted functions can use it as a constant."""

    graph: nnx.GraphDef
    names: tuple[str, ...]
    leaves: tuple[Leaf, ...]

    def merge(self, params: Tree, state: Tree) -> nnx.Module:
        """The module with these values, which must fit (see `check`)."""
        values = {**params, **state}
        flat = [
            (leaf.path, leaf.kind(values[name], **({"layout": leaf.layout} if leaf.layout else {})))
            for name, leaf in zip(self.names, self.leaves)
        ]
        return nnx.merge(self.graph, nnx.from_flat_state(flat))

    def parted(self, values: Sequence[Array]) -> tuple[Tree, Tree]:
        """(params by name, state by name) from a list of all values in the order of `names`."""
        params: Tree = {}
        state: Tree = {}
        for name, leaf, value in zip(self.names, self.leaves, values, strict=True):
            (params if issubclass(leaf.kind, nnx.Param) else state)[name] = value
        return params, state

    def apply(self, params: Tree, state: Tree, image: Array, context: ForwardContext = EVAL):
        """Forward pass as a pure function.

        Args:
          params: trainable arrays by name.
          state: all other arrays (BatchNorm statistics, NMF bases) by name.
          image: [B, *spatial, C].
          context: whether it is training, the random key, and taps of layers by their dotted names.
        Returns:
          (Outputs, new state by name).
        """
        module: Any = self.merge(params, state)
        with _tapped(module, context.taps):
            outputs = module.outputs(image, context)
        return outputs, values_of(module, self)[1]

    def shapes(self) -> tuple[Tree, Tree]:
        """(params, state) with jax.ShapeDtypeStruct instead of values."""
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


def layers_of(module: nnx.Module) -> dict[str, nnx.Module]:
    """The layers of a network by their dotted names ("encoder.stages.0.1.attn"); one that is used twice has its first name."""
    found = {".".join(map(str, path)): node for path, node in nnx.iter_modules(module) if path}
    return {name: node for name, node in sorted(found.items()) if callable(node)}


@contextlib.contextmanager
def _tapped(module: nnx.Module, taps: Mapping[str, Tap]) -> Iterator[None]:
    """Within the block, tapped layers record their outputs and may add to them; their class is replaced temporarily.

    Raises:
      ConfigError: there is no such layer.
    """
    known = layers_of(module) if taps else {}
    before = []
    try:
        for name, tap in taps.items():
            layer = lookup("layer of the network", name, known)
            before.append((layer, type(layer)))
            object.__setattr__(layer, "__class__", _with_tap(type(layer), tap, name))
        yield
    finally:
        for layer, kind in before:
            object.__setattr__(layer, "__class__", kind)


def _with_tap(kind: type, tap: Tap, name: str) -> type:
    def called(self, *args, **options):
        with jax.named_scope(f"layer:{name}"):
            output = kind.__call__(self, *args, **options)
            if tap.added is not None:
                output = output + tap.added.astype(output.dtype)
        tap.input, tap.output = args[0] if args else None, output
        return output

    return type(kind.__name__, (kind,), {"__call__": called})


def split(module: nnx.Module) -> tuple[Network, Tree, Tree]:
    """(network without values, params by name, state by name) of a module; stochastic layers get different random streams."""
    number_streams(module)
    return parted(module)


def parted(module: nnx.Module) -> tuple[Network, Tree, Tree]:
    """The same for a module, or a part of one, whose random streams are numbered already."""
    graph, everything = nnx.split(module)
    flat = sorted(((".".join(map(str, path)), path, var) for path, var in nnx.to_flat_state(everything)), key=lambda f: f[0])
    leaves = tuple(
        Leaf(path, type(var), tuple(var.get_value().shape), str(var.get_value().dtype), var.get_metadata().get("layout"))
        for _, path, var in flat
    )
    network = Network(graph, tuple(name for name, _, _ in flat), leaves)
    return network, *values_of(module, network)


def values_of(module: nnx.Module, network: Network) -> tuple[Tree, Tree]:
    """(params by name, state by name) of a module that `network` describes."""
    flat = {path: var.get_value() for path, var in nnx.to_flat_state(nnx.state(module))}
    return network.parted([flat[leaf.path] for leaf in network.leaves])


def assign(module: nnx.Module, params: Tree, state: Tree) -> None:
    """Set the values of a module in place, after checking that they fit."""
    network, _, _ = split(module)
    network.check(params, state)
    values = {**params, **state}
    update(module, network, {k: jax.device_put(v, may_alias=False) for k, v in values.items()})  # asarray compiles for each shape


def update(module: nnx.Module, network: Network, values: Tree) -> None:
    """Set some or all values of a module that `network` describes, in place."""
    variables = dict(nnx.to_flat_state(nnx.state(module)))
    for name, leaf in zip(network.names, network.leaves):
        if name in values:
            variables[leaf.path].set_value(values[name])
    nnx.update(module, nnx.from_flat_state(list(variables.items())))


def parameter_count(module: nnx.Module) -> int:
    """Number of trainable parameters of a module, which may be abstract."""
    return sum(math.prod(v.get_value().shape) for _, v in nnx.to_flat_state(nnx.state(module, nnx.Param)))


def abstract(build: Callable[[], M]) -> M:
    """The module that `build()` returns, with shapes instead of values; needs no memory and no compilation."""
    with initial.shapes_only():
        return nnx.eval_shape(build)
