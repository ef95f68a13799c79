"""Labels and truths in, rows of scores out: the one table of slices and volumes, shared between processes case by case.

A row is of one example (a slice or a volume) and one class, or region where the data set names regions; its columns are those of
`summarize.rows_of`, with the volumes in ml, and hd95 (mm) and nsd where surfaces are measured.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

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

Case = TypeVar("Case")
TAKEN = ("case", "patient", "class", "slice", "row", *Counts._fields, *SCORES, "specificity", "empty", "missed", "false_alarm")
TAKEN += ("hd95", "nsd", "predicted_ml", "truth_ml")  # columns of a table


class Policy(NamedTuple):
    """How empty masks score: `empty` and `missed` of `regions.case_scores`."""

    empty: str = "one"
    missed: float | None = None

    def record(self) -> dict:
        """What evaluation.json says of it."""
        return {"both_empty": self.empty, "missed_hd95_mm": "diagonal of the case's grid" if self.missed is None else self.missed}


def policy_of(dataset: str, *, empty: str, lesions: str) -> Policy:
    """The policy of config.eval: a missed structure is as far as its case's grid is long, 374 mm by the rules of BraTS.

    Args:
      dataset: config.data.dataset.
      empty: config.eval.empty.
      lesions: config.eval.lesions.
    Raises:
      ConfigError: a policy that volumes do not have.
    """
    if empty not in surfaces.EMPTY:
        raise ConfigError(f"config.eval.empty={empty!r}: volumes take {' or '.join(surfaces.EMPTY)}")
    return Policy(empty, FAR if lesions or dataset == "brats" else None)


class OwnMetric(NamedTuple):
    """A score of one's own: its column's name, and the function (prediction, truth, spacing) -> float of two boolean masks."""

    name: str
    function: Callable[[np.ndarray, np.ndarray, Spacing], float]

    @classmethod
    def of(cls, path: str) -> "OwnMetric":
        """The metric behind a path "module:function" of config.eval.metrics.

        Raises:
          ConfigError: no such function, or one with the name of a column that is there.
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
        """Of one example and class.

        Raises:
          ConfigError: it fails, or gives no number.
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
    """What is scored, and how.

    Attributes:
      classes: names of the classes 1..K.
      regions: ((name, classes), ...), scored before the classes; () for none.
      policy: of empty masks.
      surface: measure HD95 and NSD.
      lesions: a challenge of BraTS 2023, for lesion-wise scores; "" for none.
      own: scores of one's own.
    """

    classes: tuple[str, ...]
    regions: tuple[tuple[str, tuple[int, ...]], ...] = ()
    policy: Policy = Policy()
    surface: bool = False
    lesions: str = ""
    own: tuple[OwnMetric, ...] = ()

    @property
    def headline(self) -> tuple[str, ...]:
        """What the mean Dice is of: the regions, else the classes."""
        return tuple(name for name, _ in self.regions) or tuple(self.classes)


class Example(NamedTuple):
    """A slice or a volume that has been segmented.

    Attributes:
      about: case, patient, slice (index in the file, for slices), row (in the store, where it has one).
      labels, truth: integers [*S].
      spacing: mm per voxel of each axis.
    """

    about: dict
    labels: np.ndarray
    truth: np.ndarray
    spacing: Spacing


class Scored(NamedTuple):
    """What one pass over a split yields.

    Attributes:
      rows: of every example and class (or region).
      confusion: int64 [K+1, K+1] over all voxels, rows truth, background first; None where the counts of one class say it all.
      loss: mean over the examples; NaN where none was computed.
      seconds: of the networks, without the first case, which may compile.
      kept: {row in the store: predicted labels} of the first few examples.
      lesions: rows of `lesions.lesion_rows` with their case; empty unless asked for.
      shapes: the sizes of the examples, each once.
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
    """Score any way to segment; with several processes each takes its share of the cases, and all get the result.

    Args:
      cases: what is segmented at once.
      examine: a case -> its examples, segmented.
      keep: so many predictions are kept for pictures.
      watch: gets every example that this process scored, and its rows.
    Raises:
      DataError: no cases.
    """
    if not len(cases):
        raise DataError("the split to be scored is empty; give it a share in config.data.fractions", "DATA_EMPTY")
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
            rows = _rows(example, rules, matrix)
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
    """The mean loss over the examples of a pass, of all processes.

    Args:
      loss: from `losses.compose.build`.
      target: labels [1, *S] -> what the loss compares with (regions).
    """

    def __init__(self, loss: Callable, target: Callable = lambda mask: mask):
        self._loss = jax.jit(lambda logits, mask: loss(Outputs(logits, ()), {"mask": target(mask)})[:2])
        self.reset()

    def reset(self) -> None:
        """Begin a new pass."""
        self._total = self._weight = 0.0

    def add(self, logits: Array, masks: np.ndarray) -> None:
        """Take logits [1, *S, K] and masks [1, *S]; those of more than 1 GiB are compared on the host."""
        with jax.default_device(_host() if logits.nbytes > 2**30 else None):
            total, weight = jax.device_get(self._loss(jnp.asarray(logits), jnp.asarray(masks, jnp.int32)))
        self._total += float(total)
        self._weight += float(weight)

    def mean(self) -> float:
        """NaN where nothing was added."""
        total, weight = summed(self._total), summed(self._weight)
        return total / weight if weight else math.nan


def _host():
    """The processor as a device; None if JAX_PLATFORMS names the accelerator alone."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def _rows(example: Example, rules: Rules, matrix: np.ndarray) -> list[Row]:
    """A row for every region and class of one example."""
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
    """The JSON-able rows of all processes, on every process."""
    if jax.process_count() == 1:
        return rows
    text = np.frombuffer(json.dumps(rows).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(text)))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(text)] = text
    parts = multihost_utils.process_allgather(padded)
    return [row for part, n in zip(parts, sizes.ravel()) for row in json.loads(bytes(part[: int(n)]).decode())]


def summed(value):
    """The sum over all processes, exact: as arrays of a device int64 would wrap at 2^31 and float64 lose its lower half."""
    if jax.process_count() == 1:
        return value
    total = np.sum(gathered([value.tolist() if isinstance(value, np.ndarray) else value]), 0)
    return total if isinstance(value, np.ndarray) else total.item()
