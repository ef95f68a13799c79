"""Evaluate a run on a split of its own data, or on another labelled data set, and write the results to a new folder.

RUN/evaluations/<split>@<step>/      evaluation.json, cases.csv, patients.csv, confusion.csv, ... of a split
RUN/evaluations/<set>@<step>/        the same files for another labelled data set (--input)
RUN/evaluation.json                  the evaluation of the best checkpoint on the test split
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxseg import checkpoint
from jaxseg.config import as_dict, flatten
from jaxseg.data import datasets, splits
from jaxseg.data.datasets.own import description
from jaxseg.data.datasets.own.description import LEAVE_OUT
from jaxseg.data.prepare import contrast
from jaxseg.data.records import DataSet
from jaxseg.data.store import base
from jaxseg.data.store.fingerprint import fingerprint
from jaxseg.data.store.rows import column
from jaxseg.evaluate import baseline
from jaxseg.evaluate import report as reports
from jaxseg.evaluate.kept import Keeper
from jaxseg.evaluate.own_grid import OwnGrid
from jaxseg.evaluate.scoring import MeanLoss, Rules, gathered
from jaxseg.experiments import board
from jaxseg.infer import postprocess
from jaxseg.infer import run as runs
from jaxseg.metrics.calibration import Histogram
from jaxseg.metrics.summarize import write_csv
from jaxseg.models import functional
from jaxseg.models import summary as summaries
from jaxseg.reports.names import name_style
from jaxseg.reports.reading import EXPERIMENT
from jaxseg.train import feed as feeds
from jaxseg.train import loop, patients, setup
from jaxseg.train import mesh as meshes
from jaxseg.train.log import Log
from jaxseg.types import ConfigError, DataError, MismatchError
from jaxseg.utils import files, guard, turns

FOLDER, NAME = "evaluations", "evaluation.json"
SPEED = (
    "batch_size",
    "windows",
    "accumulator",
    "overlay",
    "probabilities",
    "statistics",
    "uncertainty",
)  # options that decide no score
SCORED = ("threshold", "thresholds", "empty", "surface", "lesions", "postprocess", "tables", "metrics")


def evaluate(
    config, source: Path, log: Log, *, whose: str, external: Path | None = None, name: str = "", overwrite: bool = False
) -> None:
    """Evaluate a run, print the report and write its files (process 0 only).

    Args:
      config: from `recorded.settled`.
      source: run folder, or a checkpoint folder inside one.
      log: receives the report and warnings.
      whose: the flag that named `source`, for messages.
      external: folder of another labelled data set, in the layout of the run's own data; None: evaluate config.eval.split.
      name: name for the evaluation's folder; "": that of the split or of the data set.
      overwrite: replace an evaluation of this name that has other options or data.
    Raises:
      MismatchError: an evaluation of this name has other options or data, or the run's data have changed.
      DataError: the data cannot be used, or hold patients that the run was trained on.
    """
    if Path(name).name != name:
        raise ConfigError(f"--name={name}: must be a folder name without slashes; the folder is created in {FOLDER}")
    record, home = checkpoint.find_record(source), checkpoint.run_folder(source)
    step = checkpoint.step_folder(source).name
    run = runs.open_run(source, {**config.infer, "roi": ""}, threshold=config.eval.threshold, space=config.mesh.space, keep=True)
    split = config.eval.split
    facts = {"split": None if external else split, "weights": {"step": step, "digest": run.digest}, "options": _options(config)}
    folder = home / FOLDER / f"{name or (external.resolve().name if external else split)}@{step}"
    if external:
        work = _external(config, run, external, log)
        config = _with_ignore(config, work.dataset)
        facts["data"] = {"dataset": work.dataset.name, "root": str(external), "digest": work.digest}
    else:
        work = _split(config, source, record, log, whose=whose)
        facts["data"] = {"dataset": work.dataset.name, "root": config.data.root, "digest": work.digest}
    final = not external and split == "test" and not name and step == checkpoint.step_folder(home).name
    _check_free(folder, facts, overwrite)
    files.make_folder(folder, f"--workdir={home}")
    facts |= {"model": record["model"]["name"], "synthetic": work.dataset.synthetic, "headline": list(work.rules.headline)}
    params, state, info = checkpoint.load_weights(source)
    with loop.watchdog_of(config.train.watchdog, home) as watchdog, turns.at_each(watchdog.stretch):
        text = _scored(config, run, work, facts, (params, state), info, folder, log)
    if jax.process_index() == 0:
        if final:
            shutil.copyfile(folder / NAME, home / f".{NAME}.tmp")
            (home / f".{NAME}.tmp").replace(home / NAME)
        if config.data.whole and not external:
            _write_roi_record(home, as_dict(config), info.get("rows") or [], source.absolute(), folder)
    for line in text.splitlines():
        log.say(line, result=True)
    if jax.process_index() == 0:
        log.event("evaluation", folder=folder, **guard.read_json(folder / NAME))
        changed = guard.read_json(home / EXPERIMENT) if (home / EXPERIMENT).is_file() else {}
        board.write(log, folder, int(step), flatten(as_dict(config)), changed, final=final)
    left_out = work.feed.store.left_out if work.feed else None
    if left_out and left_out.bad:  # at the end, where it is not overlooked
        log.say(f"{left_out}: {', '.join(left_out.cases)}")


class _Work:
    """The data to evaluate on: a data set, the names of its cases, and the prepared examples if there are any."""

    def __init__(self, dataset: DataSet, cases: list[str], rules: Rules, digest: str, *, kept=None, validation=(), feed=None):
        self.dataset, self.cases, self.rules, self.digest = dataset, cases, rules, digest
        self.kept, self.validation, self.feed = kept, list(validation), feed


def _split(config, source: Path, record: dict, log: Log, *, whose: str) -> _Work:
    data, split = setup.load_data(config, log, source), config.eval.split
    if data.store.digest != record["data"]["digest"]:
        what = f"the data under {config.data.root or 'the phantom'} differ from the data that the run was trained on"
        if config.data.root != record["config"]["data"]["root"]:
            raise MismatchError(
                f"config.data.root: {what}; give the original folder, or evaluate another data set with --input=FOLDER"
            )
        log.say(f"WARNING {what} ({record['data']['examples']} examples then, {len(data.store.rows)} now, or other content)")
    if not len(data.rows[split]):
        raise DataError(
            f"{source}: the {split} split is empty; evaluate another split (--config.eval.split=train) or another data set "
            "(--input=FOLDER)",
            "DATA_EMPTY",
        )
    if config.eval.postprocess and not len(data.rows["val"]):
        raise ConfigError(
            "config.eval.postprocess=True: post-processing is chosen on the validation split, which is empty; set it to False"
        )
    patients.check_unseen(source, data, split, whose=whose, log=log)
    others = [(other, "config.infer.ensemble") for other in config.infer.ensemble]
    for other, flag in [*others, *([(config.infer.roi, "config.infer.roi")] if config.infer.roi else [])]:
        patients.check_unseen(Path(other), data, split, whose=flag, log=log)
    here, there = set(splits.patients_of(data.store.rows, data.rows)[split]), set(record["splits"][split])
    if here != there:
        raise MismatchError(
            f"{source}: the {split} split had {len(there)} patients and has {len(here)} now, of whom "
            f"{len(here ^ there)} differ ({patients.some(sorted(here ^ there))}); restore the data that the run was "
            "trained on, or evaluate these as another data set with --input=FOLDER"
        )
    case_of = column(data.store.rows, "case")
    cases = lambda part: list(dict.fromkeys(case_of[i] for i in data.rows[part]))
    kept: dict[str, set[int]] | None = None
    if config.data.rank == 2:  # slices that the protocol leaves out are not scored
        kept, slices = {}, column(data.store.rows, "slice")
        for i in data.rows[split]:
            kept.setdefault(case_of[i], set()).add(slices[i])
    return _Work(data.dataset, cases(split), data.rules(config), data.store.digest, kept=kept, validation=cases("val"), feed=data)


def _external(config, run: runs.Run, folder: Path, log: Log) -> _Work:
    dataset = base.labelled(setup.open_dataset(*_at(config, folder)), log.say)
    if tuple(dataset.labels) != tuple(run.recipe.labels) and not config.data.whole:
        raise MismatchError(
            f"--input={folder}: its classes are {', '.join(dataset.labels)}, but those of the run are "
            f"{', '.join(run.recipe.labels)}; give a data set with the same classes"
        )
    if config.data.target != "labels":
        raise ConfigError(
            f"--input={folder}: the run was trained to predict {config.data.target}, not labels; evaluate only its own splits"
        )
    if config.eval.postprocess:
        raise ConfigError(
            f"--input={folder}: config.eval.postprocess chooses post-processing on the run's own data; evaluate the run "
            "without --input first, then give --config.eval.postprocess=False --config.infer.postprocess=True"
        )
    seen = {patient for part in run.record["splits"].values() for patient in part}
    both = sorted(seen & {case.patient for case in dataset.cases})
    if both:
        log.say(
            f"WARNING --input={folder}: {len(both)} patients have names of the run's patients ({patients.some(both)}); if they "
            "are the same people, these scores are optimistically biased"
        )
    regions = () if config.data.whole else dataset.regions
    rules = feeds.rules_of(config, tuple(run.recipe.labels), regions)
    return _Work(dataset, [case.id for case in dataset.cases], rules, fingerprint(dataset, run.recipe, "evaluation"))


def _at(config, folder: Path) -> tuple[Any, Path]:
    """Return (config, folder) for another data set; the user's own data may have another layout than the run's."""
    if config.data.dataset not in datasets.OWN:  # one that a function of one's own lists stays with it
        return config, folder
    own, (name, place) = config.data.dataset, datasets.recognise(folder)
    config = config.copy_and_resolve_references().unlock()
    config.data.dataset = name
    if "ignore" in datasets.options_of(name) and description.read(place / description.FILE).ignored is None:
        config.data.ignore = None  # annotated fully
    for key in setup.DATASET_OPTIONS if name != own else ():
        if key not in datasets.options_of(name):
            config.data[key] = None
    return config.lock(), place


def _with_ignore(config, dataset: DataSet):
    """Return the config with data.ignore as this data set needs it, which may be annotated more or less fully than the run's."""
    config = config.copy_and_resolve_references().unlock()
    config.data.ignore = LEAVE_OUT if dataset.left_out else None if config.data.ignore == LEAVE_OUT else config.data.ignore
    return config.lock()


def _scored(
    config, run: runs.Run, work: _Work, facts: dict[str, Any], weights: tuple[dict, dict], info: dict, place: Path, log: Log
) -> str:
    """Return the report, and write its files to the folder `place`."""
    show = name_style(config.report.names, run.record["data"]["digest"])
    folder, home = place if jax.process_index() == 0 else None, place.parents[1]
    own = OwnGrid(run, work.dataset, work.kept)
    steps, rules, feed = [], work.rules, work.feed
    if config.eval.postprocess:
        steps = own.choose_steps(work.validation, rules)
        if folder is not None:
            files.write_json(home / postprocess.FILE, steps)
    elif config.infer.postprocess:
        steps = postprocess.read_steps(home)
    outputs = feeds.outputs_of(config, run.recipe.labels, work.dataset.regions)
    loss, model = setup.build_loss(config), setup.build_model(config, outputs.num_classes, abstract=True)
    prepared, scored, calibration = None, None, None
    if feed is not None and (feed.scores_prepared() or config.data.target != "labels"):
        parts = min(config.mesh.data, jax.device_count() // config.mesh.space)  # the run may have been trained on more devices
        mesh = meshes.make(parts, config.mesh.space)
        if run.recipe.fit != "patches":  # what has its own size is scored one after another
            meshes.say_rounded(config.eval.batch_size, mesh, "eval.batch_size", log.say)
        prepared = feed.prepared(config, functional.split(model)[0], loss, outputs, mesh, weights)
    if config.data.target == "labels":
        mean = MeanLoss(loss, outputs.target) if run.recipe.fit == "patches" and prepared is None else None
        keeper, counted = Keeper(rules, config.eval.keep), Histogram([name for name, _ in own.probable(rules)])
        found = own.score(work.cases, rules, steps=steps, loss=mean, keeper=keeper, calibration=counted)
        scored = reports.table_of(found, rules, "the cases' own grid")
        keeper.write(place, own.pictures(), show)
        calibration = Histogram.of(counted.names, gathered([counted.state()]))
    cascaded = None
    if config.infer.roi:
        first = runs.open_run(Path(config.infer.roi), runs.alone(config.infer))
        both = OwnGrid(runs.cascaded(first, run, config.infer), work.dataset, work.kept)
        cascaded = reports.table_of(both.score(work.cases, rules, steps=steps), rules, "the cases' own grid")
    masks = own.meanings.lines(work.dataset.labels) if feed is None else ()  # else said when its store was built
    details = [f"masks      {line}" for line in masks]
    if feed is not None:
        found = feed.baseline(feed.rows[config.eval.split])
        details, facts["baselines"] = [f"baseline   {line}" for line in found["lines"]], found["figures"]
        table = prepared.table if prepared else scored
        if table is not None:
            reached = table.mean() if work.dataset.regions else table.pooled_dice()
            root = config.data.root if datasets.is_own(config.data.dataset) else ""
            details += baseline.verdict(reached, found["figures"], steps=info.get("next_batch", 0), root=root)
    doubts = {case: doubt for found in gathered([own.doubts]) for case, doubt in found.items()}
    if doubts:
        details.append(f"WARNING {contrast.some(list(map(show, doubts)), len(work.cases))}: {next(iter(doubts.values()))}")
    size = summaries.summarize(model, setup.input_shape(config))
    epochs = (info.get("rows") or [{"epoch": "?"}])[-1]["epoch"]
    facts |= {"params": size.params, "macs": size.macs, **(prepared.facts if prepared else {})}
    head = [
        facts["model"],
        f"    Params: {size.params / 1e6:.1f}M ({size.params:,})",
        f"    GMACs: {size.macs / 1e9:.4f} true, {size.macs_printed / 1e9:.4f} as torchprofile prints them",
        f"    It was trained {epochs} EPOCHS",
        *(f"    {line}" for line in (prepared.lines if prepared else ())),
    ]
    return reports.report(
        scored,
        prepared.table if prepared else None,
        head=head,
        details=details,
        facts=facts,
        folder=folder,
        steps=steps,
        cascaded=cascaded,
        calibration=calibration,
        note=" (SYNTHETIC data)" if work.dataset.synthetic else "",
        show=show,
    )


def _options(config) -> dict[str, Any]:
    """Return the keys that influence scores."""
    infer = {f"infer.{key}": value for key, value in config.infer.items() if key not in SPEED}
    return json.loads(json.dumps({**infer, **{f"eval.{key}": config.eval[key] for key in SCORED}}))


def _check_free(folder: Path, facts: dict[str, Any], overwrite: bool) -> None:
    """Refuse a folder that holds an evaluation with other options, data or weights."""
    path = folder / NAME
    if overwrite or not path.is_file():
        return
    try:
        there = json.loads(path.read_text())
    except ValueError:
        return
    differ = [key for key in ("weights", "data") if there.get(key) != facts[key]]
    differ += [key for key, value in facts["options"].items() if there.get("options", {}).get(key) != value]
    if differ:
        raise MismatchError(
            f"{folder} holds an evaluation with other {', '.join(differ[:5])}; give another --name, or --overwrite to replace it"
        )


def _write_roi_record(home: Path, config: dict, rows: Sequence[dict], weights: Path, folder: Path) -> None:
    """Write config.json and metrics.csv of a region-of-interest run, in the format of the BraTS 3-D project's cascade."""
    best = max((row for row in rows if row.get("val_dice", "") != ""), key=lambda row: row["val_dice"], default={})
    tested = json.loads((folder / NAME).read_text())
    files.write_json(home / "config.json", config)
    write_csv(
        home / "metrics.csv",
        [
            {
                "seed": config["seed"],
                "best_epoch": best.get("epoch", ""),
                "best_val_dice": best.get("val_dice", ""),
                "test_wt_dice": (tested["prepared"] or tested)["mean_dice"],
                "weight_path": str(weights),
            }
        ],
    )
