"""LinkNet for volumes: a residual encoder at a quarter of the size, a slim decoder that adds its skips.

Source: Chaurasia and Culurciello 2017 (arXiv 1707.03718), as deepbet 1.0.2 (Fisch et al. 2024, wwu-mmll/deepbet) has it in its
TorchScript files: InstanceNorm without weights, widths of 16 to 128, and a decoder whose last level stays at a quarter.
Differs in that the softmax is left out.
"""

import dataclasses

import jax
from flax import nnx

from jaxseg import ops
from jaxseg.layers import ConvTranspose, ForwardContext, InstanceNorm
from jaxseg.layers.blocks import BasicBlock, ConvNorm, Sequential
from jaxseg.models.base import KeyMapping, Outputs, Segmenter, Variant
from jaxseg.types import Array


@dataclasses.dataclass(frozen=True)
class Config:
    """`width`: channels of the finest of four levels; each further one has twice as many."""

    width: int = 16


class UpConv(nnx.Module):
    """A transposed convolution of kernel 3 that multiplies the size by its stride, norm, ReLU."""

    def __init__(self, cin: int, cout: int, stride: int, *, rank: int, bias: bool = False, rngs: nnx.Rngs):
        pads = ((1, 2 - stride),) * rank  # PyTorch's padding of 1 and output_padding of stride - 1
        self.conv = ConvTranspose(cin, cout, 3, stride=stride, padding=pads, bias=bias, rank=rank, rngs=rngs)
        self.norm = InstanceNorm(cout, affine=False, rngs=rngs)

    def __call__(self, x: Array, context: ForwardContext) -> Array:
        return self.norm(self.conv(x), context, act="relu")


class LinkNet3D(Segmenter):
    """LinkNet for [B, *S, C] with sizes divisible by 32; logits [B, *S, K]."""

    size_multiple = 32
    min_size = 64  # an InstanceNorm over one position returns its bias

    def __init__(self, config: Config, *, in_channels: int, num_classes: int, rngs: nnx.Rngs):
        self.in_channels, self.num_classes, self.rank = in_channels, num_classes, 3
        w, same = config.width, dict(rank=3, norm="instance_plain", act="relu", rngs=rngs)
        self.init = ConvNorm(in_channels, w, 7, stride=2, **same)
        widths, strides = (w, w, 2 * w, 4 * w, 8 * w), (1, 2, 2, 2)

        def level(a: int, b: int, stride: int) -> Sequential:
            turned = {"padding": (1,) * 3, **same}
            return Sequential(
                BasicBlock(a, b, (3,) * 3, stride=(stride,) * 3, **turned), BasicBlock(b, b, (3,) * 3, stride=(1,) * 3, **turned)
            )

        self.downs = nnx.List([level(a, b, s) for a, b, s in zip(widths, widths[1:], strides)])
        self.ups = nnx.List(
            [
                Sequential(
                    ConvNorm(a, a // 4, 1, **same), UpConv(a // 4, a // 4, s, rank=3, rngs=rngs), ConvNorm(a // 4, b, 1, **same)
                )
                for a, b, s in zip(widths[:0:-1], widths[-2::-1], strides[::-1])
            ]
        )
        self.tp_conv1 = UpConv(w, w // 2, 2, rank=3, bias=True, rngs=rngs)
        self.conv = ConvNorm(w // 2, w // 2, 3, bias=True, **same)
        self.tp_conv2 = ConvTranspose(w // 2, num_classes, 2, stride=2, rank=3, rngs=rngs)

    def forward(self, image: Array, context: ForwardContext) -> Outputs:
        x = ops.max_pool(self.init(image, context), 3, stride=2, padding=1)  # [B, S/4, width]
        skips = []
        for i, down in enumerate(self.downs):
            skips.append(x)
            with jax.named_scope(f"down{i}"):
                x = down(x, context)
        for i, up in enumerate(self.ups):
            with jax.named_scope(f"up{i}"):
                x = up(x, context) + skips.pop()
        return Outputs(self.tp_conv2(self.conv(self.tp_conv1(x, context), context)))


VARIANTS = {
    "linknet3d": Variant(LinkNet3D, Config(), in_channels=1, num_classes=2, ranks=(3,)),
    "linknet3d_test": Variant(LinkNet3D, Config(width=4), in_channels=1, num_classes=2, ranks=(3,)),
}
KEY_MAPPINGS = (
    KeyMapping(
        "deepbet",
        (
            (r"^init\.0\.", "init.conv."),
            *((rf"^down(\d)\.block{i + 1}\.", rf"downs.\1.blocks.{i}.") for i in range(2)),
            (r"\.double_conv\.0\.", ".conv1.conv."),
            (r"\.double_conv\.3\.", ".conv2.conv."),
            (r"\.downsample\.0\.", ".conv3.conv."),
            (r"^up(\d)\.conv1\.0\.", r"ups.\1.blocks.0.conv."),
            (r"^up(\d)\.tp_conv\.0\.", r"ups.\1.blocks.1.conv."),
            (r"^up(\d)\.conv2\.0\.", r"ups.\1.blocks.2.conv."),
            (r"^tp_conv1\.0\.", "tp_conv1.conv."),
            (r"^conv\.0\.", "conv.conv."),
        ),
    ),
)
