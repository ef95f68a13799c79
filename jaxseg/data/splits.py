"""Training, validation and test splits by patient, cross-validation, the haemorrhage project's split by slices, leak checks.

Patients are shuffled by a keyed digest of their names, so that a split depends neither on the order of files in a folder nor on
the version of numpy.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.data.records import DataSet
from jaxseg.data.store.rows import column
from jaxseg.types import ConfigError, DataError
from jaxseg.utils import files, guard
from jaxseg.utils.lookup import unknown_name

NAMES = ("train", "val", "test")
HELD_OUT = {"only": (10, 50, 318), "all": (200, 500, 2500)}  # protocol: last slices for (val, test), of about so many
SPLITS = ("patient", "fold", "file", "fixed", "slice_level")
Row = Mapping[str, Any]  # of Store.rows: case, patient, stratum, foreground, digest ...


def split_patients(strata: Mapping[str, str], fractions: Sequence[float], seed: int) -> dict[str, list[str]]:
    """Split patients at random into train, val and test, each stratum in the same proportions (up to one or two patients).

    Args:
      strata: patient -> stratum.
      fractions: fractions of (train, val, test), with sum 1. A fraction above 0 gets at least one patient.
      seed: random seed.
    Returns:
      {"train": [...], "val": [...], "test": [...]}, each sorted, together all patients once.
    Raises:
      ConfigError: the fractions are invalid, or there are fewer patients than splits.
    """
    shares = _shares(fractions)
    counts = _whole_counts(len(strata), shares)
    given = [0, 0, 0]
    drawn: dict[str, list[str]] = {name: [] for name in NAMES}
    for i, patient in enumerate(_line_up(strata, seed)):
        # the split furthest behind its share so far; any run of the line, so any stratum, holds about the same shares
        behind = [counts[s] * (i + 1) / len(strata) - given[s] if given[s] < counts[s] else -math.inf for s in range(3)]
        s = behind.index(max(behind))
        given[s] += 1
        drawn[NAMES[s]].append(patient)
    return {name: sorted(patients) for name, patients in drawn.items()}


def split_folds(strata: Mapping[str, str], k: int, seed: int, *, test: Sequence[str] = ()) -> list[dict[str, list[str]]]:
    """k-fold cross-validation: in fold i, part i is for testing, part i + 1 (mod k) for validation, all others for training.

    Every patient is tested exactly once, and never with a checkpoint that was selected on this patient.

    Args:
      test: patients, apart from those of `strata`, that are the test split of every fold; part i is then the validation split.
    Raises:
      ConfigError: k < 3, or fewer patients than k.
    """
    if not 3 <= k <= len(strata):
        raise ConfigError(
            f"got {k} folds of {len(strata)} patients; train, val and test need 3 <= folds <= patients; change "
            "data.folds or add patients"
        )
    line = _line_up(strata, seed)
    parts = [line[i::k] for i in range(k)]  # neighbours in the line share a stratum: dealing them out spreads it
    if test:
        return [
            {"train": sorted(p for j in range(k) if j != i for p in parts[j]), "val": sorted(parts[i]), "test": sorted(test)}
            for i in range(k)
        ]
    return [
        {
            "train": sorted(p for j in range(k) if j not in (i, (i + 1) % k) for p in parts[j]),
            "val": sorted(parts[(i + 1) % k]),
            "test": sorted(parts[i]),
        }
        for i in range(k)
    ]


def split_rows(
    rows: Sequence[Row],
    dataset: DataSet,
    *,
    split: str,
    fractions: Sequence[float],
    seed: int,
    folds: int = 5,
    fold: int = 0,
    file: str | Path | None = None,
    protocol: str | None = None,
    absent: Iterable[str] = (),
    log: Callable[[str], None] = print,
) -> dict[str, np.ndarray]:
    """Return the row numbers of train, val and test, after checks for leaks and for foreground.

    Args:
      rows: `Store.rows`.
      split: "patient" (drawn, stratified), "fold" (cross-validation, stratified), "file" (patients listed in a JSON file),
        "fixed" (as the data set prescribes), or "slice_level" (the haemorrhage project's split by slices, regardless
        of their patients; logs a warning, and exists only for comparison with published figures).
      fractions: fractions of patients, only for "patient".
      seed: random seed, for "patient" and "fold".
      folds, fold: number of folds, and which of them (from 0) is tested; only for "fold".
      file: the split file, only for "file", see `load_splits`; patients that it does not assign are in no split.
      protocol: "only" or "all", only for "slice_level": how many slices that project held out.
      absent: patients whose cases were all unreadable and left out; a file may list them.
      log: receives the warning.
    Returns:
      {"train": int64 [n], "val": ..., "test": ...}, each ascending.
    Raises:
      ConfigError: the split does not exist or does not fit this data set.
      DataError: DATA_LEAK, or DATA_EMPTY for a split without a single foreground pixel.
    """
    strata = patient_strata(rows)
    held_out = sorted(dataset.held_out & strata.keys())
    drawn = {patient: word for patient, word in strata.items() if patient not in dataset.held_out}
    if held_out and split in ("patient", "fold"):
        log(f"the test split is the data set's own: {len(held_out)} patients; training and validation are drawn from the others")
    if split == "patient":
        parts = split_patients(drawn, _without_test(fractions) if held_out else fractions, seed)
        splits = rows_of(rows, parts | {"test": held_out} if held_out else parts)
    elif split == "fold":
        every = split_folds(drawn, folds, seed, test=held_out)
        if not 0 <= fold < folds:
            raise ConfigError(f"got data.fold={fold} with data.folds={folds}; must be 0 to {folds - 1}")
        splits = rows_of(rows, every[fold])
    elif split == "file":
        if not file:
            raise ConfigError("data.split=file needs the path of a JSON file in data.split_file, such as a run's splits.json")
        own: list[str] = []  # the data set's own test cases, which need not be listed
        if held_out:
            load_splits(file)  # refuses other forms
            listed = {patient for name, found in guard.read_json(file).items() if name != "drawn" for patient in found}
            own = [patient for patient in held_out if patient not in listed]
        parts = load_splits(file, strata.keys() - set(own), absent)
        if own:
            log(f"{file} does not list {len(own)} patients of the data set's own test split: they are tested on")
        splits = rows_of(rows, parts | {"test": [*parts["test"], *own]})
    elif split == "fixed":
        splits = rows_of(rows, _fixed(strata, dataset))
    elif split == "slice_level":
        splits = _last_slices(len(rows), protocol)
        whose = column(rows, "patient")
        shared = {whose[i] for i in splits["train"]} & {whose[i] for n in NAMES[1:] for i in splits[n]}
        log(
            f"WARNING data.split=slice_level splits slices, not patients ({len(shared)} of {len(strata)} are in both training "
            "and evaluation): scores are optimistically biased; compare them only with that project's figures, and use "
            "data.split=patient for all other purposes"
        )
    else:
        raise unknown_name("data.split", split, SPLITS)
    if split != "slice_level":
        check_no_leak(rows, splits)
    foreground = np.array([any(counts) for counts in column(rows, "foreground")], bool)
    for name, numbers in splits.items():
        if len(numbers) and not foreground[numbers].any():
            raise DataError(
                f"split {name!r} holds {len(numbers)} examples without any foreground pixel of "
                f"{', '.join(dataset.labels)}; choose another data.split_seed or data.fractions",
                "DATA_EMPTY",
            )
    return splits


def patient_strata(rows: Sequence[Row]) -> dict[str, str]:
    """Return patient -> the strata of the patient's cases, joined by "+"."""
    pairs = list(zip(column(rows, "patient"), column(rows, "stratum")))
    found, others = dict(pairs), defaultdict(set)
    for patient, stratum in set(pairs) - found.items():
        others[patient].add(stratum)
    return found | {patient: "+".join(sorted({found[patient], *words})) for patient, words in others.items()}


def rows_of(rows: Sequence[Row], patients: Mapping[str, Iterable[str]]) -> dict[str, np.ndarray]:
    """Row numbers of each split's patients: name -> int64 [n], ascending."""
    members, whose = {name: set(p) for name, p in patients.items()}, column(rows, "patient")
    return {name: np.array([i for i, p in enumerate(whose) if p in who], np.int64) for name, who in members.items()}


def check_no_leak(rows: Sequence[Row], splits: Mapping[str, Iterable[int]]) -> None:
    """Refuse splits that share a patient or an image (constant images, such as air, are ignored).

    Raises:
      DataError: splits share patients or images (DATA_LEAK); the message names them.
    """
    names, whose, cases, digests = list(splits), *(column(rows, name) for name in ("patient", "case", "digest"))
    constant = column(rows, "constant") if len(rows) and "constant" in rows[0] else [False] * len(rows)  # never of volumes
    for a, first in enumerate(names):
        known = {digests[i]: cases[i] for i in splits[first] if not constant[i]}
        left = {whose[i] for i in splits[first]}
        for second in names[a + 1 :]:
            both = sorted(left & {whose[i] for i in splits[second]})
            if both:
                raise DataError(
                    f"{len(both)} patients are in {first!r} and in {second!r}: {_some(both)}; assign each to one split",
                    "DATA_LEAK",
                )
            copies = sorted({f"{known[digests[i]]} = {cases[i]}" for i in splits[second] if digests[i] in known})
            if copies:
                raise DataError(
                    f"{len(copies)} pairs of cases in {first!r} and {second!r} hold the same image: {_some(copies)}; "
                    "give both the same patient name, or remove the copies",
                    "DATA_LEAK",
                )


def patients_of(rows: Sequence[Row], splits: Mapping[str, Iterable[int]]) -> dict[str, list[str]]:
    """Invert `rows_of`: return split -> its patients, sorted."""
    whose = column(rows, "patient")
    return {name: sorted({whose[i] for i in numbers}) for name, numbers in splits.items()}


def save_splits(path: str | Path, patients: Mapping[str, Iterable[str]], **drawn: str | int | float) -> None:
    """Write split -> patients as JSON, completely or not at all.

    Args:
      path: the file.
      patients: as returned by `patients_of`.
      drawn: how the split was made (split="fold", seed=0, folds=5, fold=2), stored under "drawn".
    """
    files.write_json(path, {name: sorted(p) for name, p in patients.items()} | ({"drawn": drawn} if drawn else {}))


def load_splits(path: str | Path, known: Iterable[str] | None = None, absent: Iterable[str] = ()) -> dict[str, list[str]]:
    """Read {"train": [...], "val": [...], "test": [...]} and check it against the data.

    Args:
      path: a JSON file; patients under "left_out" are left out on purpose, "drawn" is ignored.
      known: the patients of the data; None: do not check.
      absent: patients that may be listed although they are no longer in the data.
    Raises:
      DataError: the file is not such a JSON file, or a patient is unknown, missing or listed twice (DATA_SPLIT); a patient is in
        two splits (DATA_LEAK).
    """
    try:
        content = guard.read_json(path)
        if isinstance(content, dict):
            content.pop("drawn", None)
    except DataError as error:
        raise DataError(f"cannot read the split file {error}", "DATA_SPLIT") from error
    allowed = {*NAMES, "left_out"}
    if (
        not isinstance(content, dict)
        or not set(NAMES) <= content.keys() <= allowed
        or not all(isinstance(p, list) and all(isinstance(x, str) for x in p) for p in content.values())
    ):
        raise DataError(
            f"{path} must hold one object with lists of patient names under {', '.join(NAMES)} (and left_out, if any)",
            "DATA_SPLIT",
        )
    lists: list[list[str]] = list(content.values())
    twice = [p for names in lists for p, n in Counter(names).items() if n > 1]
    shared = [p for p, n in Counter(p for names in lists for p in set(names)).items() if n > 1]
    every = {p for names in lists for p in names}
    known = every if known is None else set(known)
    for found, what, code in (
        (twice, "are listed twice", "DATA_SPLIT"),
        (shared, "are in two splits", "DATA_LEAK"),
        (every - known - set(absent), "are not in the data", "DATA_SPLIT"),
        (known - every, "of the data are in no split; list them under 'left_out'", "DATA_SPLIT"),
    ):
        if found:
            raise DataError(f"{path}: {len(found)} patients {what}: {_some(sorted(found))}", code)
    return {name: content[name] for name in NAMES}


def _line_up(strata: Mapping[str, str], seed: int) -> list[str]:
    """Return the patients stratum by stratum, shuffled within each stratum."""
    return [patient for *_, patient in sorted(zip(strata.values(), files.digests(str(seed), strata), strata))]


def _shares(fractions: Sequence[float]) -> tuple[float, ...]:
    shares = tuple(float(f) for f in fractions)
    if len(shares) != 3 or not all(math.isfinite(f) and f >= 0 for f in shares) or abs(sum(shares) - 1) > 1e-6 or not shares[0]:
        raise ConfigError(
            f"got data.fractions={shares}; must be three numbers (train, val, test) of at least 0 with sum 1, train above 0"
        )
    return shares


def _without_test(fractions: Sequence[float]) -> tuple[float, float, float]:
    """Return the fractions of train and val in the same proportion, for a given test split."""
    train, val, _ = _shares(fractions)
    return train / (train + val), val / (train + val), 0.0


def _whole_counts(n: int, shares: Sequence[float]) -> list[int]:
    """Return the number of patients per split: fractions of n by largest remainder, at least 1 where the fraction is not 0."""
    wanted = sum(f > 0 for f in shares)
    if n < wanted:
        raise ConfigError(
            f"got {n} patients for {wanted} splits (data.fractions={tuple(shares)}); each split needs one: add patients, "
            "train without a test split (a fraction of 0, with eval.split=val), or on all of them: "
            "--config.data.fractions='(1,0,0)' --config.train.best=last"
        )
    counts = [math.floor(n * f + 1e-9) for f in shares]
    by_remainder = sorted(range(3), key=lambda s: (round(counts[s] - n * shares[s], 9), -s))  # ties go to val and test
    for s in by_remainder[: n - sum(counts)]:
        counts[s] += 1
    for s in range(3):
        if shares[s] and not counts[s]:
            counts[s] = 1
            counts[max(range(3), key=lambda t: counts[t])] -= 1
    return counts


def _fixed(strata: Mapping[str, str], dataset: DataSet) -> dict[str, list[str]]:
    if dataset.fixed_split is None:
        raise ConfigError(f"data.split=fixed: {dataset.name} prescribes no split; use data.split=patient")
    astray = sorted(p for p in strata if dataset.fixed_split.get(p) not in NAMES)
    if astray:
        raise DataError(f"the split of {dataset.name} assigns no split to {len(astray)} patients: {_some(astray)}", "DATA_SPLIT")
    return {name: sorted(p for p in strata if dataset.fixed_split[p] == name) for name in NAMES}


def _last_slices(n: int, protocol: str | None) -> dict[str, np.ndarray]:
    """Return the haemorrhage project's split: the last val + test of n slices, in that order; fewer for a smaller data set."""
    if protocol not in HELD_OUT:
        raise ConfigError(f"data.split=slice_level with data.protocol={protocol!r}; data.protocol must be 'only' or 'all'")
    val, test, usual = HELD_OUT[protocol]
    if n < 2 * (val + test):
        val, test = max(1, val * n // usual), max(1, test * n // usual)
    if n < val + test + 1:
        raise ConfigError(f"data.split=slice_level: got {n} slices; must be at least one each for train, val and test")
    edges = (0, n - val - test, n - test, n)
    return {name: np.arange(edges[i], edges[i + 1], dtype=np.int64) for i, name in enumerate(NAMES)}


def _some(items: Sequence[str], limit: int = 5) -> str:
    return ", ".join(items[:limit]) + (", ..." if len(items) > limit else "")
