"""The data of a run, ready for training and evaluation: images of one size (`Whole`), or patches of images of any size, such as
volumes (`Patches`). `load` chooses by `Recipe.fit`; the training loop treats both alike.
"""

import functools
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxseg import checkpoint
from jaxseg.data import splits
from jaxseg.data.datasets.own.description import LEAVE_OUT
from jaxseg.data.error_summary import summarised
from jaxseg.data.prepare.canvas import VOXELS, fitting_patch
from jaxseg.data.records import DataSet, Recipe
from jaxseg.data.store import base, per_case, preparing
from jaxseg.data.store import stacked as caches
from jaxseg.data.store.preparing import HostShare
from jaxseg.data.store.rows import column
from jaxseg.data.stream import patches, pipeline
from jaxseg.evaluate import baseline, tables, validation
from jaxseg.evaluate import slices as evaluate_slices
from jaxseg.evaluate import volumes as evaluate_volumes
from jaxseg.evaluate.report import Prepared, sizes, table_of
from jaxseg.evaluate.scoring import OwnMetric, Policy, Rules, policy_of
from jaxseg.infer import network as networks
from jaxseg.infer import run as runs
from jaxseg.infer.channel_run import channel_of
from jaxseg.metrics import projects, regions
from jaxseg.models.functional import Network
from jaxseg.ops.precision import compute_dtype
from jaxseg.train import cascades, kept, patients
from jaxseg.train import mesh as meshes
from jaxseg.train.processes import agree
from jaxseg.types import ConfigError, DataError


class OutputSpec(NamedTuple):
    """The meaning of the network's logits.

    Attributes:
      num_classes: K, the number of logits.
      target: converts labels [B, *S] to the loss's target.
      order: for regions: the class of every combination of regions; () for classes.
      left_out: voxels with the label LEFT_OUT count neither in losses nor in scores.
    """

    num_classes: int
    target: Callable
    order: tuple[int, ...] = ()
    left_out: bool = False


def outputs_of(config, labels: tuple[str, ...], named: tuple = ()) -> OutputSpec:
    """Return the meaning of the logits: one per region, or one for a single class, or a softmax over background and classes."""
    left_out = config.data.ignore == LEAVE_OUT
    if config.data.regions:
        if not named:
            raise ConfigError(f"config.data.regions: {config.data.dataset!r} defines no regions; leave it at ()")
        target = functools.partial(regions.region_targets if left_out else regions.region_masks, regions=named)
        return OutputSpec(len(named), target, regions.class_table(named), left_out)
    single = len(labels) == 1 and not config.model.softmax
    return OutputSpec(1 if single else len(labels) + 1, lambda mask: mask, left_out=left_out)


class Whole(NamedTuple):
    """Slices and photographs of one size; `made_by` is the digest of the network that generates their extra channel, or ""."""

    dataset: DataSet
    recipe: Recipe
    store: caches.Stacked
    rows: dict[str, np.ndarray]
    made_by: str = ""
    noun: str = "slices"

    def steps_per_epoch(self, config, images: int) -> int:
        """Return the number of batches of `images` examples in an epoch."""
        return pipeline.steps_per_epoch(_limited(len(self.rows["train"]), config.data.max_samples), images)

    def stream(self, config, images: int, start: int):
        """Return this process's part of the endless training stream, from batch `start` on."""
        return pipeline.train_batches(
            self.store,
            self.rows["train"],
            batch_size=images,
            seed=config.seed,
            start_batch=start,
            workers=config.data.workers,
            max_samples=config.data.max_samples,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            own=tuple(config.data.transforms),
        )

    def validator(self, config, network: Network, loss, outputs: OutputSpec, mesh) -> Callable:
        """Return a function (weights, network state) -> (figures, pictures) for the validation split."""
        scorer = self._scorer(config, network, loss, outputs, mesh, (config.eval.threshold,))
        rules = self.rules(config)
        scored = lambda params, state: scorer.run(params, state, self.store, self.rows["val"], keep=4)
        run = lambda *weights: scored(*weights).examples(self.store, config.eval.threshold, rules.policy.empty)
        return _validator(run, rules, self.store, rank=2)

    def grid(self, split: str) -> str:
        """The size of the prepared slices, as text."""
        return sizes([tuple(self.recipe.size)])

    def rules(self, config) -> Rules:
        """Return the classes and regions to score, and the scores to compute."""
        return rules_of(config, self.recipe.labels, self.dataset.regions if self.recipe.labels == self.dataset.labels else ())

    def scores_prepared(self) -> bool:
        """Whether an evaluation also scores the prepared grid: always, because the published projects' tables use it."""
        return True

    def prepared(self, config, network: Network, loss, outputs: OutputSpec, mesh, weights) -> Prepared:
        """Return the scores of config.eval.split on the network's grid, with the published projects' tables."""
        thresholds = tuple(sorted({*config.eval.thresholds, config.eval.threshold}))
        scored = self._scorer(config, network, loss, outputs, mesh, thresholds).run(
            *weights, self.store, self.rows[config.eval.split]
        )
        lines, figures = tables.published(scored, self.recipe.labels, tables=config.eval.tables, threshold=config.eval.threshold)
        rules = self.rules(config)._replace(regions=(), surface=False, own=())
        examples = scored.examples(self.store, config.eval.threshold, rules.policy.empty)
        found = table_of(examples, rules, "the prepared grid, the network alone")
        sweep = {str(t): projects.ich_scores(scored.at(t)) for t in scored.thresholds}
        lines = [f"tables of the published projects, on {found.grid}:", *lines] if lines else []
        return Prepared(found, lines, {"tables": figures, "sweep": sweep})

    def baseline(self, rows: np.ndarray) -> dict:
        """Return the best scores that intensity alone reaches on these rows."""
        return baseline.of_slices(self.store, rows)

    def _scorer(self, config, network, loss, outputs, mesh, thresholds):
        tables.check_tables(config.eval.tables, self.recipe.labels)
        return evaluate_slices.SliceScorer(
            network,
            loss,
            thresholds=thresholds,
            threshold=config.eval.threshold,
            mesh=mesh,
            batch_size=meshes.rounded(config.eval.batch_size, mesh),
            dtype=compute_dtype(config.train.dtype),
            target=outputs.target,
            order=outputs.order,
            left_out=outputs.left_out,
            mean=self.recipe.mean,
            std=self.recipe.std,
            kept=kept.of_scores(config, (self.recipe, self.dataset.regions, thresholds, network.leaves)),
        )


class Patches(NamedTuple):
    """Patches of stored volumes, slices or photographs; evaluation segments whole examples by sliding windows."""

    dataset: DataSet
    recipe: Recipe
    store: per_case.PerCase
    rows: dict[str, np.ndarray]
    made_by: str = ""

    @property
    def noun(self) -> str:
        """The noun for its examples in messages."""
        return preparing.NOUNS[self.store.rank]

    def steps_per_epoch(self, config, images: int) -> int:
        """Return the number of batches of `images` patches in an epoch."""
        return patches.steps_per_epoch(
            _limited(len(self.rows["train"]), config.data.max_samples), images, 1 if config.data.whole else config.data.per_volume
        )

    def stream(self, config, images: int, start: int):
        """Return this process's part of the endless training stream, from batch `start` on."""
        return patches.patch_batches(
            self.store,
            self.rows["train"],
            batch_size=images,
            patch=self.recipe.size,
            seed=config.seed,
            start_batch=start,
            workers=config.data.workers,
            share=Fraction(config.data.foreground).limit_denominator(1000),
            positions=config.data.positions,
            per_volume=1 if config.data.whole else config.data.per_volume,
            coordinates=self._appended(config),
            max_samples=config.data.max_samples,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            own=tuple(config.data.transforms),
        )

    def validator(self, config, network: Network, loss, outputs: OutputSpec, mesh) -> Callable:
        """Return a function (weights, network state) -> (figures, pictures) for the validation split."""
        scorer = self._scorer(config, network, loss, outputs)
        run = lambda params, state: scorer.run(params, state, self.store, self.rows["val"], keep=2)
        return _validator(run, self.rules(config), self.store, rank=self.store.rank)

    def grid(self, split: str) -> str:
        """The sizes of the prepared examples of a split, as text."""
        return sizes([self.store.shape(i) for i in self.rows[split]])

    def rules(self, config) -> Rules:
        """Return the classes and regions to score, and the scores to compute."""
        return rules_of(config, self.store.labels, self.store.regions)

    def scores_prepared(self) -> bool:
        """Whether an evaluation also scores the prepared grid: if it differs from the grid of the files."""
        of = functools.partial(column, self.store.rows)
        return bool(self.recipe.axes) or of("shape") != of("scan_shape") or of("spacing") != of("scan_spacing")

    def prepared(self, config, network: Network, loss, outputs: OutputSpec, mesh, weights) -> Prepared:
        """Return the scores of config.eval.split on the network's grid."""
        scored = self._scorer(config, network, loss, outputs).run(*weights, self.store, self.rows[config.eval.split])
        rules = self.rules(config)._replace(surface=False, lesions="", own=())
        return Prepared(table_of(scored, rules, "the prepared grid, the network alone"))

    def baseline(self, rows: np.ndarray) -> dict:
        """Return the best scores that intensity alone reaches on these rows."""
        return baseline.of_volumes(self.store, rows, noun=self.noun)

    def _appended(self, config) -> bool:
        return config.data.coordinates and not config.data.whole  # whole volumes are stored with theirs

    def _scorer(self, config, network, loss, outputs):
        forward = networks.Forward(
            network,
            num_classes=outputs.num_classes,
            batch=runs.batch_of(config.infer, self.recipe, shrunk=config.data.whole),
            mirror=config.infer.mirror,
            dtype=compute_dtype(config.train.dtype),
            mean=self.recipe.mean,
            std=self.recipe.std,
            space=config.mesh.space,
        )
        seen = runs.application_of(forward, self.recipe, whole=False, coordinates=self._appended(config), settings=config.infer)
        rules = self.rules(config)._replace(surface=False, lesions="", own=())
        return evaluate_volumes.VolumeScorer(
            seen, loss, rules, target=outputs.target, order=outputs.order, threshold=config.eval.threshold
        )


Feed = Whole | Patches


def _validator(run: Callable, rules: Rules, store: base.Store, *, rank: int) -> Callable:
    def validate(params, state):
        scored = run(params, state)
        return validation.figures(scored, rules, rank=rank), validation.pictures(scored, store)

    return validate


def rules_of(config, labels: tuple[str, ...], named: tuple = ()) -> Rules:
    """Return the classes and regions to score, and the scores to compute, for images with these labels."""
    own = tuple(OwnMetric.of(path) for path in config.eval.metrics)
    if config.data.rank == 2:
        return Rules(labels, named, Policy(config.eval.empty), own=own)
    policy = policy_of(config.data.dataset, empty=config.eval.empty, lesions=config.eval.lesions)
    return Rules(labels, named, policy, config.eval.surface, config.eval.lesions, own)


def bad_share_of(config) -> float:
    """Return the fraction of the cases that may be unreadable and left out."""
    return config.data.bad_share if config.data.bad_cases == "skip" else 0.0


def load(config, dataset: DataSet, recipe: Recipe, log, *, channel_run: str | Path = "", stages: Sequence[Path] = ()) -> Feed:
    """Prepare the data set unless this was done before, open its store, and split it.

    Args:
      config: a resolved tree.
      dataset: the data set.
      recipe: how images are prepared.
      log: receives lines about the data.
      channel_run: folder of the run that generates the trained channel of recipe.extra; "" if there is none.
      stages: folders of the runs of a cascade's previous stage.
    Raises:
      DataError: files cannot be used, a split is empty, or a patient is in two splits.
      CheckpointError, MismatchError: the channel run cannot be used, see `open_channel_run`.
    """
    dataset, made_by = base.labelled(dataset, log.say), ""
    share = HostShare(jax.process_index(), jax.process_count(), functools.partial(agree.all_here, "prepared cases"))
    how = {"log": log.say, "bad_share": bad_share_of(config), "workers": config.data.prepare_workers or None, "share": share}
    if recipe.stage:
        of_stage = cascades.staged(config, dataset, stages, skip=how["bad_share"] > 0, share=share, log=log)
        dataset, made_by = of_stage.dataset, of_stage.digest
    if recipe.fit == "patches":
        form = {"engine": config.data.store_engine, "stored": config.data.store_dtype, "address": config.data.store_address}
        store = per_case.open_or_build(dataset, recipe, **form, **how)
    else:
        make, made_by = channel_of(recipe, channel_run)
        store = caches.open_or_build(dataset, recipe, extra=make, extra_id=made_by, engine=config.data.store_engine, **how)
    _log_left_out(store, log)
    if config.data.whole:
        store = cascades.downsampled(store, recipe, coordinates=config.data.coordinates, log=log.say)
    feed = divide(config, dataset, recipe, store, log, channel_run=channel_run, made_by=made_by)
    if recipe.stage:
        cascades.check_stage(stages, feed, of_stage.seen, log)
    return feed


def divide(
    config, dataset: DataSet, recipe: Recipe, store: base.Store | base.Listing, log, *, channel_run: str | Path = "", made_by=""
) -> Feed:
    """Split examples, and refuse splits that cannot be trained or evaluated. No example is read.

    Args:
      store: the prepared examples; or a listing of their records, from which the feed can then not read any example.
      made_by: digest of the network that generates the trained channel.
      config, dataset, recipe, log, channel_run: as for `load`.
    Raises:
      JaxsegError: as `load`.
    """
    rows = splits.split_rows(
        store.rows,
        dataset,
        split=config.data.split,
        fractions=tuple(config.data.fractions),
        seed=config.data.split_seed,
        protocol=config.data.protocol,
        folds=config.data.folds,
        fold=config.data.fold,
        file=config.data.split_file,
        absent=_gone(store),
        log=log.say,
    )
    patched, whose = recipe.fit == "patches", column(store.rows, "patient")
    feed = Patches(dataset, store.recipe, store, rows, made_by) if patched else Whole(dataset, recipe, store, rows, made_by)
    log.say(patients.in_words(rows, whose, feed.noun))
    for name in ("train", *(() if config.train.best == "last" else ("val",))):
        if not len(rows[name]):
            raise DataError(
                f"the {name} split is empty with data.split={config.data.split} of {len(dataset.cases)} cases"
                + (f", of which {store.left_out}" if store.left_out.bad else "")
                + ("; set config.train.best=last to train without validation" if name == "val" else "; assign patients to it"),
                "DATA_EMPTY",
            )
    if patched:
        _check_patches(config, feed, log)
    elif made_by:
        for split in ("val", "test"):
            patients.check_unseen(Path(channel_run), feed, split, whose="config.data.extra_run", log=log)
    return feed


def batches_of(config, data: Feed, say: Callable[[str], None] = lambda text: None):
    """Return (mesh, images per update, updates per epoch); refuses batch sizes that do not fit the devices."""
    mesh = meshes.make(config.mesh.data, config.mesh.space)
    meshes.check_batch(config.train.batch_size, mesh, "train.batch_size")
    if data.recipe.fit != "patches":  # what has its own size is scored one after another
        meshes.say_rounded(config.eval.batch_size, mesh, "eval.batch_size", say)
    return mesh, (images := config.train.batch_size * config.optim.accumulate), data.steps_per_epoch(config, images)


def _log_left_out(store: base.Store, log) -> None:
    """Log warnings about the data in use, and the cases left out with the reason (left_out.json lists all)."""
    for line in store.warnings:
        log.say(f"WARNING {line}")
    for line in summarised({bad.case: DataError(bad.reason, bad.code) for bad in store.left_out.bad}):
        log.say(f"left out: {line}")
    if store.left_out.bad:
        log.say(f"WARNING {store.left_out}; after repairing them, delete {store.folder} so that they are read again")


def _gone(store: base.Store | base.Listing) -> set[str]:
    """Return the patients all of whose cases are left out."""
    return {bad.patient for bad in store.left_out.bad} - set(column(store.rows, "patient"))


def _check_patches(config, feed: Patches, log) -> None:
    """Refuse early what would fail or disappoint after training: patches that are mostly padding, an impossible cascade."""
    shapes = np.array(column(feed.store.rows, "shape"))[feed.rows["train"]]
    largest, patch = shapes.max(0), np.array(feed.recipe.size)
    if (patch >= 2 * largest).any():
        fits = fitting_patch(patch, largest)
        raise ConfigError(
            f"config.data.size={tuple(config.data.size)}: is, along an axis, at least twice as large as all training {feed.noun} "
            f"({tuple(largest.tolist())} {VOXELS[feed.store.rank]}), so patches would be mostly padding; choose a smaller size, "
            f"for instance --config.data.size='{fits}'"
        )
    short = int((shapes < patch).any(1).sum())
    if short:
        log.say(
            f"{short} of {len(shapes)} training {feed.noun} are smaller than a patch, {tuple(config.data.size)}: padded with 0"
        )
    if config.eval.lesions and not feed.store.regions:
        raise ConfigError(f"config.eval.lesions={config.eval.lesions!r}: {config.data.dataset} defines no regions; set it to ''")
    if config.infer.roi:
        runs.check_cascade(checkpoint.find_record(Path(config.infer.roi)), feed.recipe)
        patients.check_unseen(Path(config.infer.roi), feed, config.eval.split, whose="config.infer.roi", log=log)


def _limited(n: int, at_most: int) -> int:
    return min(n, at_most) if at_most else n
