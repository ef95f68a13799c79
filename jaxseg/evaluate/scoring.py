"""Compare labels with reference masks, and return one table of scores for slices and volumes; processes share the cases.

A row belongs to one example (a slice or a volume) and one class, or one region if the data set defines regions. Its columns are
those of `summarize.rows_of` with the volumes in ml, plus hd95 (mm) and nsd if surface distances are measured.
"""

import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jaxseg.data.prepare.labels import annotated, as_background
from jaxseg.metrics import counts as scores
from jaxseg.metrics import regions as region_scores
from jaxseg.metrics import surface as surfaces
from jaxseg.metrics.counts import SCORES, Counts
from jaxseg.metrics.lesions import FAR, lesion_rows
from jaxseg.metrics.summarize import Row, rows_of
from jaxseg.models.base import Outputs
from jaxseg.types import Array, ConfigError, DataError, Spacing
from jaxseg.utils import output, turns
from jaxseg.utils.lookup import import_object

WHOLE, SLAB = 1 << 30, 1 << 28  # bytes of logits up to which the loss is computed at once, and in slabs of larger ones
Case = TypeVar("Case")
TAKEN = ("case", "patient", "class", "slice", "row", *Counts._fields, *SCORES, "specificity", "empty", "missed", "false_alarm")
TAKEN += ("hd95", "nsd", "predicted_ml", "truth_ml")  # columns of a table


class Policy(NamedTuple):
    """How empty masks are scored: the arguments `empty` and `missed` of `regions.case_scores`."""

    empty: str = "one"
    missed: float | None = None

    def record(self) -> dict:
        """Return the policy as evaluation.json holds it."""
        return {"both_empty": self.empty, "missed_hd95_mm": "diagonal of the case's grid" if self.missed is None else self.missed}


def policy_of(dataset: str, *, empty: str, lesions: str) -> Policy:
    """Return the policy for empty masks. HD95 of a missed structure is the diagonal of its case's grid; 374 mm for BraTS.

    Args:
      dataset: config.data.dataset.
      empty: config.eval.empty.
      lesions: config.eval.lesions.
    Raises:
      ConfigError: `empty` is not supported for volumes.
    """
    if empty not in surfaces.EMPTY:
        raise ConfigError(f"config.eval.empty={empty!r}: for volumes it must be {' or '.join(surfaces.EMPTY)}")
    return Policy(empty, FAR if lesions or dataset == "brats" else None)


class OwnMetric(NamedTuple):
    """The user's own score: name of its column, and function (prediction, truth, spacing) -> float of two boolean masks."""

    name: str
    function: Callable[[np.ndarray, np.ndarray, Spacing], float]

    @classmethod
    def of(cls, path: str) -> "OwnMetric":
        """Return the metric for a path "module:function" in config.eval.metrics.

        Raises:
          ConfigError: there is no such function, or a column already has its name.
        """
        function, name = import_object(path, "metric"), path.partition(":")[2]
        if not callable(function):
            raise ConfigError(
                f"metric {path!r} is a {type(function).__name__}; name a function (prediction, truth, spacing) -> float"
            )
        if name in TAKEN:
            raise ConfigError(f"metric {path!r}: tables have a column {name!r} already; give the function another name")
        return cls(name, function)

    def value(self, prediction: np.ndarray, truth: np.ndarray, spacing: Spacing) -> float:
        """Return the score of one example and class.

        Raises:
          ConfigError: the function fails, or does not return a number.
        """
        try:
            return float(self.function(prediction, truth, spacing))
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"metric {self.name!r} fails on masks of shape {truth.shape} ({type(error).__name__}: {text}); "
                "jaxseg.testing.check_metric tries it out"
            ) from error


class Rules(NamedTuple):
    """The classes and regions to score, and the scores to compute.

    Attributes:
      classes: names of the classes 1..K.
      regions: ((name, classes), ...), listed before the classes; () for none.
      policy: how empty masks are scored.
      surface: compute HD95 and NSD.
      lesions: name of a BraTS 2023 challenge, for its lesion-wise scores; "" for none.
      own: the user's own scores.
    """

    classes: tuple[str, ...]
    regions: tuple[tuple[str, tuple[int, ...]], ...] = ()
    policy: Policy = Policy()
    surface: bool = False
    lesions: str = ""
    own: tuple[OwnMetric, ...] = ()

    @property
    def headline(self) -> tuple[str, ...]:
        """Names of the regions, else of the classes, over which the mean Dice is taken."""
        return tuple(name for name, _ in self.regions) or tuple(self.classes)


class Example(NamedTuple):
    """A segmented slice or volume.

    Attributes:
      about: case, patient, slice (index in the file, for slices), row (index in the store, if the example is stored).
      labels, truth: integers [*S]; the truth is LEFT_OUT where it is not annotated.
      spacing: voxel size of each axis, mm.
    """

    about: dict
    labels: np.ndarray
    truth: np.ndarray
    spacing: Spacing


class Scored(NamedTuple):
    """The result of scoring a split.

    Attributes:
      rows: one for every example and class (or region).
      confusion: int64 [K+1, K+1] over all voxels, rows are the truth, background first; None if there is only one class.
      loss: mean over the examples; NaN if none was computed.
      seconds: time of segmentation, without the first case, which may compile.
      kept: {row in the store: predicted labels} of the first few examples.
      lesions: rows of `lesions.lesion_rows` with their case; empty unless `Rules.lesions` is set.
      shapes: the distinct sizes of the examples.
    """

    rows: list[Row]
    confusion: np.ndarray | None
    loss: float
    seconds: float
    kept: dict[int, np.ndarray]
    lesions: list[dict]
    shapes: tuple[tuple[int, ...], ...]


def score(
    cases: Sequence[Case],
    examine: Callable[[Case], Iterable[Example]],
    rules: Rules,
    *,
    keep: int = 0,
    watch: Callable[[Example, list[Row]], None] | None = None,
) -> Scored:
    """Segment and score cases; several processes share the cases, and all of them get the whole result.

    Args:
      cases: the cases; each is segmented as a whole.
      examine: segments a case and yields its examples.
      rules: classes, regions and scores to compute.
      keep: number of predictions to keep for pictures.
      watch: called with every example that this process scored, and its rows.
    Raises:
      DataError: there are no cases.
    """
    if not len(cases):
        raise DataError("the split to be evaluated is empty; give it a share in config.data.fractions", "DATA_EMPTY")
    found, kept, seconds = [], {}, 0.0
    confusion = np.zeros((len(rules.classes) + 1,) * 2, np.int64)
    for round_ in output.working_through(range(0, len(cases), jax.process_count()), "scoring"):
        turns.turn()
        position = round_ + jax.process_index()
        begin = time.perf_counter()
        for example in examine(cases[position]) if position < len(cases) else ():
            seconds += time.perf_counter() - begin if position >= jax.process_count() else 0.0
            matrix = np.asarray(scores.confusion(example.labels[None], example.truth[None], len(confusion)), np.int64)
            confusion += matrix
            left_out = int(np.count_nonzero(~annotated(example.truth, len(rules.classes))))
            example = known(example, len(rules.classes))
            lesions = (
                [
                    {"case": example.about["case"]} | row
                    for row in lesion_rows(
                        example.labels, example.truth, spacing=example.spacing, challenge=rules.lesions, regions=rules.regions
                    )
                ]
                if rules.lesions
                else []
            )
            rows = _rows(example, rules, matrix, left_out)
            found.append([position, rows, lesions, list(example.truth.shape)])
            if watch is not None:
                watch(example, rows)
            if len(kept) < keep:
                kept[int(example.about["row"])] = example.labels
            begin = time.perf_counter()
    found = sorted(gathered(found), key=lambda entry: entry[0])  # stable: the slices of a case keep their order
    shapes = tuple(dict.fromkeys(tuple(shape) for *_, shape in found))
    return Scored(
        [row for _, rows, _, _ in found for row in rows],
        summed(confusion),
        math.nan,
        seconds,
        kept,
        [row for _, _, rows, _ in found for row in rows],
        shapes,
    )


class MeanLoss:
    """The mean loss over the examples of all processes.

    Args:
      loss: from `losses.compose.build`.
      target: converts labels [1, *S] to the loss's target (regions).
    """

    def __init__(self, loss: Callable, target: Callable = lambda mask: mask):
        self._loss = jax.jit(lambda logits, mask: loss(Outputs(logits, ()), {"mask": target(mask)})[:2])
        self.reset()

    def reset(self) -> None:
        """Start a new mean."""
        self._total = self._weight = 0.0

    def add(self, logits: Array, masks: np.ndarray) -> None:
        """Add logits [1, *S, K] and masks [1, *S].

        A loss needs several copies of its logits. Those of more than WHOLE bytes are therefore taken in slabs along the first
        spatial axis, whose losses are weighted by their thickness, as training sees patches and no whole volume.
        """
        thick = logits.shape[1]
        slabs = 1 if logits.nbytes <= WHOLE else min(thick, -(-logits.nbytes // SLAB))
        for begin, end in itertools.pairwise(thick * i // slabs for i in range(slabs + 1)):
            piece, truth = jnp.asarray(logits[:, begin:end], jnp.float32), jnp.asarray(masks[:, begin:end], jnp.int32)
            total, weight = jax.device_get(self._loss(piece, truth))
            self._total += float(total) * (end - begin) / thick
            self._weight += float(weight) * (end - begin) / thick

    def mean(self) -> float:
        """Return the mean loss; NaN if nothing was added."""
        total, weight = summed(self._total), summed(self._weight)
        return total / weight if weight else math.nan


def known(example: Example, classes: int) -> Example:
    """Return the example with background in labels and truth where the truth is not annotated."""
    there = annotated(example.truth, classes)
    if there.all():
        return example
    return example._replace(labels=np.where(there, example.labels, 0), truth=as_background(example.truth, classes))


def _rows(example: Example, rules: Rules, matrix: np.ndarray, left_out: int) -> list[Row]:
    """Return one row for every region and class of an example; `left_out` voxels are not in the confusion matrix."""
    groups = {**{name: tuple(members) for name, members in rules.regions}}
    for k, name in enumerate(rules.classes, 1):
        groups.setdefault(name, (k,))
    counts = region_scores.region_counts(matrix, tuple(groups.items()))
    about = {key: value for key, value in example.about.items() if key not in ("case", "patient")}
    rows = rows_of(
        Counts(*(c[None] for c in counts)),
        [example.about["case"]],
        list(groups),
        patients=[example.about["patient"]],
        empty=rules.policy.empty,
    )
    if rules.surface:
        matrix = matrix.copy()
        matrix[0, 0] += left_out
        measured = region_scores.case_scores(
            example.labels,
            example.truth,
            regions=rules.regions,
            classes=rules.classes,
            spacing=example.spacing,
            surface=True,
            confusion=matrix,
            **rules.policy._asdict(),
        )
        rows = [row | {key: measured[f"{key}_{row['class']}"] for key in ("hd95", "nsd")} for row in rows]
    for metric in rules.own:
        masks = [(np.isin(example.labels, members), np.isin(example.truth, members)) for members in groups.values()]
        rows = [row | {metric.name: metric.value(*pair, example.spacing)} for row, pair in zip(rows, masks)]
    ml = math.prod(example.spacing) / 1000
    volumes = lambda row: {"predicted_ml": (row["tp"] + row["fp"]) * ml, "truth_ml": (row["tp"] + row["fn"]) * ml}
    return [row | about | (volumes(row) if len(example.spacing) == 3 else {}) for row in rows]


def gathered(rows: list) -> list:
    """Collect JSON-able rows from all processes; every process gets all of them."""
    if jax.process_count() == 1:
        return rows
    text = np.frombuffer(json.dumps(rows).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(text)))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(text)] = text
    parts = multihost_utils.process_allgather(padded)
    return [row for part, n in zip(parts, sizes.ravel()) for row in json.loads(bytes(part[: int(n)]).decode())]


def share() -> turns.CaseShare:
    """Return this process's share of the cases."""
    return turns.CaseShare(jax.process_index(), jax.process_count(), gathered)


def summed(value):
    """Sum over all processes, exactly: as device arrays, int64 would wrap at 2^31 and float64 would lose its lower half."""
    if jax.process_count() == 1:
        return value
    total = np.sum(gathered([value.tolist() if isinstance(value, np.ndarray) else value]), 0)
    return total if isinstance(value, np.ndarray) else total.item()
