"""A network's weights and a split in, per-image counts and every figure of the report out.

One compiled program scores a batch: forward pass, loss, counts at all thresholds. Beside the network's figures stand
those of baselines on the same images (nothing predicted; the best intensity threshold and band), so that a number is
never read alone.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxseg.data.stream import pipeline
from jaxseg.evaluate import baseline
from jaxseg.metrics import counts as scores
from jaxseg.metrics import projects
from jaxseg.metrics.counts import Counts
from jaxseg.metrics.regions import labels_from_regions
from jaxseg.metrics.summarize import by_patient, detection, means, rows_of, sweep, write_csv
from jaxseg.models.functional import Network
from jaxseg.ops.image import standardise, to_float
from jaxseg.types import ConfigError, DataError
from jaxseg.utils.files import write_json
from jaxseg.utils.lookup import lookup
from jaxseg.utils.pictures import panel


class Scored(NamedTuple):
    """What one pass over a split yields.

    Attributes:
      counts: one Counts [N, K'] per threshold (one alone for more than one class: of the arg-max, or of the regions).
      thresholds: of the foreground probability; () for more than one class and for regions.
      rows: [N] row numbers in the cache, in order.
      loss: mean over the images.
      seconds: of the pass without its first batch, which may compile.
      kept: {row number: predicted labels [h, w]} of the first few images with something in them.
      confusion: int64 [K, K] of all pixels, background first, rows truth; None for one class, whose counts say it all.
    """

    counts: tuple[Counts, ...]
    thresholds: tuple[float, ...]
    rows: np.ndarray
    loss: float
    seconds: float
    kept: dict[int, np.ndarray]
    confusion: np.ndarray | None = None

    def at(self, threshold: float) -> Counts:
        """The counts at the threshold nearest to this one (of the arg-max where there are none)."""
        return self.counts[int(np.argmin(np.abs(np.subtract(self.thresholds, threshold)))) if self.thresholds else 0]


class Scorer:
    """Scores weights of one network over splits of a cache; compiled once.

    Args:
      network: from `functional.split`.
      loss: from `losses.compose.build`.
      thresholds: of the foreground's probability, for one class.
      threshold: of the regions, and of the pictures.
      mesh: devices; batches are split over them.
      batch_size: global; the last batch is padded with images of weight 0.
      dtype: compute dtype.
      target: labels -> what the loss compares with (regions).
      order: the class that each region writes, for region heads; () for classes.
      mean, std: of the images in 0..1, per channel.
    """

    def __init__(self, network: Network, loss, *, thresholds: tuple[float, ...], threshold: float, mesh, batch_size: int,
                 dtype: str, target: Callable = lambda mask: mask, order: Sequence[int] = (), mean: Sequence[float] = (),
                 std: Sequence[float] = ()):
        self.thresholds, self.batch_size = thresholds, batch_size

        def score(params, state, batch):
            image = standardise(to_float(batch["image"]), mean, std)
            outputs, _ = network.apply(params, state, image.astype(dtype))
            truth = batch["target"] if "target" in batch else target(batch["mask"])
            total, weight, _ = loss(outputs, {**batch, "mask": truth})
            logits, matrix = outputs.logits, None
            classes = max(order) + 1 if order else logits.shape[-1]
            if classes <= 2 and not order:
                probability = jax.nn.sigmoid(logits[..., 0]) if classes == 1 else jax.nn.softmax(logits, -1)[..., 1]
                found = sweep(probability, batch["mask"], thresholds)  # each [T, B]
                counts = tuple(Counts(*(c[t][:, None] for c in found)) for t in range(len(thresholds)))
                labels = probability >= threshold
            else:
                labels = labels_from_regions(jax.nn.sigmoid(logits), order, threshold) if order else jnp.argmax(logits, -1)
                counts = (scores.count(labels, batch["mask"], classes),)
                matrix = scores.confusion(labels, batch["mask"], classes, batch["weight"])
            return counts, matrix, total, weight, labels.astype(jnp.uint8), batch["index"], batch["weight"]

        everywhere, self._split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
        self._score = jax.jit(score, in_shardings=(everywhere, everywhere, self._split), out_shardings=everywhere)

    def run(self, params: dict, state: dict, cache, rows: np.ndarray, *, keep: int = 0) -> Scored:
        """Score the cached examples `rows`; keep the predictions of up to `keep` images for pictures.

        Raises:
          DataError: no rows.
        """
        if not len(rows):
            raise DataError("the split to be scored is empty; give it a share in config.data.fractions", "DATA_EMPTY")
        parts, matrices, order, kept, total, weight, begin = [], [], [], {}, 0.0, 0.0, None
        with pipeline.eval_batches(cache, rows, batch_size=self.batch_size, process_index=jax.process_index(),
                                   process_count=jax.process_count()) as batches:
            for batch in batches:
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
        return Scored(joined, thresholds, np.concatenate(order), total / max(weight, 1e-12), time.perf_counter() - begin, kept,
                      matrix)


def headline(scored: Scored, *, empty: str) -> dict[str, float]:
    """The figures of a validation: loss, pooled Dice (and IoU, precision, recall), per-image Dice, pixels predicted."""
    counts = scored.counts[0]
    pooled = scores.pool(counts)
    mean = lambda score: float(np.mean(score(pooled, "zero")))
    return {"val_loss": scored.loss, "val_dice": mean(scores.dice), "val_iou": mean(scores.iou),
            "val_precision": mean(scores.precision), "val_recall": mean(scores.recall),
            "val_image_dice": float(np.nan_to_num(np.nanmean(scores.dice(counts, empty)))),
            "positive": int(np.sum(counts.tp) + np.sum(counts.fp))}


def pictures(scored: Scored, cache) -> list[np.ndarray]:
    """Input, truth, prediction and errors of the kept images."""
    return [panel(cache.picture(row), cache.masks[row], labels) for row, labels in scored.kept.items()]


def report(scored: Scored, cache, *, threshold: float, empty: str, summary, model: str, epochs: int | None,
           folder: Path | None, tables: Sequence[str] = ("ich",)) -> str:
    """Everything that is printed at the end of a run; with `folder`, cases.csv and evaluation.json are written there.

    Args:
      scored: the pass over the split.
      cache: the cache it ran over.
      threshold: of the headline figures.
      empty: policy for images with empty truth and prediction.
      summary: parameters and multiply-accumulates, from models.summary.
      model: the network's name.
      epochs: how long the weights were trained, if known.
      folder: where to write.
      tables: of published projects, names in TABLES.
    """
    rows = [cache.rows[i] for i in scored.rows]
    labels, counts = list(cache.labels), scored.at(threshold)
    table = rows_of(counts, [f"{r['case']}/{r['slice']}" for r in rows], labels, patients=[r["patient"] for r in rows],
                    empty=empty)
    patients, pooled = by_patient(table, empty), scores.pool(counts)
    dice = float(np.mean(scores.dice(pooled)))
    published = {name: lookup("table", name, TABLES)(scored, threshold, labels) for name in tables}
    lines = [model, f"    Params: {summary.params / 1e6:.1f}M ({summary.params:,})",
             f"    GMACs: {summary.macs / 1e9:.4f} true, {summary.macs_printed / 1e9:.4f} as torchprofile prints them",
             f"    It was trained {'?' if epochs is None else epochs} EPOCHS",
             *(f"    {line}" for printed, _ in published.values() for line in printed),
             f"    Test time: {scored.seconds:.1f} s for {len(scored.rows)} images",
             *_per_image(table, empty), *_pooled(pooled, labels), *_patients(patients), *_baselines(cache, scored.rows, labels),
             f"pooled foreground Dice {dice:.4f}" + (" (SYNTHETIC data)" if cache.synthetic else "")]
    if folder is not None:
        write_csv(folder / "cases.csv", table)
        write_csv(folder / "patients.csv", patients)
        write_json(folder / "evaluation.json", {
            "model": model, "params": summary.params, "macs": summary.macs, "threshold": threshold, "loss": scored.loss,
            "pooled_dice": dice, "per_image": means(table), "patients": detection(patients), "synthetic": cache.synthetic,
            "empty_masks": {"both_empty": empty},
            "sweep": {str(t): projects.ich_scores(scored.at(t)) for t in scored.thresholds},
            "tables": {name: figures for name, (_, figures) in published.items()}})
        lines.append(f"per-case figures in {folder / 'cases.csv'}")
    return "\n".join(lines)


def check_tables(tables: Sequence[str], labels: Sequence[str]) -> None:
    """Raise a ConfigError, before anything is trained, for a table that cannot be made for these classes."""
    for name in tables:
        lookup("name in config.eval.tables", name, TABLES)
        wanted = {"left_right": 2, "effisegnet": 1}.get(name, len(labels))
        if len(labels) != wanted:
            raise ConfigError(f"config.eval.tables holds {name!r}, a table of {wanted} classes; this data set has {len(labels)} "
                              f"({', '.join(labels)}): take it out")


def _ich_table(scored: Scored, threshold: float, labels: list[str]) -> tuple[list[str], dict]:
    """The haemorrhage project's means over images, at every threshold."""
    lines, figures = [], {}
    for t in scored.thresholds or (None,):
        s = projects.ich_scores(scored.counts[0] if t is None else scored.at(t))
        figures["arg-max" if t is None else f"{t:g}"] = s
        lines.append(("" if t is None else f"threshold {t:g}: ")
                     + " | ".join(f"{name}: {s[name.lower()]:.4f}" for name in ("IoU", "Dice", "Precision", "Recall"))
                     + f" | loss: {scored.loss:.6f} (the haemorrhage project's definition)")
    return lines, figures


def _class_table(scored: Scored, threshold: float, labels: list[str]) -> tuple[list[str], dict]:
    """The BraTS-2D project's table of all pixels, background included."""
    matrix = scored.confusion
    if matrix is None:
        tp, fp, fn, tn = (int(c.sum()) for c in scores.pool(scored.at(threshold)))
        matrix = np.array([[tn, fp], [fn, tp]])
    figures = projects.class_table(matrix, ("background", *labels))
    width = max(map(len, figures))
    return [f"{name:<{width}}  " + "  ".join(f"{key} {value:.4f}" for key, value in row.items())
            for name, row in figures.items()], figures


def _left_right_table(scored: Scored, threshold: float, labels: list[str]) -> tuple[list[str], dict]:
    """The lung project's Dice; the classes keep the names that config.data.naming gave them."""
    found = projects.left_right_scores(scored.at(threshold))
    figures = dict(zip((*labels, "mean"), (found["left"], found["right"], found["mean"])))
    return ["lung project's Dice: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items())], figures


def _effisegnet_table(scored: Scored, threshold: float, labels: list[str]) -> tuple[list[str], dict]:
    """EffiSegNet's figures at the headline threshold."""
    figures = projects.effisegnet_scores(scored.at(threshold))
    return [f"EffiSegNet's figures at {threshold:g}: "
            + ", ".join(f"{name} {figures[name]:.4f}" for name in ("dice", "iou", "recall", "precision", "f1"))], figures


TABLES = {"ich": _ich_table, "classes": _class_table, "left_right": _left_right_table, "effisegnet": _effisegnet_table}


def _per_image(table: list[dict], empty: str) -> list[str]:
    overall = means(table)
    there = means([r for r in table if r["tp"] + r["fn"] > 0], ("dice",))["dice"]
    note = (f"{overall['images']} rows: {overall['empty']} empty and predicted empty (scored {empty!r}), "
            f"{overall['missed']} missed, {overall['false_alarms']} false alarms")
    lines = [f"per image  {name:<11} {overall[name]['mean']:.4f} +- {overall[name]['std']:.4f} of n={overall[name]['n']}; {note}"
             for name in ("iou", "dice", "precision", "recall", "specificity")]
    return [*lines, f"per image  dice where something is there {there['mean']:.4f} of n={there['n']}"]


def _pooled(pooled: Counts, labels: list[str]) -> list[str]:
    each = [Counts(*(c[k] for c in pooled)) for k in range(len(labels))]
    named = (("Dice", scores.dice), ("IoU", scores.iou), ("precision", scores.precision), ("recall", scores.recall),
             ("specificity", scores.specificity))
    return [f"pooled     {label}: " + " ".join(f"{name} {float(score(one)):.4f}" for name, score in named)
            for label, one in zip(labels, each)]


def _patients(patients: list[dict]) -> list[str]:
    found = detection(patients)
    return [f"patients   sensitivity {found['sensitivity']:.4f} of {found['positives']}, specificity "
            f"{found['specificity']:.4f} of {found['negatives']} (any pixel found, per class)"]


def _baselines(cache, rows: np.ndarray, labels: list[str]) -> list[str]:
    lines = ["baseline   all background: pooled Dice 0.0000"]
    found = baseline.histograms(cache.images, cache.masks, rows, len(labels), span=cache.span)
    for k, label in enumerate(labels):
        for name, rule in (("threshold", baseline.best_threshold), ("band", baseline.best_band)):
            best = rule(found[k], found[-1])
            lines.append(f"baseline   best intensity {name} for {label}, chosen on these very images: pooled Dice "
                         f"{best.dice:.4f} at {cache.value(best.low)} to {cache.value(best.high)}")
    return lines
