"""PSPNet in PyTorch, written from a description of hszhao/semseg, with its parameter names.

`Knobs` are deliberate mistakes that the parity test must detect.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn


@dataclasses.dataclass
class Knobs:
    eps: float = 1e-5
    align_corners: bool = True  # of the logits
    pooled_corners: bool = True
    stride_first: bool = False  # the stage's stride on the first 1x1 of a bottleneck
    dilations: tuple = (1, 1, 2, 4)
    pooled_first: bool = False
    pool_padding: bool = True
    bins: tuple | None = None


def conv(cin, cout, k, stride=1, dilation=1):
    return nn.Conv2d(cin, cout, k, stride, dilation * (k // 2), dilation, bias=False)


class Bottleneck(nn.Module):
    def __init__(self, cin, width, stride, dilation, project, knobs):
        super().__init__()
        first, second = (stride, 1) if knobs.stride_first else (1, stride)
        norm = lambda c: nn.BatchNorm2d(c, eps=knobs.eps)
        self.conv1, self.bn1 = conv(cin, width, 1, first), norm(width)
        self.conv2, self.bn2 = conv(width, width, 3, second, dilation), norm(width)
        self.conv3, self.bn3 = conv(width, 4 * width, 1), norm(4 * width)
        self.downsample = nn.Sequential(conv(cin, 4 * width, 1, stride), norm(4 * width)) if project else None

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Pyramid(nn.Module):
    def __init__(self, channels, width, bins, knobs):
        super().__init__()
        self.features = nn.ModuleList(
            [
                nn.Sequential(nn.AdaptiveAvgPool2d(n), conv(channels, width, 1), nn.BatchNorm2d(width, eps=knobs.eps), nn.ReLU())
                for n in bins
            ]
        )


class PSPNet(nn.Module):
    def __init__(
        self, depths, *, width=64, bins=(1, 2, 3, 6), head=512, in_channels=3, classes=2, dropout=0.1, aux=True, knobs=None
    ):
        super().__init__()
        self.knobs = knobs = knobs or Knobs()
        norm = lambda c: nn.BatchNorm2d(c, eps=knobs.eps)
        layers = []
        for cin, cout, stride in ((in_channels, width, 2), (width, width, 1), (width, 2 * width, 1)):
            layers += [conv(cin, cout, 3, stride), norm(cout), nn.ReLU()]
        self.layer0 = nn.Sequential(*layers, nn.MaxPool2d(3, 2, 1 if knobs.pool_padding else 0))
        cin = 2 * width
        for i, (depth, stride) in enumerate(zip(depths, (1, 2, 1, 1))):
            w = width * 2**i
            blocks = [
                Bottleneck(4 * w if j else cin, w, 1 if j else stride, knobs.dilations[i], j == 0, knobs) for j in range(depth)
            ]
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
            cin = 4 * w
        bins = knobs.bins or bins
        self.ppm = Pyramid(cin, cin // len(bins), bins, knobs)
        tail = lambda c, w: nn.Sequential(conv(c, w, 3), norm(w), nn.ReLU(), nn.Dropout2d(dropout), nn.Conv2d(w, classes, 1))
        self.cls, self.aux = tail(2 * cin, head), tail(cin // 2, head // 2) if aux else None

    def forward(self, image):
        k = self.knobs
        third = self.layer3(self.layer2(self.layer1(self.layer0(image))))
        x = self.layer4(third)
        pooled = [F.interpolate(f(x), x.shape[2:], mode="bilinear", align_corners=k.pooled_corners) for f in self.ppm.features]
        full = lambda y: F.interpolate(y, image.shape[2:], mode="bilinear", align_corners=k.align_corners)
        logits = full(self.cls(torch.cat([*pooled, x] if k.pooled_first else [x, *pooled], 1)))
        return (logits, [full(self.aux(third))]) if self.training and self.aux else logits
