"""Training with less memory: blocks whose activations are computed again for the gradient instead of being kept.

Between forward and backward pass only the inputs of the blocks are kept, and the activations of one block at a time; the time of
a step grows by up to one forward pass. Values and gradients are the same.
"""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
from flax import nnx
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

from jaxseg.layers import ForwardContext
from jaxseg.models import functional
from jaxseg.models.functional import Tree
from jaxseg.types import Array, ConfigError

BLOCKS = "blocks"


def chosen(network: functional.Network, patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the layers whose activations are computed again.

    Args:
      patterns: regular expressions for whole names; or "blocks": the outermost layers that are elements of a list and have
        layers of their own, in most networks the blocks of each stage.
    Raises:
      ConfigError: a pattern matches no layer, or a chosen layer is part of another one.
    """
    layers = functional.layers_of(network.merge(*network.shapes())) if patterns else {}
    found: dict[str, None] = {}
    for pattern in patterns:
        names = _blocks(layers) if pattern == BLOCKS else _named(layers, pattern)
        if not names:
            shown = ", ".join([n for n in layers if n.count(".") < 2][:20])
            raise ConfigError(f"config.train.remat: this network has no layer {pattern!r}; some of its layers: {shown}")
        found |= dict.fromkeys(names)
    for name in found:
        outer = next((other for other in found if name.startswith(f"{other}.")), None)
        if outer:
            raise ConfigError(f"config.train.remat: got the layer {name} and {outer}, of which it is a part; leave one out")
    return tuple(found)


def _blocks(layers: dict[str, nnx.Module]) -> list[str]:
    weighted = [name for name, layer in layers.items() if jax.tree.leaves(nnx.state(layer, nnx.Param))]
    listed = [n for n in weighted if n.rpartition(".")[2].isdigit() and any(m.startswith(f"{n}.") for m in weighted)]
    return [name for name in listed if not any(name.startswith(f"{other}.") for other in listed)]


def _named(layers: dict[str, nnx.Module], pattern: str) -> list[str]:
    try:
        return [name for name in layers if re.fullmatch(pattern, name)]
    except re.error as error:
        raise ConfigError(f"config.train.remat: {pattern!r} is not a regular expression ({error})") from None


def apply(network: functional.Network, params: Tree, state: Tree, image: Array, context: ForwardContext, names: tuple[str, ...]):
    """`network.apply(params, state, image, context)`, where the layers `names` keep only their inputs for the gradient.

    Raises:
      ConfigError: one of the layers is not called, so that nothing would be computed again.
    """
    module: Any = network.merge(params, state)
    with _recomputed(functional.layers_of(module) if names else {}, names) as called:
        outputs = module.outputs(image, context)
    idle = [name for name in names if name not in called]
    if idle:
        raise ConfigError(
            f"config.train.remat: this network computes {', '.join(idle[:5])} together with other layers or not at all; "
            "name the layer of which it is a part, or leave it out"
        )
    return outputs, functional.values_of(module, network)[1]


@contextlib.contextmanager
def _recomputed(layers: dict[str, nnx.Module], names: tuple[str, ...]) -> Iterator[set[str]]:
    """Within the block the layers' class is another one, whose call keeps only its inputs. Yields the names of those called."""
    before = [(layers[name], type(layers[name])) for name in names]
    called: set[str] = set()
    try:
        for name, (layer, kind) in zip(names, before):
            object.__setattr__(layer, "__class__", _recomputing(kind, functools.partial(called.add, name)))
        yield called
    finally:
        for layer, kind in before:
            object.__setattr__(layer, "__class__", kind)


def _recomputing(kind: type, note: Callable[[], None]) -> type:
    def called(self, *args, **options):
        note()
        own = type(self)
        object.__setattr__(self, "__class__", kind)
        try:
            return _call(self, args, options)
        finally:
            object.__setattr__(self, "__class__", own)

    return type(kind.__name__, (kind,), {"__call__": called})


def _call(layer: nnx.Module, args: tuple, options: dict) -> Any:
    """`layer(*args, **options)`, with its inputs as the only values that are kept for the gradient."""
    network, params, state = functional.parted(layer)
    leaves, tree = jax.tree.flatten((args, options))
    keys = [leaf.key if isinstance(leaf, ForwardContext) else None for leaf in leaves]
    arrays = [leaf if isinstance(leaf, jax.Array) else None for leaf in leaves]

    def run(params, arrays, state, keys):
        module: Any = network.merge(params, state)
        filled = [
            dataclasses.replace(leaf, key=key) if isinstance(leaf, ForwardContext) else leaf if array is None else array
            for leaf, array, key in zip(leaves, arrays, keys)
        ]
        args, options = jax.tree.unflatten(tree, filled)
        output = module(*args, **options)
        return output, functional.values_of(module, network)[1]

    output, new = _keeping_inputs(run)(params, arrays, state, keys)
    functional.update(layer, network, new)
    return output


def _keeping_inputs(run: Callable) -> Callable:
    """`run(params, arrays, state, keys)`, differentiable in the first two, which are computed with again in the backward pass."""

    @jax.custom_vjp
    def kept(*inputs):
        return _once(run, inputs)

    def forward(*inputs):
        return _once(run, inputs), inputs

    def backward(inputs, cotangents):
        def gradient(inputs, cotangents):
            params, arrays, *fixed = inputs
            _, pullback = jax.vjp(lambda params, arrays: run(params, arrays, *fixed), params, arrays)
            return pullback(cotangents)

        return *_once(gradient, (inputs, cotangents)), None, None

    kept.defvjp(forward, backward)
    return kept


def _once(function: Callable, inputs: tuple) -> Any:
    """`function(*inputs)` as a part of the program of its own, whose values XLA does not share with the rest."""
    return lax.platform_dependent(inputs, cpu=_apart(function), default=_behind_barrier(function))


def _apart(function: Callable) -> Callable:
    """For CPUs: a call that is not inlined; barriers are removed there before common values are joined."""

    def call(inputs):
        with set_xla_metadata(inlineable="false"):
            return jax.jit(lambda *inputs: function(*inputs))(*inputs)

    return call


def _behind_barrier(function: Callable) -> Callable:
    return lambda inputs: function(*lax.optimization_barrier(inputs))
