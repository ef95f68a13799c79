"""Model folders as nnU-Net leaves them, and cases for them, made from seeds; what it predicts for them lies in expected/.

`live.py` writes expected/ in an environment with nnunetv2; the tests need neither that nor anything that is not here.
"""

import json
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image
from scipy import ndimage

FUNCTION = "resample_data_or_seg_to_shape"
RESAMPLING = {
    f"resampling_fn_{what}": FUNCTION for what in ("data", "seg", "probabilities")
} | {
    f"resampling_fn_{what}_kwargs": {"is_seg": what == "seg", "order": order, "order_z": 0, "force_separate_z": None}
    for what, order in (("data", 3), ("seg", 1), ("probabilities", 1))
}  # fmt: skip
COMMON = {"preprocessor_name": "DefaultPreprocessor", "batch_size": 2, "batch_dice": False, **RESAMPLING}
STATISTICS = {
    "percentile_00_5": -40.0,
    "percentile_99_5": 260.0,
    "mean": 90.0,
    "std": 55.0,
    "min": -60.0,
    "max": 300.0,
    "median": 88.0,
}


def architecture(kind: str, rank: int, widths, kernels, strides, convs, decoder) -> dict:
    counted = "n_conv_per_stage" if kind == "PlainConvUNet" else "n_blocks_per_stage"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{kind}",
        "arch_kwargs": {
            "n_stages": len(widths),
            "features_per_stage": widths,
            "conv_op": f"torch.nn.modules.conv.Conv{rank}d",
            "kernel_sizes": kernels,
            "strides": strides,
            counted: convs,
            "n_conv_per_stage_decoder": decoder,
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{rank}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _older(widths, kernels, strides, convs, decoder) -> dict:
    return {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": widths[0],
        "unet_max_num_features": widths[-1],
        "n_conv_per_stage_encoder": convs,
        "n_conv_per_stage_decoder": decoder,
        "num_pool_per_axis": [sum(s[a] > 1 for s in strides) for a in range(len(strides[0]))],
        "pool_op_kernel_sizes": strides,
        "conv_kernel_sizes": kernels,
    }


# "volumes" transposes, resamples its coarse axis apart, has a normalisation for each channel and flips; "regions" has residual
# blocks, folds, regions and an ignore label, cuts to non-zero voxels and reorients; "planes" is 2-D, its plans of the older form
SIZES = {
    "volumes": ([4, 8], [[1, 3, 3], [3, 3, 3]], [[1, 1, 1], [1, 2, 2]], [2, 1], [1]),
    "regions": ([4, 8, 8], [[3, 3, 3]] * 3, [[1, 1, 1], [2, 2, 2], [1, 2, 2]], [1, 2, 1], [1, 1]),
    "planes": ([4, 8], [[3, 3]] * 2, [[1, 1], [2, 2]], [2, 2], [2]),
    "pictures": ([4, 8], [[3, 3]] * 2, [[1, 1], [2, 2]], [1, 1], [1]),
    "cascade": ([4, 8], [[3, 3, 3]] * 2, [[1, 1, 1], [2, 2, 2]], [1, 1], [1]),
}
SETUPS = {
    "volumes": {
        "configuration": "3d_fullres",
        "kind": "PlainConvUNet",
        "folds": (0,),
        "mirror": (0, 1, 2),
        "dataset": {
            "channel_names": {"0": "T1", "1": "CT"},
            "labels": {"background": 0, "rim": 1, "core": 2},
            "file_ending": ".nii.gz",
        },
        "plans": {"transpose_forward": [1, 0, 2], "transpose_backward": [1, 0, 2], "image_reader_writer": "SimpleITKIO"},
        "found": {
            "patch_size": [6, 16, 12],
            "spacing": [3.5, 1.0, 1.1],
            "normalization_schemes": ["ZScoreNormalization", "CTNormalization"],
            "use_mask_for_norm": [True, False],
        },
        "shape": (19, 9, 21),
        "voxels": (1.2, 3.6, 0.8),
        "directions": ("R", "A", "S"),
    },
    "regions": {
        "configuration": "3d_fullres",
        "kind": "ResidualEncoderUNet",
        "folds": (0, 1, 2),
        "mirror": None,
        "dataset": {
            "channel_names": {"0": "CT"},
            "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "active": [3], "ignore": 4},
            "regions_class_order": [1, 2, 3],
            "file_ending": ".nii.gz",
        },
        "plans": {
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "image_reader_writer": "NibabelIOWithReorient",
        },
        "found": {
            "patch_size": [8, 16, 16],
            "spacing": [1.5, 1.3, 1.2],
            "normalization_schemes": ["CTNormalization"],
            "use_mask_for_norm": [False],
        },
        "shape": (22, 26, 17),
        "voxels": (1.1, 1.0, 2.0),
        "directions": ("L", "S", "P"),
    },
    "planes": {
        "configuration": "2d",
        "kind": "PlainConvUNet",
        "folds": (0,),
        "mirror": (0, 1),
        "dataset": {"channel_names": {"0": "MR"}, "labels": {"background": 0, "organ": 1}, "file_ending": ".nii.gz"},
        "plans": {"transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0], "image_reader_writer": "NibabelIO"},
        "found": {
            "patch_size": [16, 12],
            "spacing": [1.0, 0.9],
            "normalization_schemes": ["ZScoreNormalization"],
            "use_mask_for_norm": [False],
        },
        "shape": (7, 22, 18),
        "voxels": (4.0, 1.2, 0.8),
        "directions": ("P", "L", "S"),
    },
    "pictures": {
        "configuration": "2d",
        "kind": "PlainConvUNet",
        "folds": (0,),
        "mirror": None,
        "dataset": {
            "channel_names": {"0": "R", "1": "G", "2": "B"},
            "labels": {"background": 0, "polyp": 1},
            "file_ending": ".png",
        },
        "plans": {"transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "image_reader_writer": "NaturalImage2DIO"},
        "found": {
            "patch_size": [16, 16],
            "spacing": [1.0, 1.0],
            "normalization_schemes": ["RGBTo01Normalization"] * 3,
            "use_mask_for_norm": [False] * 3,
        },
        "shape": (27, 19),
    },
    "cascade": {
        "configuration": "3d_cascade_fullres",
        "previous": "3d_lowres",  # with twice the spacing
        "kind": "PlainConvUNet",
        "folds": (0, 1),
        "mirror": (0, 2),
        "dataset": {
            "channel_names": {"0": "MR"},
            "labels": {"background": 0, "rim": 1, "core": 2},
            "file_ending": ".nii.gz",
        },
        "plans": {"transpose_forward": [0, 2, 1], "transpose_backward": [0, 2, 1], "image_reader_writer": "SimpleITKIO"},
        "found": {
            "patch_size": [8, 12, 10],
            "spacing": [1.6, 1.3, 1.2],
            "normalization_schemes": ["ZScoreNormalization"],
            "use_mask_for_norm": [False],
        },
        "shape": (17, 21, 15),
        "voxels": (1.1, 1.2, 1.8),
        "directions": ("L", "P", "S"),
    },
}  # fmt: skip


def shapes(name: str, *, first: bool = False) -> dict[str, tuple[int, ...]]:
    """nnU-Net's names of a set-up's tensors and their shapes, each once; `first`: of the first stage of a cascade."""
    setup, (widths, kernels, strides, convs, decoder) = SETUPS[name], SIZES[name]
    labels = setup["dataset"]["labels"]
    heads = len(labels) - ("ignore" in labels) - ("regions_class_order" in setup["dataset"])
    found: dict[str, tuple[int, ...]] = {}

    def conv(key, cin, cout, kernel, bias=True):
        found[f"{key}.conv.weight"] = (cout, cin, *kernel)
        for part in (["conv.bias"] if bias else []) + ["norm.weight", "norm.bias"]:
            found[f"{key}.{part}"] = (cout,)

    cin, one = len(setup["dataset"]["channel_names"]), (1,) * len(kernels[0])
    cin += heads - 1 if "previous" in setup and not first else 0
    if setup["kind"] == "ResidualEncoderUNet":
        conv("encoder.stem.convs.0", cin, widths[0], kernels[0])
        cin = widths[0]
    for s, (cout, kernel, count, stride) in enumerate(zip(widths, kernels, convs, strides)):
        for i in range(count):
            if setup["kind"] == "PlainConvUNet":
                conv(f"encoder.stages.{s}.0.convs.{i}", cin, cout, kernel)
            else:
                key = f"encoder.stages.{s}.blocks.{i}"
                conv(f"{key}.conv1", cin, cout, kernel)
                conv(f"{key}.conv2", cout, cout, kernel)
                if cin != cout:
                    conv(f"{key}.skip.{int(i == 0 and max(stride) > 1)}", cin, cout, one, bias=False)
            cin = cout
    for s, count in enumerate(decoder):
        below, here, stride = widths[-1 - s], widths[-2 - s], strides[-1 - s]
        found[f"decoder.transpconvs.{s}.weight"], found[f"decoder.transpconvs.{s}.bias"] = (below, here, *stride), (here,)
        for i in range(count):
            conv(f"decoder.stages.{s}.convs.{i}", here if i else 2 * here, here, kernels[-2 - s])
        found[f"decoder.seg_layers.{s}.weight"], found[f"decoder.seg_layers.{s}.bias"] = (heads, here, *one), (heads,)
    return found


def weights(name: str, fold: int, *, first: bool = False) -> dict[str, np.ndarray]:
    """Drawn weights of a fold; logits have a standard deviation near 3."""
    random, drawn = np.random.default_rng(100 + fold + 50 * first), {}
    for key, shape in shapes(name, first=first).items():
        if len(shape) > 1:
            fan = np.prod(shape[1:]) if "transpconvs" not in key else shape[0]
            drawn[key] = random.normal(0, (3 if "seg_layers" in key else 1.4) / fan**0.5, shape)
            drawn[key] -= drawn[key].mean(1, keepdims=True) * ("seg_layers" in key)  # so that every class wins somewhere
        else:
            drawn[key] = random.normal(1 if key.endswith("norm.weight") else 0, 0.2, shape)
    return {key: value.astype(np.float32) for key, value in drawn.items()}


def state_dict(name: str, fold: int, *, first: bool = False) -> dict[str, np.ndarray]:
    """The same with the names that nnU-Net writes for one tensor again and again."""
    every = weights(name, fold, first=first)
    for key, value in list(every.items()):
        head, _, part = key.rpartition(".")
        for i, layer in enumerate((".conv", ".norm")):
            if head.endswith(layer):
                every[f"{head.removesuffix(layer)}.all_modules.{i}.{part}"] = value
    return every | {f"decoder.{key}": value for key, value in every.items() if key.startswith("encoder.")}


def plans(name: str) -> dict:
    setup, sizes = SETUPS[name], SIZES[name]
    rank = len(setup["found"]["patch_size"])
    network = _older(*sizes) if name == "planes" else {"architecture": architecture(setup["kind"], rank, *sizes)}
    channels = range(len(setup["dataset"]["channel_names"]))
    stages = {setup["configuration"]: {"inherits_from": "base", **setup["found"], **network}}
    if "previous" in setup:
        stages[setup["configuration"]]["previous_stage"] = setup["previous"]
        coarse = {"spacing": [2 * s for s in setup["found"]["spacing"]], "next_stage": setup["configuration"]}
        stages[setup["previous"]] = {"inherits_from": "base", **setup["found"], **network, **coarse}
    return {
        "dataset_name": "Dataset001_Drawn",
        "plans_name": "nnUNetPlans",
        "configurations": {"base": {"data_identifier": "nnUNetPlans_drawn", **COMMON}, **stages},
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(c): STATISTICS for c in channels},
        **setup["plans"],
    }


def write_model(root: Path, name: str, *, first: bool = False) -> Path:
    """The model folder of a set-up, with checkpoints as nnU-Net's trainer saves them; beside it a cascade's first stage."""
    import torch

    setup = SETUPS[name]
    configuration = setup["previous" if first else "configuration"]
    if "previous" in setup and not first:
        write_model(root, name, first=True)
    folder = root / f"nnUNetTrainer__nnUNetPlans__{configuration}"
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans(name)))
    (folder / "dataset.json").write_text(json.dumps({**setup["dataset"], "numTraining": 2}))
    for fold in setup["folds"]:
        (folder / f"fold_{fold}").mkdir()
        checkpoint = {
            "network_weights": {key: torch.from_numpy(value) for key, value in state_dict(name, fold, first=first).items()},
            "optimizer_state": {"state": {}, "param_groups": [{"lr": np.float64(0.01)}]},
            "logging": {"mean_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(-0.25)]},
            "_best_ema": np.float64(0.5),
            "current_epoch": 1,
            "init_args": {"configuration": configuration, "fold": fold, "device": torch.device("cpu")},
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": setup["mirror"],
        }
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


def write_case(folder: Path, name: str) -> Path:
    """imagesTs with one case: smooth noise about 90; for "regions" within a ball of zeros."""
    setup = SETUPS[name]
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(7)
    if name == "pictures":
        noise = ndimage.gaussian_filter(random.normal(size=(*setup["shape"], 3)), (1, 1, 0))
        picture = np.uint8(np.clip(128 + 60 * noise / noise.std(), 0, 255))
        Image.fromarray(picture).save(folder / "drawn_0000.png")
        return folder
    step = np.zeros((4, 4))
    for axis, (direction, size) in enumerate(zip(setup["directions"], setup["voxels"])):
        step["LRPAIS".index(direction) // 2, axis] = size * (1 if direction in "RAS" else -1)
    step[:3, 3], step[3, 3] = (-12.5, 8.25, 30.0), 1
    away = np.linalg.norm([(i - (n - 1) / 2) / (n / 2) for i, n in zip(np.indices(setup["shape"]), setup["shape"])], axis=0)
    for c in range(len(setup["dataset"]["channel_names"])):
        noise = ndimage.gaussian_filter(random.normal(size=setup["shape"]), 1.0)
        image = np.round(90 + 55 * noise / noise.std()).astype(np.int16)
        if name == "regions":
            image[away > 0.85] = 0
        nibabel.save(nibabel.Nifti1Image(image, step), folder / f"drawn_{c:04d}.nii.gz")
    return folder


def read_labels(folder: Path, name: str) -> np.ndarray:
    """uint8 [X, Y, Z] or [H, W] of the case's labels in a folder of predictions."""
    if name == "pictures":
        return np.asarray(Image.open(folder / "drawn.png")).astype(np.uint8)
    return np.asarray(nibabel.load(folder / "drawn.nii.gz").dataobj).astype(np.uint8)
