"""SegFormer in PyTorch, official and seed, written from the paper's and repositories' facts, with NVlabs' parameter names.

`Knobs` are the choices in which the two differ, and the mistakes that the parity test must notice.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

HEADS, REDUCTIONS = (1, 2, 5, 8), (8, 4, 2, 1)


@dataclasses.dataclass
class Knobs:
    gelu: str = "none"
    head_eps: float = 1e-5
    head_momentum: float = 0.1
    align_corners: bool = False
    block_eps: float = 1e-6
    embed_eps: float = 1e-5  # embeddings and reductions
    feature_corners: bool = False
    finest_first: bool = False
    values_first: bool = False
    interleaved: bool = False  # heads vary fastest within a token's channels
    unscaled: bool = False
    reduce_padded: bool = False


OFFICIAL = Knobs()
ICH = Knobs(gelu="tanh", head_eps=1e-3, head_momentum=0.03, align_corners=True)


class Attention(nn.Module):
    def __init__(self, dim, heads, reduction, knobs):
        super().__init__()
        self.heads, self.knobs = heads, knobs
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        if reduction > 1:
            self.sr = nn.Conv2d(dim, dim, reduction, reduction, padding=1 if knobs.reduce_padded else 0)
            self.norm = nn.LayerNorm(dim, eps=knobs.embed_eps)

    def split(self, x):
        b, n, c = x.shape
        if self.knobs.interleaved:
            return x.reshape(b, n, c // self.heads, self.heads).permute(0, 3, 1, 2)
        return x.reshape(b, n, self.heads, c // self.heads).transpose(1, 2)  # [B, heads, n, d]

    def forward(self, x, h, w):
        b, n, c = x.shape
        source = x
        if hasattr(self, "sr"):
            grid = x.transpose(1, 2).reshape(b, c, h, w)
            source = self.norm(self.sr(grid).flatten(2).transpose(1, 2))
        pair = self.kv(source)
        k, v = pair[..., :c], pair[..., c:]
        if self.knobs.values_first:
            k, v = v, k
        q, k, v = self.split(self.q(x)), self.split(k), self.split(v)
        scale = 1.0 if self.knobs.unscaled else (c // self.heads) ** -0.5
        mixed = torch.softmax(q @ k.transpose(-2, -1) * scale, -1) @ v
        return self.proj(mixed.transpose(1, 2).reshape(b, n, c))


class Depthwise(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)


class Mlp(nn.Module):
    def __init__(self, dim, hidden, gelu):
        super().__init__()
        self.gelu = gelu
        self.fc1, self.dwconv, self.fc2 = nn.Linear(dim, hidden), Depthwise(hidden), nn.Linear(hidden, dim)

    def forward(self, x, h, w):
        x = self.fc1(x)
        grid = x.transpose(1, 2).reshape(x.shape[0], -1, h, w)
        x = self.dwconv.dwconv(grid).flatten(2).transpose(1, 2)
        return self.fc2(F.gelu(x, approximate=self.gelu))


class Block(nn.Module):
    def __init__(self, dim, heads, reduction, knobs):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=knobs.block_eps), nn.LayerNorm(dim, eps=knobs.block_eps)
        self.attn = Attention(dim, heads, reduction, knobs)
        self.mlp = Mlp(dim, 4 * dim, knobs.gelu)

    def forward(self, x, h, w):
        x = x + self.attn(self.norm1(x), h, w)
        return x + self.mlp(self.norm2(x), h, w)


class Embed(nn.Module):
    def __init__(self, cin, cout, kernel, stride, eps):
        super().__init__()
        self.proj, self.norm = nn.Conv2d(cin, cout, kernel, stride, kernel // 2), nn.LayerNorm(cout, eps=eps)


class Backbone(nn.Module):
    def __init__(self, dims, depths, in_channels, knobs):
        super().__init__()
        ins = (in_channels, *dims)
        for i in range(4):
            setattr(self, f"patch_embed{i + 1}", Embed(ins[i], dims[i], *((3, 2) if i else (7, 4)), knobs.embed_eps))
            setattr(
                self, f"block{i + 1}", nn.ModuleList([Block(dims[i], HEADS[i], REDUCTIONS[i], knobs) for _ in range(depths[i])])
            )
            setattr(self, f"norm{i + 1}", nn.LayerNorm(dims[i], eps=knobs.block_eps))

    def forward(self, x):
        features = []
        for i in range(1, 5):
            embed = getattr(self, f"patch_embed{i}")
            x = embed.proj(x)
            h, w = x.shape[2:]
            tokens = embed.norm(x.flatten(2).transpose(1, 2))
            for block in getattr(self, f"block{i}"):
                tokens = block(tokens, h, w)
            x = getattr(self, f"norm{i}")(tokens).transpose(1, 2).reshape(x.shape[0], -1, h, w)
            features.append(x)
        return features


class Projection(nn.Module):
    def __init__(self, cin, cout):
        super().__init__()
        self.proj = nn.Linear(cin, cout)


class Fuse(nn.Module):
    def __init__(self, width, knobs):
        super().__init__()
        self.conv = nn.Conv2d(4 * width, width, 1, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=knobs.head_eps, momentum=knobs.head_momentum)


class Head(nn.Module):
    def __init__(self, dims, width, classes, knobs, unused):
        super().__init__()
        for i, dim in enumerate(dims):
            setattr(self, f"linear_c{i + 1}", Projection(dim, width))
        self.linear_fuse, self.linear_pred = Fuse(width, knobs), nn.Conv2d(width, classes, 1)
        if unused:  # mmseg's base class makes one that this head never calls
            self.conv_seg = nn.Conv2d(width, classes, 1)


class SegFormer(nn.Module):
    def __init__(self, dims, depths, width, *, in_channels=3, classes=2, knobs=OFFICIAL, unused=False):
        super().__init__()
        self.knobs = knobs
        self.backbone = Backbone(dims, depths, in_channels, knobs)
        self.decode_head = Head(dims, width, classes, knobs, unused)

    def forward(self, image):
        features, head = self.backbone(image), self.decode_head
        maps = []
        for i, f in enumerate(features, 1):
            tokens = getattr(head, f"linear_c{i}").proj(f.flatten(2).transpose(1, 2))
            grid = tokens.transpose(1, 2).reshape(f.shape[0], -1, *f.shape[2:])
            maps.append(F.interpolate(grid, features[0].shape[2:], mode="bilinear", align_corners=self.knobs.feature_corners))
        x = torch.cat(maps if self.knobs.finest_first else maps[::-1], 1)
        x = head.linear_pred(F.relu(head.linear_fuse.bn(head.linear_fuse.conv(x))))
        return F.interpolate(x, image.shape[2:], mode="bilinear", align_corners=self.knobs.align_corners)
