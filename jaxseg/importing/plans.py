"""Read one configuration of nnU-Net's plans.json: the preparation of images, and the network.

Both formats are read: "architecture" with its arguments (since nnU-Net 2.4), and the older "UNet_class_name" with sizes beside
it. Settings that jaxseg does not support are refused by name, so that an imported network never gets images that were prepared
differently from those it was trained on.

Source: MIC-DKFZ/nnUNet, nnunetv2/utilities/plans_handling/plans_handler.py, preprocessing/preprocessors/default_preprocessor.py.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxseg.types import DataError, MismatchError
from jaxseg.utils import guard
from jaxseg.utils.guard import shown
from jaxseg.utils.lookup import lookup

PICTURES = "NaturalImage2DIO"
READERS = {  # image_reader_writer -> data.orientation
    "SimpleITKIO": "file",
    "NibabelIO": "file",
    "NibabelIOWithReorient": "ras",
    "SimpleITKIOWithReorient": "ras",
    PICTURES: "file",
}
SCHEMES = {  # normalization_schemes -> data.intensity
    "ZScoreNormalization": "zscore",
    "CTNormalization": "ct_zscore",
    "RescaleTo01Normalization": "rescale_to_01",
    "RGBTo01Normalization": "rgb_to_01",
    "NoNormalization": "none",
}
NETWORKS = {
    "PlainConvUNet": ("nnunet_plain", "n_conv_per_stage"),
    "ResidualEncoderUNet": ("nnunet_resenc_l", "n_blocks_per_stage"),
}
_STATISTICS = ("percentile_00_5", "percentile_99_5", "mean", "std")
_FIXED = {  # arguments of nnU-Net's networks that are supported with these values alone
    "conv_bias": (True,),
    "dropout_op": (None,),
    "nonlin": ("torch.nn.LeakyReLU",),
    "nonlin_first": (False,),
    "stem_channels": (None,),
    "bottleneck_channels": (None,),
}
_READ = {"n_stages", "features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage", "n_blocks_per_stage"}
_READ |= {"n_conv_per_stage_decoder", "conv_op", "norm_op", "norm_op_kwargs", "nonlin_kwargs", "dropout_op_kwargs"}
_RESAMPLERS = {"resampling_fn_data": 3, "resampling_fn_seg": 1, "resampling_fn_probabilities": 1}  # -> order of the splines


class ModelPlan(NamedTuple):
    """One configuration of the plans, as values of config keys.

    Attributes:
      name: name of the configuration ("3d_fullres").
      rank: spatial axes of nnU-Net's network. A 2-D network becomes a 3-D one whose input has size 1 along the first axis.
      data: keys of config.data.
      model: registry name of the network.
      options: options of the network.
      batch: examples in a training batch.
      pictures: whether images are pictures, with their colours as the channels of one file.
      previous: name of the configuration whose segmentation the network takes as further channels ("3d_lowres"), the first
        stage of a cascade; "" if it takes the image alone.
    """

    name: str
    rank: int
    data: dict[str, Any]
    model: str
    options: dict[str, Any]
    batch: int
    pictures: bool
    previous: str


def read(path: Path, configuration: str, channels: int) -> ModelPlan:
    """Read one configuration.

    Args:
      path: plans.json.
      configuration: its name ("3d_fullres").
      channels: number of image channels.
    Raises:
      DataError: DATA_TABLE, the file is not a plans.json.
      MismatchError: the plan uses something that jaxseg does not support.
    """
    plans = guard.read_json(path)
    try:
        found = _configuration(plans["configurations"], configuration)
        return _plan(plans, found, configuration, channels)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError | MismatchError):
            raise
        said = f"{type(error).__name__} {guard.one_line(str(error))[:80]}"
        raise DataError(
            f"{path}: not a plans.json of nnU-Net 2: {said}; give the folder that its training wrote", "DATA_TABLE"
        ) from error


def _configuration(known: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The settings of a configuration, including inherited ones."""
    chain: list[str] = []
    while name is not None:
        if name in chain:
            raise ValueError(f"{name} inherits from itself")
        lookup("configuration of plans.json", name, known)
        chain.append(name)
        name = known[name].get("inherits_from")
    return {key: value for link in reversed(chain) for key, value in known[link].items()}


def _plan(plans: Mapping[str, Any], found: Mapping[str, Any], name: str, channels: int) -> ModelPlan:
    _accept(name, "preprocessor_name", found.get("preprocessor_name", "DefaultPreprocessor"), ("DefaultPreprocessor",))
    _accept(name, "label_manager", plans.get("label_manager", "LabelManager"), ("LabelManager",))
    _check_resamplers(name, found)
    rank = len(found["patch_size"])
    flat = rank == 2
    forward = plans["transpose_forward"]
    if rank not in (2, 3) or sorted(forward) != [0, 1, 2]:
        raise ValueError(f"patch_size {found['patch_size']}, transpose_forward {forward}")
    reader = plans["image_reader_writer"]
    _accept(name, "image_reader_writer", reader, tuple(READERS))
    rules, statistics = _intensities(plans, found, name, channels)
    model, options = _network(found, name, rank)
    data = {
        "size": (1,) * flat + tuple(map(int, found["patch_size"])),
        "spacing": (0.0,) * flat + tuple(map(float, found["spacing"])),
        "axes": tuple(2 - axis for axis in forward),  # nnU-Net's readers reverse the order of the file's axes
        "orientation": READERS[reader],
        "channels": channels,
        "intensity": rules[0] if len(set(rules)) == 1 else "+".join(rules),
        "statistics": statistics if "ct_zscore" in rules else (),
    }
    previous = str(found.get("previous_stage") or "")
    return ModelPlan(name, rank, data, model, options, int(found["batch_size"]), reader == PICTURES, previous)


def _accept(name: str, key: str, value: Any, known: tuple) -> None:
    if value not in known:
        raise MismatchError(
            f"configuration {name}: {key} {shown(value)} is not supported; only models with "
            f"{', '.join(map(str, known))} can be imported"
        )


def _check_resamplers(name: str, found: Mapping[str, Any]) -> None:
    for key, order in _RESAMPLERS.items():
        _accept(name, key, found[key], ("resample_data_or_seg_to_shape",))
        given = found[f"{key}_kwargs"]
        _accept(name, f"{key}: order", given.get("order"), (order,))
        _accept(name, f"{key}: order_z", given.get("order_z", 0), (0,))
        _accept(name, f"{key}: force_separate_z", given.get("force_separate_z"), (None,))


def _intensities(plans, found, name: str, channels: int) -> tuple[list[str], tuple]:
    """(data.intensity of each channel, data.statistics)."""
    schemes, masked = list(found["normalization_schemes"]), list(found["use_mask_for_norm"])
    if len(schemes) == 1 < channels:
        schemes, masked = schemes * channels, masked * channels
    if not len(schemes) == len(masked) == channels:
        raise ValueError(f"{len(schemes)} normalization_schemes for {channels} channels")
    rules = []
    for scheme, mask in zip(schemes, masked):
        _accept(name, "normalization_schemes", scheme, tuple(SCHEMES))
        rules.append(SCHEMES[scheme] + ("_nonzero" if mask and scheme == "ZScoreNormalization" else ""))
    if "ct_zscore" not in rules:
        return rules, ()
    key = "foreground_intensity_properties_per_channel"
    known = plans[key if key in plans else "foreground_intensity_properties_by_modality"]
    return rules, tuple(tuple(float(known[str(c)][word]) for word in _STATISTICS) for c in range(channels))


def _network(found: Mapping[str, Any], name: str, rank: int) -> tuple[str, dict[str, Any]]:
    """(registry name, options) of the network."""
    if "architecture" in found:
        kind, given = found["architecture"]["network_class_name"].rpartition(".")[2], dict(found["architecture"]["arch_kwargs"])
    else:
        kind, given = found["UNet_class_name"], _older(found)
    _accept(name, "network", kind, tuple(NETWORKS))
    model, counted = NETWORKS[kind]
    for key, values in _FIXED.items():
        _accept(name, f"network: {key}", given.get(key, values[0]), values)
    unknown = sorted(given.keys() - _READ - _FIXED.keys() - {"block"})
    if unknown:
        raise MismatchError(f"configuration {name}: the network's arguments {', '.join(unknown)} are not supported")
    _accept(name, "network: block", (given.get("block") or "BasicBlockD").rpartition(".")[2], ("BasicBlockD",))
    _accept(name, "network: norm_op", given["norm_op"].rpartition(".")[2], (f"InstanceNorm{rank}d",))
    norm, slope = given.get("norm_op_kwargs") or {}, (given.get("nonlin_kwargs") or {}).get("negative_slope", 0.01)
    _accept(name, "network: affine", norm.get("affine", False), (True,))
    if not math.isclose(norm.get("eps", 1e-5), 1e-5) or not math.isclose(slope, 0.01):
        raise MismatchError(
            f"configuration {name}: norm {norm}, slope {slope} are not supported; they must be eps 1e-5 and slope 0.01"
        )
    n, flat = given["n_stages"], (1,) * (rank == 2)
    each = lambda value, count: [value] * count if isinstance(value, int) else list(value)
    sizes = lambda key: tuple(flat + tuple(each(size, rank)) for size in each(given[key], n))
    options = {
        "widths": tuple(each(given["features_per_stage"], n)),
        "kernels": sizes("kernel_sizes"),
        "strides": sizes("strides"),
        "convs": tuple(each(given[counted], n)),
        "decoder_convs": tuple(each(given["n_conv_per_stage_decoder"], n - 1)),
    }
    return model, options


def _older(found: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a network in plans without "architecture"."""
    counts, most = found["n_conv_per_stage_encoder"], found["unet_max_num_features"]
    return {
        "n_stages": len(counts),
        "features_per_stage": [min(found["UNet_base_num_features"] * 2**i, most) for i in range(len(counts))],
        "kernel_sizes": found["conv_kernel_sizes"],
        "strides": found["pool_op_kernel_sizes"],
        "n_conv_per_stage": counts,
        "n_blocks_per_stage": counts,
        "n_conv_per_stage_decoder": found["n_conv_per_stage_decoder"],
        "norm_op": f"InstanceNorm{len(found['patch_size'])}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    }
