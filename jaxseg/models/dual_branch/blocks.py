"""Stems, downsampling and upsampling blocks of the multi-branch networks, by name."""

import functools

from flax import nnx

from jaxseg import ops
from jaxseg.layers.blocks import ConvNorm, DoubleConv, Down, Sequential, Up, up_halved
from jaxseg.layers.context import EVAL, ForwardContext
from jaxseg.layers.conv import Conv, ConvTranspose
from jaxseg.layers.mobile import ChannelAttention, GhostBottleneck, InvertedResidual
from jaxseg.layers.norm import BatchNorm
from jaxseg.models.dual_branch.large_kernel import DownLargeKernel
from jaxseg.models.dual_branch.shuffle import ConvNeXtBlock, DownConvNeXt, ShuffleV1, ShuffleV2, ShuffleV2Down
from jaxseg.models.dual_branch.vit import DownViT
from jaxseg.types import Array


def _classic(cin, cout, *, expand, stride, act, **same):
    return InvertedResidual(cin, cout, max(1, round(cin * expand)), stride=stride, **same)


def _attended(cin, cout, *, blocks, reduction, act, stride=2, rates=(1,), **same):
    """Inverted residuals of expansion 2 (at least cout hidden channels) with channel attention; the first one has the stride."""
    one = lambda a, s: InvertedResidual(a, cout, max(cout, 2 * a), stride=s, rates=rates, act=act, reduction=reduction, **same)
    return Sequential(one(cin, stride), *(one(cout, 1) for _ in range(blocks - 1)))


def _shuffle_v1(cin, cout, *, reduction, act, more=0, **same):
    return Sequential(
        ShuffleV1(cin, cout, stride=2, **same), *(ShuffleV1(cout, cout, reduction=reduction, **same) for _ in range(1 + more))
    )


def _shuffle_v2(cin, cout, *, act, down=3, kernel=3, rates=(1, 1), **same):
    return Sequential(ShuffleV2Down(cin, cout, kernel=down, **same), ShuffleV2(cout, kernel=kernel, rates=rates, **same))


def _shuffle_v2_stem(cin, cout, *, act, kernel=3, rates=(1, 1), **same):
    return Sequential(ConvNorm(cin, cout, 3, **same), ShuffleV2(cout, kernel=kernel, rates=rates, **same))


def _convnext_stem(cin, cout, *, act, **same):
    return Sequential(Conv(cin, cout, 3, **same), ConvNeXtBlock(cout, **same))


def _plain(cls, **fixed):
    """A function that builds `cls` and ignores the argument `act`, because the block has its own activation."""
    return lambda cin, cout, *, act, **same: cls(cin, cout, **fixed, **same)


class DilatedMix(nnx.Module):
    """Pooling, 1x1 to 2 C channels, depthwise convolutions (dilations 1, 2, 3), norm, 1x1 to cout: the last fusion of 18."""

    def __init__(self, cin: int, cout: int, *, act: str, rank: int, rngs: nnx.Rngs):
        inner = 2 * cin
        self.expand = ConvNorm(cin, inner, 1, rank=rank, act=act, rngs=rngs)
        self.depthwise = Sequential(
            *(ConvNorm(inner, inner, 3, rank=rank, dilation=d, groups=inner, act=act, rngs=rngs) for d in (1, 2, 3))
        )
        self.mix = NormAct(inner, act, rngs=rngs)
        self.project = ConvNorm(inner, cout, 1, rank=rank, act=act, rngs=rngs)

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        y = self.depthwise(self.expand(ops.max_pool(x, 2), context), context)
        return self.project(self.mix(y, context), context)


class NormAct(nnx.Module):
    """BatchNorm and activation."""

    def __init__(self, channels: int, act: str, *, rngs: nnx.Rngs):
        self.norm, self.act = BatchNorm(channels, rngs=rngs), act

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        return self.norm(x, context, act=self.act)


class DownDilated(Sequential):
    """Convolution of kernel 3 and stride 2, then two convolutions of size `kernel` with dilations 2 and 5."""

    def __init__(self, cin: int, cout: int, *, rank: int, kernel: int = 5, rngs: nnx.Rngs):
        super().__init__(
            ConvNorm(cin, cout, 3, rank=rank, stride=2, rngs=rngs),
            *(ConvNorm(cout, cout, kernel, rank=rank, dilation=d, rngs=rngs) for d in (2, 5)),
        )


class MobileUp(Up):
    """Transposed convolution, concatenation with the skip (1x1 to cout if `compress`), channel attention, two convolutions."""

    def __init__(self, cin: int, cout: int, skip: int, *, compress: bool, act: str, rank: int, rngs: nnx.Rngs):
        up = ConvTranspose(cin, cin // 2, 2, rank=rank, stride=2, rngs=rngs)
        narrow = compress and cout != skip
        self.compress = ConvNorm(skip, cout, 1, rank=rank, act=act, rngs=rngs) if narrow else None
        joined = cin // 2 + (cout if narrow else skip)
        super().__init__(
            up, Sequential(ChannelAttention(joined, 8, rngs=rngs), DoubleConv(joined, cout, rank=rank, act=act, rngs=rngs))
        )

    def __call__(self, x: Array, skip: Array, context: ForwardContext = EVAL) -> Array:
        return super().__call__(x, skip if self.compress is None else self.compress(skip, context), context)


def _shuffle_up(cin: int, cout: int, skip: int, *, reduction: int, rank: int, rngs: nnx.Rngs) -> Up:
    """Transposed convolution, concatenation with the skip, ShuffleNet unit, 1x1 to cout where channels differ, another unit."""
    joined, same = cin // 2 + skip, dict(rank=rank, rngs=rngs)
    up = ConvTranspose(cin, cin // 2, 2, stride=2, **same)
    unit = lambda c: ShuffleV1(c, c, reduction=reduction, **same)
    return Up(up, Sequential(unit(joined), *([ConvNorm(joined, cout, 1, **same)] if joined != cout else []), unit(cout)))


# name: block(cin, cout, act=, rank=, rngs=), full size
STEMS = {
    "double": lambda cin, cout, *, act, **same: DoubleConv(cin, cout, act=act, **same),
    "inverted4": functools.partial(_classic, expand=4, stride=1),
    "inverted2": functools.partial(_classic, expand=2, stride=1),
    "ghost": _plain(GhostBottleneck),
    "convnext": _convnext_stem,
    "shuffle_v2": _shuffle_v2_stem,
    "shuffle_v2_dilated": functools.partial(_shuffle_v2_stem, kernel=5, rates=(1, 2, 5)),
    "shuffle_v2_large": functools.partial(_shuffle_v2_stem, kernel=7),
    "attended": functools.partial(_attended, blocks=2, reduction=16, stride=1),
}
# name: block(cin, cout, act=, rank=, rngs=), half size
DOWNS = {
    "pool": _plain(Down, how="pool"),
    "stride": _plain(Down, how="stride"),
    "dilated": _plain(DownDilated),
    "dilated3": _plain(DownDilated, kernel=3),
    "large_ffn4": _plain(DownLargeKernel, ffn=4),
    "large_ffn2": _plain(DownLargeKernel, ffn=2),
    "vit": _plain(DownViT),
    "vit_patches": _plain(DownViT, patches=True),
    "inverted4": functools.partial(_classic, expand=4, stride=2),
    "inverted2": functools.partial(_classic, expand=2, stride=2),
    "ghost": _plain(GhostBottleneck, stride=2),
    "convnext": _plain(DownConvNeXt),
    "shuffle_v2": _shuffle_v2,
    "shuffle_v2_dilated": functools.partial(_shuffle_v2, kernel=5, rates=(1, 2, 5)),
    "shuffle_v2_large": functools.partial(_shuffle_v2, down=7, kernel=7),
    "attended2": functools.partial(_attended, blocks=2, reduction=8),
    "attended6": functools.partial(_attended, blocks=6, reduction=8),
    "attended_dilated": functools.partial(_attended, blocks=1, reduction=16, rates=(1, 2, 5)),
    "shuffle_v1_r8": functools.partial(_shuffle_v1, reduction=8),
    "shuffle_v1_r2": functools.partial(_shuffle_v1, reduction=2),
    "shuffle_v1_r2_more": functools.partial(_shuffle_v1, reduction=2, more=4),
    "shuffle_v1_r16": functools.partial(_shuffle_v1, reduction=16),
    "dilated_mix": DilatedMix,
}
# name: block(cin, cout, skip, act=, rank=, rngs=), double size
UPS = {
    "double": lambda cin, cout, skip, *, act, **same: up_halved(cin, cout, skip, **same),
    "mobile": functools.partial(MobileUp, compress=False),
    "mobile_compress": functools.partial(MobileUp, compress=True),
    **{
        f"shuffle_v1_r{r}": (lambda cin, cout, skip, *, act, r=r, **same: _shuffle_up(cin, cout, skip, reduction=r, **same))
        for r in (2, 8, 16)
    },
}
