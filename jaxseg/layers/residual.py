"""Layers of residual branches: dropout, stochastic depth, layer scale."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from jaxseg.layers import initial
from jaxseg.layers.context import EVAL, ForwardContext
from jaxseg.ops import tally
from jaxseg.types import Array


class Stochastic(nnx.Module):
    """Base class of modules that draw random numbers; `stream` makes their random keys different within a network."""

    def __init__(self):
        self.stream = 0


class _Drop(Stochastic):
    def __init__(self, rate: float):
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"got rate={rate}; a drop rate must lie in [0, 1)")
        self.rate = float(rate)

    def _drop(self, x: Array, context: ForwardContext, mask_shape) -> Array:
        if not context.train or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        mask = jax.random.bernoulli(context.stream(self.stream), keep, mask_shape)
        return jnp.where(mask, x / keep, jnp.zeros((), x.dtype))


class Dropout(_Drop):
    """Dropout: in training set single values to 0 with probability `rate`, and divide the others by 1 - rate."""

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        return self._drop(x, context, x.shape)


class ChannelDropout(_Drop):
    """Dropout of whole channels of a sample (PyTorch's Dropout2d and Dropout3d)."""

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        return self._drop(x, context, (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1]))


class DropPath(_Drop):
    """Stochastic depth: set the branch to 0 for whole samples with probability `rate`, and divide the others by 1 - rate."""

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        if context.train and self.rate:
            tally.add("mul", math.prod(x.shape))  # the reference implementation has a product here, which torchprofile counts
        return self._drop(x, context, (x.shape[0], *(1,) * (x.ndim - 1)))


class LayerScale(nnx.Module):
    """Multiply channels by a learned vector `weight` [C] that starts at `value`."""

    def __init__(self, channels: int, value: float, *, rngs: nnx.Rngs):
        self.weight = nnx.Param(initial.constant(value)(rngs, (channels,)))

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        tally.add("mul", math.prod(x.shape))
        return x * self.weight[...].astype(x.dtype)


def drop_path_rates(rate: float, depths: tuple[int, ...]) -> list[list[float]]:
    """Drop rates that rise linearly from 0 to `rate` over all blocks, grouped by stage."""
    total = sum(depths)
    flat = [rate * i / max(total - 1, 1) for i in range(total)]
    edges = [sum(depths[:i]) for i in range(len(depths) + 1)]
    return [flat[a:b] for a, b in zip(edges, edges[1:])]


def number_streams(module: nnx.Module) -> None:
    """Give the stochastic modules in `module` different stream numbers, by order of their paths, unless they differ already."""
    found = [node for _, node in nnx.iter_graph(module) if isinstance(node, Stochastic)]
    if len({node.stream for node in found}) < len(found):
        for i, node in enumerate(found):
            node.stream = i
