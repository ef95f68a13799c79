"""UNet-Base in PyTorch, written from a description of the source, with its parameter names."""

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, cin, cout, eps):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(cin, cout, 3, padding=1), nn.BatchNorm2d(cout, eps=eps)
        self.conv2, self.bn2 = nn.Conv2d(cout, cout, 3, padding=1), nn.BatchNorm2d(cout, eps=eps)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)), inplace=True)


class Down(nn.Module):
    def __init__(self, cin, cout, eps):
        super().__init__()
        self.convBlk = Block(cin, cout, eps)


class Up(nn.Module):
    def __init__(self, cin, cout, eps):
        super().__init__()
        self.transposeConv = nn.ConvTranspose2d(cin, cout, 2, stride=2)
        self.convBlk = Block(2 * cout, cout, eps)


class UNetBase(nn.Module):
    """The U-Net; `skip_first` and other values of `eps` are deliberate mistakes that the parity test must detect."""

    def __init__(self, widths=(64, 128, 256, 512, 1024), in_channels=1, classes=1, *, eps=1e-5, skip_first=False):
        super().__init__()
        a, b, c, d, bridge = widths
        self.skip_first = skip_first
        self.e1, self.e2, self.e3, self.e4 = Down(in_channels, a, eps), Down(a, b, eps), Down(b, c, eps), Down(c, d, eps)
        self.b = Block(d, bridge, eps)
        self.d1, self.d2, self.d3, self.d4 = Up(bridge, d, eps), Up(d, c, eps), Up(c, b, eps), Up(b, a, eps)
        self.conv_out = nn.Conv2d(a, classes, 1)

    def forward(self, x):
        skips = []
        for level in (self.e1, self.e2, self.e3, self.e4):
            skips.append(level.convBlk(x))
            x = F.max_pool2d(skips[-1], 2)
        x = self.b(x)
        for level in (self.d1, self.d2, self.d3, self.d4):
            pair = [level.transposeConv(x), skips.pop()]
            x = level.convBlk(torch.cat(pair[::-1] if self.skip_first else pair, 1))
        return self.conv_out(x)
