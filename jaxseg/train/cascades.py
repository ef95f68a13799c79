"""The training data of cascades.

A region-of-interest network learns from downsampled whole volumes, computed once from the prepared ones as in prediction
(`infer.cascade.roi_input`), coordinates included.

The second stage of nnU-Net's cascade learns beside the first stage's segmentations of its training cases: files that the user
gives (config.data.previous_labels), or the labels of the runs in config.data.previous, computed once and kept in the cache:

    <cache root>/stages/<data set>-<digest of the runs>/<case>-<digest of its images, and of the runs that were used>.npy

As in nnU-Net's cross-validation, a case is segmented by those of the runs that were not trained on its patient, if there are any.
"""

import dataclasses
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxseg import checkpoint
from jaxseg.data import layout
from jaxseg.data.formats import volumes
from jaxseg.data.records import Case, DataSet, Recipe
from jaxseg.data.store import per_case
from jaxseg.data.store.base import Store
from jaxseg.data.store.fingerprint import Sources
from jaxseg.data.store.preparing import EVERY, HostShare
from jaxseg.infer import cascade, channel_run
from jaxseg.infer.run import Run, open_run
from jaxseg.train import patients
from jaxseg.types import CheckpointError, ConfigError, DataError, MismatchError
from jaxseg.utils import files

NAME = "WT"  # the one class: any foreground
KINDS = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".npy")  # of files of a previous stage's segmentations


class StageCases(NamedTuple):
    """A data set whose cases have the previous stage's segmentations.

    Attributes:
      dataset: the data set.
      digest: of the runs that made them; "" if they were given.
      seen: patients that all of these runs were trained on.
    """

    dataset: DataSet
    digest: str = ""
    seen: frozenset[str] = frozenset()


def target_of(size: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that downsamples a mask [X, Y, Z] to the network's target, uint8 [*size]."""
    target = jax.jit(lambda mask: cascade.roi_target(mask, size))
    return lambda mask: np.asarray(target(mask)).astype(np.uint8)


def recipe_of(recipe: Recipe, coordinates: bool) -> Recipe:
    """Return the recipe of downsampled volumes for the recipe of the volumes themselves."""
    return dataclasses.replace(recipe, labels=(NAME,), channels=recipe.channels + 3 * coordinates)


def downsampled(store: Store, recipe: Recipe, *, coordinates: bool, log: Callable[[str], None] = print) -> Store:
    """Return a store of the same volumes at recipe.size, with one class: the union of all classes.

    Args:
      store: the prepared volumes.
      recipe: the run's recipe; its size is the network's input size.
      coordinates: add three channels with each voxel's position in the volume.
      log: receives a line when the store has been built.
    """
    size = tuple(recipe.size)
    whole = recipe_of(dataclasses.replace(store.recipe, size=size), coordinates)
    image_of = jax.jit(lambda volume: cascade.roi_input(volume, size, coordinates))
    mask_of = target_of(size)

    def items():
        for i, row in enumerate(store.rows):
            mask = mask_of(np.asarray(store.mask(i)))
            spacing = [s * n / m for s, n, m in zip(row["spacing"], row["shape"], size)]
            image = np.ascontiguousarray(image_of(np.asarray(store.image(i))))
            yield image, mask, row | {"spacing": spacing}

    key = files.digest(store.folder.name, str(size), str(coordinates))[:16]
    final = files.cache_root() / "volumes" / f"{store.name}-whole-{key}"
    built = files.build_folder(
        final,
        lambda folder: per_case.write(
            folder, items(), whole, count=len(store), name=store.name, synthetic=store.synthetic, regions=(), log=log
        ),
    )
    return dataclasses.replace(per_case.open_store(built), recipe=whole, left_out=store.left_out)


def keep_runs(config, workdir: Path) -> None:
    """Copy the runs that make input channels (data.extra_run, data.previous) into the run folder: later steps need no other."""
    copies = [(Path(config.data.extra_run), channel_run.FOLDER)] if config.data.extra_run else []
    copies += [(Path(run), f"{checkpoint.PREVIOUS}/{i}") for i, run in enumerate(config.data.previous)]
    for run, name in copies:
        if not (workdir / name).exists():
            (workdir / name).parent.mkdir(exist_ok=True)
            checkpoint.keep_copy(run, checkpoint.run_folder(run), workdir / name)


def staged(config, dataset: DataSet, runs: Sequence[Path], *, skip: bool, share: HostShare, log) -> StageCases:
    """Return the data set with a segmentation of the previous stage for each case.

    Args:
      config: a resolved tree.
      dataset: the data set.
      runs: the previous stage's runs, whose logits are averaged.
      skip: cases that cannot be used are left out later, instead of stopping here.
      share: which of the cases this process segments.
      log: receives lines about the progress, and about cases that the runs were trained on.
    Raises:
      CheckpointError: a run cannot be read.
      ConfigError: config.data.previous_labels holds no file of any case.
      DataError: a case cannot be segmented.
      MismatchError: the runs do not fit each other, or segment other classes than the data set's.
    """
    given = config.data.previous_labels
    try:
        records = [checkpoint.find_record(run) for run in runs]
    except CheckpointError as error:
        raise CheckpointError(f"config.data.previous: {error}") from error
    if tuple(records[0]["labels"]) != dataset.labels:
        raise MismatchError(
            f"config.data.previous: {runs[0]} segments {', '.join(records[0]['labels'])}, but the data set has "
            f"{', '.join(dataset.labels)}; train both stages on the same classes"
        )
    if given:
        found = _given(Path(given), dataset)
        log.say(f"previous stage: the segmentations in {given}, of {sum(c.stage is not None for c in found)} cases")
        return StageCases(dataclasses.replace(dataset, cases=found))
    first, *others = runs
    stage = open_run(first, {**records[0]["config"]["infer"], "ensemble": tuple(map(str, others)), "postprocess": False})
    trained = [_trained_on(record, dataset) for record in records]
    everybody = {case.patient for case in dataset.cases}
    seen = frozenset(everybody.intersection(*(patients or () for patients in trained)))
    _say_seen(trained, everybody, seen, log)
    unseen = lambda case: tuple(i for i, known in enumerate(trained) if known is None or case.patient not in known)
    folder = files.cache_root() / "stages" / f"{files.plain_name(dataset.name)}-{stage.digest[:16]}"
    files.make_folder(folder, "JAXSEG_CACHE")
    images = tuple(dataclasses.replace(case, mask=None, parts=()) for case in dataset.cases)
    sources = Sources(dataclasses.replace(dataset, cases=images, stratum=lambda case: ""), stage.recipe)
    chosen = [unseen(case) or tuple(range(len(runs))) for case in dataset.cases]
    paths = [
        folder / f"{files.plain_name(case.id)}-{files.digest(sources.key(i), str(chosen[i]))[:16]}.npy"
        for i, case in enumerate(dataset.cases)
    ]
    todo = [i for i in range(len(paths)) if not paths[i].is_file()]
    for turn in (todo[share.index :: share.count], None):
        if turn is None:  # those of the other processes, unless they share this folder
            share.wait()
            turn = [i for i in todo if not paths[i].is_file()]
        _segment(stage, dataset, turn, chosen, paths, skip, log)
    cases = tuple(dataclasses.replace(case, stage=path if path.is_file() else None) for case, path in zip(dataset.cases, paths))
    return StageCases(dataclasses.replace(dataset, cases=cases), stage.digest, seen)


def _segment(
    stage: Run, dataset: DataSet, turn: Sequence[int], chosen: Sequence[tuple[int, ...]], paths: Sequence[Path], skip: bool, log
) -> None:
    """Write the segmentations of cases, each by the chosen runs."""
    arrangement, began, said = layout.of(stage.recipe), time.monotonic(), time.monotonic()
    for count, i in enumerate(turn, 1):
        case = dataset.cases[i]
        run = dataclasses.replace(stage, weights=tuple(stage.weights[n] for n in chosen[i]))
        try:
            read = [(dataset.read_image or volumes.read_volume)(path) for path in case.images]
            read = [arrangement.part(volume, case) for volume in (read[0], *(volumes.paired(read[0], o) for o in read[1:]))]
            classes = run.classes(read)
        except DataError as error:
            if not skip:
                raise DataError(f"case {case.id}: {error}", error.code) from error
            continue  # reading it for the store meets the same error, which leaves it out
        content = io.BytesIO()
        np.save(content, classes)
        files.write_atomic(paths[i], content.getvalue())
        if time.monotonic() - said > EVERY or count == len(turn):
            said = time.monotonic()
            log.say(f"previous stage: {count}/{len(turn)} cases of {dataset.name} segmented, {said - began:.0f} s")


def _given(folder: Path, dataset: DataSet) -> tuple[Case, ...]:
    """Return the cases with the files of a folder: CASE.nii.gz or the like in it, or in fold_N/validation, as nnU-Net writes."""
    places = [folder, *sorted(folder.glob("fold_*/validation"))]
    there = lambda case: (place / f"{case.id}{kind}" for place in places for kind in KINDS)
    cases = tuple(dataclasses.replace(case, stage=next(filter(Path.is_file, there(case)), None)) for case in dataset.cases)
    if not any(case.stage for case in cases):
        raise ConfigError(
            f"config.data.previous_labels={folder}: neither it nor a fold_N/validation in it has a file named after a case, "
            f"such as {dataset.cases[0].id}.nii.gz; give a folder that `jaxseg predict` wrote, or nnU-Net's first model folder"
        )
    return cases


def _trained_on(record, dataset: DataSet) -> frozenset[str] | None:
    """Return the patients that a run was trained on; None if it is not known, or the run had another data set."""
    known = record["splits"]["train"]
    other = record["dataset"] != dataset.name or record["config"]["data"]["split"] == "slice_level"
    return frozenset(known) if known and not other else None


def _say_seen(trained: Sequence[frozenset[str] | None], everybody: set[str], seen: frozenset[str], log) -> None:
    if all(known is None for known in trained):
        log.say(
            "WARNING previous stage: it is unknown which patients its runs were trained on. Their segmentations of these are "
            "better than those of new cases will be; config.data.previous_labels=FOLDER takes cross-validated ones"
        )
    elif seen:
        log.say(
            f"WARNING previous stage: all its runs were trained on {len(seen)} of the {len(everybody)} patients here "
            f"({patients.some(sorted(seen))}). Their segmentations of these are better than those of new cases will be; further "
            "folds in config.data.previous, or config.data.previous_labels=FOLDER, give cross-validated ones"
        )
    elif any(known and known & everybody for known in trained):
        log.say("previous stage: each case is segmented by those of its runs that were not trained on its patient")


def check_stage(runs: Sequence[Path], data, seen: frozenset[str], log) -> None:
    """Refuse scores of patients that the previous stage was trained on: "test" by any of its runs, "val" by all of them.

    Args:
      runs: the runs.
      data: a feed.
      seen: patients that all runs were trained on.
    Raises:
      DataError: patients are shared (DATA_LEAK).
    """
    for run in runs:
        patients.check_unseen(run, data, "test", whose="config.data.previous", log=log)
    if any(data.store.rows[int(i)]["patient"] in seen for i in data.rows["val"]):
        patients.check_unseen(runs[0], data, "val", whose="config.data.previous", log=log)
