"""Write a run's weights for PyTorch: as a state dict, or as the checkpoint of an imported nnU-Net. PyTorch is not needed.

A state dict has jaxseg's tensor names, or those of another implementation, which are read from one of its state dicts (`like`). A
model that was imported from nnU-Net is written as a model folder: the imported checkpoint with the run's weights, and the
folder's plans.json and dataset.json, so that nnUNetv2_predict can read it.
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg import checkpoint
from jaxseg.exporting.contents import Contents
from jaxseg.models import create_model, functional
from jaxseg.models.registry import family_of
from jaxseg.types import CheckpointError, ConfigError, MismatchError
from jaxseg.utils import files
from jaxseg.weights import from_torch, torch_files, torch_write

DEFINITIONS = {  # family -> public definitions whose state dicts are read and written
    "basicunet": "monai.networks.nets.BasicUNet",
    "dynunet": "monai.networks.nets.DynUNet",
    "effisegnet": "EffiSegNet of ivezakis/effisegnet",
    "mednext": "MedNeXt of MIC-DKFZ/MedNeXt",
    "mobile_unetr": "MobileUNETR of OSUPCVLab/MobileUNETR",
    "monai_unet": "monai.networks.nets.UNet",
    "nnunet": "PlainConvUNet and ResidualEncoderUNet of dynamic-network-architectures (--format=nnunet)",
    "pspnet": "PSPNet of hszhao/semseg",
    "segformer": "SegformerForSemanticSegmentation of transformers, SegFormer of NVlabs/SegFormer",
    "segnext": "SegNeXt of Visual-Attention-Network/SegNeXt",
    "segresnet": "monai.networks.nets.SegResNet",
    "swin_unetr": "monai.networks.nets.SwinUNETR",
    "unet": "UNet of drawcodeboy/scoliosis_seg-task",
    "unetr": "monai.networks.nets.UNETR",
}
_KEPT = ("init_args", "trainer_name", "inference_allowed_mirroring_axes", "current_epoch")  # of nnU-Net's checkpoint
_BESIDE = ("plans.json", "dataset.json", "dataset_fingerprint.json")  # in its model folder
_CHECKPOINT = "checkpoint_final.pth"


def write(path: Path, contents: Contents, like: Path | None) -> list[str]:
    """Write a state dict, and return a report as text lines.

    Args:
      path: .pth, .pt or .safetensors.
      like: a state dict, or a checkpoint with one, whose tensor names are used; None: jaxseg's names.
    Raises:
      DataError, MismatchError: `like` cannot be read, or is of another network.
      StorageError: it cannot be written.
    """
    model = _model(contents)
    family = family_of(contents.record["model"]["name"])
    definition = DEFINITIONS.get(family.__name__.rpartition(".")[2], "") if family else ""
    if like is None:
        arrays = from_torch.export(model)
        whose = "jaxseg's own names, PyTorch's layouts"
        if definition:
            whose += f"; {definition} loads it under its own names, which --input=STATE_DICT (one of that network) gives"
        else:
            whose += "; no public definition with a state dict of this network is known"
    else:
        theirs = torch_files.read(like)
        arrays = theirs | from_torch.export(model, names=theirs)
        whose = f"the names of {like}" + (f", which {definition} loads" if definition else "")
    torch_write.write(path, arrays)
    return [f"written: {path} ({sum(a.size for a in arrays.values()):,} numbers in {len(arrays)} tensors; {whose})"]


def write_nnunet(folder: Path, contents: Contents, source: Path | None) -> list[str]:
    """Write a model folder of nnU-Net with the run's weights, and return a report as text lines.

    Args:
      folder: the new folder, for plans.json, dataset.json and fold_N/checkpoint_final.pth.
      source: the checkpoint from which the run, or the run that it was initialised from, was imported; None: the recorded path.
    Raises:
      MismatchError: the run does not come from nnU-Net, or prepares its images differently.
      CheckpointError: the checkpoint does not exist any more.
      StorageError: it cannot be written.
    """
    imported = _imported(contents.record)
    path = source or Path(imported["file"])
    if not path.is_file():
        raise CheckpointError(
            f"{path}, from which the run was imported, does not exist; give the checkpoint: --input=.../fold_0/{_CHECKPOINT}"
        )
    theirs = torch_files.load(path)
    if not isinstance(theirs, Mapping) or "network_weights" not in theirs or "trainer_name" not in theirs:
        raise MismatchError(f"{path}: no checkpoint of nnU-Net 2, which holds network_weights and trainer_name")
    tree = {key: _plain(theirs[key]) for key in _KEPT if key in theirs}
    tree["network_weights"] = _network_weights(contents, torch_files.flatten(theirs["network_weights"]))

    def build(place: Path) -> None:
        (place / path.parent.name).mkdir()
        for name in _BESIDE:
            if (path.parent.parent / name).is_file():
                shutil.copyfile(path.parent.parent / name, place / name)
        torch_write.write_checkpoint(place / path.parent.name / _CHECKPOINT, tree)

    files.build_folder(folder, build)
    numbers = sum(a.size for a in tree["network_weights"].values())
    line = f"written: {folder}/{path.parent.name}/{_CHECKPOINT} ({numbers:,} numbers; trainer {theirs['trainer_name']})"
    return [line, f"next: nnUNetv2_predict_from_modelfolder -m {folder} -f {path.parent.name.removeprefix('fold_')} -i IN -o OUT"]


def _model(contents: Contents):
    """Build the run's network with its weights."""
    if len(contents.weights) > 1:
        count = len(contents.weights)
        raise ConfigError(
            f"config.infer.ensemble: PyTorch's file holds one network, and these are {count}; export them separately"
        )
    about = contents.record["model"]
    model = create_model(
        about["name"], in_channels=about["in_channels"], num_classes=about["num_classes"], rank=about["rank"], **about["options"]
    )
    functional.assign(model, *contents.weights[0])
    return model


def _imported(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the record of the import of this run, or of the run it was initialised from if the preparation is still the same."""
    origin = record
    if "imported" not in record and record["config"]["model"]["init"]:
        try:
            origin = checkpoint.find_record(Path(record["config"]["model"]["init"]))
        except (CheckpointError, MismatchError):
            origin = record
    if origin.get("imported", {}).get("from") != "nnU-Net":
        raise MismatchError("--format=nnunet: neither the run nor the one that it began from was made by jaxseg import nnunet")
    changed = [key for key in ("model", "recipe", "labels", "regions") if origin[key] != record[key]]
    if changed:
        raise MismatchError(
            f"--format=nnunet: the run differs from the imported one in its {', '.join(changed)}, which plans.json cannot express"
        )
    return origin["imported"]


def _network_weights(contents: Contents, theirs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the run's arrays under nnU-Net's names, including the names of tensors that it stores twice."""
    found = from_torch.export(_model(contents), names=theirs)
    return {key: found[_first(key)].reshape(a.shape) for key, a in theirs.items()}


def _first(key: str) -> str:
    """Return the first of a tensor's names in nnU-Net's state dict: blocks repeat their modules, decoders their encoder."""
    key = key.removeprefix("decoder.") if key.startswith("decoder.encoder.") else key
    return re.sub(r"\.all_modules\.(\d+)\.", lambda number: ".conv." if number[1] == "0" else ".norm.", key)


def _plain(value: Any) -> Any:
    """Remove entries that are not plain values, such as the device of the training."""
    keep = lambda v: v is None or isinstance(v, str | int | float | bool | np.ndarray | Mapping | list | tuple)
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items() if keep(v)}
    return type(value)(_plain(v) for v in value if keep(v)) if isinstance(value, list | tuple) else value
