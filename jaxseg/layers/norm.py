"""Normalisation layers with PyTorch's names and defaults; statistics in float32 with two-pass variance.

| layer | eps here | PyTorch | flax nnx | note |
|---|---|---|---|---|
| BatchNorm | 1e-5 | 1e-5 | 1e-5 | momentum 0.1 = weight of the new batch, PyTorch's sense (flax writes 0.9) |
| LayerNorm | 1e-5 | 1e-5 | 1e-6 | |
| GroupNorm | 1e-5 | 1e-5 | 1e-6 | |
| InstanceNorm | 1e-5 | 1e-5 | 1e-6 | affine on by default here, off in PyTorch |
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx

from jaxseg import ops
from jaxseg.layers import initial
from jaxseg.layers.run import EVAL, Run
from jaxseg.ops import tally
from jaxseg.types import Array


class BatchStat(nnx.Variable):
    """A running statistic: moved by training passes, never by the optimiser."""


class _Affine(nnx.Module):
    """weight [C] = 1 and bias [C] = 0, or neither."""

    def __init__(self, channels: int, eps: float, affine: bool, rngs: nnx.Rngs):
        self.channels, self.eps = channels, eps
        self.weight = nnx.Param(initial.ones(rngs, (channels,))) if affine else None
        self.bias = nnx.Param(initial.zeros(rngs, (channels,))) if affine else None

    def _standardize(self, x: Array, axes: Sequence[int]) -> tuple[Array, Array, Array]:
        """(y, mean, variance) with x's own moments over `axes`, which do not include the channels."""
        if self.weight is None:
            mean, var = ops.moments(x, axes)
            return self._apply(x, mean, var), mean, var
        tally.add("norm", math.prod(x.shape))
        return ops.standardize(x, self.weight[...], self.bias[...], tuple(axes), self.eps)

    def _apply(self, x: Array, mean: Array, var: Array) -> Array:
        tally.add("norm", math.prod(x.shape) if self.weight is not None else 0)
        weight, bias = (None, None) if self.weight is None else (self.weight[...], self.bias[...])
        return ops.normalize(x, mean, var, weight, bias, self.eps)


class BatchNorm(_Affine):
    """Batch normalisation of [B, *S, C] over B and S.

    Training passes use the batch's own moments and move the running ones:
    running = (1 - momentum) * running + momentum * new, the variance unbiased (n / (n - 1)), as PyTorch does. Under
    a sharded batch the moments are those of the global batch.

    Args:
      channels: C.
      eps: added to the variance.
      momentum: weight of the new batch (PyTorch's sense).
    """

    def __init__(self, channels: int, *, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True, rngs: nnx.Rngs):
        super().__init__(channels, eps, affine, rngs)
        self.momentum = momentum
        self.running_mean = BatchStat(jnp.zeros((channels,), jnp.float32))
        self.running_var = BatchStat(jnp.ones((channels,), jnp.float32))

    def __call__(self, x: Array, run: Run = EVAL) -> Array:
        if not run.train:
            return self._apply(x, self.running_mean[...], self.running_var[...])
        y, mean, var = self._standardize(x, range(x.ndim - 1))
        n = math.prod(x.shape[:-1])
        for stat, new in ((self.running_mean, mean), (self.running_var, var * (n / max(n - 1, 1)))):
            stat[...] = (1 - self.momentum) * stat[...] + self.momentum * new.reshape(-1)
        return y


class LayerNorm(_Affine):
    """Normalisation of every position over its channels."""

    def __init__(self, channels: int, *, eps: float = 1e-5, affine: bool = True, rngs: nnx.Rngs):
        super().__init__(channels, eps, affine, rngs)

    def __call__(self, x: Array, run: Run = EVAL) -> Array:
        return self._apply(x, *ops.moments(x, (-1,)))


class GroupNorm(_Affine):
    """Normalisation of [B, *S, C] over S and the channels of each of `groups` groups."""

    def __init__(self, groups: int, channels: int, *, eps: float = 1e-5, affine: bool = True, rngs: nnx.Rngs):
        if channels % groups:
            raise ValueError(f"got channels={channels}, groups={groups}; channels must be divisible by groups")
        super().__init__(channels, eps, affine, rngs)
        self.groups = groups

    def __call__(self, x: Array, run: Run = EVAL) -> Array:
        grouped = x.reshape(*x.shape[:-1], self.groups, -1)  # [B, *S, G, C/G]
        mean, var = ops.moments(grouped, (*range(1, x.ndim - 1), x.ndim))
        per_channel = self.channels // self.groups
        spread = lambda m: jnp.repeat(m[..., 0], per_channel, axis=-1)  # [B, 1.., C]
        return self._apply(x, spread(mean), spread(var))


class InstanceNorm(_Affine):
    """Normalisation of [B, *S, C] over S, each sample and channel alone; no running statistics."""

    def __init__(self, channels: int, *, eps: float = 1e-5, affine: bool = True, rngs: nnx.Rngs):
        super().__init__(channels, eps, affine, rngs)

    def __call__(self, x: Array, run: Run = EVAL) -> Array:
        return self._standardize(x, range(1, x.ndim - 1))[0]
