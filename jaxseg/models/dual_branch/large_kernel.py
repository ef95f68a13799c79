"""RepLKNet's blocks (Ding et al. 2022, arXiv 2203.06717) for any rank: large depthwise kernels with a small one in parallel."""

import jax.numpy as jnp
from flax import nnx

from jaxseg.layers.blocks import ConvNorm, Sequential
from jaxseg.layers.context import EVAL, ForwardContext
from jaxseg.layers.conv import Conv
from jaxseg.layers.norm import BatchNorm
from jaxseg.types import Array


class Transition(Sequential):
    """1x1 to cout, then a depthwise convolution of kernel 3 and stride 2; norm and ReLU after both."""

    def __init__(self, cin: int, cout: int, *, rank: int, rngs: nnx.Rngs):
        super().__init__(
            ConvNorm(cin, cout, 1, rank=rank, rngs=rngs), ConvNorm(cout, cout, 3, rank=rank, stride=2, groups=cout, rngs=rngs)
        )


class ParallelConv(nnx.Module):
    """relu(norm(large x) + norm(small x)) with depthwise convolutions; after `merge` one kernel with bias: relu(merged x)."""

    def __init__(self, channels: int, *, kernel: int, small: int, rank: int, rngs: nnx.Rngs):
        if small > kernel or (kernel - small) % 2:
            raise ValueError(f"got kernels {kernel} and {small}; the second must be at most the first, and both even or both odd")
        one = lambda k: ConvNorm(channels, channels, k, rank=rank, groups=channels, act="identity", rngs=rngs)
        self.large, self.small, self.merged = one(kernel), one(small), None

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        if self.merged is not None:
            if context.train:
                raise ValueError("a merged network cannot be trained; train it before merge()")
            return nnx.relu(self.merged(x))
        return nnx.relu(self.large(x, context) + self.small(x, context))

    def merge(self) -> None:
        """Fold both kernels and their norms into one kernel W = sum W_i g_i / s_i with bias = sum b_i - m_i g_i / s_i.

        g_i, b_i are the scale and bias of norm i, m_i and s_i its running mean and standard deviation.
        """
        if self.merged is not None:
            return
        weight, bias, size = 0.0, 0.0, self.large.conv.kernel
        for part in (self.large, self.small):
            norm, conv = part.norm, part.conv
            factor = norm.weight[...] / jnp.sqrt(norm.running_var[...] + norm.eps)
            pads = [((n - k) // 2,) * 2 for n, k in zip(size, conv.kernel)]
            weight = weight + jnp.pad(conv.weight[...] * factor, (*pads, (0, 0), (0, 0)))
            bias = bias + norm.bias[...] - norm.running_mean[...] * factor
        conv = self.large.conv
        merged = Conv(conv.groups, conv.groups, size, rank=conv.rank, groups=conv.groups, rngs=nnx.Rngs(0))
        merged.weight[...], merged.bias[...] = weight, bias
        self.merged, self.large, self.small = (
            nnx.data(merged),
            None,
            None,
        )  # nnx.data: assigning None before made the attribute static


class LargeKernelBlock(nnx.Module):
    """y + norm(1x1(parallel(relu(norm(1x1 y))))) with y = norm(x) and round(ratio C) channels inside."""

    def __init__(self, channels: int, *, kernel: int = 13, small: int = 3, ratio: float = 1.5, rank: int, rngs: nnx.Rngs):
        inner = round(channels * ratio)
        self.norm = BatchNorm(channels, rngs=rngs)
        self.expand = ConvNorm(channels, inner, 1, rank=rank, rngs=rngs)
        self.parallel = ParallelConv(inner, kernel=kernel, small=small, rank=rank, rngs=rngs)
        self.project = ConvNorm(inner, channels, 1, rank=rank, act="identity", rngs=rngs)

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        y = self.norm(x, context)
        return y + self.project(self.parallel(self.expand(y, context), context), context)


class ConvFFN(nnx.Module):
    """x + norm(1x1(gelu(norm(1x1(norm x))))), with ratio C channels inside."""

    def __init__(self, channels: int, ratio: int, *, rank: int, rngs: nnx.Rngs):
        self.norm = BatchNorm(channels, rngs=rngs)
        self.expand = ConvNorm(channels, channels * ratio, 1, rank=rank, act="gelu", rngs=rngs)
        self.project = ConvNorm(channels * ratio, channels, 1, rank=rank, act="identity", rngs=rngs)

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        return x + self.project(self.expand(self.norm(x, context), context), context)


class DownLargeKernel(Sequential):
    """Transition, large-kernel block, FFN of ratio `ffn`."""

    def __init__(self, cin: int, cout: int, *, ffn: int, kernel: int = 13, rank: int, rngs: nnx.Rngs):
        super().__init__(
            Transition(cin, cout, rank=rank, rngs=rngs),
            LargeKernelBlock(cout, kernel=kernel, rank=rank, rngs=rngs),
            ConvFFN(cout, ffn, rank=rank, rngs=rngs),
        )


def merge(model: nnx.Module) -> int:
    """Merge the parallel kernels of every ParallelConv in `model`, in place, for faster inference; returns their number."""
    found = [node for _, node in nnx.iter_graph(model) if isinstance(node, ParallelConv) and node.merged is None]
    for node in found:
        node.merge()
    return len(found)
