"""Normalisation layers with PyTorch's names and defaults; statistics are computed in float32, the variance in two passes.

| layer | eps here | PyTorch | flax nnx | note |
|---|---|---|---|---|
| BatchNorm | 1e-5 | 1e-5 | 1e-5 | momentum 0.1 = weight of the new batch, PyTorch's sense (flax writes 0.9) |
| LayerNorm | 1e-5 | 1e-5 | 1e-6 | |
| GroupNorm | 1e-5 | 1e-5 | 1e-6 | |
| InstanceNorm | 1e-5 | 1e-5 | 1e-6 | affine on by default here, off in PyTorch |

An activation after a norm can be passed to it: norm(x, context, act="relu") computes relu(norm(x, context)) with fewer passes
over memory.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx

from jaxseg import ops
from jaxseg.layers import initial
from jaxseg.layers.activation import activation
from jaxseg.layers.context import EVAL, ForwardContext
from jaxseg.ops import tally
from jaxseg.types import Array


class BatchStat(nnx.Variable):
    """A running statistic, which training passes update, not the optimiser."""


class Buffer(nnx.Variable):
    """An array of the network's state that is saved with it but is not trained."""


class _Affine(nnx.Module):
    """Base class of norms: weight [C] = 1 and bias [C] = 0 initially, or neither."""

    def __init__(self, channels: int, eps: float, affine: bool, rngs: nnx.Rngs):
        self.channels, self.eps = channels, eps
        self.weight = nnx.Param(initial.ones(rngs, (channels,))) if affine else None
        self.bias = nnx.Param(initial.zeros(rngs, (channels,))) if affine else None

    def _own(self, x: Array, axes: Sequence[int], act: str) -> tuple[Array, Array, Array]:
        """(act(norm(x)), mean, variance) with the mean and variance of x over `axes`, which do not include the channels."""
        weight, bias = self._factors(x)
        fused, then = _split(act)
        y, mean, var = ops.standardize(x, weight, bias, tuple(axes), self.eps, fused)
        return then(y), mean, var

    def _grouped(self, x: Array, groups: int | None, act: str) -> Array:
        """act(norm(x)) with mean and variance of every sample and group of channels."""
        weight, bias = self._factors(x)
        fused, then = _split(act)
        return then(ops.norm_act(x, weight, bias, groups=groups, eps=self.eps, act=fused))

    def _given(self, x: Array, mean: Array, var: Array, act: str) -> Array:
        """act(norm(x)) with the given mean and variance."""
        weight, bias = (None, None) if self.weight is None else self._factors(x)
        fused, then = _split(act)
        return then(ops.normalize(x, mean, var, weight, bias, self.eps, fused))

    def _factors(self, x: Array) -> tuple[Array, Array]:
        if self.weight is None:
            return jnp.ones((self.channels,), jnp.float32), jnp.zeros((self.channels,), jnp.float32)
        tally.add("norm", math.prod(x.shape))
        return self.weight[...], self.bias[...]


def _split(act: str):
    """(the activation to fuse with the norm, the function to apply afterwards); one of them is the identity."""
    return (act, lambda y: y) if act in ops.FUSED else ("identity", activation(act))


class BatchNorm(_Affine):
    """Batch normalisation of [B, *S, C] over B and S.

    Training passes use the batch's mean and variance and update the running ones as in PyTorch:
    running = (1 - momentum) * running + momentum * new, with the unbiased variance (factor n / (n - 1)). For a sharded batch
    these are the statistics of the global batch.

    Args:
      channels: C.
      eps: added to the variance.
      momentum: weight of the new batch (PyTorch's sense).
    """

    def __init__(self, channels: int, *, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True, rngs: nnx.Rngs):
        super().__init__(channels, eps, affine, rngs)
        self.momentum = momentum
        self.running_mean = BatchStat(initial.zeros(rngs, (channels,)))
        self.running_var = BatchStat(initial.ones(rngs, (channels,)))

    def __call__(self, x: Array, context: ForwardContext = EVAL, *, act: str = "identity") -> Array:
        if not context.train:
            return self._given(x, self.running_mean[...], self.running_var[...], act)
        y, mean, var = self._own(x, range(x.ndim - 1), act)
        n = math.prod(x.shape[:-1])
        for stat, new in ((self.running_mean, mean), (self.running_var, var * (n / max(n - 1, 1)))):
            stat[...] = (1 - self.momentum) * stat[...] + self.momentum * new.reshape(-1)
        return y


class LayerNorm(_Affine):
    """Normalisation of every position over its channels."""

    def __init__(self, channels: int, *, eps: float = 1e-5, affine: bool = True, rngs: nnx.Rngs):
        super().__init__(channels, eps, affine, rngs)

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        weight, bias = (None, None) if self.weight is None else self._factors(x)
        return ops.layer_norm(x, weight, bias, self.eps)


class GroupNorm(_Affine):
    """Normalisation of [B, *S, C] over S and the channels of each of `groups` groups."""

    def __init__(self, groups: int, channels: int, *, eps: float = 1e-5, affine: bool = True, rngs: nnx.Rngs):
        if channels % groups:
            raise ValueError(f"got channels={channels}, groups={groups}; channels must be divisible by groups")
        super().__init__(channels, eps, affine, rngs)
        self.groups = groups

    def __call__(self, x: Array, context: ForwardContext = EVAL, *, act: str = "identity") -> Array:
        return self._grouped(x, self.groups, act)


class InstanceNorm(_Affine):
    """Normalisation of [B, *S, C] over S, separately for each sample and channel; no running statistics."""

    def __init__(self, channels: int, *, eps: float = 1e-5, affine: bool = True, rngs: nnx.Rngs):
        super().__init__(channels, eps, affine, rngs)

    def __call__(self, x: Array, context: ForwardContext = EVAL, *, act: str = "identity") -> Array:
        return self._grouped(x, None, act)
