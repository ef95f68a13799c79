"""MobileUNETR in PyTorch around transformers' MobileViT, written from a description of OSUPCVLab/MobileUNETR, with its names.

Where the source fails (sizes that are not multiples of the patches, maps larger than their skips) it resizes and cuts.
`Knobs` are deliberate mistakes that the parity test must detect.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn


@dataclasses.dataclass
class Knobs:
    eps: float = 1e-5  # of the LayerNorms outside the encoder
    mode: str = "bicubic"
    logits_mode: str = "bicubic"
    patch: int = 2
    skip_first: bool = False
    input_first: bool = False  # in the ViT blocks' fusion
    unscaled: bool = False


def conv(cin, cout, k, stride=1, groups=1):
    return [nn.Conv2d(cin, cout, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(cout)]


def unit(cin, cout, k):
    return nn.Sequential(*conv(cin, cout, k), nn.SiLU())


class Inverted(nn.Module):
    def __init__(self, cin, cout, stride=1, up=False):
        super().__init__()
        first = [nn.ConvTranspose2d(cin, cin, 2, 2, bias=False), nn.BatchNorm2d(cin), nn.SiLU()] if up else []
        self.conv = nn.Sequential(
            *first,
            *conv(cin, 4 * cin, 1),
            nn.SiLU(),
            *conv(4 * cin, 4 * cin, 3, stride, 4 * cin),
            nn.SiLU(),
            *conv(4 * cin, cout, 1),
        )

    def forward(self, x):
        return self.conv(x)


class Normed(nn.Module):
    def __init__(self, width, fn, eps):
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(width, eps=eps), fn


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.to_qkv, self.to_out = nn.Linear(width, 96, bias=False), nn.Sequential(nn.Linear(32, width))


class FeedForward(nn.Module):
    def __init__(self, width, ffn):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, ffn), nn.SiLU(), nn.Identity(), nn.Linear(ffn, width))


class Transformer(nn.Module):
    def __init__(self, width, depth, ffn, eps):
        super().__init__()
        one = lambda: nn.ModuleList([Normed(width, Attention(width), eps), Normed(width, FeedForward(width, ffn), eps)])
        self.layers = nn.ModuleList([one() for _ in range(depth)])


class ViT(nn.Module):
    def __init__(self, width, depth, channels, ffn, knobs):
        super().__init__()
        self.knobs = knobs
        self.conv1, self.conv2 = unit(channels, channels, 3), unit(channels, width, 1)
        self.transformer = Transformer(width, depth, ffn, knobs.eps)
        self.conv3, self.conv4 = unit(width, channels, 1), unit(2 * channels, channels, 3)

    def forward(self, x):
        y, p = self.conv2(self.conv1(x)), self.knobs.patch
        b, d, h, w = y.shape
        grid = F.interpolate(y, (-(-h // p) * p, -(-w // p) * p), mode="bilinear") if h % p or w % p else y
        parts = [grid[:, :, i::p, j::p] for i in range(p) for j in range(p)]
        t = torch.stack([part.flatten(2).transpose(1, 2) for part in parts], 1)  # [b, pp, n, d]
        for attention, ffn in self.transformer.layers:
            q, k, v = (a.unflatten(-1, (4, 8)).transpose(2, 3) for a in attention.fn.to_qkv(attention.norm(t)).chunk(3, -1))
            scores = q @ k.transpose(-1, -2) * (1 if self.knobs.unscaled else 8**-0.5)
            t = t + attention.fn.to_out((scores.softmax(-1) @ v).transpose(2, 3).flatten(3))
            t = t + ffn.fn.net(ffn.norm(t))
        folded = torch.empty_like(grid)
        for n in range(p * p):
            part = folded[:, :, n // p :: p, n % p :: p]
            part.copy_(t[:, n].transpose(1, 2).reshape(part.shape))
        y = self.conv3(F.interpolate(folded, (h, w), mode="bilinear") if h % p or w % p else folded)
        return self.conv4(torch.cat((x, y) if self.knobs.input_first else (y, x), 1))


class Decoder(nn.Module):
    def __init__(self, channels, widths, bottleneck, classes, depths, knobs):
        super().__init__()
        self.knobs = knobs
        path = (bottleneck, *channels[5:1:-1])
        stage = lambda i: [Inverted(path[i], path[i + 1], up=True), Inverted(2 * path[i + 1], path[i + 1])]
        vit = lambda i, depth, ratio: ViT(widths[2 - i], depth, path[i + 1], ratio * widths[2 - i], knobs)
        self.trunk = nn.ModuleList(
            [nn.ModuleList([*stage(i), vit(i, depth, ratio)]) for i, (depth, ratio) in enumerate(zip(depths, (2, 4, 4)))]
        )
        self.conv_upsample_1 = nn.ModuleList([nn.ModuleList(stage(3))])
        self.mix, self.final = unit(path[-1] + channels[1], path[-1], 3), nn.Conv2d(path[-1], classes, 1)

    def forward(self, x, features):
        for blocks, skip in zip((*self.trunk, *self.conv_upsample_1), features[:0:-1]):
            y = blocks[0](x)[:, :, : skip.shape[2], : skip.shape[3]]
            x = blocks[1](torch.cat((skip, y) if self.knobs.skip_first else (y, skip), 1))
            x = blocks[2](x) if len(blocks) == 3 else x
        x = F.interpolate(x, features[0].shape[2:], mode=self.knobs.mode)
        return self.final(self.mix(torch.cat((x, features[0]), 1)))


def mobilevit(channels, widths, expand, depths=(2, 4, 3)):
    """transformers' encoder, which has its depths fixed: what is too many is taken out."""
    from transformers import MobileViTConfig, MobileViTModel

    model = MobileViTModel(
        MobileViTConfig(
            neck_hidden_sizes=list(channels), hidden_sizes=list(widths), expand_ratio=float(expand), hidden_dropout_prob=0.0
        )
    )
    for stage, depth in zip(model.encoder.layer[2:], depths):
        stage.transformer.layer = stage.transformer.layer[:depth]
    return model


class Encoder(nn.Module):
    def __init__(self, *sizes):
        super().__init__()
        self.encoder = mobilevit(*sizes)

    def forward(self, x):
        return self.encoder(x, output_hidden_states=True).hidden_states


class Bottleneck(nn.Module):
    def __init__(self, cin, cout, width, depth, knobs):
        super().__init__()
        self.conv, self.attn = Inverted(cin, cout, 2), ViT(width, depth, cout, 4 * width, knobs)

    def forward(self, x):
        return self.attn(self.conv(x))


class MobileUNETR(nn.Module):
    def __init__(self, channels, widths, expand, depths, bottleneck, bottleneck_width, bottleneck_depth, classes=1, knobs=None):
        super().__init__()
        self.knobs = knobs = knobs or Knobs()
        self.encoder = Encoder(channels, widths, expand, depths)
        self.bottleneck = Bottleneck(channels[5], bottleneck, bottleneck_width, bottleneck_depth, knobs)
        self.decoder = Decoder(channels, widths, bottleneck, classes, depths, knobs)

    def forward(self, image):
        features = self.encoder(image)
        logits = self.decoder(self.bottleneck(features[-1]), features)
        return F.interpolate(logits, image.shape[2:], mode=self.knobs.logits_mode)
