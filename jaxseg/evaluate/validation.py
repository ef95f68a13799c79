"""Scores and pictures of a validation during training, for any rank, on the prepared grid."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxseg.data.prepare.labels import annotated
from jaxseg.data.store.per_case import PerCase
from jaxseg.data.store.stacked import Stacked
from jaxseg.evaluate.scoring import Rules, Scored
from jaxseg.metrics import counts as scores
from jaxseg.metrics.counts import Counts
from jaxseg.utils.files import plain_name
from jaxseg.utils.pictures import captioned, panel, to_8bit

OVERLAPS = {"dice": scores.dice, "iou": scores.iou, "precision": scores.precision, "recall": scores.recall}
TAKEN = {"loss", "image_dice", "grid", *OVERLAPS}  # figures that are not those of a class
SIDE = 768  # pixels that the longer side of a shown picture has at most


def figure_of(name: str) -> str:
    """Return the key of a class's or region's Dice: val_wt for "WT", val_class_loss for a class that is called "loss"."""
    return f"val_class_{name.lower()}" if name.lower() in TAKEN else f"val_{name.lower()}"


def figures(scored: Scored, rules: Rules, *, rank: int) -> dict[str, Any]:
    """Return the figures of a validation, and "positive": {class: number of predicted voxels} of the classes that the masks hold.

    val_loss, val_dice, val_iou, val_precision, val_recall, and the Dice of each region and class (`figure_of`). For slices and
    pictures (rank 2) all pixels of a class are pooled, and val_image_dice is the mean over images and classes. For volumes (rank
    3) each score is the mean over the cases and over the regions (or classes if there are none).
    """
    found = _pooled(scored, rules) if rank == 2 else _of_cases(scored, rules)
    predicted, there = dict.fromkeys(rules.classes, 0), dict.fromkeys(rules.classes, 0)
    for row in scored.rows:
        if row["class"] in predicted:
            predicted[row["class"]] += int(row["tp"] + row["fp"])
            there[row["class"]] += int(row["tp"] + row["fn"])
    return {"val_loss": scored.loss, **found, "positive": {name: n for name, n in predicted.items() if n or there[name]}}


def _pooled(scored: Scored, rules: Rules) -> dict[str, float]:
    of_class = [[row for row in scored.rows if row["class"] == name] for name in rules.classes]
    counts = Counts(*(np.array([[row[key] for row in rows] for rows in of_class], np.int64).T for key in Counts._fields))
    pooled, images = scores.pool(counts), scores.dice(counts, rules.policy.empty)
    overlaps = {f"val_{name}": float(np.mean(score(pooled, "zero"))) for name, score in OVERLAPS.items()}
    alone = {figure_of(name): float(dice) for name, dice in zip(rules.classes, scores.dice(pooled, "zero"))}
    return overlaps | {"val_image_dice": float(np.nan_to_num(np.nanmean(images)))} | (alone if len(alone) > 1 else {})


def _of_cases(scored: Scored, rules: Rules) -> dict[str, float]:
    def mean(key: str, names: Sequence[str]) -> float:
        cases: dict[str, list[float]] = {}
        for row in scored.rows:
            if row["class"] in names:
                cases.setdefault(row["case"], []).append(row[key])
        values = [np.nanmean(v) for v in cases.values() if not np.isnan(v).all()]
        return float(np.mean(values)) if values else 0.0

    names = list(dict.fromkeys(row["class"] for row in scored.rows))
    overlaps = {f"val_{key}": mean(key, rules.headline) for key in OVERLAPS}
    return overlaps | {figure_of(name): mean("dice", [name]) for name in names}


def pictures(scored: Scored, store: Stacked | PerCase) -> dict[str, np.ndarray]:
    """Return {case, and its slice: input, truth, prediction and errors} of the kept examples; for volumes, of the upright slice
    with most foreground."""
    found = {}
    for i, labels in scored.kept.items():
        row = store.rows[i]
        name = f"{row['case']}_slice_{row['slice']}" if row.get("slice") else str(row["case"])
        found[plain_name(name)] = captioned(_panel(store, i, labels), store.labels)
    return found


def _panel(store: Stacked | PerCase, i: int, labels: np.ndarray) -> np.ndarray:
    mask = np.asarray(store.mask(i))
    there = annotated(mask, len(store.labels))
    mask, labels = (np.where(there, a, a.dtype.type(0)) for a in (mask, labels))  # without annotation no label is shown
    if isinstance(store, Stacked):
        return panel(store.picture(i), mask, labels)
    image = store.image(i)
    if store.rank == 2:
        step = -(-max(mask.shape) // SIDE)
        image, mask, labels = (np.asarray(a[::step, ::step]) for a in (image, mask, labels))
        shown = image if image.dtype == np.uint8 else to_8bit(image, *np.percentile(image, (1, 99)))
        return panel(shown, mask, labels)
    z = int(((mask > 0) | (labels > 0)).sum((0, 1)).argmax())
    last = max(len(store.recipe.modalities), 1) - 1  # coordinates may follow
    grey = np.asarray(image[:, :, z, last], np.float32).T  # [Y, X]: rows run front to back, columns right to left
    low, high = np.percentile(grey, (1, 99))
    grey = np.uint8(np.clip((grey - low) / max(high - low, 1e-6), 0, 1) * 255)
    return panel(grey[..., None], mask[:, :, z].T, labels[:, :, z].T)
