"""Checks before training: of a config alone (`check`), and of the records of all examples (`check_examples`).

`check` runs in every mode, before a case is read or a program compiled. It builds every part as `setup` builds it for the run,
but from shapes instead of arrays. Losses and transforms are also traced, because they see the number of channels, the image or
the auxiliary outputs only when they are called. `check_examples` runs before the examples are prepared.
"""

import json
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxseg.config import flatten
from jaxseg.data import datasets
from jaxseg.data.check import duplicates, scale, sides
from jaxseg.data.check.report import DataReport
from jaxseg.data.prepare import mask_values
from jaxseg.data.records import DataSet, Recipe
from jaxseg.data.store import base
from jaxseg.data.stream import stages
from jaxseg.evaluate import tables
from jaxseg.losses import compose as losses
from jaxseg.models import functional, remat
from jaxseg.models.base import Outputs
from jaxseg.models.functional import ForwardContext
from jaxseg.train import cascades, setup
from jaxseg.train import feed as feeds
from jaxseg.types import ConfigError, JaxsegError
from jaxseg.utils import output


def _says_itself(name: str) -> bool:
    """Whether a data set's files say what there is to learn."""
    return name == datasets.AUTO or datasets.is_own(name)


class Learnt(NamedTuple):
    """The classes of a data set that a network learns, and its regions (unions of classes)."""

    labels: tuple[str, ...]
    regions: setup.Regions = ()


def labels_of(config) -> tuple[str, ...]:
    """Return a stand-in name for each class that a config trains on, without reading the data set's files."""
    d = config.data
    one = d.target != "labels" or d.whole
    if _says_itself(d.dataset):
        known = len(d.structures)
    else:
        known = 1 if one and not d.mask_values else datasets.label_count(d.dataset, structures=d.structures, release=d.release)
    mask_values.table_of(d.mask_values or (), known)
    count = 1 if one else known
    return tuple(f"class {i + 1}" for i in range(count))


def check(config, *, network: bool = False, learnt: Learnt | None = None) -> feeds.OutputSpec | None:
    """Build everything that a config names once, from shapes alone, and refuse what cannot work.

    Args:
      config: a resolved tree.
      network: trace the network too, for modes that do not compile a training step; takes some seconds for large networks.
      learnt: classes and regions, where they are already known from the data or from a run's record. None: take those of the
        named data set, without reading its files.
    Returns:
      The meaning of the network's logits; None if the classes or channels are only known once the user's own data are read (all
      that can be checked without them has then been checked).
    Raises:
      ConfigError: a loss, transform, optimiser, schedule, network, table, region or option does not exist, does not fit the
        others, or would have no effect.
    """
    if learnt is None and not _classes_are_known(config):
        return None
    labels, regions = learnt or Learnt(labels_of(config), _regions_of(config))
    if config.data.target != "labels" or config.data.whole:
        labels = ("foreground",)
    outputs = feeds.outputs_of(config, labels, regions)
    _check_thresholds(config, outputs, labels)
    feeds.rules_of(config, labels)
    if config.data.rank == 2 and config.data.fit != "patches":
        tables.check_tables(config.eval.tables, labels)
    if config.data.channels is None:
        return None
    model = setup.build_model(config, outputs.num_classes, abstract=True)
    described, params, state = functional.split(model)
    loss, augment, balance = setup.build_loss(config), setup.build_augment(config), setup.balance_of(config)
    for path, options in config.data.transforms:
        stages.function_of(path, options)
    if config.train.bn_warmup and not state:
        raise ConfigError(
            f"config.train.bn_warmup={config.train.bn_warmup}: {config.model.name} has no BatchNorm, so there are no "
            "statistics to warm up; set it to 0"
        )
    remat.chosen(described, tuple(config.train.remat))
    setup.build_optimizer(config, params, balance)
    setup.build_schedule(config, steps_per_epoch=max(1, (2**31 - 1) // config.train.epochs))
    spec = jax.ShapeDtypeStruct
    image = spec(setup.input_shape(config), jnp.float32)
    found = Outputs(spec((*image.shape[:-1], outputs.num_classes), jnp.float32))
    if network:
        passed = lambda *a: described.apply(*a, ForwardContext(train=True, key=jax.random.key(0)))[0]
        found = _traced("model.name", passed, params, state, image)
        if config.loss.aux_weights and not found.aux:
            raise ConfigError("config.loss.aux_weights are for auxiliary outputs, but this network has none; set it to ()")
    mask = spec(image.shape[:-1], jnp.int32)
    truth = spec((*mask.shape, 1), jnp.float32) if config.data.target == "composite" else jax.eval_shape(outputs.target, mask)

    complete = network or not config.loss.aux_weights  # parts of auxiliary outputs are among those that want a weight

    def total(logits, aux, truth):
        value, _, parts = loss(Outputs(logits, aux), {"mask": truth})
        return losses.learnable(parts, balance) if balance and complete else value

    _traced("loss.terms", total, found.logits, found.aux, truth)
    _traced("train.augment", augment, jax.eval_shape(lambda: jax.random.key(0)), image, mask)
    return outputs


def _classes_are_known(config) -> bool:
    """Return whether the number of classes is known from the config or from the named data set."""
    return not _says_itself(config.data.dataset) or config.data.structures is not None


def _regions_of(config) -> setup.Regions:
    """Return as many regions as data.regions asks for, with stand-in classes: class names are looked up with the data."""
    wanted = tuple(config.data.regions)
    if _says_itself(config.data.dataset) and wanted == setup.DATASET_REGIONS:
        wanted = tuple((name, ()) for name in config.data.structures)
    if not wanted or wanted == setup.DATASET_REGIONS:
        return () if _says_itself(config.data.dataset) else datasets.regions_of(config.data.dataset)
    return tuple((name, (k,)) for k, (name, _) in enumerate(wanted, 1))


def check_examples(config, dataset: DataSet, listing: base.Listing, log) -> dict[str, set[str]]:
    """Run the checks that `setup.load_data` and `setup.build` make once every example is prepared, without preparing any.

    Args:
      config: a resolved tree.
      dataset: the data set that the config names.
      listing: the records of all examples, from reading every case once.
      log: an object whose `say` takes log lines.
    Returns:
      The patients of each split.
    Raises:
      JaxsegError: the same errors as in training.
    """
    recipe, run = setup.recipe_of(config, dataset), config.data.extra_run
    _, made_by = feeds.channel_of(recipe, run)
    if config.data.whole:
        listing = listing._replace(recipe=cascades.recipe_of(recipe, config.data.coordinates))
    data = feeds.divide(config, dataset, recipe, listing, log, channel_run=run, made_by=made_by)
    _, _, steps_per_epoch = feeds.batches_of(config, data)
    if config.model.init:
        setup.initial_model(config, data, feeds.outputs_of(config, data.recipe.labels, dataset.regions), log)
    setup.build_schedule(config, steps_per_epoch)
    return {name: {listing.rows[i]["patient"] for i in rows} for name, rows in data.rows.items()}


def conclude(config, recipe: Recipe, report: DataReport) -> None:
    """Add what all examples together show to a report on the cases, and print it, also where it ends with an error.

    Args:
      config: a resolved tree.
      recipe: how images are prepared.
      report: from `examine`.
    Raises:
      JaxsegError: the same errors as in training.
    """
    dataset = report.dataset
    share, processes = config.train.batch_size * config.optim.accumulate / jax.process_count(), jax.process_count()
    each = f"each of {processes} processes" if processes > 1 else "its process"
    report.lines.append(f"scale    a training step reads {scale.text(share * report.read)} in {each}")
    report.warnings += sides.warnings(dataset.labels, recipe, config.train.augment, config.infer.mirror)
    try:
        splits = check_examples(config, dataset, report.listing(), report)
        report.warnings += duplicates.across(report.copies.near, report.copies.patients, splits)
        report.warnings += datasets.contradictions(dataset)
    finally:
        output.say(str(report), result=True)
        errors = {case: f"[{error.code}] {error}" for case, error in report.errors.items()}
        output.event("check", cases=len(dataset.cases), facts=report.lines, warnings=report.warnings, errors=errors)


def _traced(key: str, function, *arguments):
    try:
        return jax.eval_shape(function, *arguments)
    except JaxsegError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"config.{key}: {str(error).splitlines()[0]}") from error


def check_softmax(config, num_classes: int) -> None:
    """Refuse a changed eval.threshold for a softmax network, whose labels are the class with the largest logit.

    Args:
      config: a resolved tree; for a trained run, its defaults are the values of the record.
      num_classes: number of classes, background included.
    Raises:
      ConfigError: eval.threshold differs from its default.
    """
    default = flatten(json.loads(config.defaults))["eval.threshold"]
    if config.eval.threshold != default:
        raise ConfigError(
            f"config.eval.threshold={config.eval.threshold}: has no effect with a softmax of {num_classes} classes, where "
            f"the largest one is taken; leave it at {default}"
        )


def _check_thresholds(config, outputs: feeds.OutputSpec, labels: tuple[str, ...]) -> None:
    """Refuse thresholds that would have no effect."""
    default = flatten(json.loads(config.defaults))
    changed = lambda key: json.dumps(config.eval[key]) != json.dumps(default[f"eval.{key}"])
    if len(labels) > 1 and not outputs.order:
        check_softmax(config, outputs.num_classes)
    if (len(labels) > 1 or outputs.order or config.data.rank == 3 or config.data.fit == "patches") and changed("thresholds"):
        raise ConfigError(
            f"config.eval.thresholds={tuple(config.eval.thresholds)}: is only for 2-D images of one "
            "size with one class; leave it out"
        )
    if config.model.softmax and (len(labels) > 1 or outputs.order):
        raise ConfigError(
            f"config.model.softmax=True: is only for a single class, but there are {outputs.num_classes} "
            f"{'regions' if outputs.order else 'classes, background included'}; set it to False"
        )
