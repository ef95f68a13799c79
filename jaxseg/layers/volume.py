"""U-Net blocks for any rank: convolution with norm and activation, pairs of them, ways down, ways up, fitting sizes."""

import jax.numpy as jnp
from flax import nnx
from jax import lax

from jaxseg import ops
from jaxseg.layers.conv import Conv, ConvTranspose
from jaxseg.layers.norm import BatchNorm, GroupNorm, InstanceNorm
from jaxseg.layers.run import EVAL, Run
from jaxseg.types import Array, ConfigError


def make_norm(name: str, channels: int, *, rngs: nnx.Rngs):
    """The norm "batch", "instance" (affine) or "group" (8 groups, else 4, else 1).

    Raises:
      ConfigError: another name.
    """
    if name == "batch":
        return BatchNorm(channels, rngs=rngs)
    if name == "instance":
        return InstanceNorm(channels, rngs=rngs)
    if name == "group":
        return GroupNorm(next(g for g in (8, 4, 1) if channels % g == 0), channels, rngs=rngs)
    raise ConfigError(f"got norm={name!r}; it is 'batch', 'instance' or 'group'")


class ConvNorm(nnx.Module):
    """Convolution without bias (unless asked), norm, activation."""

    def __init__(self, cin: int, cout: int, kernel: int, *, rank: int, stride: int = 1, dilation: int = 1, groups: int = 1,
                 act: str = "relu", norm: str = "batch", bias: bool = False, rngs: nnx.Rngs):
        self.conv = Conv(cin, cout, kernel, rank=rank, stride=stride, dilation=dilation, groups=groups, bias=bias, rngs=rngs)
        self.norm = make_norm(norm, cout, rngs=rngs)
        self.act = act

    def __call__(self, x: Array, run: Run = EVAL) -> Array:
        return self.norm(self.conv(x), run, act=self.act)


class Sequence(nnx.Module):
    """Blocks one after the other."""

    def __init__(self, *blocks: nnx.Module):
        self.blocks = nnx.List(list(blocks))

    def __call__(self, x: Array, run: Run = EVAL) -> Array:
        for block in self.blocks:
            x = block(x, run)
        return x


class DoubleConv(Sequence):
    """Two convolutions of kernel 3 with norm and activation, cin -> middle (cout when None) -> cout; `stride` of the first."""

    def __init__(self, cin: int, cout: int, middle: int | None = None, *, rank: int, stride: int = 1, act: str = "relu",
                 norm: str = "batch", rngs: nnx.Rngs):
        middle = middle or cout
        super().__init__(ConvNorm(cin, middle, 3, rank=rank, stride=stride, act=act, norm=norm, rngs=rngs),
                         ConvNorm(middle, cout, 3, rank=rank, act=act, norm=norm, rngs=rngs))


class Down(nnx.Module):
    """Halve the size by a maximum ("pool") or by the first convolution's stride ("stride"), and convolve twice.

    With halve=False the size stays, and so do the parameters.
    """

    def __init__(self, cin: int, cout: int, *, rank: int, how: str = "pool", halve: bool = True, norm: str = "batch",
                 rngs: nnx.Rngs):
        if how not in ("pool", "stride"):
            raise ConfigError(f"got down={how!r}; it is 'pool' or 'stride'")
        self.pool = how == "pool" and halve
        self.convs = DoubleConv(cin, cout, rank=rank, stride=2 if how == "stride" and halve else 1, norm=norm, rngs=rngs)

    def __call__(self, x: Array, run: Run = EVAL) -> Array:
        return self.convs(ops.max_pool(x, 2) if self.pool else x, run)


class DownDilated(Sequence):
    """Convolution of kernel 3 and stride 2, then two of `kernel` at dilations 2 and 5."""

    def __init__(self, cin: int, cout: int, *, rank: int, kernel: int = 5, rngs: nnx.Rngs):
        super().__init__(ConvNorm(cin, cout, 3, rank=rank, stride=2, rngs=rngs),
                         *(ConvNorm(cout, cout, kernel, rank=rank, dilation=d, rngs=rngs) for d in (2, 5)))


class Up(nnx.Module):
    """Double the size, join the skip, convolve twice.

    Args:
      cin, cout, skip: channels from below, of the result and of the skip.
      how: "transposed" (convolution of kernel and stride 2, cin -> cin / 2, with bias) or "linear" (align_corners).
    """

    def __init__(self, cin: int, cout: int, skip: int, *, rank: int, how: str = "transposed", norm: str = "batch",
                 rngs: nnx.Rngs):
        if how not in ("transposed", "linear"):
            raise ConfigError(f"got upsampling={how!r}; it is 'transposed' or 'linear'")
        transposed = how == "transposed"
        self.up = ConvTranspose(cin, cin // 2, 2, rank=rank, stride=2, rngs=rngs) if transposed else None
        joined = (cin // 2 if transposed else cin) + skip
        self.convs = DoubleConv(joined, cout, None if transposed else max(joined, cout), rank=rank, norm=norm, rngs=rngs)

    def __call__(self, x: Array, skip: Array, run: Run = EVAL) -> Array:
        if self.up is None:
            x = ops.resize(x, skip.shape[1:-1], align_corners=True)
        else:
            x = fit(self.up(x), skip.shape[1:-1])
        return self.convs(jnp.concatenate([skip, x], axis=-1), run)


def fit(x: Array, size: tuple[int, ...]) -> Array:
    """Zero-pad or crop [B, *S, C] to `size`, half of the difference (rounded down) in front of each axis."""
    for axis, n in enumerate(size, 1):
        front = (n - x.shape[axis]) // 2
        back = n - x.shape[axis] - front
        pads = [(0, 0)] * x.ndim
        pads[axis] = (max(front, 0), max(back, 0))
        x = lax.slice_in_dim(x, max(-front, 0), x.shape[axis] - max(-back, 0), axis=axis)
        x = jnp.pad(x, pads) if max(pads[axis]) else x
    return x
