"""Convert a model that MONAI trained into a run folder: a bundle, or the state dict of a named network with its settings.

Settings are read from a bundle's JSON (`bundle`). Those that it does not state must be given on the command line, which also
overrides the JSON. The supported networks are those for volumes: UNETR, SwinUNETR, SegResNet, DynUNet, BasicUNet. A sigmoid over
several channels is imported as overlapping structures (`data.datasets.own.overlap`); as in MONAI, each is predicted as a mask.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxseg import config as configs
from jaxseg.data.datasets.own import overlap
from jaxseg.importing import bundle, run_folder
from jaxseg.metrics.regions import Regions
from jaxseg.models import create_model, functional
from jaxseg.types import CheckpointError, ConfigError, MismatchError
from jaxseg.utils import files
from jaxseg.utils.guard import shown
from jaxseg.weights import from_torch

FLAGS = {  # required setting -> how to give it on the command line
    "spacing": "--spacing=1.5,1.5,2 (mm; --spacing=scan for none)",
    "orientation": "--orientation=ras, lps or file",
    "intensity": "--intensity=zscore, zscore_own_nonzero, rescale_to_01, none or range,LOW,HIGH,0,1 (clipped)",
    "window": "--window=96,96,96 (voxels)",
    "overlap": "--overlap=0.25",
    "blend": "--blend=constant or gaussian",
    "activation": "--activation=softmax or sigmoid",
    "classes": "--classes=liver,tumour (without the background)",
}
_IDLE = {"dropout_rate", "attn_drop_rate", "dropout_path_rate", "use_checkpoint", "save_attn"}  # used in training only


def import_model(
    source: Path,
    output: Path,
    tree: ConfigDict,
    *,
    given: Mapping[str, Any],
    network: tuple[str, dict[str, Any]] | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Write a run folder. An interrupted import leaves no incomplete run folder.

    Args:
      source: a bundle's folder, or a weight file.
      output: the run folder to write.
      tree: a config tree with the settings that a bundle lacks, from configs/_monai.py.
      given: fields of `bundle.Settings` from the command line, which override the JSON.
      network: (registry name, options) for weights without a bundle.
      say: called with each line of the report.
    Returns:
      The run folder.
    Raises:
      CheckpointError: there are no weights.
      ConfigError: a required setting is missing, a sigmoid has more than 8 channels, or the run folder exists.
      DataError: a file cannot be used.
      MismatchError: the model uses something that jaxseg does not support, or its weights do not fit the network.
    """
    if output.exists():
        raise ConfigError(f"--output={output} exists; delete it, or give another --output")
    stated = bundle.read(source) if source.is_dir() else bundle.Settings()
    weights = next((source / name for name in bundle.WEIGHTS if (source / name).is_file()), None) if source.is_dir() else source
    if weights is None or not weights.is_file():
        raise CheckpointError(f"{source}: has no {' or '.join(bundle.WEIGHTS)}; put the trained weights there")
    for key in given:
        said = getattr(stated, key)
        if said is not None and said != () and said != given[key]:
            say(f"{key} {given[key]} from the command line overrides {said} of the bundle")
    settings = stated._replace(**given)
    name, options, remarks, inputs, outputs = _network(settings, network)
    missing = [key for key in FLAGS if getattr(settings, key) is None]
    if missing:
        raise ConfigError(f"{source} does not state {', '.join(missing)}; give {' '.join(FLAGS[key] for key in missing)}")
    for remark in remarks:
        say(remark)
    config = _config(tree, settings, name, options, inputs, output.name)
    labels, regions = _classes(settings, outputs)
    config.data.structures, config.data.regions = labels, tuple(regions)
    config.model.softmax = len(labels) == 1 and settings.activation == "softmax"
    config.infer.postprocess = bool(settings.largest)
    if regions or outputs == 1:
        config.loss.terms = (("dice", 1.0), ("bce", 1.0))
    config = configs.resolve(config)
    model = create_model(name, in_channels=inputs, num_classes=outputs, rank=3, **options)
    try:
        report = from_torch.load(model, weights)
        model.check((1, *config.data.size, inputs))
    except MismatchError as error:
        raise MismatchError(f"{weights}: {error}") from error
    except ValueError as error:
        raise MismatchError(f"{weights}: windows of {settings.window}: {error}") from error
    _, params, state = functional.split(model)
    record = run_folder.record(
        config,
        labels=labels,
        values=range(1, len(labels) + 1),
        regions=regions,
        modalities=settings.channels,
        num_classes=outputs,
        params=params,
        imported={"from": "MONAI", "network": name, "file": str(weights)},
    )
    files.make_folder(output.parent, f"--output={output}")
    steps = _steps(settings, len(labels))
    files.build_folder(output, lambda place: run_folder.write(place, record, (params, state), weights, steps))
    count, grid = record["model"]["parameters"], f"{settings.spacing} mm" if config.data.spacing else "the scan's own spacing"
    say(f"{output}: {name}, {count:,} parameters from {weights.name} (key mapping {report.key_mapping!r}), {inputs} channels")
    say(f"  {settings.activation} over {', '.join(settings.classes)}")
    say(f"  orientation {settings.orientation} at {grid}, {settings.intensity} {settings.statistics or ''}")
    if steps:
        say(f"  post-processing: the largest component is kept, {len(steps)} steps")
    say(f"  windows of {settings.window} voxels, overlap {settings.overlap}, {settings.blend}")
    return output


def _config(
    tree: ConfigDict, settings: bundle.Settings, name: str, options: Mapping[str, Any], channels: int, run: str
) -> ConfigDict:
    c = tree.copy_and_resolve_references().unlock()
    several = channels > 1
    if several and settings.together:
        raise MismatchError(
            f"the bundle scales {channels} channels together (channel_wise is false), which is not supported; "
            f"give {FLAGS['intensity']}"
        )
    if settings.channels and len(settings.channels) != channels:
        raise MismatchError(
            f"the bundle names {len(settings.channels)} channels, but the network has {channels}; give --channels"
        )
    c.name, c.data.channels = run, channels
    c.data.size, c.data.spacing = settings.window, settings.spacing if any(settings.spacing) else ()
    c.data.orientation, c.data.intensity = settings.orientation, settings.intensity
    c.data.filter = settings.filter if c.data.spacing else "linear"
    c.data.statistics = (settings.statistics,) * channels if settings.intensity == "ct_zscore" else ()
    c.data.modalities = settings.channels or None
    c.model.name, c.model.options = name, ConfigDict(dict(options))
    c.infer.overlap, c.infer.blend = settings.overlap, settings.blend
    c.eval.threshold = settings.threshold
    c.train.dtype = "float32"
    return c


def _classes(settings: bundle.Settings, outputs: int) -> tuple[tuple[str, ...], Regions]:
    """(names of the labels, regions): those of a softmax, of one sigmoid, or of every combination of several."""
    names = tuple(settings.classes)
    wanted = outputs - 1 if settings.activation == "softmax" else outputs
    if len(names) != wanted or wanted < 1:
        raise MismatchError(
            f"got {len(names)} classes ({', '.join(names)}) for {outputs} outputs with a {settings.activation}; give --classes "
            f"with {max(wanted, 1)}"
        )
    if settings.activation == "softmax" or outputs == 1:
        return names, ()
    return overlap.combinations(names), overlap.regions(names)


def _steps(settings: bundle.Settings, classes: int) -> list[dict[str, Any]]:
    """The post-processing of the settings, as steps of `infer.postprocess`.

    Raises:
      MismatchError: it is for classes that there are not.
    """
    groups = [(k,) for k in range(1, classes + 1)] if settings.largest == ((0,),) else list(settings.largest)
    wrong = sorted({k for group in groups for k in group if not 1 <= k <= classes})
    if wrong:
        raise MismatchError(f"{bundle.LARGEST}: applied_labels {wrong[0]} is none of the classes 1..{classes}; correct it")
    return [{"step": "keep_largest", "options": {"classes": list(group)} if group else {}} for group in groups]


def _network(
    settings: bundle.Settings, named: tuple[str, dict[str, Any]] | None
) -> tuple[str, dict[str, Any], list[str], int, int]:
    """(registry name, options, remarks, input channels, outputs)."""
    if named is not None:
        name, options = named
        sizes = {key: options.pop(key, None) for key in ("in_channels", "num_classes")}
        channels = sizes["in_channels"] or len(settings.channels) or 1
        labels = len(settings.classes or ())
        return name, options, [], channels, sizes["num_classes"] or labels + (settings.activation == "softmax")
    if settings.network is None:
        raise ConfigError(f"{bundle.INFERENCE} does not state the network (network_def); give --network=NAME and its --option")
    kind, arguments = settings.network
    if kind not in NETWORKS:
        raise MismatchError(f"the network {kind} is not supported; only {', '.join(NETWORKS)} can be imported")
    left = _Arguments(kind, arguments)
    if left.take("spatial_dims", 3) != 3:
        raise MismatchError(f"{kind} with spatial_dims {arguments['spatial_dims']} is not supported; must be 3")
    inputs, outputs = left.take("in_channels", 1), left.take("out_channels", 2)
    name, options = NETWORKS[kind](left)
    left.finish()
    return name, {k: v for k, v in options.items() if v is not None}, left.remarks, inputs, outputs


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
    return isinstance(value, bundle.Expression) or any(map(_has_expression, inner))


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


NETWORKS = {"UNETR": _unetr, "SwinUNETR": _swin_unetr, "SegResNet": _segresnet, "DynUNet": _dynunet, "BasicUNet": _basicunet}
