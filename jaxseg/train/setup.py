"""From a resolved config to a runnable job: the only builder. ConfigDict stops here; factories get keyword arguments."""

import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxseg import checkpoint
from jaxseg.augment import compose as augmentations
from jaxseg.config import as_dict
from jaxseg.data import cache as caches
from jaxseg.data import datasets, pipeline, splits
from jaxseg.data.records import DataSet, Recipe
from jaxseg.evaluate import Scorer, headline, pictures
from jaxseg.losses import compose as losses
from jaxseg.models import create_model, from_torch, functional
from jaxseg.optim import build as optimizers
from jaxseg.optim import schedules
from jaxseg.train import mesh as meshes
from jaxseg.train import state as states
from jaxseg.train import step as steps
from jaxseg.train.log import Log
from jaxseg.train.loop import Job
from jaxseg.types import ConfigError, DataError


class Data(NamedTuple):
    """A data set ready to be read: cached examples and the rows of each split."""

    dataset: DataSet
    recipe: Recipe
    cache: caches.Cache
    rows: dict[str, np.ndarray]


def load_dataset(config, log: Log) -> DataSet:
    """The data set that the config names; the embedded phantom, loudly, when no root is given."""
    options = {k: config.data[k] for k in ("protocol", "structures", "naming", "allow_empty") if config.data[k] is not None}
    root = config.data.root
    if not root:
        log.say(f"no config.data.root: using the embedded SYNTHETIC phantom of {config.data.dataset!r} "
                f"({config.data.phantom or 'default'}); its figures say nothing about patients")
        root = datasets.phantom(config.data.dataset, config.data.phantom or "default")
    elif config.data.phantom is not None:
        raise ConfigError(f"config.data.phantom={config.data.phantom!r} together with config.data.root: drop one of them")
    dataset = datasets.load(config.data.dataset, root, **options)
    if config.data.root:
        log.say(f"data: {dataset.name} in {config.data.root}, {len(dataset.cases)} cases"
                + (" (SYNTHETIC)" if dataset.synthetic else ""))
    return dataset


def recipe_of(config, dataset: DataSet) -> Recipe:
    """How this run turns images into the network's input."""
    return Recipe(size=tuple(config.data.size), window=tuple(config.data.window) or None,
                  spacing=tuple(config.data.spacing) or None, channels=config.data.channels, labels=dataset.labels)


def load_data(config, log: Log) -> Data:
    """Read, cache and split the data set.

    Raises:
      DataError: files that cannot be used, an empty split, a patient in two splits.
    """
    dataset = load_dataset(config, log)
    recipe = recipe_of(config, dataset)
    cache = caches.open_or_build(dataset, recipe, log=log.say)
    rows = splits.split_rows(cache.rows, dataset, split=config.data.split, fractions=tuple(config.data.fractions),
                             seed=config.data.split_seed, protocol=config.data.protocol, log=log.say)
    log.say(", ".join(f"{name} {len(r)} slices of {len({cache.rows[i]['patient'] for i in r})} patients"
                      for name, r in rows.items()))
    for name in ("train", "val", config.eval.split):
        if not len(rows[name]):
            raise DataError(f"the {name} split is empty with config.data.fractions={tuple(config.data.fractions)} of "
                            f"{len(dataset.cases)} cases; give it a share", "DATA_EMPTY")
    return Data(dataset, recipe, cache, rows)


def build_model(config, labels: tuple[str, ...], **kwargs):
    """The network of a config for these labels: one logit for one label, else softmax over background and labels."""
    return create_model(config.model.name, in_channels=config.data.channels,
                        num_classes=1 if len(labels) == 1 else len(labels) + 1, seed=config.seed,
                        **config.model.options.to_dict(), **kwargs)


def initialise(model, source: str, log: Log) -> None:
    """Put the weights of another run, a checkpoint or a PyTorch file into a model."""
    if Path(source).is_dir():
        params, state, info = checkpoint.load_weights(Path(source))
        functional.assign(model, params, state)
        log.say(f"weights from {source} (step {info.get('next_batch', '?')})")
    else:
        report = from_torch.load(model, source, adapt=True)
        log.say(f"weights from {source}\n{report}")


def record_of(config, data: Data, parameters: int) -> dict:
    """What the run folder must know so that it and an input are enough to predict."""
    return {
        "config": as_dict(config),
        "recipe": dataclasses.asdict(data.recipe),
        "labels": list(data.dataset.labels),
        "model": {"name": config.model.name, "in_channels": config.data.channels, "options": config.model.options.to_dict(),
                  "num_classes": 1 if len(data.dataset.labels) == 1 else len(data.dataset.labels) + 1, "rank": 2,
                  "parameters": parameters},
        "dataset": data.dataset.name,
        "synthetic": data.dataset.synthetic,
        "splits": {name: sorted({data.cache.rows[i]["patient"] for i in rows}) for name, rows in data.rows.items()},
    }


def build_loss(config):
    """The loss of a config."""
    return losses.build(tuple(config.loss.terms), config.loss.options.to_dict(), tuple(config.loss.aux_weights),
                        tuple(config.loss.aux_terms))


def build(config, workdir: Path, data: Data, log: Log) -> Job:
    """Everything the loop needs, checked as far as it can be before anything is compiled.

    Raises:
      ConfigError: sizes that do not divide, unknown terms, transforms, options.
    """
    mesh = meshes.make(config.mesh.data)
    accumulate, batch_size = config.optim.accumulate, config.train.batch_size
    meshes.check_batch(batch_size, mesh, "train.batch_size")
    meshes.check_batch(config.eval.batch_size, mesh, "eval.batch_size")
    images = batch_size * accumulate
    steps_per_epoch = pipeline.steps_per_epoch(_limited(len(data.rows["train"]), config.data.max_samples), images)
    log.say(meshes.describe(mesh, batch_size) + (f", {accumulate} micro-batches an update" if accumulate > 1 else ""))

    model = build_model(config, data.dataset.labels)
    model.check((1, *config.data.size, config.data.channels))
    if config.model.init:
        initialise(model, config.model.init, log)
    network, params, net_state = functional.split(model)
    loss = build_loss(config)
    augment = augmentations.build(tuple(config.train.augment), rank=2)
    optimizer = optimizers.build(params, name=config.optim.name, options=config.optim.options.to_dict(),
                                 weight_decay=config.optim.weight_decay, groups=tuple(config.optim.groups),
                                 clip_norm=config.optim.clip_norm)
    plateau_schedule = config.schedule.name == "plateau"
    schedule = schedules.build(name="constant" if plateau_schedule else config.schedule.name, warmup=config.schedule.warmup,
                               warmup_ratio=config.schedule.warmup_ratio,
                               options={} if plateau_schedule else config.schedule.options.to_dict(),
                               total_steps=steps_per_epoch * config.train.epochs, steps_per_epoch=steps_per_epoch)
    plateau = schedules.Plateau(lr=config.optim.lr, mode="min" if config.train.best == "val_loss" else "max",
                                **config.schedule.options.to_dict()) if plateau_schedule else None
    step = steps.build(network, loss, optimizer, schedule, augment, mesh, lr=config.optim.lr, dtype=config.train.dtype,
                       accumulate=accumulate, ema=config.optim.ema, seed=config.seed)
    state = states.place(states.create(params, net_state, optimizer, ema=config.optim.ema > 0), meshes.replicated(mesh))
    log.say(f"{config.model.name}: {sum(int(np.prod(p.shape)) for p in params.values()):,} parameters")

    scorer = Scorer(network, loss, thresholds=(config.eval.threshold,), mesh=mesh, batch_size=config.eval.batch_size,
                    dtype=config.train.dtype)

    def validate(weights, net_state, number):
        scored = scorer.run(weights, net_state, data.cache, data.rows["val"], keep=4)
        for i, picture in enumerate(pictures(scored, data.cache)):
            log.panel(number, f"val/{i}", picture)
        return headline(scored, empty=config.eval.empty)

    return Job(
        workdir=workdir, state=state, step=step, validate=validate, plateau=plateau, mesh=mesh,
        stream=functools.partial(_stream, config, data, images),
        checkpoints=checkpoint.Checkpoints(workdir / "checkpoints", keep=config.train.keep,
                                           best_mode={"val_loss": "min", "last": "last"}.get(config.train.best, "max")),
        steps_per_epoch=steps_per_epoch, epochs=config.train.epochs, images_per_step=images, criterion=config.train.best,
        settings=config.train)


def _limited(n: int, at_most: int) -> int:
    return min(n, at_most) if at_most else n


def _stream(config, data: Data, images: int, start: int):
    return pipeline.train_batches(data.cache, data.rows["train"], batch_size=images, seed=config.seed, start_batch=start,
                                  workers=config.data.workers, max_samples=config.data.max_samples,
                                  process_index=jax.process_index(), process_count=jax.process_count())
