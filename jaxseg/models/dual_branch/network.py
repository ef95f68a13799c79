"""Networks with one branch per modality, which are concatenated at a deeper level: the BraTS 3-D project's dual- and quad-branch
networks.

Source: the project's models/ (its numbers 01 to 07, 13, 14_*, 18, mobilenetv2_dilated, the modality comparison). Every branch
processes one modality by a stem and some levels; the concatenated features pass through `deep` further levels; the skips of the
decoder are the concatenated features of the branches. With early fusion (01-06) branches reach 1/4 of the input size, with late
fusion (07, 13, 14) 1/8.

Image channels: two are [t1ce, flair], four are [t1, t1ce, t2, flair] (of which a dual-branch network uses two).

Differs from the source: branch A, which has the dilated or large kernels, gets FLAIR (in the source T1ce); the sizes m and l of
07 have the concatenated skip at 1/8, without which the source fails; 18 has a pooling before its last fusion; the shortcut of the
ghost bottleneck, which the source creates but never uses, is added.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from jaxseg.layers import Conv, ForwardContext, Linear
from jaxseg.models.base import Outputs, Segmenter, Variant
from jaxseg.models.dual_branch.blocks import DOWNS, STEMS, UPS
from jaxseg.types import Array, ConfigError
from jaxseg.utils.lookup import lookup

MODALITIES = {2: ("t1ce", "flair"), 4: ("t1", "t1ce", "t2", "flair")}


@dataclasses.dataclass(frozen=True)
class Config:
    """One network.

    Attributes:
      widths: channels of a branch, full size first.
      deep: channels of the levels after the concatenation of the branches.
      outs: channels of the decoder's levels, deepest first.
      downs: the downsampling blocks of each branch (names of blocks.DOWNS), a tuple per branch. The source's later blocks are
        "dilated3" for "dilated" and "vit_patches" for "vit".
      stem: name of blocks.STEMS.
      deep_down: the downsampling block of every deep level.
      ups: name of blocks.UPS, one for all levels or one each.
      act: activation of the blocks that have a choice.
      modalities: the modality of each branch.
      modality_attention: apply ModalityAttention after the second and third level of the branches.
    """

    widths: tuple[int, ...]
    deep: tuple[int, ...]
    outs: tuple[int, ...]
    downs: tuple[tuple[str, ...], ...]
    stem: str = "double"
    deep_down: str = "stride"
    ups: tuple[str, ...] = ("double",)
    act: str = "relu"
    modalities: tuple[str, ...] = ("flair", "t1ce")
    modality_attention: bool = False


class Branch(nnx.Module):
    """Stem and levels for one modality: image [B, *S, 1] -> features, full size first."""

    def __init__(self, config: Config, downs: tuple[str, ...], **same):
        self.stem = lookup("stem", config.stem, STEMS)(1, config.widths[0], **same)
        self.downs = nnx.List(
            [
                lookup("downsampling block", down, DOWNS)(a, b, **same)
                for down, a, b in zip(downs, config.widths[:-1], config.widths[1:], strict=True)
            ]
        )


class ModalityAttention(nnx.Module):
    """Multiply each branch by a factor, sigmoid(f(spatial means of all branches)); the factors do not sum to one."""

    def __init__(self, channels: int, branches: int, *, rngs: nnx.Rngs):
        joined = channels * branches
        self.fc1 = Linear(joined, joined // 4, rngs=rngs)
        self.fc2 = Linear(joined // 4, branches, rngs=rngs)

    def __call__(self, features: list[Array]) -> list[Array]:
        space = tuple(range(1, features[0].ndim - 1))
        means = jnp.concatenate([f.mean(space, keepdims=True) for f in features], axis=-1)
        factors = jax.nn.sigmoid(self.fc2(jax.nn.relu(self.fc1(means))))  # [B, 1.., branches]
        return [f * factors[..., i : i + 1] for i, f in enumerate(features)]


class MultiBranch(Segmenter):
    """Multi-branch network for [B, D, H, W, C], C = 2 or 4 modalities, each axis at least 2^levels; logits [B, D, H, W, K]."""

    def __init__(self, config: Config, *, in_channels: int, num_classes: int, rngs: nnx.Rngs):
        self.in_channels, self.num_classes, self.rank = in_channels, num_classes, 3
        order = MODALITIES.get(in_channels, ())
        if not set(config.modalities) <= set(order):
            raise ConfigError(
                f"got in_channels={in_channels} for branches of {', '.join(config.modalities)}; "
                "must be 2 channels [t1ce, flair] or 4 channels [t1, t1ce, t2, flair]"
            )
        self.channels = tuple(order.index(m) for m in config.modalities)
        same = dict(act=config.act, rank=3, rngs=rngs)
        self.min_size = 2 ** (len(config.widths) + len(config.deep) - 1)
        self.branches = nnx.List([Branch(config, downs, **same) for downs in config.downs])
        n = len(config.downs)
        self.modality_attention = nnx.List(
            [ModalityAttention(w, n, rngs=rngs) if config.modality_attention and i else None for i, w in enumerate(config.widths)]
        )
        skips = [n * w for w in config.widths] + list(config.deep[:-1])
        down = lookup("downsampling block", config.deep_down, DOWNS)
        self.deep = nnx.List([down(a, b, **same) for a, b in zip((n * config.widths[-1], *config.deep), config.deep)])
        ups = config.ups * len(config.outs) if len(config.ups) == 1 else config.ups
        self.ups = nnx.List(
            [
                lookup("upsampling block", up, UPS)(a, b, skip, **same)
                for up, a, b, skip in zip(ups, (config.deep[-1], *config.outs[:-1]), config.outs, skips[::-1], strict=True)
            ]
        )
        self.head = Conv(config.outs[-1], num_classes, 1, rank=3, rngs=rngs)

    def forward(self, image: Array, context: ForwardContext) -> Outputs:
        with jax.named_scope("stem"):
            parts = [branch.stem(image[..., c : c + 1], context) for c, branch in zip(self.channels, self.branches)]
        skips = [jnp.concatenate(parts, axis=-1)]
        for i, modality_attention in enumerate(list(self.modality_attention)[1:]):
            with jax.named_scope(f"branch{i + 2}"):
                parts = [branch.downs[i](part, context) for branch, part in zip(self.branches, parts)]
                parts = parts if modality_attention is None else modality_attention(parts)
            skips.append(jnp.concatenate(parts, axis=-1))
        for i, down in enumerate(self.deep):
            with jax.named_scope(f"down{i + 1}"):
                skips.append(down(skips[-1], context))
        x = skips.pop()
        for i, up in enumerate(self.ups):
            with jax.named_scope(f"up{i + 1}"):
                x = up(x, skips.pop(), context)
        return Outputs(self.head(x))


# size: stem and branch widths (the project's stem, b2, b3), d4, further levels, out
_SIZES = {
    "xs": ((8, 16, 32), 128, (256,), 16),
    "s": ((16, 32, 64), 256, (512,), 32),
    "m": ((32, 64, 128), 256, (512, 1024), 64),
    "l": ((64, 128, 256), 512, (1024, 2048), 128),
}
_BASE = {"xs": 8, "s": 16, "m": 32, "l": 64}


def _early(size, a: str, b: str, deep_down: str) -> Config:
    widths, d4, further, out = size
    deep = (d4, *further)
    return Config(widths, deep, (*deep[-2::-1], 2 * widths[2], widths[1], out), ((a,) * 2, (b,) * 2), deep_down=deep_down)


def _late(size, stem: str, a: tuple[str, ...], b: str, all_levels: bool = False) -> Config:
    widths, d4, further, out = size
    deep = further if all_levels else further[:1]
    return Config((*widths, d4), deep, (*deep[-2::-1], d4, *widths[:0:-1], out), (a, (b,) * 3), stem=stem, deep_down="vit")


def _mobile(k: int, act: str, fixed: bool) -> Config:
    downs = (("attended2", "attended6"),) * 2
    return Config(
        (k, 2 * k, 4 * k),
        (8 * k if fixed else 16 * k,),
        (4 * k,) * 3 if fixed else (4 * k, 2 * k, 2 * k),
        downs,
        stem="attended",
        deep_down="attended_dilated",
        ups=("mobile_compress" if fixed else "mobile",),
        act=act,
    )


def _shuffle18(k: int, act: str) -> Config:
    rest = ("shuffle_v1_r2_more", "shuffle_v1_r16")
    return Config(
        (k, 2 * k, 4 * k, 8 * k),
        (32 * k,),
        (8 * k, 4 * k, 2 * k, 2 * k),
        (("shuffle_v1_r8", *rest), ("shuffle_v1_r2", *rest)),
        deep_down="dilated_mix",
        act=act,
        ups=tuple(f"shuffle_v1_r{r}" for r in (2, 8, 2, 16)),
    )


_EARLY = {
    "01": ("pool", "pool", "pool"),
    "02": ("stride",) * 3,
    "03": ("dilated", "stride", "stride"),
    "04": ("large_ffn4", "stride", "stride"),
    "05": ("large_ffn2", "stride", "stride"),
    "06": ("large_ffn2", "stride", "vit"),
}
_LATE = {  # name: stem, blocks of branch A, block of branch B, whether all deep levels are there
    "07_unet": ("double", ("large_ffn2",) * 3, "stride", True),
    "13_unet": ("inverted4", ("inverted4", "vit", "vit"), "inverted4"),
    "14_mobilenetv2_expand2": ("inverted2", ("inverted2",) * 3, "inverted2"),
    "14_ghostnet": ("ghost", ("ghost",) * 3, "ghost"),
    "14_dilated": ("double", ("dilated",) * 3, "dilated"),
    "14_convnext": ("convnext", ("convnext",) * 3, "convnext"),
    "14_shufflenetv2": ("shuffle_v2", ("shuffle_v2",) * 3, "shuffle_v2"),
    "14_shufflenetv2_dilated": ("shuffle_v2_dilated", ("shuffle_v2_dilated",) * 3, "shuffle_v2_dilated"),
    "14_shufflenetv2_lk": ("shuffle_v2_large", ("shuffle_v2_large",) * 3, "shuffle_v2_large"),
}
_ACT = {"xs": "hard_swish", "s": "hard_swish", "m": "gelu", "l": "gelu"}
_QUAD = Config((8, 16, 32), (256, 512), (256, 128, 64, 32), (("pool",) * 2,) * 4, deep_down="pool", modalities=MODALITIES[4])

_CONFIGS = {}
for _name, _size in _SIZES.items():
    _CONFIGS |= {f"dualbranch_{number}_unet_{_name}": _early(_size, *downs) for number, downs in _EARLY.items()}
    _CONFIGS |= {f"dualbranch_{kind}_{_name}": _late(_size, *choice) for kind, choice in _LATE.items()}
for _name, _k in _BASE.items():
    _CONFIGS[f"dualbranch_mobilenetv2_dilated_{_name}"] = _mobile(_k, _ACT[_name], fixed=False)
    _CONFIGS[f"dualbranch_mobilenetv2_dilated_fixed_{_name}"] = _mobile(_k, _ACT[_name], fixed=True)
    _CONFIGS[f"dualbranch_18_shufflenet_v1_{_name}"] = _shuffle18(_k, _ACT[_name])
_CONFIGS["dualbranch_2modal_unet_s"] = _CONFIGS["dualbranch_01_unet_s"]
_TINY = ((4, 8, 8), 8, (16,), 4)
_CONFIGS |= {
    "dualbranch_03_unet_test": _early(_TINY, "dilated", "stride", "pool"),
    "dualbranch_07_unet_test": _late(_TINY, "double", ("large_ffn2", "stride", "vit"), "stride"),
    "dualbranch_13_unet_test": _late(_TINY, *_LATE["13_unet"]),
    "dualbranch_14_ghostnet_test": _late(_TINY, *_LATE["14_ghostnet"]),
    "dualbranch_14_convnext_test": _late(_TINY, *_LATE["14_convnext"]),
    "dualbranch_14_shufflenetv2_test": _late(
        _TINY, "shuffle_v2_dilated", ("shuffle_v2_large", "shuffle_v2", "shuffle_v2"), "shuffle_v2"
    ),
    "dualbranch_mobilenetv2_dilated_fixed_test": dataclasses.replace(
        _mobile(8, "hard_swish", True), downs=(("attended2",) * 2,) * 2
    ),
    "dualbranch_18_shufflenet_v1_test": _shuffle18(8, "gelu"),
}
VARIANTS = {name: Variant(MultiBranch, config, in_channels=2, num_classes=4, ranks=(3,)) for name, config in _CONFIGS.items()}
VARIANTS |= {
    name: Variant(MultiBranch, config, in_channels=4, num_classes=4, ranks=(3,))
    for name, config in {
        "quadbranch_4modal_unet_s": _QUAD,
        "quadbranch_4modal_attention_unet_s": dataclasses.replace(_QUAD, modality_attention=True),
        "quadbranch_4modal_attention_unet_test": dataclasses.replace(
            _QUAD, widths=(4, 8, 8), deep=(8, 16), outs=(8, 8, 8, 4), modality_attention=True
        ),
    }.items()
}
KEY_MAPPINGS = ()
