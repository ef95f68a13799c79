"""The charts of a run's page: Dice against size, predicted against true size, learning curves, calibration, confusion."""

import math
from typing import Any

from jaxseg.evaluate.validation import figure_of
from jaxseg.reports import page
from jaxseg.reports.charts import Chart, axis_of
from jaxseg.reports.page import COLOURS
from jaxseg.reports.reading import Read

MEASURES = {
    "iou": "IoU",
    "precision": "precision",
    "recall": "recall",
    "specificity": "specificity",
    "hd95": "HD95, mm",
    "nsd": "NSD",
}
MOST_DOTS = 3000  # of a chart


def of_scores(read: Read) -> str:
    """Dice against the size of the structure, and predicted against true size."""
    names = list(read.found.get("headline", ()))[: len(COLOURS)]
    rows = [row for row in read.cases if row["class"] in names][:MOST_DOTS]
    if not rows:
        return ""
    title = lambda row: read.show(row["case"]) + (f", slice {row['slice']}" if row.get("slice", "") != "" else "")
    there = [row for row in rows if row["tp"] + row["fn"]]
    sizes = [(read.size(row, "truth"), read.size(row, "predicted")) for row in rows]
    x = axis_of([read.size(row, "truth") for row in there], f"size of the structure, {read.unit}", log=True)
    dice = Chart("Dice against the size of the structure", x, axis_of([], "Dice", low=0.0, high=1.0))
    both = [v for pair in sizes for v in pair]
    axes = [axis_of(both, f"{what} size, {read.unit}", log=True) for what in ("true", "predicted")]
    size = Chart("Predicted size against true size", *axes)
    size.diagonal()
    for row, (true, predicted) in zip(rows, sizes):
        colour = COLOURS[names.index(row["class"])]
        said = f"{title(row)}, {row['class']}"
        if row["tp"] + row["fn"] and page.is_number(row["dice"]):
            dice.dot(true, row["dice"], colour, f"{said}: Dice {row['dice']:.3f}, {_size(true, read.unit)}")
        size.dot(true, predicted, colour, f"{said}: {_size(predicted, read.unit)} predicted, {_size(true, read.unit)} true")
    key = page.legend(names) if len(names) > 1 else ""
    drawn = page.figure(dice.svg(), "Dice against the size of the structure, a dot for each example and class.", key)
    drawn += page.figure(
        size.svg(),
        "Predicted against true size; on the dotted line they agree. Nothing there, or nothing predicted, stands at 0.",
        key,
    )
    return f'<div class="charts">{drawn}</div>'


def curves(read: Read) -> str:
    """Loss and Dice by epoch."""
    if len(read.epochs) < 2:
        return ""
    drawn = ""
    for label, keys in (("loss", ["train_loss", "val_loss"]), ("Dice", _dice_columns(read))):
        series = {
            key: [(row["epoch"], float(row[key])) for row in read.epochs if page.is_number(row.get(key, ""))] for key in keys
        }
        series = {key: points for key, points in series.items() if points}
        if not series:
            continue
        values = [y for points in series.values() for _, y in points]
        numbers = [row["epoch"] for row in read.epochs]
        epochs = axis_of(numbers, "epoch", low=min(numbers), high=max(numbers), whole=True)
        y = axis_of(values, label, low=0.0, high=1.0) if label == "Dice" else axis_of(values, label)
        chart = Chart(f"{label} by epoch", epochs, y)
        for i, (key, points) in enumerate(series.items()):
            chart.line(points, COLOURS[i % len(COLOURS)], _series(key))
            for epoch, value in points if len(points) <= 100 else ():
                chart.dot(epoch, value, COLOURS[i % len(COLOURS)], f"{_series(key)}, epoch {epoch}: {value:.4f}", radius=2.5)
        drawn += page.figure(
            chart.svg(), f"{label[0].upper()}{label[1:]} by epoch.", page.legend([_series(key) for key in series])
        )
    return f'<h3>Learning curves</h3><div class="charts">{drawn}</div>' if drawn else ""


def calibration(read: Read) -> str:
    """Reliability and thresholds."""
    if not read.calibration:
        return ""
    names = list(dict.fromkeys(row["class"] for row in read.thresholds))[: len(COLOURS)]
    unit = lambda label: axis_of([], label, low=0.0, high=1.0)
    reliability = Chart("Reliability diagram", unit("predicted probability"), unit("share that is there"))
    reliability.diagonal()
    sweep = Chart("Dice by threshold", unit("threshold"), unit("Dice of all voxels together"))
    for i, name in enumerate(names):
        colour = COLOURS[i]
        bins = [row for row in read.calibration if row["class"] == name]
        reliability.line([(row["probability"], row["positives"]) for row in bins], colour, name)
        for row in bins:
            bounds = f"probability {row['low']:g} to {row['high']:g}"
            says = f"{name}, {bounds}: {row['positives']:.3f} of {row['voxels']:,} voxels are there"
            reliability.dot(
                row["probability"], row["positives"], colour, says, radius=2 + min(5, math.log10(row["voxels"]) * 0.8)
            )
        points = [row for row in read.thresholds if row["class"] == name]
        sweep.line([(row["threshold"], _nan(row["pooled_dice"])) for row in points], colour, name)
        best = max(
            (row for row in points if page.is_number(row["pooled_dice"])), key=lambda row: row["pooled_dice"], default=None
        )
        if best:
            says = f"{name}: largest Dice {best['pooled_dice']:.4f}, at a threshold of {best['threshold']:g}"
            sweep.dot(best["threshold"], best["pooled_dice"], colour, says, radius=5)
    rows: list[dict[str, Any]] = [
        {
            "class": name,
            "expected error": _nan(found["ece"]),
            "of likely voxels": _nan(found["ece_of_likely"]),
            "best threshold": f"{_nan(found['best_threshold']):g}",
            "Dice there": _nan(found["best_pooled_dice"]),
        }
        for name, found in ((name, read.found["calibration"][name]) for name in names)
    ]
    said = (
        "<p>The expected calibration error is the mean distance between probability and truth over ten bins; beside it that of "
        "the voxels with a probability of at least 0.01, because nearly all others are background for certain. A threshold that "
        "is chosen on the split that it is scored on is optimistic: choose it on val "
        "(<code>--config.eval.split=val</code>).</p>"
    )
    key = page.legend(names) if len(names) > 1 else ""
    drawn = page.figure(
        reliability.svg(), "Reliability: on the dotted line probabilities are right; larger dots stand for more voxels.", key
    )
    drawn += page.figure(sweep.svg(), "Dice by threshold, each class for itself; the dot is its largest.", key)
    return f'{said}{page.table(rows, "calibration")}<div class="charts">{drawn}</div>'


def confusion(read: Read) -> str:
    """The confusion matrix as a table, with shares of the truth."""
    if len(read.confusion) < 3:
        return ""
    classes = [row["truth"] for row in read.confusion]
    rows = []
    for row in read.confusion:
        total = sum(row[name] for name in classes)
        rows.append(
            {
                "truth": row["truth"],
                **{f"→ {name}": f"{row[name] / total:.4f}" if total else "" for name in classes},
                "voxels": total,
            }
        )
    return f"<p>Of the voxels of each class, which share was predicted as what.</p>{page.table(rows, 'confusion')}"


def _dice_columns(read: Read) -> list[str]:
    known = {figure_of(name) for name in (*read.found.get("headline", ()), *read.record["labels"])}
    return ["val_dice", *(key for key in read.epochs[0] if key in known)][: len(COLOURS)]


def _series(key: str) -> str:
    part, _, what = key.partition("_")
    return f"{ {'train': 'training', 'val': 'validation'}.get(part, part) } {what}"


def _size(value: float, unit: str) -> str:
    return f"{value:.2f} ml" if unit == "ml" else f"{value:.0f} pixels"


def _nan(value: Any) -> float:
    return float(value) if page.is_number(value) else math.nan
