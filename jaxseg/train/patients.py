"""Which patients a run was trained and selected on: splits.json, left_out.json, and leak checks against them.

The split is drawn again at every start from the patients in the folder, so a folder that has grown gives another split. The
first one is therefore kept in the run's folder, and every later start is compared with it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxseg import checkpoint
from jaxseg.data import splits
from jaxseg.data.store import bad_cases
from jaxseg.data.store.base import Store
from jaxseg.types import CheckpointError, DataError, MismatchError

SPLITS = "splits.json"
SEEN = {"train": (), "val": ("train",), "test": ("train", "val")}  # split -> splits of another run that must not meet it


def keep(config, workdir: Path, rows: Sequence[splits.Row], parts: Mapping[str, Sequence[int]]) -> None:
    """Write splits.json into the run's folder, in the form that config.data.split_file takes; the same one if it is there.

    Args:
      rows: records of all examples.
      parts: split -> numbers of its rows.
    Raises:
      MismatchError: the run has been started with another split.
    """
    path, d, patients = workdir / SPLITS, config.data, splits.patients_of(rows, parts)
    if path.is_file():
        before = splits.load_splits(path)
        moved = sorted({p for name in splits.NAMES for p in set(before[name]) ^ set(patients[name])})
        if moved:
            raise MismatchError(
                f"{path}: {len(moved)} patients are now in another split, new or missing ({some(moved)}); give "
                "another --workdir, or the data that the run began with"
            )
        return
    if d.split == "slice_level":
        return  # no split of patients
    left_out = {row["patient"] for row in rows}.difference(*patients.values())
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
    """Compare the data with those that the run began with, and write left_out.json into its folder.

    Args:
      log: receives a warning when rows differ; the split is compared by `keep`.
      resumed: the run began at an earlier start.
    Raises:
      MismatchError: other cases were left out when it began.
    """
    if resumed:
        before = checkpoint.read_record(workdir)["data"]
        moved = sorted(set(before["left_out"]) ^ set(store.left_out.cases))
        if moved:
            raise MismatchError(
                f"{workdir}: {len(moved)} cases were bad and left out when the run began and are not now, or the "
                f"reverse ({some(moved)}); give another --workdir, or the files that the run began with"
            )
        if before["digest"] != store.digest:
            log.say(
                f"WARNING the data are not those that the run began with ({before['examples']} examples then, "
                f"{len(store.rows)} now, or other bytes): the result will not be that of an uninterrupted run"
            )
    bad_cases.write(workdir, store.left_out)


def check_unseen(run: Path, data, split: str, *, whose: str, log) -> None:
    """Refuse to evaluate a network on patients that it was trained or selected on.

    Args:
      run: the run, or checkpoint, that the network comes from.
      data: the data to evaluate on, from `feed.load`; patients of different data sets never count as the same.
      split: "val" must not share patients with the run's training split, "test" not with its validation split either;
        "train" may share any.
      whose: the option that names the run, for the message ("--checkpoint", "config.infer.roi").
      log: receives a line when the run's splits are unknown.
    Raises:
      DataError: DATA_LEAK.
    """
    try:
        record = checkpoint.find_record(run)
    except CheckpointError as error:
        log.say(f"{whose}: the patients that it was trained on are unknown ({error})")
        return
    if record["dataset"] != data.dataset.name or record["config"]["data"]["split"] == "slice_level":
        return
    evaluated = {data.store.rows[i]["patient"] for i in data.rows[split]}
    both = sorted(evaluated.intersection(p for name in SEEN[split] for p in record["splits"][name]))
    if both:
        raise DataError(
            f"{whose}: {run} was trained or selected on {len(both)} of the {len(evaluated)} patients of the {split} "
            f"split here ({some(both)}); give both runs the same data.split, data.split_seed and data.fractions, or "
            f"take over its {SPLITS} with data.split=file",
            "DATA_LEAK",
        )


def some(names: Sequence[str], limit: int = 4) -> str:
    """The first few names, for a message."""
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
