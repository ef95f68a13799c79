"""Build a runnable job from a resolved config. Only this module reads the ConfigDict; factories get keyword arguments."""

import dataclasses
import functools
from pathlib import Path

import numpy as np

from jaxseg import checkpoint
from jaxseg.augment import compose as augmentations
from jaxseg.config import as_dict
from jaxseg.data import datasets, splits
from jaxseg.data.check import sides
from jaxseg.data.datasets.own.description import LEAVE_OUT
from jaxseg.data.formats import own
from jaxseg.data.prepare import channels
from jaxseg.data.records import DataSet, Recipe
from jaxseg.data.store.stacked import target_labels
from jaxseg.infer import channel_run
from jaxseg.losses import compose as losses
from jaxseg.models import create_model, functional, remat
from jaxseg.ops.image import standardise
from jaxseg.ops.precision import compute_dtype
from jaxseg.optim import build as optimizers
from jaxseg.optim import schedules
from jaxseg.programs import conditions
from jaxseg.programs.kept import Kept
from jaxseg.train import feed as feeds
from jaxseg.train import kept as kept_programs
from jaxseg.train import mesh as meshes
from jaxseg.train import patients
from jaxseg.train import state as states
from jaxseg.train import step as steps
from jaxseg.train.log import Log
from jaxseg.train.loop import Job
from jaxseg.train.processes import surroundings
from jaxseg.types import ConfigError
from jaxseg.utils import code
from jaxseg.utils.lookup import is_path, lookup
from jaxseg.weights import initial

DATASET_OPTIONS = (
    "protocol",
    "structures",
    "mask_values",
    "naming",
    "missing_masks",
    "modalities",
    "release",
    "min_area",
    "sample",
    "sample_seed",
    "normalise",
    "patient",
    "suffixes",
    "ignore",
)
DATASET_REGIONS = ("dataset",)  # data.regions: those that the data set names
Regions = tuple[tuple[str, tuple[int, ...]], ...]


def dataset_options(config) -> dict:
    """Return the config's options for its data set; None counts as not given."""
    name = config.data.dataset
    options = {key: config.data[key] for key in DATASET_OPTIONS if config.data[key] is not None}
    if is_path(name):  # `described.fill` has refused others that were given, and writes what the data set holds
        options = {key: value for key, value in options.items() if key in datasets.options_of(name)}
    if tuple(config.data.regions) == DATASET_REGIONS and "overlapping" in datasets.options_of(name):
        options["overlapping"] = True
    return options


def open_dataset(config, root: str | Path = "") -> DataSet:
    """Open the config's data set, in data.root or another folder, with the regions that the config asks for.

    Raises:
      ConfigError: the data set does not take an option, or does not have the regions.
      DataError: the folder does not have the data set's layout.
    """
    name = config.data.dataset
    own.register(config.data.readers)
    root = root or config.data.root or datasets.phantom(name, config.data.phantom or "default")
    dataset = datasets.load(name, root, **dataset_options(config))
    return dataclasses.replace(dataset, regions=regions_of(tuple(config.data.regions), dataset.labels, dataset.regions, name))


def regions_of(wanted: tuple, labels: tuple[str, ...], named: Regions, dataset: str) -> Regions:
    """Convert data.regions to class numbers.

    Args:
      wanted: data.regions: () and ("dataset",): the data set's own, else ((name, (class, ...)), ...), classes by name or number.
      labels: names of the classes.
      named: the data set's own regions.
      dataset: the name of the data set, for the message.
    Raises:
      ConfigError: the data set has no regions, or there is no such class.
    """
    if wanted == DATASET_REGIONS and not named:
        raise ConfigError(
            f"config.data.regions=dataset: {dataset!r} defines no regions; leave it at (), or give ((name, (class, ...)), ...)"
        )
    if not wanted or wanted == DATASET_REGIONS:
        return named
    number = {label: k for k, label in enumerate(labels, 1)}
    numbers = {k: k for k in number.values()}
    return tuple(
        (name, tuple(lookup(f"class of region {name}", c, numbers if isinstance(c, int) else number) for c in classes))
        for name, classes in wanted
    )


def load_dataset(config, log: Log) -> DataSet:
    """Open the data set and log it; if no root is given, use the embedded phantom and warn that its data are synthetic."""
    if not config.data.root:
        log.say(
            f"no config.data.root: using the embedded SYNTHETIC phantom of {config.data.dataset!r} "
            f"({config.data.phantom or 'default'}); its figures say nothing about patients"
        )
    elif config.data.phantom is not None:
        raise ConfigError(f"config.data.phantom={config.data.phantom!r} together with config.data.root: leave one of them out")
    dataset = open_dataset(config)
    if config.data.root:
        synthetic = " (SYNTHETIC)" if dataset.synthetic else ""
        log.say(f"data: {dataset.name} in {config.data.root}, {len(dataset.cases)} cases{synthetic}")
    for note in dataset.notes:
        log.say(f"note: {note}")
    return dataset


def recipe_of(config, dataset: DataSet) -> Recipe:
    """Return the recipe: how images are prepared for the network."""
    return recipe_from(config, labels=target_labels(dataset.labels, config.data.target), modalities=dataset.modalities)


def recipe_from(config, *, labels: tuple[str, ...], modalities: tuple[str, ...]) -> Recipe:
    """Return the recipe for these classes and channels."""
    d = config.data
    return Recipe(
        size=tuple(d.size),
        window=tuple(d.window) or None,
        spacing=tuple(d.spacing) or None,
        channels=d.channels,
        labels=labels,
        intensity=d.intensity,
        modalities=modalities,
        mean=tuple(d.mean),
        std=tuple(d.std),
        filter=d.filter,
        crop=tuple(d.crop),
        blur=d.blur,
        extra=tuple(d.extra),
        target=d.target,
        fit="patches" if d.whole else d.fit,  # whole volumes keep their grid in the store; the network's input is shrunk from it
        plane=d.plane,
        axes=tuple(d.axes),
        nonzero=d.nonzero,
        above=tuple(d.above),
        statistics=tuple(map(tuple, d.statistics)),
        orientation=d.orientation,
        stage=len(labels) if d.previous else 0,
    )


def load_data(config, log: Log, workdir: Path) -> feeds.Feed:
    """Read, prepare and split the data set.

    Args:
      workdir: the run folder. If it holds copies of the runs that make input channels (`cascades.keep_runs`), these are used
        instead of config.data.extra_run and config.data.previous.
    Raises:
      DataError: files cannot be used, a split is empty, or a patient is in two splits.
      CheckpointError, MismatchError: config.data.extra_run cannot be used.
    """
    dataset = load_dataset(config, log)
    if dataset.left_out != (config.data.ignore == LEAVE_OUT):  # `described.fill` sets the key
        found = "may hold" if dataset.left_out else "hold no"
        raise ConfigError(f"config.data.ignore={config.data.ignore!r}: masks in {dataset.root} {found} voxels to leave out")
    place, recipe = checkpoint.run_folder(workdir), recipe_of(config, dataset)
    extra_run = copy if (copy := place / channel_run.FOLDER).is_dir() else config.data.extra_run
    stages = checkpoint.copied_stages(place) or tuple(map(Path, config.data.previous))
    return feeds.load(config, dataset, recipe, log, channel_run=extra_run, stages=stages)


def input_channels(config) -> int:
    """Return the number of the network's input channels: of the images, the coordinates, and a previous stage's classes."""
    return config.data.channels + (3 if config.data.coordinates else 0) + stage_classes(config)


def stage_classes(config) -> int:
    """Return the number of classes of a cascade's previous stage, which are those of the data; 0 if there is no such stage."""
    d = config.data
    known = lambda: datasets.label_count(d.dataset, release=d.release) if d.structures is None else len(d.structures)
    return known() if d.previous else 0


def input_shape(config) -> tuple[int, ...]:
    """Return the shape of the network's input, [1, *size, C]."""
    return (1, *config.data.size, input_channels(config))


def build_model(config, num_classes: int, **kwargs):
    """Create the network of a config.

    Raises:
      ConfigError: there is no such network or option, or the network does not take the input size.
    """
    model = create_model(
        config.model.name,
        in_channels=input_channels(config),
        num_classes=num_classes,
        rank=config.data.rank,
        seed=config.seed,
        **config.model.options.to_dict(),
        **kwargs,
    )
    try:
        model.check(input_shape(config))
    except ValueError as error:
        raise ConfigError(f"config.data.size={tuple(config.data.size)}: {error}") from error
    return model


def record_of(config, data: feeds.Feed, parameters: int) -> dict:
    """Return the record for run.json: everything that prediction needs besides the weights and an input."""
    outputs = feeds.outputs_of(config, data.recipe.labels, data.dataset.regions)
    return {
        "config": as_dict(config),
        "recipe": data.recipe.as_dict(),
        "labels": list(data.recipe.labels),
        "values": _values(data),
        "regions": [list(region) for region in data.dataset.regions] if config.data.regions else [],
        "model": {
            "name": config.model.name,
            "in_channels": input_channels(config),
            "options": config.model.options.to_dict(),
            "num_classes": outputs.num_classes,
            "rank": config.data.rank,
            "parameters": parameters,
        },
        "dataset": data.dataset.name,
        "synthetic": data.dataset.synthetic,
        "made_by": data.made_by,
        "data": {"digest": data.store.digest, "examples": len(data.store.rows), "left_out": data.store.left_out.cases},
        "code": code.named(as_dict(config)),
        surroundings.NAME: conditions.hardware(),
        "history": [],
        "splits": splits.patients_of(data.store.rows, data.rows),
    }


def _values(data: feeds.Feed) -> list[int]:
    """Return the values written for classes 1..K: those of the data set if its labels are the target, else the class numbers."""
    own = data.dataset.values if data.recipe.labels == data.dataset.labels else ()
    return list(own or range(1, len(data.recipe.labels) + 1))


def build_loss(config):
    """Create the loss of a config."""
    return losses.build(
        tuple(config.loss.terms),
        config.loss.options.to_dict(),
        tuple(config.loss.aux_weights),
        tuple(config.loss.aux_terms),
        config.data.ignore == LEAVE_OUT,
    )


def build_augment(config):
    """Create the augmentation of a config."""
    classes = stage_classes(config)
    fixed = classes or (3 if config.data.coordinates else channels.added(tuple(config.data.extra)))
    return augmentations.build(tuple(config.train.augment), rank=config.data.rank, fixed_channels=fixed, classes=classes)


def balance_of(config) -> dict[str, np.float32]:
    """Return the initial learnable loss weights, by term."""
    return {name: np.float32(start) for name, start in config.loss.learnable}


def build_optimizer(config, params: dict, balance: dict, multiple: int = 1):
    """Create the optimiser of a config, for these parameters; `multiple` as in `optim.build.build`."""
    return optimizers.build(
        states.joined(params, balance),
        name=config.optim.name,
        options=config.optim.options.to_dict(),
        weight_decay=config.optim.weight_decay,
        groups=tuple(config.optim.groups),
        clip_norm=config.optim.clip_norm,
        multiple=multiple,
    )


def build_schedule(config, steps_per_epoch: int):
    """Create (schedule, plateau) of a config; plateau is None for schedules that depend on the step alone."""
    options, by_figures = config.schedule.options.to_dict(), config.schedule.name == "plateau"
    schedule = schedules.build(
        name="constant" if by_figures else config.schedule.name,
        warmup=config.schedule.warmup,
        warmup_ratio=config.schedule.warmup_ratio,
        options={} if by_figures else options,
        total_steps=steps_per_epoch * config.train.epochs,
        steps_per_epoch=steps_per_epoch,
    )
    if not by_figures:
        return schedule, None
    return schedule, schedules.Plateau(lr=config.optim.lr, mode="min" if config.train.best == "val_loss" else "max", **options)


def build_step(config, network, loss, optimizer, schedule, outputs: feeds.OutputSpec, mesh, recipe: Recipe):
    """Create (the training step, the update of BatchNorm's statistics alone) of a config: `step.build` and `step.build_warm`."""
    augment, finish = build_augment(config), functools.partial(standardise, mean=recipe.mean, std=recipe.std)
    shard = config.mesh.shard_state
    both: dict = {"dtype": compute_dtype(config.train.dtype), "seed": config.seed, "finish": finish, "shard_state": shard}
    step = steps.build(
        network,
        loss,
        optimizer,
        schedule,
        augment,
        mesh,
        lr=config.optim.lr,
        accumulate=config.optim.accumulate,
        ema=config.optim.ema,
        target=outputs.target,
        auxiliary=len(config.loss.aux_weights) > 0,
        recomputed=remat.chosen(network, tuple(config.train.remat)),
        **both,
    )
    return step, steps.build_warm(network, optimizer, augment, mesh, **both)


def initial_model(config, data: feeds.Feed, outputs: feeds.OutputSpec, log: Log):
    """Create the network with its initial weights; weights from config.model.init must not have seen patients of val or test."""
    model = build_model(config, outputs.num_classes)
    if config.model.init:
        if Path(config.model.init).is_dir():
            for split in ("val", "test"):
                patients.check_unseen(Path(config.model.init), data, split, whose="config.model.init", log=log)
            patients.say_preparation(Path(config.model.init), data.recipe, log.say)
        initial.initialise(model, config.model.init, log.say)
    return model


def build(config, workdir: Path, data: feeds.Feed, log: Log, kept: Kept | None = None) -> Job:
    """Build everything that the loop needs, with all checks that are possible before anything is compiled.

    Args:
      kept: the config's kept step, if it was begun to be read.
    Raises:
      ConfigError: a batch size does not fit the devices, or a loss term, transform or option does not exist.
    """
    accumulate, batch_size = config.optim.accumulate, config.train.batch_size
    mesh, images, steps_per_epoch = feeds.batches_of(config, data, log.say)
    log.say(meshes.describe(mesh, batch_size) + (f", {accumulate} micro-batches per update" if accumulate > 1 else ""))

    outputs = feeds.outputs_of(config, data.recipe.labels, data.dataset.regions)
    network, params, net_state = functional.split(initial_model(config, data, outputs, log))
    loss, shard = build_loss(config), config.mesh.shard_state
    optimizer = build_optimizer(config, params, balance_of(config), mesh.devices.size if shard else 1)
    schedule, plateau = build_schedule(config, steps_per_epoch)
    step, warm = build_step(config, network, loss, optimizer, schedule, outputs, mesh, data.recipe)
    state = states.create(params, net_state, optimizer, ema=config.optim.ema > 0, balance=balance_of(config))
    log.say(f"{config.model.name}: {sum(int(np.prod(p.shape)) for p in params.values()):,} parameters")
    for line in sides.warnings(data.recipe.labels, data.recipe, config.train.augment, config.infer.mirror):
        log.say(f"WARNING {line}")
    validated = len(data.rows["val"]) > 0
    if not validated:
        log.say("there is no validation split: the last checkpoint is the result")
    figures_and_pictures = data.validator(config, network, loss, outputs, mesh)

    def validate(weights, net_state, number):
        figures, pictures = figures_and_pictures(weights, net_state)
        for i, (name, picture) in enumerate(pictures.items()):
            log.panel(number, f"val/{i if config.report.names == 'hash' else name}", picture)
        return figures

    best_mode = {"val_loss": "min", "last": "last"}.get(config.train.best, "max")
    return Job(
        workdir=workdir,
        state=state,
        storage=states.storage(network, optimizer, mesh if shard else None),
        step=step,
        cases=None if config.report.names == "hash" else lambda rows: [data.store.rows[i]["case"] for i in rows],
        validate=validate if validated else None,
        grid=data.grid("val") if validated else "",
        plateau=plateau,
        mesh=mesh,
        stream=functools.partial(data.stream, config, images),
        warm=warm,
        warm_batches=config.train.bn_warmup,
        checkpoints=checkpoint.Checkpoints(workdir / "checkpoints", keep=config.train.keep, best_mode=best_mode),
        steps_per_epoch=steps_per_epoch,
        epochs=config.train.epochs,
        images_per_step=images,
        criterion=config.train.best,
        settings=config.train,
        kept=(kept or kept_programs.of_step(config)).learns((data.recipe, data.dataset.regions, network.leaves)),
    )
