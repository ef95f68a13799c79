"""The BraTS 2-D project's Keras networks in PyTorch, written from a description of them, with Keras' rules: "same" padding with
the odd voxel at the end, BatchNorm eps 1e-3 and momentum 0.99, half-pixel bilinear and nearest upsampling.

The project's files are .h5; parameters have jaxseg's names. `Knobs` are deliberate mistakes that the parity test must detect.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn


@dataclasses.dataclass
class Knobs:
    eps: float = 1e-3
    norm: str | None = None  # the other side of the ReLU
    skip_first: bool = False
    symmetric: bool = False  # PyTorch's padding at stride 2
    ungated: bool = False
    up: str | None = None
    bilinear_corners: bool = False
    dilate: bool = True
    order: tuple | None = None  # of U-Net 3+'s sources
    pool_after: bool = False  # U-Net 3+: resize after the branch's convolution
    activated_pyramid: bool = False


class Conv(nn.Conv2d):
    """Keras' Conv2D, padding "same"."""

    symmetric = False

    def forward(self, x):
        pads = []
        for n, k, s, d in zip(x.shape[2:], self.kernel_size, self.stride, self.dilation):
            total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
            low = -(-total // 2) if self.symmetric else total // 2  # symmetric: the odd voxel at the start, as padding=1 has it
            pads = [low, total - low, *pads]
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, 0, self.dilation)


class Norm(nn.BatchNorm2d):
    """Keras' BatchNormalization: no counter of batches."""

    def __init__(self, channels, eps=1e-3):
        super().__init__(channels, eps=eps, momentum=0.01)
        self.num_batches_tracked = None


class Scale(nn.Module):
    """Replaces a Dropout by the factor 1 + rate, so that a test can detect its position."""

    def __init__(self, rate):
        super().__init__()
        self.factor = 1 + rate

    def forward(self, x):
        return x * self.factor


def up2(x, knobs=None, mode="nearest"):
    if mode == "nearest":
        return F.interpolate(x, scale_factor=2, mode="nearest")
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=bool(knobs and knobs.bilinear_corners))


# ---------------------------------------------------------------- U-Net


class Block(nn.Module):
    def __init__(self, cin, cout, convs, norm, dilation, drop, knobs):
        super().__init__()
        self.side, self.drop = knobs.norm or norm, Scale(drop)
        dilation = dilation if knobs.dilate else 1
        self.convs = nn.ModuleList([Conv(cout if i else cin, cout, 3, dilation=dilation) for i in range(convs)])
        self.norms = nn.ModuleList([Norm(cout, knobs.eps) for _ in range(convs)] if norm != "none" else [])

    def forward(self, x):
        for i, conv in enumerate(self.convs):
            x = conv(x)
            x = self.norms[i](x) if self.side == "before" else x
            x = F.relu(x)
            x = self.norms[i](x) if self.side == "after" else x
            x = self.drop(x) if i == 0 else x
        return x


class Gate(nn.Module):
    def __init__(self, skip, signal, inner):
        super().__init__()
        self.theta, self.phi, self.psi = Conv(skip, inner, 2, 2), Conv(signal, inner, 1), Conv(inner, 1, 1)

    def forward(self, skip, signal):
        return skip * up2(torch.sigmoid(self.psi(F.relu(self.theta(skip) + self.phi(signal)))))


class UNet(nn.Module):
    def __init__(
        self,
        widths,
        bridge,
        *,
        convs=2,
        norm="none",
        dilations=(1, 1, 1, 1),
        bridge_dilation=1,
        ups=("conv",) * 4,
        gate=False,
        extra=(),
        drop=0.0,
        bridge_drop=0.0,
        in_channels=4,
        classes=4,
        knobs=None,
    ):
        super().__init__()
        self.knobs = knobs = knobs or Knobs()
        block = lambda a, b, d=1, drop=0.0: Block(a, b, convs, norm, d, drop, knobs)
        ins = (in_channels, *widths)
        self.encoder = nn.ModuleList([block(ins[i], ins[i + 1], dilations[i], drop if i == 2 else 0.0) for i in range(4)])
        self.bridge = block(widths[3], bridge, bridge_dilation) if bridge else None
        self.bridge_drop = Scale(bridge_drop)
        c = bridge or widths[3]
        self.gate = Gate(widths[3], c, widths[3] // 2) if gate else None
        self.ups, self.decoder = nn.ModuleList(), nn.ModuleList()
        for i, w in enumerate(widths[::-1]):
            self.ups.append(nn.ConvTranspose2d(c, w, 2, 2) if ups[i] == "conv" else None)
            self.decoder.append(block((w if ups[i] == "conv" else c) + w, w, 1, drop if i == 0 else 0.0))
            c = w
        extras = (c, *extra)
        self.extra = nn.ModuleList([Conv(a, b, 3) for a, b in zip(extras, extra)])
        self.head = Conv(extras[-1], classes, 1)

    def forward(self, x):
        skips = []
        for block in self.encoder:
            skips.append(block(x))
            x = F.max_pool2d(skips[-1], 2)
        if self.bridge is not None:
            x = self.bridge_drop(self.bridge(x))
        if self.gate is not None and not self.knobs.ungated:
            skips[-1] = self.gate(skips[-1], x)
        for up, block in zip(self.ups, self.decoder):
            pair = [up2(x, self.knobs, self.knobs.up or "nearest") if up is None else up(x), skips.pop()]
            x = block(torch.cat(pair[::-1] if self.knobs.skip_first else pair, 1))
        for conv in self.extra:
            x = F.relu(conv(x))
        return self.head(x)


# ---------------------------------------------------------------- U-Net 3+


class ConvNormAct(nn.Module):
    def __init__(self, cin, cout, dilation, knobs):
        super().__init__()
        self.conv, self.norm = Conv(cin, cout, 3, dilation=dilation), Norm(cout, knobs.eps)

    def forward(self, x):
        return F.relu(self.norm(self.conv(x)))


class Level(nn.Module):
    def __init__(self, sources, branch, dilation, knobs):
        super().__init__()
        self.branches = nn.ModuleList([ConvNormAct(c, branch, dilation, knobs) for c in sources])
        self.fuse = ConvNormAct(branch * len(sources), branch * len(sources), dilation, knobs)


class UNet3Plus(nn.Module):
    def __init__(self, widths, bridge, branch, *, convs=2, dilation=1, drop=0.0, in_channels=4, classes=4, knobs=None):
        super().__init__()
        self.knobs = knobs = knobs or Knobs()
        self.bridged, self.drop = bool(bridge), Scale(drop)
        cna = lambda a, b: ConvNormAct(a, b, dilation, knobs)
        stack = lambda a, b, n: nn.ModuleList([cna(b if j else a, b) for j in range(n)])
        ins = (in_channels, *widths)
        self.encoder = nn.ModuleList([stack(ins[i], ins[i + 1], convs) for i in range(4)])
        if bridge:
            self.encoder.append(stack(widths[3], bridge, 2))
        total, last = branch * (4 + self.bridged), [bridge] if bridge else []
        a, b, c, d = widths
        sources = [[a, b, c, d], [a, b, c, total], [a, b, total, total], [a, total, total, total]]  # levels 4, 3, 2, 1
        self.decoder = nn.ModuleList([Level([*s, *last], branch, dilation, knobs) for s in sources])
        self.head = Conv(total, classes, 1)

    def forward(self, x):
        e = []
        for i, convs in enumerate(self.encoder):
            x = F.max_pool2d(x, 2) if i else x
            for conv in convs:
                x = conv(x)
            x = self.drop(x) if i == 2 else x
            e.append(x)
        maps = {level: e[level - 1] for level in range(1, len(e) + 1)}  # replaced by the decoder's as they come
        for level, module in zip((4, 3, 2, 1), self.decoder):
            fitted = []
            for source in maps:
                change = lambda y, k=source - level: self.fit(y, k)
                branch = module.branches[source - 1]
                fitted.append(change(branch(maps[source])) if self.knobs.pool_after else branch(change(maps[source])))
            if self.knobs.order:
                fitted = [fitted[i] for i in self.knobs.order] + fitted[len(self.knobs.order) :]
            maps = {**maps, level: module.fuse(torch.cat(fitted, 1))}
        return self.head(maps[1])

    def fit(self, x, deeper):
        """Resize a map from `deeper` levels below (bilinear) or above (max pooling)."""
        if deeper < 0:
            return F.max_pool2d(x, 2**-deeper)
        if deeper == 0:
            return x
        mode = self.knobs.up or "bilinear"
        corners = {} if mode == "nearest" else {"align_corners": self.knobs.bilinear_corners}
        return F.interpolate(x, scale_factor=2**deeper, mode=mode, **corners)


# ---------------------------------------------------------------- Res-UNet++


class PreAct(nn.Module):
    def __init__(self, cin, cout, knobs, stride=1):
        super().__init__()
        self.norm, self.conv = Norm(cin, knobs.eps), Conv(cin, cout, 3, stride)
        self.conv.symmetric = knobs.symmetric

    def forward(self, x):
        return self.conv(F.relu(self.norm(x)))


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.down, self.up = nn.Linear(channels, channels // 8, bias=False), nn.Linear(channels // 8, channels, bias=False)

    def forward(self, x):
        gate = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


class Residual(nn.Module):
    def __init__(self, cin, cout, knobs, stride=1):
        super().__init__()
        self.se, self.ungated = SqueezeExcite(cin), knobs.ungated
        self.conv1, self.conv2 = PreAct(cin, cout, knobs, stride), PreAct(cout, cout, knobs)
        self.shortcut = Conv(cin, cout, 1, stride)

    def forward(self, x):
        y = x if self.ungated else self.se(x)
        return self.conv2(self.conv1(y)) + self.shortcut(y)


class Stem(nn.Module):
    def __init__(self, cin, cout, knobs):
        super().__init__()
        self.conv1, self.conv2, self.shortcut = Conv(cin, cout, 3), PreAct(cout, cout, knobs), Conv(cin, cout, 1)

    def forward(self, x):
        return self.conv2(self.conv1(x)) + self.shortcut(x)


class Pyramid(nn.Module):
    def __init__(self, cin, cout, knobs):
        super().__init__()
        self.relu = knobs.activated_pyramid
        self.convs = nn.ModuleList([Conv(cin, cout, 3, dilation=d if knobs.dilate else 1) for d in (6, 12, 18, 1)])
        self.norms = nn.ModuleList([Norm(cout, knobs.eps) for _ in range(4)])
        self.fuse = Conv(cout, cout, 1)

    def forward(self, x):
        maps = [norm(conv(x)) for conv, norm in zip(self.convs, self.norms)]
        return self.fuse(sum(F.relu(m) for m in maps) if self.relu else sum(maps))


class Attention(nn.Module):
    def __init__(self, skip, channels, knobs):
        super().__init__()
        self.skip, self.signal = PreAct(skip, channels, knobs), PreAct(channels, channels, knobs)
        self.joint = PreAct(channels, channels, knobs)

    def forward(self, skip, x):
        return x * self.joint(F.max_pool2d(self.skip(skip), 2) + self.signal(x))


class ResUNetPlusPlus(nn.Module):
    def __init__(self, widths, pyramid, *, in_channels=4, classes=4, knobs=None):
        super().__init__()
        self.knobs = knobs = knobs or Knobs()
        a, b, c, d = widths
        self.stem = Stem(in_channels, a, knobs)
        self.encoder = nn.ModuleList([Residual(p, q, knobs, 2) for p, q in ((a, b), (b, c), (c, d))])
        self.pyramid = Pyramid(d, pyramid, knobs)
        self.attentions = nn.ModuleList([Attention(c, pyramid, knobs), Attention(b, d, knobs), Attention(a, c, knobs)])
        self.decoder = nn.ModuleList([Residual(pyramid + c, d, knobs), Residual(d + b, c, knobs), Residual(c + a, b, knobs)])
        self.out_pyramid, self.head = Pyramid(b, a, knobs), Conv(a, classes, 1)

    def forward(self, image):
        skips = [self.stem(image)]
        for block in self.encoder:
            skips.append(block(skips[-1]))
        x = self.pyramid(skips.pop())
        for attend, block in zip(self.attentions, self.decoder):
            skip = skips.pop()
            pair = [up2(attend(skip, x), self.knobs, self.knobs.up or "nearest"), skip]
            x = block(torch.cat(pair[::-1] if self.knobs.skip_first else pair, 1))
        return self.head(self.out_pyramid(x))
