"""MONAI's residual U-Net blocks, whose norms have no weight and bias: residual block, transposed convolution, decoder level."""

from flax import nnx

from jaxseg.layers.activation import activation
from jaxseg.layers.blocks import Up
from jaxseg.layers.context import EVAL, ForwardContext
from jaxseg.layers.conv import Conv, ConvTranspose
from jaxseg.layers.norm import InstanceNorm
from jaxseg.types import Array

_act = activation("leaky_relu")


class ResBlock(nnx.Module):
    """act(shortcut + norm(conv(act(norm(conv x))))); the shortcut is x, or norm(1x1 x) where the channels change."""

    def __init__(self, cin: int, cout: int, *, rank: int, rngs: nnx.Rngs):
        conv = lambda a, k: Conv(a, cout, k, rank=rank, bias=False, rngs=rngs)
        self.conv1, self.conv2 = conv(cin, 3), conv(cout, 3)
        self.conv3 = conv(cin, 1) if cin != cout else None
        self.norm = InstanceNorm(cout, affine=False, rngs=rngs)  # has no parameters, so that one is enough

    def __call__(self, x: Array, context: ForwardContext = EVAL) -> Array:
        y = self.norm(self.conv2(self.norm(self.conv1(x), context, act="leaky_relu")))
        return _act(y + (x if self.conv3 is None else self.norm(self.conv3(x))))


def upsample(cin: int, cout: int, *, rank: int, rngs: nnx.Rngs) -> ConvTranspose:
    """Transposed convolution of kernel and stride 2 without bias."""
    return ConvTranspose(cin, cout, 2, rank=rank, stride=2, bias=False, rngs=rngs)


def res_up(cin: int, cout: int, *, rank: int, rngs: nnx.Rngs) -> Up:
    """Decoder level: upsampling cin -> cout, concatenation [upsampled, skip], residual block 2 cout -> cout."""
    return Up(upsample(cin, cout, rank=rank, rngs=rngs), ResBlock(2 * cout, cout, rank=rank, rngs=rngs), skip_first=False)


# MONAI's names of these blocks, for KEY_MAPPINGS
RULES = (
    (r"^(encoder\d+)\.layer\.", r"\1."),
    (r"\.transp_conv_init\.conv\.", ".transp_conv_init."),
    (r"(\.blocks\.\d+\.0)\.conv\.", r"\1."),
    (r"\.transp_conv\.conv\.", ".up."),
    (r"\.conv_block\.", ".convs."),
    (r"\.conv([123])\.conv\.", r".conv\1."),
    (r"^out\.conv\.conv\.", "out."),
)
