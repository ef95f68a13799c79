"""SegNeXt in PyTorch, official and the haemorrhage-CT project's variant, written from descriptions of papers and repositories.

Parameter names are those of Visual-Attention-Network/SegNeXt (official) and of the haemorrhage-CT project.
`Knobs` are deliberate mistakes that the parity test must detect.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

FFN_RATIOS = (8, 8, 4, 4)


@dataclasses.dataclass
class Knobs:
    gelu: str = "none"
    bn_eps: float = 1e-5
    end_eps: float = 1e-5  # GroupNorm and LayerNorm
    align_corners: bool | None = None  # of the last resize; None: as the variant has it
    feature_corners: bool = False
    strip_shift: bool = False  # the 21-strips padded by (9, 11)
    order: tuple = (1, 2, 3)
    strips_from: str | None = None
    shortcut: bool | None = None
    nmf_steps: int | None = None


def conv(cin, cout, k=1, stride=1, groups=1, bias=True):
    pad = tuple(n // 2 for n in k) if isinstance(k, tuple) else k // 2
    return nn.Conv2d(cin, cout, k, stride, pad, groups=groups, bias=bias)


class Holder(nn.Module):
    """A module that only holds submodules under the given names."""

    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            setattr(self, name, child)


def gelu(x, knobs):
    return F.gelu(x, approximate=knobs.gelu)


def strip(layer, x, knobs):
    if knobs.strip_shift and max(layer.kernel_size) == 21:
        pad = [0, 0, 0, 0]
        axis = 0 if layer.kernel_size[1] == 21 else 2
        pad[axis], pad[axis + 1] = 9, 11
        return F.conv2d(F.pad(x, pad), layer.weight, layer.bias, groups=layer.groups)
    return layer(x)


def factorise(x, bases, steps, eps, quotient_first, frozen):
    """NMF of x [B, C, H, W] with bases [1, C, R]."""
    b, c, h, w = x.shape
    x = x.reshape(b, c, h * w)
    bases = bases.expand(b, -1, -1)

    def ratio(value, num, den):
        return value * (num / (den + eps)) if quotient_first else value * num / (den + eps)

    def iterate(x, bases):
        coef = torch.softmax(x.transpose(1, 2) @ bases, dim=-1)
        for _ in range(steps):
            coef = ratio(coef, x.transpose(1, 2) @ bases, coef @ (bases.transpose(1, 2) @ bases))
            bases = ratio(bases, x @ coef, bases @ (coef.transpose(1, 2) @ coef))
        return coef, bases

    if frozen:
        with torch.no_grad():
            coef, bases = iterate(x, bases)
    else:
        coef, bases = iterate(x, bases)
    coef = ratio(coef, x.transpose(1, 2) @ bases, coef @ (bases.transpose(1, 2) @ bases))
    return (bases @ coef.transpose(1, 2)).reshape(b, c, h, w)


def bn(c, knobs, momentum):
    return nn.BatchNorm2d(c, eps=knobs.bn_eps, momentum=momentum)


# ---------------------------------------------------------------- official


class OfficialBlock(nn.Module):
    def __init__(self, dim, ratio, knobs):
        super().__init__()
        self.knobs = knobs
        dw = lambda k: conv(dim, dim, k, groups=dim)
        self.norm1, self.norm2 = bn(dim, knobs, 0.1), bn(dim, knobs, 0.1)
        gate = Holder(
            conv0=dw(5),
            conv0_1=dw((1, 7)),
            conv0_2=dw((7, 1)),
            conv1_1=dw((1, 11)),
            conv1_2=dw((11, 1)),
            conv2_1=dw((1, 21)),
            conv2_2=dw((21, 1)),
            conv3=conv(dim, dim),
        )
        self.attn = Holder(proj_1=conv(dim, dim), spatial_gating_unit=gate, proj_2=conv(dim, dim))
        self.mlp = Holder(
            fc1=conv(dim, dim * ratio),
            fc2=conv(dim * ratio, dim),
            dwconv=Holder(dwconv=conv(dim * ratio, dim * ratio, 3, groups=dim * ratio)),
        )
        self.layer_scale_1 = nn.Parameter(torch.full((dim,), 1e-2))
        self.layer_scale_2 = nn.Parameter(torch.full((dim,), 1e-2))

    def attend(self, z):
        k, g = self.knobs, self.attn.spatial_gating_unit
        u = gelu(self.attn.proj_1(z), k)
        local = g.conv0(u)
        source = u if k.strips_from == "input" else local
        total = local
        for i in range(3):
            row, column = getattr(g, f"conv{i}_1"), getattr(g, f"conv{i}_2")
            total = total + strip(column, strip(row, source, k), k)
        out = self.attn.proj_2(g.conv3(total) * u)
        return out if k.shortcut is False else out + z

    def forward(self, x):
        x = x + self.layer_scale_1[:, None, None] * self.attend(self.norm1(x))
        y = self.mlp.dwconv.dwconv(self.mlp.fc1(self.norm2(x)))
        return x + self.layer_scale_2[:, None, None] * self.mlp.fc2(gelu(y, self.knobs))


class Official(nn.Module):
    def __init__(
        self, dims, depths, *, ham, width, bases, ratios=FFN_RATIOS, in_channels=3, classes=150, knobs=None, dropout=0.1
    ):
        super().__init__()
        self.knobs = knobs = knobs or Knobs()
        norm = lambda c: bn(c, knobs, 0.1)
        gn = lambda c: nn.GroupNorm(32, c, eps=knobs.end_eps)
        self.backbone = nn.Module()
        ins = (in_channels, *dims)
        for i, d in enumerate(dims):
            if i == 0:
                embed = Holder(
                    proj=nn.Sequential(
                        conv(in_channels, d // 2, 3, 2),
                        norm(d // 2),
                        nn.GELU(approximate=knobs.gelu),
                        conv(d // 2, d, 3, 2),
                        norm(d),
                    )
                )
            else:
                embed = Holder(proj=conv(ins[i], d, 3, 2), norm=norm(d))
            setattr(self.backbone, f"patch_embed{i + 1}", embed)
            setattr(self.backbone, f"block{i + 1}", nn.ModuleList([OfficialBlock(d, ratios[i], knobs) for _ in range(depths[i])]))
            setattr(self.backbone, f"norm{i + 1}", nn.LayerNorm(d, eps=knobs.end_eps))
        burger = Holder(
            ham_in=Holder(conv=conv(ham, ham)), ham=nn.Module(), ham_out=Holder(conv=conv(ham, ham, bias=False), gn=gn(ham))
        )
        burger.ham.register_buffer("bases", F.normalize(torch.rand(1, ham, bases), dim=1))
        self.decode_head = Holder(
            conv_seg=conv(width, classes),
            squeeze=Holder(conv=conv(sum(dims[1:]), ham, bias=False), gn=gn(ham)),
            hamburger=burger,
            align=Holder(conv=conv(ham, width, bias=False), gn=gn(width)),
        )
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, image):
        k, features, x = self.knobs, [], image
        for i in range(1, 5):
            embed = getattr(self.backbone, f"patch_embed{i}")
            x = embed.proj(x)
            x = embed.norm(x) if i > 1 else x
            for block in getattr(self.backbone, f"block{i}"):
                x = block(x)
            x = getattr(self.backbone, f"norm{i}")(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            features.append(x)
        head, size = self.decode_head, features[1].shape[2:]
        x = torch.cat([F.interpolate(features[i], size, mode="bilinear", align_corners=k.feature_corners) for i in k.order], 1)
        x = F.relu(head.squeeze.gn(head.squeeze.conv(x)))
        burger = head.hamburger
        steps = k.nmf_steps or (6 if self.training else 7)
        y = factorise(F.relu(burger.ham_in.conv(x)), burger.ham.bases, steps, 1e-6, False, False)
        x = F.relu(x + burger.ham_out.gn(burger.ham_out.conv(y)))
        x = head.conv_seg(self.dropout(F.relu(head.align.gn(head.align.conv(x)))))
        return F.interpolate(x, image.shape[2:], mode="bilinear", align_corners=bool(k.align_corners))


# ---------------------------------------------------------------- haemorrhage project


class IchBlock(nn.Module):
    def __init__(self, dim, ratio, knobs):
        super().__init__()
        self.knobs = knobs
        dw = lambda k: conv(dim, dim, k, groups=dim)
        wrapped = lambda: Holder(norm=bn(dim, knobs, 0.9))
        scale = lambda: Holder(layer_scale=nn.Parameter(torch.full((dim,), 1e-2)))
        msca = Holder(
            conv55=dw(5),
            conv17_0=dw((1, 7)),
            conv17_1=dw((7, 1)),
            conv111_0=dw((1, 11)),
            conv111_1=dw((11, 1)),
            conv211_0=dw((1, 21)),
            conv211_1=dw((21, 1)),
            conv11=conv(dim, dim),
        )
        self.msca_block = Holder(norm=wrapped(), proj1=conv(dim, dim), msca=msca, proj2=conv(dim, dim), layer_scale=scale())
        hidden = dim * ratio
        ffn = Holder(fc1=conv(dim, hidden), dwconv=Holder(dwconv=conv(hidden, hidden, 3, groups=hidden)), fc2=conv(hidden, dim))
        self.ffn_block = Holder(norm=wrapped(), ffn=ffn, layer_scale=scale())

    def forward(self, x):
        k, a, f = self.knobs, self.msca_block, self.ffn_block
        z = a.norm.norm(x)
        u = gelu(a.proj1(z), k)
        local = a.msca.conv55(u)
        source = local if k.strips_from == "local" else u
        total = local
        for width in ("17", "111", "211"):
            row, column = getattr(a.msca, f"conv{width}_0"), getattr(a.msca, f"conv{width}_1")
            total = total + strip(column, strip(row, source, k), k)
        y = a.proj2(a.msca.conv11(total) * u)
        y = y + z if k.shortcut else y
        x = x + a.layer_scale.layer_scale[:, None, None] * y
        y = f.ffn.fc2(gelu(f.ffn.dwconv.dwconv(f.ffn.fc1(f.norm.norm(x))), k))
        return x + f.layer_scale.layer_scale[:, None, None] * y


class Ich(nn.Module):
    def __init__(
        self,
        dims,
        depths,
        *,
        ham,
        width,
        bases,
        ratios=FFN_RATIOS,
        in_channels=1,
        classes=1,
        knobs=None,
        dropout=0.1,
        cheese=False,
    ):
        super().__init__()
        self.knobs = knobs = knobs or Knobs()
        wrapped = lambda c: Holder(norm=bn(c, knobs, 0.9))
        self.encoder = nn.Module()
        ins = (in_channels, *dims)
        for i, d in enumerate(dims):
            if i == 0:
                proj = nn.Sequential(
                    conv(in_channels, d // 2, 3, 2),
                    wrapped(d // 2),
                    nn.GELU(approximate=knobs.gelu),
                    conv(d // 2, d, 3, 2),
                    wrapped(d),
                )
            else:
                proj = conv(ins[i], d, 3, 2)
            setattr(self.encoder, f"input_embed{i + 1}", Holder(proj=proj))
            setattr(self.encoder, f"stage{i + 1}", nn.ModuleList([IchBlock(d, ratios[i], knobs) for _ in range(depths[i])]))
            setattr(self.encoder, f"norm_layer{i + 1}", wrapped(d))
        ham_attn = Holder(
            lower_bread=nn.Sequential(conv(ham, ham), nn.ReLU()), ham=nn.Module(), upper_bread=conv(ham, ham, bias=False)
        )
        ham_attn.ham.register_buffer("bases", F.normalize(torch.rand(1, ham, bases), dim=1))
        if cheese:  # made by the source's constructor, never called
            ham_attn.cheese = nn.Sequential(conv(ham, ham, 3, bias=False), nn.BatchNorm2d(ham))
        self.decoder = Holder(
            squeeze=Holder(conv=conv(sum(dims[1:]), ham, bias=False)), ham_attn=ham_attn, align=conv(ham, width)
        )
        self.cls_conv = nn.Sequential(nn.Dropout2d(dropout), conv(width, classes))

    def features(self, x):
        for i in range(1, 5):
            x = self._embed(i, x)
            for block in getattr(self.encoder, f"stage{i}"):
                x = block(x)
            x = getattr(self.encoder, f"norm_layer{i}").norm(x)
            yield x

    def _embed(self, i, x):
        proj = getattr(self.encoder, f"input_embed{i}").proj
        if i > 1:
            return proj(x)
        for layer in proj:
            x = layer.norm(x) if isinstance(layer, Holder) else layer(x)
        return x

    def forward(self, image):
        k, features = self.knobs, list(self.features(image))
        size = features[1].shape[2:]
        x = torch.cat([F.interpolate(features[i], size, mode="bilinear", align_corners=k.feature_corners) for i in k.order], 1)
        x = F.relu(self.decoder.squeeze.conv(x))
        h = self.decoder.ham_attn
        y = factorise(F.relu(h.lower_bread[0](x)), h.ham.bases, k.nmf_steps or 6, 1e-7, True, True)
        x = self.cls_conv(self.decoder.align(F.relu(x + h.upper_bread(y))))
        corners = True if k.align_corners is None else k.align_corners
        return F.interpolate(x, image.shape[2:], mode="bilinear", align_corners=corners)
