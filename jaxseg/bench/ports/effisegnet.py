"""EffiSegNet in PyTorch: MONAI's encoder, and a decoder written from a description of the repository, with its names.

As in the source, the image size is fixed. `Knobs` are deliberate mistakes that the parity test must detect.
"""

import dataclasses
from unittest import mock

import torch
import torch.nn.functional as F
from monai.networks.nets import EfficientNetBNFeatures, efficientnet
from torch import nn


@dataclasses.dataclass
class Knobs:
    eps: float = 1e-5
    encoder_eps: float = 1e-3
    norm_first: bool = False
    upsampling: str = "nearest"
    symmetric: bool = False  # PyTorch's padding k // 2 in place of TensorFlow's
    cheap_first: bool = False


def encoder(width, depth, size, knobs=None):
    """MONAI's EfficientNetBNFeatures of any scale, for images of side `size`, without drop connect."""
    knobs = knobs or Knobs()
    name = "efficientnet-b0"
    with mock.patch.dict(efficientnet.efficientnet_params, {name: (width, depth, size, 0.2, 0.0)}):
        net = EfficientNetBNFeatures(name, pretrained=False)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = knobs.encoder_eps
        for child, conv in list(module.named_children()):
            if knobs.symmetric and isinstance(conv, nn.Conv2d) and conv.stride[0] > 1:
                setattr(module, f"{child}_padding", nn.ZeroPad2d(conv.kernel_size[0] // 2))
    return net


class Ghost(nn.Module):
    def __init__(self, channels, knobs):
        super().__init__()
        self.channels, self.knobs = channels, knobs
        half = -(-channels // 2)
        part = lambda conv: nn.Sequential(conv, nn.ReLU(), nn.BatchNorm2d(half, eps=knobs.eps))
        self.primary_conv = part(nn.Conv2d(channels, half, 1, bias=False))
        self.cheap_operation = part(nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False))

    def forward(self, x):
        first = self.primary_conv(x)
        pair = [first, self.cheap_operation(first)]
        return torch.cat(pair[::-1] if self.knobs.cheap_first else pair, 1)[:, : self.channels]


class EffiSegNet(nn.Module):
    def __init__(self, width, depth, size, ch, *, deep=False, knobs=None):
        super().__init__()
        self.knobs = knobs = knobs or Knobs()
        self.size, self.deep = size, deep
        self.encoder = encoder(width, depth, size, knobs)
        del self.encoder._fc, self.encoder._dropout, self.encoder._avg_pooling
        stacks = list(self.encoder._blocks)
        taps = [list(stacks[i])[-1]._project_conv.out_channels for i in (0, 1, 2, 4, 6)]
        norm = lambda: nn.BatchNorm2d(ch, eps=knobs.eps)
        for i, c in enumerate(taps, 1):
            self.add_module(f"conv{i}", nn.Conv2d(c, ch, 3, padding=1, bias=False))
            self.add_module(f"bn{i}", norm())
            if deep:
                self.add_module(f"conv{i + 6}", nn.Conv2d(ch, 1, 1, bias=False))
                self.add_module(f"bn{i + 6}", norm())
        self.bn6, self.conv6 = norm(), nn.Conv2d(ch, 1, 1, bias=False)
        self.ghost1, self.ghost2 = Ghost(ch, knobs), Ghost(ch, knobs)

    def forward(self, image):
        layer = lambda name, i: getattr(self, f"{name}{i}")
        maps = []
        for i, f in enumerate(self.encoder(image), 1):
            x = layer("conv", i)(f)
            x = F.relu(layer("bn", i)(x)) if self.knobs.norm_first else layer("bn", i)(F.relu(x))
            maps.append(F.interpolate(x, (self.size, self.size), mode=self.knobs.upsampling))
        logits = self.conv6(self.ghost2(self.ghost1(self.bn6(sum(maps)))))
        if not (self.deep and self.training):
            return logits
        return logits, [layer("conv", i + 6)(layer("bn", i + 6)(m)) for i, m in enumerate(maps, 1)]
