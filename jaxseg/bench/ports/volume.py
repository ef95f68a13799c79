"""The BraTS 3-D project's U-Nets in PyTorch, with one branch and with two, and jaxseg's parameter names.

`unet3d_*` (downsampling by pooling, upsampling by transposed convolutions) and `dualbranch_04_*` (downsampling by RepLKNet blocks
of kernel 13 in branch A, for FLAIR, and by strides in branch B). They follow models/unet3d.py and models/dual_branch/.
"""

import functools

import torch
import torch.nn.functional as F
from torch import nn

relu = functools.partial(F.relu, inplace=True)


class ConvNorm(nn.Module):
    def __init__(self, cin, cout, kernel, *, stride=1, groups=1, act=relu):
        super().__init__()
        self.conv = nn.Conv3d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm, self.act = nn.BatchNorm3d(cout), act

    def forward(self, x):
        x = self.norm(self.conv(x))
        return x if self.act is None else self.act(x)


class Blocks(nn.Module):
    """Apply blocks one after the other; they are stored under the name `blocks`."""

    def __init__(self, *blocks):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def double(cin, cout, stride=1):
    return Blocks(ConvNorm(cin, cout, 3, stride=stride), ConvNorm(cout, cout, 3))


class Down(nn.Module):
    def __init__(self, cin, cout, pool):
        super().__init__()
        self.pool, self.convs = pool, double(cin, cout, 1 if pool else 2)

    def forward(self, x):
        return self.convs(F.max_pool3d(x, 2) if self.pool else x)


class Up(nn.Module):
    def __init__(self, cin, cout, skip):
        super().__init__()
        self.up = nn.ConvTranspose3d(cin, cin // 2, 2, stride=2)
        self.convs = double(cin // 2 + skip, cout)

    def forward(self, x, skip):
        return self.convs(torch.cat([skip, self.up(x)], 1))


class UNet3D(nn.Module):
    """U-Net for [B, C, D, H, W] with sizes divisible by 2^levels."""

    def __init__(self, widths, in_channels=2, classes=4):
        super().__init__()
        self.stem = double(in_channels, widths[0])
        self.downs = nn.ModuleList([Down(a, b, True) for a, b in zip(widths, widths[1:])])
        self.ups = nn.ModuleList([Up(a, b, b) for a, b in zip(widths[::-1], widths[-2::-1])])
        self.head = nn.Conv3d(widths[0], classes, 1)

    def forward(self, x):
        skips = [self.stem(x)]
        for down in self.downs:
            skips.append(down(skips[-1]))
        x = skips.pop()
        for up in self.ups:
            x = up(x, skips.pop())
        return self.head(x)


class LargeKernel(nn.Module):
    def __init__(self, channels, kernel=13):
        super().__init__()
        inner = round(1.5 * channels)
        self.norm = nn.BatchNorm3d(channels)
        self.expand, self.project = ConvNorm(channels, inner, 1), ConvNorm(inner, channels, 1, act=None)
        self.parallel = nn.ModuleDict(
            {name: ConvNorm(inner, inner, k, groups=inner, act=None) for name, k in (("large", kernel), ("small", 3))}
        )

    def forward(self, x):
        y = self.norm(x)
        z = self.expand(y)
        return y + self.project(relu(self.parallel["large"](z) + self.parallel["small"](z)))


class FFN(nn.Module):
    def __init__(self, channels, ratio):
        super().__init__()
        self.norm = nn.BatchNorm3d(channels)
        self.expand = ConvNorm(channels, channels * ratio, 1, act=F.gelu)
        self.project = ConvNorm(channels * ratio, channels, 1, act=None)

    def forward(self, x):
        return x + self.project(self.expand(self.norm(x)))


def large_down(cin, cout):
    transition = Blocks(ConvNorm(cin, cout, 1), ConvNorm(cout, cout, 3, stride=2, groups=cout))
    return Blocks(transition, LargeKernel(cout), FFN(cout, 4))


class Branch(nn.Module):
    def __init__(self, widths, down):
        super().__init__()
        self.stem = double(1, widths[0])
        self.downs = nn.ModuleList([down(a, b) for a, b in zip(widths, widths[1:])])


class DualBranch04(nn.Module):
    """Dual-branch network for [B, 2 (T1ce, FLAIR), D, H, W]; channels of a branch, of deep levels, of decoder levels."""

    def __init__(self, widths, deep, outs, classes=4):
        super().__init__()
        stride = lambda a, b: Down(a, b, False)
        self.branches = nn.ModuleList([Branch(widths, large_down), Branch(widths, stride)])
        skips = [*(2 * w for w in widths), *deep[:-1]]
        self.deep = nn.ModuleList([stride(a, b) for a, b in zip((2 * widths[-1], *deep), deep)])
        self.ups = nn.ModuleList([Up(a, b, s) for a, b, s in zip((deep[-1], *outs), outs, skips[::-1])])
        self.head = nn.Conv3d(outs[-1], classes, 1)

    def forward(self, image):
        parts = [branch.stem(image[:, c : c + 1]) for branch, c in zip(self.branches, (1, 0))]
        skips = [torch.cat(parts, 1)]
        for i in range(len(self.branches[0].downs)):
            parts = [branch.downs[i](part) for branch, part in zip(self.branches, parts)]
            skips.append(torch.cat(parts, 1))
        for down in self.deep:
            skips.append(down(skips[-1]))
        x = skips.pop()
        for up in self.ups:
            x = up(x, skips.pop())
        return self.head(x)
