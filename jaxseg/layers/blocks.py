"""Building blocks of U-Nets for any rank: convolution with norm and activation, double convolution, down- and upsampling."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx
from jax import lax

from jaxseg import ops
from jaxseg.layers.activation import activation
from jaxseg.layers.context import EVAL, ForwardContext
from jaxseg.layers.conv import Conv, ConvTranspose
from jaxseg.layers.norm import BatchNorm, GroupNorm, InstanceNorm
from jaxseg.types import Array, ConfigError


def make_norm(name: str, channels: int, *, rngs: nnx.Rngs):
    """Build the norm "batch", "instance" (affine), "instance_plain" (without weight and bias) or "group".

    "group" has 8 groups, or 4 or 1 where the channels are not divisible.

    Raises:
      ConfigError: the name is unknown.
    """
    if name == "batch":
        return BatchNorm(channels, rngs=rngs)
    if name in ("instance", "instance_plain"):
        return InstanceNorm(channels, affine=name == "instance", rngs=rngs)
    if name == "group":
        return GroupNorm(next(g for g in (8, 4, 1) if channels % g == 0), channels, rngs=rngs)
    raise ConfigError(f"got norm={name!r}; must be 'batch', 'instance', 'instance_plain' or 'group'")


class ConvNorm(nnx.Module):
    """Convolution (by default without bias), norm, activation.

    Args:
      norm: a name for `make_norm`, or a function (channels, rngs=) -> norm.
      act_first: apply the activation before the norm.
      **conv: stride, padding, dilation, groups, weight_init and bias_init of `Conv`.
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel: int,
        *,
        rank: int,
        act: str = "relu",
        norm: str | Callable = "batch",
        bias: bool = False,
        act_first: bool = False,
        rngs: nnx.Rngs,
        **conv,
    ):
        self.conv = Conv(cin, cout, kernel, rank=rank, bias=bias, rngs=rngs, **conv)
        self.norm = make_norm(norm, cout, rngs=rngs) if isinstance(norm, str) else norm(cout, rngs=rngs)
        self.act, self.act_first = act, act_first

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        return self.finish(self.conv(x), context)

    def finish(self, x: Array, context: ForwardContext = EVAL) -> Array:
        """Norm and activation of the convolution's result."""
        return self.norm(activation(self.act)(x), context) if self.act_first else self.norm(x, context, act=self.act)


class Sequential(nnx.Module):
    """Apply blocks one after the other."""

    def __init__(self, *blocks: nnx.Module):
        self.blocks = nnx.List(list(blocks))

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        for block in self.blocks:
            x = block(x, context)
        return x


class BasicBlock(nnx.Module):
    """ResNet's basic block: act(norm(conv(act(norm(conv(x))))) + shortcut).

    The shortcut is x, or norm(1x1 x) where channels or size change. `**same` are rank, norm and rngs of `ConvNorm`.
    """

    def __init__(self, cin: int, cout: int, kernel: tuple, *, stride: tuple, padding: tuple, act: str, **same):
        self.conv1 = ConvNorm(cin, cout, kernel, stride=stride, padding=padding, act=act, **same)
        self.conv2 = ConvNorm(cout, cout, kernel, act="identity", **same)
        changed = cin != cout or max(stride) > 1
        self.conv3 = ConvNorm(cin, cout, 1, stride=stride, act="identity", **same) if changed else None
        self.act = act

    def __call__(self, x: Array, context: ForwardContext) -> Array:
        y = self.conv2(self.conv1(x, context), context)
        return activation(self.act)(y + (x if self.conv3 is None else self.conv3(x, context)))


class DoubleConv(Sequential):
    """Two convolutions of kernel 3 with norm and activation, cin -> middle -> cout channels.

    Args:
      middle: channels between the two; None: cout.
      stride: stride of the first convolution.
      **conv: act, norm and bias of `ConvNorm`.
    """

    def __init__(self, cin: int, cout: int, middle: int | None = None, *, rank: int, stride: int = 1, rngs: nnx.Rngs, **conv):
        middle = middle or cout
        super().__init__(
            ConvNorm(cin, middle, 3, rank=rank, stride=stride, rngs=rngs, **conv),
            ConvNorm(middle, cout, 3, rank=rank, rngs=rngs, **conv),
        )


class Down(nnx.Module):
    """Downsampling block: max pooling ("pool") or stride 2 in the first convolution ("stride"), and two convolutions.

    With halve=False the size is kept, with the same parameters. `**conv` are act, norm and bias of `ConvNorm`.
    """

    def __init__(self, cin: int, cout: int, *, rank: int, how: str = "pool", halve: bool = True, rngs: nnx.Rngs, **conv):
        if how not in ("pool", "stride"):
            raise ConfigError(f"got down={how!r}; must be 'pool' or 'stride'")
        self.pool = how == "pool" and halve
        self.convs = DoubleConv(cin, cout, rank=rank, stride=2 if how == "stride" and halve else 1, rngs=rngs, **conv)

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        return self.convs(ops.max_pool(x, 2) if self.pool else x, context)


class Up(nnx.Module):
    """Upsampling block: upsample, concatenate with the skip, convolve.

    Args:
      up: the module that doubles the size; None: linear interpolation to the skip's size (align_corners).
      convs: the block after the concatenation.
      skip_first: concatenate as [skip, upsampled] instead of [upsampled, skip].
      edge: pad a smaller map to the skip's size by repeating the last voxel of an axis, instead of zeros on both sides.
    """

    def __init__(self, up: nnx.Module | None, convs: nnx.Module, *, skip_first: bool = True, edge: bool = False):
        self.up, self.convs, self.skip_first, self.edge = up, convs, skip_first, edge

    def __call__(self, x: Array, skip: Array, context: ForwardContext = EVAL) -> Array:
        size = skip.shape[1:-1]
        x = ops.resize(x, size, align_corners=True) if self.up is None else self._fit(self.up(x), size)
        return self.convs(jnp.concatenate([skip, x] if self.skip_first else [x, skip], axis=-1), context)

    def _fit(self, x: Array, size: tuple[int, ...]) -> Array:
        if not self.edge:
            return fit(x, size)
        missing = [(0, n - m) for n, m in zip(size, x.shape[1:-1])]
        return jnp.pad(x, [(0, 0), *missing, (0, 0)], mode="edge") if max(missing)[1] else x


def up_transposed(cin: int, cout: int, *, rank: int, rngs: nnx.Rngs, **convs) -> Up:
    """The U-Net's level: transposed convolution cin -> cout of kernel and stride 2, [up, skip] joined, two convolutions."""
    return Up(
        ConvTranspose(cin, cout, 2, rank=rank, stride=2, rngs=rngs),
        DoubleConv(2 * cout, cout, rank=rank, rngs=rngs, **convs),
        skip_first=False,
    )


def up_halved(cin: int, cout: int, skip: int, *, rank: int, how: str = "transposed", norm: str = "batch", rngs: nnx.Rngs) -> Up:
    """A decoder level of the 3-D U-Net: upsampling, concatenation [skip, upsampled], two convolutions.

    Args:
      cin, cout, skip: channels of the input, of the result and of the skip.
      how: "transposed" (convolution of kernel and stride 2, cin -> cin / 2) or "linear" (interpolation; the first of the two
        convolutions keeps the number of concatenated channels).
    """
    if how not in ("transposed", "linear"):
        raise ConfigError(f"got upsampling={how!r}; must be 'transposed' or 'linear'")
    if how == "linear":
        return Up(None, DoubleConv(cin + skip, cout, max(cin + skip, cout), rank=rank, norm=norm, rngs=rngs))
    return Up(
        ConvTranspose(cin, cin // 2, 2, rank=rank, stride=2, rngs=rngs),
        DoubleConv(cin // 2 + skip, cout, rank=rank, norm=norm, rngs=rngs),
    )


def fit(x: Array, size: tuple[int, ...]) -> Array:
    """Zero-pad or crop [B, *S, C] to `size`, with half of the difference (rounded down) at the start of each axis."""
    for axis, n in enumerate(size, 1):
        if n == x.shape[axis]:
            continue
        front = (n - x.shape[axis]) // 2
        back = n - x.shape[axis] - front
        pads = [(0, 0)] * x.ndim
        pads[axis] = (max(front, 0), max(back, 0))
        x = lax.slice_in_dim(x, max(-front, 0), x.shape[axis] - max(-back, 0), axis=axis)
        x = jnp.pad(x, pads) if max(pads[axis]) else x
    return x
