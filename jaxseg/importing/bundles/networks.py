"""MONAI's networks as networks of jaxseg: class and arguments become a registry name and its options."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxseg.importing.bundles import settings as bundle
from jaxseg.importing.bundles.configuration import INFERENCE, Expression
from jaxseg.types import ConfigError, MismatchError
from jaxseg.utils.guard import shown

_IDLE = {
    "dropout_rate",
    "attn_drop_rate",
    "dropout_path_rate",
    "use_checkpoint",
    "save_attn",
    "label_nc",
}  # used in training only


class Described(NamedTuple):
    """A network of a bundle, or of the command line.

    Attributes:
      name: its registry name; of networks of two axes too.
      options: its options.
      inputs, outputs: numbers of image channels and of logits.
      rank: 2 for a network of two axes, which is applied to planes.
      remarks: lines to print.
    """

    name: str
    options: dict[str, Any]
    inputs: int
    outputs: int
    rank: int = 3
    remarks: tuple[str, ...] = ()


def described(settings: bundle.Settings, named: tuple[str, dict[str, Any]] | None) -> Described:
    """Describe the network that a bundle states, or that was named on the command line.

    Args:
      settings: the settings of the bundle and of the command line.
      named: (registry name, options) for weights without a bundle; an option "rank" of 2 is for networks of two axes.
    Raises:
      ConfigError: no network is stated.
      MismatchError: jaxseg does not have the network, or not with one of its arguments.
    """
    if named is not None:
        name, options = named
        sizes = {key: options.pop(key, None) for key in ("in_channels", "num_classes", "rank")}
        channels = sizes["in_channels"] or len(settings.channels) or 1
        outputs = sizes["num_classes"] or len(settings.classes or ()) + (settings.activation == "softmax")
        return Described(name, options, channels, outputs, sizes["rank"] or 3)
    if settings.network is None:
        raise ConfigError(f"{INFERENCE} does not state the network (network_def); give --network=NAME and its --option")
    kind, arguments = settings.network
    if kind not in NETWORKS:
        raise MismatchError(
            f"the network {kind} is not supported; only {', '.join(NETWORKS)} can be imported: train one of them on data of "
            "your own, or run this bundle in MONAI"
        )
    left = _Arguments(kind, arguments)
    rank = left.take("spatial_dims", left.given.pop("dimensions", 3))
    if rank not in (2, 3) or rank == 2 and kind in VOLUMES_ONLY:
        raise MismatchError(f"{kind} with spatial_dims {shown(rank)} is not supported; must be {'3' if rank == 2 else '2 or 3'}")
    inputs, outputs = left.take("in_channels", 1), left.take("out_channels", 2)
    name, options = NETWORKS[kind](left)
    left.finish()
    options = {key: value for key, value in options.items() if value is not None}
    return Described(name, options, inputs, outputs, rank, tuple(left.remarks))


class _Arguments:
    """The arguments of a network; those that remain unused at the end are refused."""

    def __init__(self, kind: str, given: Mapping[str, Any]):
        self.kind, self.given, self.remarks = kind, {k: v for k, v in given.items() if k not in _IDLE}, []

    def take(self, key: str, default: Any = None) -> Any:
        value = self.given.pop(key, default)
        if _has_expression(value):
            raise MismatchError(
                f"{self.kind}: {key} is the expression {shown(value)}, which is not evaluated; replace it by its value"
            )
        return tuple(tuple(v) if isinstance(v, list) else v for v in value) if isinstance(value, list | tuple) else value

    def fixed(self, **known: Any) -> None:
        """Check arguments that must have the given value (the default), or one of several in a tuple."""
        for key, values in known.items():
            values = values if isinstance(values, tuple) else (values,)
            value = self.take(key, values[0])
            if value not in values:
                raise MismatchError(f"{self.kind}: {key} {shown(value)} is not supported; must be {values[0]}")

    def norm(self, key: str, default: Any) -> str:
        """The jaxseg name of a norm."""
        kind, options = _typed(self.take(key, default))
        name = {"batch": "batch", "instance": "instance" if options.pop("affine", False) else "instance_plain", "group": "group"}
        if kind not in name or options.keys() - {"num_groups"} or options.get("eps", 1e-5) != 1e-5:
            raise MismatchError(f"{self.kind}: the norm {kind} with {shown(options)} is not supported")
        return name[kind]

    def act(self, key: str, default: Any) -> str:
        """The jaxseg name of an activation."""
        kind, options = _typed(self.take(key, default))
        slope = options.pop("negative_slope", 0.01)
        options.pop("inplace", None)
        known = {
            ("leakyrelu", 0.01): "leaky_relu",
            ("leakyrelu", 0.1): "leaky_relu_0.1",
            ("relu", 0.01): "relu",
            ("gelu", 0.01): "gelu",
            ("prelu", 0.01): "prelu",
        }
        if options or (kind, slope) not in known:
            raise MismatchError(f"{self.kind}: the activation {kind} with {shown(options)} is not supported")
        return known[kind, slope]

    def dropout(self, key: str) -> None:
        """Ignore a dropout, which jaxseg's network lacks and which does not change predictions."""
        if value := self.take(key):
            self.remarks.append(f"{self.kind}'s {key} {value} is used in training only and is not imported")

    def finish(self) -> None:
        if self.given:
            raise MismatchError(f"{self.kind}: the arguments {', '.join(sorted(self.given))} are not supported")


def _has_expression(value: Any) -> bool:
    inner = value if isinstance(value, list | tuple) else ()
    return isinstance(value, Expression) or any(map(_has_expression, inner))


def _typed(value: Any) -> tuple[str, dict[str, Any]]:
    """("instance", {"affine": True}) of "INSTANCE" or ["INSTANCE", {"affine": True}]."""
    kind, options = value if isinstance(value, Sequence) and not isinstance(value, str) else (value, {})
    return str(kind).lower().replace("_", ""), dict(options)


def _segresnet(a: _Arguments) -> tuple[str, dict[str, Any]]:
    groups = _typed(a.given.get("norm", "group"))[1].get("num_groups", a.take("num_groups", 8))
    a.fixed(use_conv_final=True, norm_name=("", "group", "GROUP"), act=(("RELU", {"inplace": True}), "RELU", "relu"))
    mode = a.take("upsample_mode", "nontrainable")
    ways = {"nontrainable": "linear", "deconv": "transposed"}
    if mode not in ways:
        raise MismatchError(f"SegResNet: upsample_mode {shown(mode)} is not supported; must be one of {', '.join(ways)}")
    return "segresnet", {
        "width": a.take("init_filters", 8),
        "blocks_down": a.take("blocks_down", (1, 2, 2, 4)),
        "blocks_up": a.take("blocks_up", (1, 1, 1)),
        "norm": a.norm("norm", ("GROUP", {"num_groups": 8})),
        "groups": groups,
        "upsampling": ways[mode],
        "dropout": float(a.take("dropout_prob") or 0.0),
    }


def _basicunet(a: _Arguments) -> tuple[str, dict[str, Any]]:
    a.fixed(upsample="deconv")
    a.dropout("dropout")
    return "basicunet", {
        "widths": a.take("features", (32, 32, 64, 128, 256, 32)),
        "norm": a.norm("norm", ("instance", {"affine": True})),
        "act": a.act("act", ("LeakyReLU", {"negative_slope": 0.1})),
        "bias": a.take("bias", True),
    }


def _dynunet(a: _Arguments) -> tuple[str, dict[str, Any]]:
    a.dropout("dropout")
    strides = a.take("strides")
    ups = a.take("upsample_kernel_size")
    if tuple(ups) != tuple(strides[1:]):
        raise MismatchError(
            f"DynUNet: upsample_kernel_size {ups} for strides {strides} is not supported; must be equal to the strides"
        )
    heads = a.take("deep_supr_num", 1)
    filters = a.take("filters")
    return "dynunet", {
        "strides": strides,
        "kernels": a.take("kernel_size"),
        "widths": tuple(filters[: len(strides)]) if filters else None,
        "residual": a.take("res_block", False),
        "norm": a.norm("norm_name", ("INSTANCE", {"affine": True})),
        "act": a.act("act_name", ("leakyrelu", {"negative_slope": 0.01})),
        "up_bias": a.take("trans_bias", False),
        "aux": heads if a.take("deep_supervision", False) else 0,
    }


def _unetr(a: _Arguments) -> tuple[str, dict[str, Any]]:
    a.fixed(proj_type="conv", pos_embed=("conv",), norm_name="instance", conv_block=True, res_block=True, qkv_bias=False)
    return "unetr", {
        "image_size": a.take("img_size"),
        "width": a.take("feature_size", 16),
        "hidden": a.take("hidden_size", 768),
        "mlp": a.take("mlp_dim", 3072),
        "heads": a.take("num_heads", 12),
        "depth": 12,
        "taps": (4, 7, 10),
    }


def _swin_unetr(a: _Arguments) -> tuple[str, dict[str, Any]]:
    a.fixed(norm_name="instance", normalize=True, use_v2=False, patch_size=2, mlp_ratio=4.0, qkv_bias=True, patch_norm=False)
    a.take("img_size")  # older versions only check it
    a.take("drop_rate")
    window = a.take("window_size", 7)
    return "swin_unetr", {
        "width": a.take("feature_size", 24),
        "depths": a.take("depths", (2, 2, 2, 2)),
        "heads": a.take("num_heads", (3, 6, 12, 24)),
        "window": window if isinstance(window, int) else window[0],
        "merging": a.take("downsample", "merging"),
    }


def _unet(a: _Arguments) -> tuple[str, dict[str, Any]]:
    a.fixed(adn_ordering="NDA")
    a.dropout("dropout")
    options = {
        "widths": a.take("channels"),
        "strides": a.take("strides"),
        "units": a.take("num_res_units", 0),
        "kernel": a.take("kernel_size", 3),
        "up_kernel": a.take("up_kernel_size", 3),
        "norm": a.norm("norm", "INSTANCE"),
        "act": a.act("act", "PRELU"),
        "bias": a.take("bias", True),
    }
    for key in ("kernel", "up_kernel"):
        if not isinstance(options[key], int):
            raise MismatchError(f"UNet: {key}_size {shown(options[key])} is not supported; must be one number for all axes")
    return "monai_unet", options


VOLUMES_ONLY = ("UNETR", "SwinUNETR")  # here
NETWORKS = {
    "UNet": _unet,
    "UNETR": _unetr,
    "SwinUNETR": _swin_unetr,
    "SegResNet": _segresnet,
    "DynUNet": _dynunet,
    "BasicUNet": _basicunet,
}
