"""Score stored slices at the network's input size: one compiled program per batch computes logits, loss, and the counts at all
thresholds, over all devices and processes. Because all slices have the same size, many fit into a batch that is spread over the
devices, and no logits are copied to the host.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxseg.data.prepare.labels import dtype_for
from jaxseg.data.stream import pipeline
from jaxseg.evaluate import scoring
from jaxseg.metrics import counts as scores
from jaxseg.metrics.counts import Counts
from jaxseg.metrics.regions import labels_from_regions
from jaxseg.metrics.summarize import rows_of, sweep
from jaxseg.models.functional import Network
from jaxseg.ops import devices
from jaxseg.ops.image import standardise, to_float
from jaxseg.programs.kept import Kept, KeptCalls
from jaxseg.types import ConfigError, DataError
from jaxseg.utils import output, turns
from jaxseg.utils.machine import memory


class SliceScores(NamedTuple):
    """The result of scoring a split.

    Attributes:
      counts: one Counts [N, K'] per threshold (only one for several classes, of the arg-max, and for regions).
      thresholds: of the foreground probability; () for several classes and for regions.
      rows: [N] row numbers in the store, in order.
      loss: mean over the images.
      seconds: time without the first batch, which may compile.
      kept: {row number: predicted labels [h, w]} of the first few images with foreground.
      confusion: int64 [K, K] over all pixels, background first, rows are the truth; None for one class.
    """

    counts: tuple[Counts, ...]
    thresholds: tuple[float, ...]
    rows: np.ndarray
    loss: float
    seconds: float
    kept: dict[int, np.ndarray]
    confusion: np.ndarray | None = None

    def at(self, threshold: float) -> Counts:
        """Return the counts at the nearest threshold (of the arg-max if there are no thresholds)."""
        return self.counts[int(np.argmin(np.abs(np.subtract(self.thresholds, threshold)))) if self.thresholds else 0]

    def examples(self, cache, threshold: float, empty: str) -> scoring.Scored:
        """Return one row per slice and class at a threshold, in the form of all other scorers.

        Args:
          cache: the store that was scored.
          threshold: see `at`.
          empty: score of an empty slice, see `counts.dice`.
        """
        rows = [cache.rows[i] for i in self.rows]
        cases, patients = ([row[key] for row in rows] for key in ("case", "patient"))
        found = rows_of(self.at(threshold), cases, list(cache.labels), patients=patients, empty=empty)
        of_each = [row["slice"] for row in rows for _ in cache.labels]
        found = [row | {"slice": z} for row, z in zip(found, of_each)]
        shapes = (tuple(cache.recipe.size),)
        return scoring.Scored(found, self.confusion, self.loss, self.seconds, self.kept, [], shapes)


class SliceScorer:
    """Scores weights of one network on splits of a store; compiled once.

    Args:
      network: from `functional.split`.
      loss: from `losses.compose.build`.
      thresholds: of the foreground probability, for one class.
      threshold: for regions, and for the pictures.
      mesh: devices; batches are split over them.
      batch_size: global; the last batch is padded with images of weight 0.
      dtype: compute dtype.
      target: converts labels to the loss's target (regions).
      order: for regions: the class of every combination of regions; () for classes.
      left_out: pixels with the label LEFT_OUT are not counted.
      mean, std: of the images in 0..1, per channel.
      kept: where the program is kept if there is a single device; None: nowhere.
    """

    def __init__(
        self,
        network: Network,
        loss,
        *,
        thresholds: tuple[float, ...],
        threshold: float,
        mesh,
        batch_size: int,
        dtype: str,
        target: Callable = lambda mask: mask,
        order: Sequence[int] = (),
        left_out: bool = False,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        kept: Kept | None = None,
    ):
        self.thresholds, self.batch_size, self._groups = thresholds, batch_size, mesh.shape["data"]

        def score(params, state, batch):
            image = standardise(to_float(batch["image"]), mean, std)
            outputs, _ = network.apply(params, state, image.astype(dtype))
            truth = batch["target"] if "target" in batch else target(batch["mask"])
            total, weight, _ = loss(outputs, {**batch, "mask": truth})
            logits, matrix = outputs.logits, None
            classes = max(order) + 1 if order else logits.shape[-1]
            if classes <= 2 and not order:
                probability = jax.nn.sigmoid(logits[..., 0]) if classes == 1 else jax.nn.softmax(logits, -1)[..., 1]
                found = sweep(probability, batch["mask"], thresholds, left_out=left_out)  # each [T, B]
                counts = tuple(Counts(*(c[t][:, None] for c in found)) for t in range(len(thresholds)))
                labels = probability >= threshold
            else:
                labels = labels_from_regions(jax.nn.sigmoid(logits), order, threshold) if order else jnp.argmax(logits, -1)
                counts = (scores.count(labels, batch["mask"], classes, left_out=left_out),)
                matrix = scores.confusion(labels, batch["mask"], classes, batch["weight"])
            return counts, matrix, total, weight, labels.astype(dtype_for(classes - 1)), batch["index"], batch["weight"]

        everywhere, self._split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
        score = devices.over(mesh, score)
        self._score = (
            KeptCalls(score, kept)
            if kept and mesh.devices.size == 1
            else jax.jit(score, in_shardings=(everywhere, everywhere, self._split), out_shardings=everywhere)
        )

    def run(self, params: dict, state: dict, cache, rows: np.ndarray, *, keep: int = 0) -> SliceScores:
        """Score the stored examples `rows`; keep the predictions of up to `keep` images for pictures.

        One process takes smaller batches where the device's memory is full.

        Raises:
          DataError: there are no rows.
          ConfigError: the batches do not fit into memory.
        """
        if not len(rows):
            raise DataError("the split to be evaluated is empty; give it a share in config.data.fractions", "DATA_EMPTY")
        while True:
            try:
                return self._run(params, state, cache, rows, keep)
            except jax.errors.JaxRuntimeError as error:
                if not memory.exhausted(error):
                    raise
                if jax.process_count() > 1 or self.batch_size <= self._groups:
                    raise ConfigError(
                        f"config.eval.batch_size={self.batch_size}: does not fit into the device's memory; lower it, or data.size"
                    ) from error
                self.batch_size = max(self.batch_size // 2 // self._groups, 1) * self._groups
                output.say(f"memory is full: scores {self.batch_size} images at once from now on; the results are the same")

    def _run(self, params: dict, state: dict, cache, rows: np.ndarray, keep: int) -> SliceScores:
        parts, matrices, order, kept, total, weight, begin = [], [], [], {}, 0.0, 0.0, None
        with pipeline.eval_batches(
            cache, rows, batch_size=self.batch_size, process_index=jax.process_index(), process_count=jax.process_count()
        ) as batches:
            for batch in output.working_through(batches, "validating"):
                turns.turn()
                placed = {k: jax.make_array_from_process_local_data(self._split, np.asarray(v)) for k, v in batch.items()}
                counts, matrix, loss_sum, loss_weight, labels, index, valid = jax.device_get(self._score(params, state, placed))
                valid = valid > 0
                matrices += [] if matrix is None else [np.asarray(matrix, np.int64)]
                parts.append(tuple(Counts(*(c[valid] for c in one)) for one in counts))
                order.append(index[valid])
                total, weight = total + float(loss_sum), weight + float(loss_weight)
                for row, predicted in zip(index[valid], labels[valid]):
                    if len(kept) < keep and sum(cache.rows[row]["foreground"]) > 0:
                        kept[int(row)] = predicted
                begin = begin or time.perf_counter()
        joined = tuple(scores.join([p[t] for p in parts]) for t in range(len(parts[0])))
        thresholds, matrix = ((), sum(matrices)) if matrices else (self.thresholds, None)
        return SliceScores(
            joined, thresholds, np.concatenate(order), total / max(weight, 1e-12), time.perf_counter() - begin, kept, matrix
        )
