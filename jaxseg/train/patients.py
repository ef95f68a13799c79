"""Record the patients that a run was trained and selected on (splits.json, left_out.json), and check for leaks against them; and
how the images of a training are prepared beside those of the run whose weights it begins from.

The split is computed again at every start from the patients in the data folder, so new patients would change it. The first split
is therefore kept in the run folder, and compared with the split of every later start.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jaxseg import checkpoint
from jaxseg.data import splits
from jaxseg.data.records import Recipe
from jaxseg.data.store import bad_cases
from jaxseg.data.store.base import Store, recipe_from
from jaxseg.data.store.rows import column
from jaxseg.infer import postprocess
from jaxseg.types import CheckpointError, DataError, MismatchError
from jaxseg.utils.guard import shown

SPLITS = "splits.json"
_NAMES = ("labels", "modalities")  # which change nothing about the arrays that the network gets
SEEN = {"train": (), "val": ("train",), "test": ("train", "val")}  # split -> splits of another run that must not meet it


def in_words(rows: Mapping[str, Sequence[int]], whose: Sequence[str], noun: str) -> str:
    """Say how many examples a split has, and of how many patients where somebody has several; else slices are pictures.

    Args:
      rows: split -> indices of its examples.
      whose: the patient of each example.
      noun: "slices" or "volumes".
    """
    several = any(len({whose[i] for i in part}) < len(part) for part in rows.values())
    noun = "pictures" if noun == "slices" and not several else noun
    count = lambda n, noun: f"{n} {noun[:-1] if n == 1 else noun}"
    people = lambda part: f" of {count(len({whose[i] for i in part}), 'patients')}" if several else ""
    return ", ".join(f"{name} {count(len(part), noun)}{people(part)}" for name, part in rows.items())


def keep(config, workdir: Path, rows: Sequence[splits.Row], parts: Mapping[str, Sequence[int]]) -> None:
    """Write splits.json to the run folder, in the format of config.data.split_file, or compare the split with it if it exists.

    Args:
      config: a resolved tree.
      workdir: the run folder.
      rows: records of all examples.
      parts: split -> indices of its rows.
    Raises:
      MismatchError: the run was started with another split.
    """
    path, d, patients = workdir / SPLITS, config.data, splits.patients_of(rows, parts)
    if path.is_file():
        before = splits.load_splits(path)
        moved = sorted({p for name in splits.NAMES for p in set(before[name]) ^ set(patients[name])})
        if moved:
            raise MismatchError(
                f"{path}: {len(moved)} patients are now in another split, new or missing ({some(moved)}); give "
                "another --workdir, or restore the data with which the run was started"
            )
        return
    if d.split == "slice_level":
        return  # no split of patients
    left_out = set(column(rows, "patient")).difference(*patients.values())
    patients |= {"left_out": left_out} if left_out else {}
    splits.save_splits(
        path,
        patients,
        split=d.split,
        seed=d.split_seed,
        dataset=d.dataset,
        **({"folds": d.folds, "fold": d.fold} if d.split == "fold" else {}),
    )


def same_data(workdir: Path, store: Store, log, *, resumed: bool) -> None:
    """Compare the data with those at the run's first start, and write left_out.json to the run folder.

    Args:
      workdir: the run folder.
      store: the prepared data.
      log: receives a warning if the data differ; `keep` compares the split.
      resumed: this is not the run's first start.
    Raises:
      MismatchError: other cases were left out at the first start.
    """
    if resumed:
        before = checkpoint.read_record(workdir)["data"]
        moved = sorted(set(before["left_out"]) ^ set(store.left_out.cases))
        if moved:
            raise MismatchError(
                f"{workdir}: {len(moved)} cases were left out at the run's first start and are not now, or the "
                f"reverse ({some(moved)}); give another --workdir, or restore the files with which the run was started"
            )
        if before["digest"] != store.digest:
            log.say(
                f"WARNING the data changed since the run was started ({before['examples']} examples then, "
                f"{len(store.rows)} now, or other content): the result will differ from that of an uninterrupted run"
            )
    bad_cases.write(workdir, store.left_out)


def check_unseen(run: Path, data, split: str, *, whose: str, log) -> None:
    """Refuse to evaluate a network on patients that it was trained or selected on.

    Args:
      run: the run folder, or checkpoint folder, of the network.
      data: the data to evaluate on, from `feed.load`; patients of different data sets never count as the same.
      split: "val" must not share patients with the run's training split, "test" not with its training and validation splits;
        "train" may share any.
      whose: the option that names the run, for the message ("--checkpoint", "config.infer.roi").
      log: receives a line when the run's splits are unknown.
    Raises:
      DataError: patients are shared (code DATA_LEAK).
    """
    try:
        record = checkpoint.find_record(run)
    except CheckpointError as error:
        log.say(f"{whose}: it is unknown which patients the network was trained on ({error})")
        return
    if record["dataset"] != data.dataset.name or record["config"]["data"]["split"] == "slice_level":
        return
    patients = column(data.store.rows, "patient")
    evaluated = {patients[i] for i in data.rows[split]}
    both = sorted(evaluated.intersection(p for name in SEEN[split] for p in record["splits"][name]))
    if both:
        raise DataError(
            f"{whose}: {run} was trained or selected on {len(both)} of the {len(evaluated)} patients of the {split} "
            f"split here ({some(both)}); give both runs the same data.split, data.split_seed and data.fractions, or "
            f"set config.data.split=file and config.data.split_file to that run's {SPLITS}",
            "DATA_LEAK",
        )


def some(names: Sequence[str], limit: int = 4) -> str:
    """Return the first few names, for a message."""
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def say_preparation(run: Path, recipe: Recipe, say: Callable[[str], None]) -> None:
    """Say how the images of a training are prepared beside those of the run whose weights it begins from.

    Args:
      run: the folder of that run, or of a checkpoint.
      recipe: the training's recipe.
      say: called with one line.
    """
    theirs = recipe_from(checkpoint.find_record(run))
    fields = [field.name for field in dataclasses.fields(Recipe) if field.name not in _NAMES]
    changed = [name for name in fields if getattr(recipe, name) != getattr(theirs, name)]
    if not changed:
        say(f"images are prepared as for {run}")
        return
    said = "; ".join(f"{name} {shown(getattr(theirs, name))} becomes {shown(getattr(recipe, name))}" for name in changed)
    say(
        f"images are prepared otherwise than for {run}: {said}. Its own preparation is kept by `jaxseg train {run} "
        f"--config.model.init={run} --config.data.root=...`"
    )


def keep_steps(config, labels: Sequence[str], workdir: Path, say: Callable[[str], None]) -> None:
    """Keep the post-processing of the run whose weights a training begins from, if it is to be applied, to the same classes."""
    source = Path(config.model.init)
    applied = config.infer.postprocess and config.model.init and source.is_dir()
    if applied and list(checkpoint.find_record(source)["labels"]) == list(labels):
        postprocess.keep_steps(source, workdir, say)
