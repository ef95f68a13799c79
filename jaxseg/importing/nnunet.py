"""Convert a model folder that nnU-Net 2 trained into run folders, one for each fold.

    MODEL_FOLDER/plans.json, dataset.json     preparation of images, and the classes (read by `plans`, `data.datasets.own`)
    MODEL_FOLDER/fold_0/checkpoint_final.pth  weights, configuration, trainer and the axes that may be mirrored
    MODEL_FOLDER/postprocessing.pkl, .json    post-processing of predictions, if there is any (read by `postprocessing`)

    splits_final.json                         cases that each fold was trained on, if it lies there (read by `folds`)

Each fold is written as OUTPUT/fold_0/ with run.json, checkpoints/0, postprocess.json and splits.json. These runs predict,
evaluate and are trained further like any other run; preparation and sliding windows are nnU-Net's. Optimiser states are not
imported.

The second stage of nnU-Net's cascade (3d_cascade_fullres) brings its first stage along, as OUTPUT/3d_lowres/fold_0/ and so on:
its classes, without post-processing, are further input channels of the second stage. Where that is trained further, its
training cases are segmented by the first stage (`train/cascades.py`), and these classes are altered as nnU-Net does.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from jaxseg import config as configs
from jaxseg.data.datasets.own import description
from jaxseg.importing import folds as splits_of
from jaxseg.importing import plans, postprocessing, run_folder
from jaxseg.metrics import regions
from jaxseg.models import create_model, functional
from jaxseg.planning.configurations import STAGE_AUGMENT
from jaxseg.planning.topology import output_weights
from jaxseg.train import setup
from jaxseg.types import CheckpointError, ConfigError, MismatchError
from jaxseg.utils import files
from jaxseg.utils.guard import shown
from jaxseg.weights import from_torch, torch_files

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")  # unless one is named, the first that exists is read


class Fold(NamedTuple):
    """The parts of one checkpoint that are imported.

    Attributes:
      path: the checkpoint file.
      configuration: name of its configuration in the plans ("3d_fullres").
      trainer: name of nnU-Net's trainer class.
      mirror: spatial axes of the network that may be flipped at prediction (test-time augmentation).
      weights: name -> array in PyTorch's layout.
    """

    path: Path
    configuration: str
    trainer: str
    mirror: tuple[int, ...]
    weights: dict[str, np.ndarray]


def import_model(
    folder: Path,
    output: Path,
    tree: ConfigDict,
    *,
    folds: Sequence[str] = (),
    previous: Path | None = None,
    splits: Path | None = None,
    chosen: str = "",
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Write a run folder for each fold. An interrupted import leaves no incomplete run folder.

    Args:
      folder: the model's folder.
      output: the folder in which the run folders are written.
      tree: a config tree with the settings that the plans lack, from configs/nnunet.py.
      folds: "0", "1", ... or "all" (nnU-Net's name for training on all cases); (): every numbered fold, or "all" if there is
        no numbered one.
      previous: folder of the model that is the first stage of this one's cascade; None: the folder beside it that nnU-Net names
        so.
      splits: nnU-Net's splits_final.json; None: the one that lies in the model's folder or its parent, if any.
      chosen: name of the checkpoint in each fold's folder ("checkpoint_best.pth"); "": the first of CHECKPOINTS that exists.
      say: called with each line of the report.
    Returns:
      The run folders, in the order of the folds.
    Raises:
      CheckpointError: a fold has no checkpoint.
      ConfigError: a run folder exists already.
      DataError: a file cannot be used.
      MismatchError: the model uses something that jaxseg does not support, or its weights do not fit the network of the plans.
    """
    about = description.read(folder / description.FILE)
    checkpoints = (chosen,) if chosen else CHECKPOINTS
    names = [f"fold_{fold}" for fold in folds] or _folds(folder, checkpoints)
    read = [_read(folder / name, checkpoints) for name in names]
    for fold in read[1:]:
        if fold.configuration != read[0].configuration:
            raise MismatchError(
                f"{fold.path} has configuration {fold.configuration}, but {read[0].path} has {read[0].configuration}; "
                "import them separately, with --folds"
            )
    plan = plans.read(folder / "plans.json", read[0].configuration, len(about.channels))
    first = _first_stage(folder, output, tree, plan, folds=folds, previous=previous, splits=splits, say=say)
    splits = splits or splits_of.find(folder)
    if about.regions and not regions.nested_order(about.regions):
        raise MismatchError(
            f"{about.path}: nnU-Net's regions_class_order is supported only where each region adds one label to the regions "
            "after it (larger regions before those inside them); this model cannot be imported"
        )
    steps_file = postprocessing.find(folder)
    steps = postprocessing.read(steps_file, about.values, [value for value, _ in about.merged]) if steps_file else []
    say(f"{folder}, {plan.name}: {len(about.channels)} channels, classes {', '.join(about.labels)}, trainer {read[0].trainer}")
    if about.ignored is not None:
        say(f"voxels with the ignore label {about.ignored} are left out when the runs are trained further or evaluated")
    if steps_file:
        say(f"post-processing from {steps_file.name}: {len(steps)} steps, which will be applied to predictions")
    say(f"cases of the folds from {splits}" if splits else "the cases that it was trained on are not known; --splits gives them")
    written = []
    for name, fold in zip(names, read):
        target = output / name
        if target.exists():
            raise ConfigError(f"--output={output}: {target} exists; delete it, or give another --output")
        stage = tuple(f"../{run.relative_to(output)}" for run in first)
        config = _config(tree, plan, about, fold, postprocess=bool(steps), name=f"{folder.name}/{name}", previous=stage)
        arrays = _weights(config, plan, fold, about)
        record = _record(config, plan, about, fold, arrays) | {"splits": splits_of.of_fold(splits, name)}
        files.make_folder(output, f"--output={output}")
        files.build_folder(target, lambda place, r=record, a=arrays, f=fold: run_folder.write(place, r, a, f.path, steps))
        mirrored = f"mirroring of axes {', '.join(map(str, config.infer.mirror))}" if config.infer.mirror else "no mirroring"
        say(f"{target}: {record['model']['parameters']:,} parameters from {fold.path.name}; {mirrored} at prediction")
        written.append(target)
    return written


def _first_stage(
    folder: Path, output: Path, tree: ConfigDict, plan: plans.ModelPlan, *, previous: Path | None, **others
) -> list[Path]:
    """Import the first stage of a cascade as OUTPUT/<its configuration>/fold_N; [] for a network that takes the image alone.

    Raises:
      CheckpointError: its folder is missing.
      ConfigError: `previous` was given for a model that is no cascade.
    """
    if not plan.previous:
        if previous:
            raise ConfigError(f"--previous={previous}: {plan.name} takes the image alone; leave --previous out")
        return []
    place = previous or folder.parent / f"{folder.resolve().name.rpartition('__')[0]}__{plan.previous}"
    if not (place / "plans.json").is_file():
        raise CheckpointError(
            f"{plan.name} takes the segmentations of {plan.previous}, and {place} is not that model's folder; give it: "
            "--previous=MODEL_FOLDER"
        )
    return import_model(place, output / plan.previous, tree, **others)


def _folds(folder: Path, checkpoints: Sequence[str]) -> list[str]:
    """The folds that have a checkpoint: all numbered ones, as in nnU-Net, or fold_all if there is no numbered one."""
    there = [p.name for p in folder.glob("fold_*") if any((p / name).is_file() for name in checkpoints)]
    numbered = sorted((n for n in there if n[5:].isdigit()), key=lambda n: int(n[5:]))
    if not there:
        raise CheckpointError(
            f"{folder} has no fold_N with {' or '.join(checkpoints)}; give the folder that nnU-Net's training wrote, "
            "Trainer__Plans__Configuration"
        )
    return numbered or ["fold_all"]


def _read(place: Path, checkpoints: Sequence[str]) -> Fold:
    """The first of some checkpoints of a fold that exists."""
    path = next((place / name for name in checkpoints if (place / name).is_file()), None)
    if path is None:
        raise CheckpointError(f"{place} has none of {', '.join(checkpoints)}; give --folds, or a --checkpoint, that exist")
    content = torch_files.load(path)
    wanted = ("network_weights", "init_args", "trainer_name")
    if not isinstance(content, Mapping) or not all(key in content for key in wanted):
        raise MismatchError(
            f"{path}: not a checkpoint of nnU-Net 2, which has the entries {', '.join(wanted)}; give nnU-Net's model folder"
        )
    configuration, allowed = content["init_args"]["configuration"], content.get("inference_allowed_mirroring_axes")
    axes = () if allowed is None else tuple(allowed)
    if not isinstance(configuration, str) or not all(type(axis) is int and 0 <= axis <= 2 for axis in axes):
        raise MismatchError(
            f"{path}: got configuration {shown(configuration)} and mirrored axes {shown(allowed)}; must be a name and axes as "
            "nnU-Net writes them"
        )
    return Fold(path, configuration, str(content["trainer_name"]), axes, torch_files.flatten(content["network_weights"]))


def _config(
    tree: ConfigDict,
    plan: plans.ModelPlan,
    about: description.Description,
    fold: Fold,
    *,
    postprocess: bool,
    name: str,
    previous: tuple[str, ...],
) -> ConfigDict:
    """The resolved config of the run."""
    c = tree.copy_and_resolve_references().unlock()
    c.embedded, c.data.dataset, c.data.split = (), "nnunet_raw", "fold"
    for key, value in plan.data.items():
        c.data[key] = value
    c.data.modalities, c.data.structures, c.data.regions = (
        _modalities(plan, about) or None,
        about.labels,
        ("dataset",) if about.regions else (),
    )
    c.data.filter, c.data.nonzero = "nnunet", True
    if about.ignored is not None:
        c.data.ignore = description.LEAVE_OUT
    c.model.name, c.model.softmax = plan.model, len(about.labels) == 1 and not about.regions
    c.model.options = ConfigDict(plan.options)
    full, *others = output_weights(len(plan.options["widths"]) - 1)
    terms = (("dice", 1.0), ("bce", 1.0)) if about.regions else (("nnunet", 1.0),)
    c.loss.aux_terms = terms if others else ()
    c.loss.terms = tuple((term, full) for term, _ in terms)
    c.loss.aux_weights = tuple(others)
    c.train.batch_size = plan.batch
    c.data.per_volume = (
        plan.batch if plan.rank == 2 else c.data.per_volume
    )  # 2-D: a batch has many planes but comes from few volumes
    c.train.dtype = "float32"
    c.infer.mirror = tuple(axis + (plan.rank == 2) for axis in fold.mirror)
    c.infer.sums = "float16"
    c.infer.postprocess, c.data.previous = postprocess, previous
    c.train.augment = (*c.train.augment, *STAGE_AUGMENT) if previous else c.train.augment
    c.name = name
    return configs.resolve(c)


def _modalities(plan: plans.ModelPlan, about: description.Description) -> tuple[str, ...]:
    return () if plan.pictures else about.channels


def _outputs(about: description.Description) -> int:
    return len(about.regions) or len(about.labels) + 1


def _weights(config: ConfigDict, plan: plans.ModelPlan, fold: Fold, about: description.Description) -> tuple[dict, dict]:
    """(params, state) of the network, from the checkpoint's weights."""
    model = create_model(
        config.model.name,
        in_channels=setup.input_channels(config),
        num_classes=_outputs(about),
        rank=3,
        **config.model.options.to_dict(),
    )
    flat = plan.rank == 2  # kernels [O, C, 3, 3] become [O, C, 1, 3, 3]
    arrays = {key: a[:, :, None] if flat and a.ndim == 4 else a for key, a in fold.weights.items()}
    try:
        from_torch.load(model, arrays, key_mapping=f"nnunet_{len(plan.options['widths']) - 1}")
        model.check(setup.input_shape(config))
    except MismatchError as error:
        raise MismatchError(f"{fold.path} (trainer {fold.trainer}): {error}") from error
    except ValueError as error:
        raise MismatchError(f"{fold.path}: patches of {config.data.size}: {error}") from error
    _, params, state = functional.split(model)
    return params, state


def _record(
    config: ConfigDict, plan: plans.ModelPlan, about: description.Description, fold: Fold, arrays: tuple[dict, dict]
) -> dict[str, Any]:
    return run_folder.record(
        config,
        labels=about.labels,
        values=about.values,
        regions=about.regions,
        modalities=_modalities(plan, about),
        num_classes=_outputs(about),
        params=arrays[0],
        imported={"from": "nnU-Net", "trainer": fold.trainer, "configuration": fold.configuration, "file": str(fold.path)},
    )
