"""nnU-Net's plain U-Net in PyTorch with our parameter names (models/nnunet.py says where its facts come from)."""

import torch
from torch import nn


def conv_norm(cin, cout, stride, rank):
    module = nn.Module()
    module.conv = (nn.Conv2d, nn.Conv3d)[rank - 2](cin, cout, 3, stride, 1)
    module.norm = (nn.InstanceNorm2d, nn.InstanceNorm3d)[rank - 2](cout, affine=True)
    return module


class Stage(nn.Module):
    """Two convolutions, each with instance norm and leaky ReLU."""

    def __init__(self, cin, cout, stride, rank):
        super().__init__()
        self.blocks = nn.ModuleList([conv_norm(cin, cout, stride, rank), conv_norm(cout, cout, 1, rank)])

    def forward(self, x):
        for block in self.blocks:
            x = nn.functional.leaky_relu(block.norm(block.conv(x)), 0.01, inplace=True)
        return x


class Level(nn.Module):
    def __init__(self, cin, cout, rank):
        super().__init__()
        self.up = (nn.ConvTranspose2d, nn.ConvTranspose3d)[rank - 2](cin, cout, 2, 2)
        self.convs = Stage(2 * cout, cout, 1, rank)

    def forward(self, x, skip):
        return self.convs(torch.cat([self.up(x), skip], 1))


class PlainUNet(nn.Module):
    """Logits; while training also those of the coarser decoder levels, finest first."""

    def __init__(self, widths, channels, classes, rank=3):
        super().__init__()
        self.stages = nn.ModuleList(
            [Stage(a, b, 2 if i else 1, rank) for i, (a, b) in enumerate(zip((channels, *widths), widths))]
        )
        self.levels = nn.ModuleList([Level(a, b, rank) for a, b in zip(widths[:0:-1], widths[-2::-1])])
        self.heads = nn.ModuleList([(nn.Conv2d, nn.Conv3d)[rank - 2](c, classes, 1) for c in widths[:-1]])

    def forward(self, x):
        skips, maps = [], []
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        skips.pop()
        for level in self.levels:
            x = level(x, skips.pop())
            maps.insert(0, x)
        if not self.training:
            return self.heads[0](maps[0])
        return [head(m) for head, m in zip(self.heads, maps)]
