"""A network's weights and a split of volumes in; per-case scores of every region and class, and the report, out.

Volumes go through the sliding window one after another; with several processes each takes its share of the cases.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jaxseg.data.store.per_case import Store
from jaxseg.evaluate.baseline import best_band, best_threshold
from jaxseg.infer import postprocess
from jaxseg.infer.volumes import VolumeNetwork, labels_of
from jaxseg.metrics import counts as scores
from jaxseg.metrics import regions as region_scores
from jaxseg.metrics import surface as surfaces
from jaxseg.metrics.lesions import FAR, lesion_rows
from jaxseg.metrics.summarize import write_csv
from jaxseg.models.base import Outputs
from jaxseg.types import ConfigError, DataError
from jaxseg.utils.files import write_json
from jaxseg.utils.pictures import panel

SMALLEST = (10, 30, 100, 300)  # mm^3 of a component, so voxels in BraTS: sizes that post-processing tries
FEWEST = (50, 150, 500)  # voxels of the innermost region's class under which it becomes that of the region around it


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


class Scored(NamedTuple):
    """What one pass over a split yields.

    Attributes:
      cases: a row per volume: case, patient, row (in the store), and the scores of `regions.case_scores`.
      confusion: int64 [K+1, K+1] over all voxels, rows truth.
      loss: mean over the volumes; NaN where no logits were to be had.
      seconds: of the networks, without the first volume, which may compile.
      kept: {row: predicted labels [X, Y, Z]} of the first few volumes.
      lesions: rows of `lesions.lesion_rows` with their case; empty unless asked for.
    """

    cases: list[dict]
    confusion: np.ndarray
    loss: float
    seconds: float
    kept: dict[int, np.ndarray]
    lesions: list[dict]


class Scorer:
    """Scores weights of one network over volumes of a store.

    Args:
      network: the sliding window over the network.
      loss: from `losses.compose.build`.
      target: labels [1, X, Y, Z] -> what the loss compares with (regions).
      order: the class each region writes, for region heads; () for classes.
      threshold: of the sigmoid, for one logit and for regions.
      policy: of empty masks.
    """

    def __init__(self, network: VolumeNetwork, loss: Callable, *, target: Callable = lambda mask: mask,
                 order: Sequence[int] = (), threshold: float = 0.5, policy: Policy = Policy()):
        self.network, self.order, self.threshold, self.policy = network, tuple(order), threshold, policy
        self._loss = jax.jit(lambda logits, mask: loss(Outputs(logits, ()), {"mask": target(mask)})[:2])

    def labels(self, logits) -> np.ndarray:
        """uint8 labels of logits."""
        return labels_of(logits, order=self.order, threshold=self.threshold)

    def run(self, params: dict, state: dict, store: Store, rows: np.ndarray, *, keep: int = 0, surface: bool = False,
            lesions: str = "", steps: Sequence = ()) -> Scored:
        """Score the volumes `rows` of a store.

        Args:
          keep: predictions of that many volumes are kept for pictures.
          surface: measure HD95 and NSD.
          lesions: a challenge of BraTS 2023, for lesion-wise scores; "" for none.
          steps: post-processing, from `postprocess.choose`.
        Raises:
          DataError: no rows.
        """
        params, state = self.network.place(params, state)
        totals = {"loss": 0.0, "weight": 0.0}

        def segment(image, mask, spacing):
            logits = self.network(params, state, image)
            with jax.default_device(_host() if isinstance(logits, np.ndarray) else None):
                value, weight = jax.device_get(self._loss(jnp.asarray(logits)[None], jnp.asarray(mask, jnp.int32)[None]))
            totals["loss"] += float(value)
            totals["weight"] += float(weight)
            return postprocess.apply(self.labels(logits), steps, spacing)

        scored = score(segment, store, rows, policy=self.policy, keep=keep, surface=surface, lesions=lesions)
        total, weight = (_summed(totals[k]) for k in ("loss", "weight"))
        return scored._replace(loss=total / max(weight, 1e-12))

    def choose_postprocessing(self, params: dict, state: dict, store: Store, rows: np.ndarray) -> list:
        """The steps that raise the mean Dice over these volumes (validation), from `postprocess.choose`."""
        params, state = self.network.place(params, state)
        predictions = [self.labels(self.network(params, state, store.image(i))) for i in rows]
        nested = region_scores.class_order(store.regions)[::-1][:2] if store.recipe.spacing is None else ()
        return postprocess.choose(predictions, [np.asarray(store.mask(i)) for i in rows], num_classes=len(store.labels) + 1,
                                  regions=dict(store.regions) or None, min_mm3=SMALLEST, empty=self.policy.empty,
                                  spacings=[tuple(store.rows[i]["spacing"]) for i in rows],
                                  relabel=[(*nested, few) for few in FEWEST] if len(nested) == 2 else ())


def _host():
    """The processor as a device, for logits that were kept on the host because the accelerator has no room; None if hidden."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS names the accelerator alone
        return None


def score(segment: Callable[[np.ndarray, np.ndarray, tuple], np.ndarray], store: Store, rows: np.ndarray, *, policy: Policy,
          keep: int = 0, surface: bool = False, lesions: str = "") -> Scored:
    """Score any way to segment: segment(image [X, Y, Z, C], mask [X, Y, Z], spacing (mm)) -> labels [X, Y, Z].

    The mask is for its loss.
    """
    if not len(rows):
        raise DataError("the split to be scored is empty; give it a share in config.data.fractions", "DATA_EMPTY")
    classes, cases, kept, found, seconds = store.labels, [], {}, [], 0.0
    confusion = np.zeros((len(classes) + 1,) * 2, np.int64)
    for number, i in enumerate(rows[jax.process_index()::jax.process_count()]):
        about, truth = store.rows[i], np.asarray(store.mask(i))
        spacing, begin = tuple(about["spacing"]), time.perf_counter()
        labels = segment(store.image(i), truth, spacing)
        seconds += time.perf_counter() - begin if number else 0.0
        matrix = np.asarray(scores.confusion(labels[None], truth[None], len(classes) + 1), np.int64)
        confusion += matrix
        cases.append({"case": about["case"], "patient": about["patient"], "row": int(i)} | region_scores.case_scores(
            labels, truth, regions=store.regions, classes=classes, spacing=spacing, surface=surface, confusion=matrix,
            **policy._asdict()))
        if lesions:
            found += [{"case": about["case"]} | row for row in
                      lesion_rows(labels, truth, spacing=spacing, challenge=lesions, regions=store.regions)]
        if len(kept) < keep:
            kept[int(i)] = labels
    cases, found = (_gathered(part) for part in (cases, found))
    cases = sorted(cases, key=lambda row: row["row"])
    place = {row["case"]: row["row"] for row in cases}
    found = sorted(found, key=lambda row: place[row["case"]])
    return Scored(cases, _summed(confusion), float("nan"), seconds, kept, found)


def headline(scored: Scored) -> dict[str, float]:
    """The figures of a validation: loss; mean Dice, recall and so on over regions (classes); Dice of each; voxels predicted."""
    mean = lambda key: float(np.nan_to_num(np.nanmean([row[key] for row in scored.cases])))
    names = [key.removeprefix("dice_") for key in scored.cases[0] if key.startswith("dice_") and key != "dice_mean"]
    return {"val_loss": scored.loss, **{f"val_{key}": mean(f"{key}_mean") for key in ("dice", "iou", "precision", "recall")},
            **{f"val_{name.lower()}": mean(f"dice_{name}") for name in names},
            "positive": int(scored.confusion[:, 1:].sum())}


def pictures(scored: Scored, store: Store) -> list[np.ndarray]:
    """Input, truth, prediction and errors of the slice with most foreground, upright, of the kept volumes."""
    found = []
    for i, labels in scored.kept.items():
        image, mask = store.image(i), np.asarray(store.mask(i))
        z = int(((mask > 0) | (labels > 0)).sum((0, 1)).argmax())
        last = max(len(store.recipe.modalities), 1) - 1  # coordinates may follow
        grey = np.asarray(image[:, :, z, last], np.float32).T  # [Y, X]: rows run front to back, columns right to left
        low, high = np.percentile(grey, (1, 99))
        grey = np.uint8(np.clip((grey - low) / max(high - low, 1e-6), 0, 1) * 255)
        found.append(panel(grey[..., None], mask[:, :, z].T, labels[:, :, z].T))
    return found


def report(scored: Scored, store: Store, *, policy: Policy, summary, model: str, epochs: int | None, folder: Path | None,
           baselines: bool = True, steps: Sequence = (), cascaded: Scored | None = None) -> str:
    """Everything that is printed at the end of a run; with `folder`, cases.csv, confusion.csv and evaluation.json are written.

    Args:
      policy: of empty masks, as the cases were scored.
      summary: parameters and multiply-accumulates of one window, from models.summary.
      model: the network's name.
      epochs: how long the weights were trained, if known.
      folder: where to write.
      baselines: look for the best intensity threshold and band too.
      steps: the post-processing that was applied.
      cascaded: the same split through the cascade, reported beside.
    """
    figures = region_scores.summarize_cases(scored.cases)
    names = [key.removeprefix("dice_") for key in figures if key.startswith("dice_") and key != "dice_mean"]
    lines = [model, f"    Params: {summary.params / 1e6:.1f}M ({summary.params:,})",
             f"    GMACs: {summary.macs / 1e9:.4f} a window",
             f"    It was trained {'?' if epochs is None else epochs} EPOCHS",
             f"    Test time: {scored.seconds:.1f} s for {len(scored.cases)} volumes, the first not counted; loss "
             f"{scored.loss:.6f}"]
    lines += _score_lines(figures, names, "")
    if "hd95_mean" in figures:
        lines.append("hd95 of a structure that was missed, or found where there is none: "
                     + ("the diagonal of its case's grid" if policy.missed is None else f"{policy.missed:g} mm (BraTS)"))
    for region in dict.fromkeys(row["Labels"] for row in scored.lesions):
        rows = [row for row in scored.lesions if row["Labels"] == region]
        lines.append(f"{region:<4} lesion-wise dice {np.mean([r['LesionWise_Score_Dice'] for r in rows]):.4f}  "
                     f"hd95 {np.mean([r['LesionWise_Score_HD95'] for r in rows]):.4f} mm  "
                     + " ".join(f"{key} {sum(r[f'Num_{key}'] for r in rows)}" for key in ("TP", "FP", "FN")))
    lines += [f"post-processing: {step['step']} {step['options']}, validation Dice {step['dice'][0]:.4f} -> {step['dice'][1]:.4f}"
              for step in steps]
    beside = {}
    if cascaded is not None:
        second = region_scores.summarize_cases(cascaded.cases)
        lines += [*_score_lines(second, names, "cascade "),
                  f"cascade: mean Dice {second['dice_mean']['mean']:.4f}, sliding window {figures['dice_mean']['mean']:.4f}"]
        beside = {"cascade_dice": second["dice_mean"]["mean"],
                  **{f"cascade_{name.lower()}": second[f"dice_{name}"]["mean"] for name in names}, "cascade_scores": second}
    best = baseline(store, np.array([row["row"] for row in scored.cases])) if baselines else {}
    lines += [f"baseline   {text}" for text in best.get("lines", ())]
    dice = figures["dice_mean"]["mean"]
    lines.append(f"mean Dice of {', '.join(n for n, _ in store.regions) or ', '.join(store.labels)}: {dice:.4f} on "
                 f"{len(scored.cases)} volumes" + (" (SYNTHETIC data)" if store.synthetic else ""))
    if folder is not None:
        extra = {row["case"]: {f"cascade_{k}": v for k, v in row.items() if k.startswith("dice_")} for row in cascaded.cases} \
            if cascaded else {}
        write_csv(folder / "cases.csv", [row | extra.get(row["case"], {}) for row in scored.cases])
        if scored.lesions:
            write_csv(folder / "lesions.csv", scored.lesions)
        classes = ("background", *store.labels)
        write_csv(folder / "confusion.csv", [{"truth": name, **dict(zip(classes, row))}
                                             for name, row in zip(classes, scored.confusion.tolist())])
        write_json(folder / "evaluation.json", {
            "model": model, "params": summary.params, "macs": summary.macs, "loss": scored.loss, "mean_dice": dice,
            "scores": figures, "confusion": scored.confusion.tolist(), "synthetic": store.synthetic,
            "empty_masks": policy.record(), "baselines": best.get("figures", {}), "postprocessing": list(steps), **beside})
        lines.append(f"per-case figures in {folder / 'cases.csv'}")
    return "\n".join(lines)


def _score_lines(figures: dict, names: Sequence[str], before: str) -> list[str]:
    return [f"{before}{name:<4} " + "  ".join(
        f"{key} {figures[f'{key}_{name}']['mean']:.4f} +- {figures[f'{key}_{name}']['std']:.4f}"
        for key in ("dice", "iou", "precision", "recall", "specificity", "hd95", "nsd") if f"{key}_{name}" in figures)
        for name in names]


def write_roi_record(folder: Path, config: dict, rows: Sequence[dict], weights: Path) -> None:
    """config.json and metrics.csv of a region-of-interest run, with the columns that the source's cascade looks for."""
    best = max((row for row in rows if row.get("val_dice", "") != ""), key=lambda row: row["val_dice"], default={})
    tested = json.loads((folder / "evaluation.json").read_text())["mean_dice"]
    write_json(folder / "config.json", config)
    write_csv(folder / "metrics.csv", [{"seed": config["seed"], "best_epoch": best.get("epoch", ""), "best_val_dice":
                                        best.get("val_dice", ""), "test_wt_dice": tested, "weight_path": str(weights)}])


def baseline(store: Store, rows: np.ndarray, bins: int = 256) -> dict:
    """Best pooled Dice that one intensity rule on one channel reaches for each region (class), chosen on these very volumes."""
    groups = store.regions or tuple((name, (k + 1,)) for k, name in enumerate(store.labels))
    channels = store.recipe.modalities or tuple(f"channel {c}" for c in range(store.image(rows[0]).shape[-1]))
    lines, figures = [], {"threshold": [], "band": []}
    edges = [(min(float(store.image(i)[..., c].min()) for i in rows), max(float(store.image(i)[..., c].max()) for i in rows))
             for c in range(len(channels))]
    tables = []  # per channel: [groups + 1, bins] voxels, the last row all of them
    for c, (low, high) in enumerate(edges):
        table = np.zeros((len(groups) + 1, bins), np.int64)
        for i in rows:
            levels = np.uint8((np.asarray(store.image(i)[..., c]) - low) * ((bins - 1) / max(high - low, 1e-6)))
            mask = np.asarray(store.mask(i))
            for g, (_, classes) in enumerate(groups):
                table[g] += np.bincount(levels[np.isin(mask, classes)], minlength=bins)
            table[-1] += np.bincount(levels.ravel(), minlength=bins)
        tables.append(table)
    for g, (name, _) in enumerate(groups):
        for rule, find in (("threshold", best_threshold), ("band", best_band)):
            tried = [(find(table[g], table[-1]), c) for c, table in enumerate(tables)]
            best, c = max(tried, key=lambda t: t[0].dice)
            low, high = edges[c]
            value = lambda grey: low + grey / (bins - 1) * (high - low)  # noqa: B023
            figures[rule].append(best.dice)
            lines.append(f"best intensity {rule} for {name}, chosen on these very volumes: pooled Dice {best.dice:.4f} at "
                         f"{value(best.low):.2f} to {value(best.high):.2f} of {channels[c]}")
    lines.append("mean of them: " + ", ".join(f"{rule} {np.mean(v):.4f}" for rule, v in figures.items()))
    return {"lines": lines, "figures": {rule: float(np.mean(v)) for rule, v in figures.items()}}


def _gathered(rows: list) -> list:
    """The JSON-able rows of all processes, on every process."""
    if jax.process_count() == 1:
        return rows
    text = np.frombuffer(json.dumps(rows).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(text)))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[:len(text)] = text
    parts = multihost_utils.process_allgather(padded)
    return [row for part, n in zip(parts, sizes.ravel()) for row in json.loads(bytes(part[:int(n)]).decode())]


def _summed(value):
    """The sum over all processes, exact: as arrays of a device int64 would wrap at 2^31 and float64 lose its lower half."""
    if jax.process_count() == 1:
        return value
    total = np.sum(_gathered([value.tolist() if isinstance(value, np.ndarray) else value]), 0)
    return total if isinstance(value, np.ndarray) else total.item()
