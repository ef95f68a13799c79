"""The tables of the published projects, for slices on the network's grid; config.eval.tables chooses them."""

from collections.abc import Sequence

import numpy as np

from jaxseg.evaluate.slices import SliceScores
from jaxseg.metrics import counts as scores
from jaxseg.metrics import projects
from jaxseg.types import ConfigError
from jaxseg.utils.lookup import lookup


def published(scored: SliceScores, labels: Sequence[str], *, tables: Sequence[str], threshold: float) -> tuple[list[str], dict]:
    """Return (text lines, figures by table) of the named tables.

    Args:
      scored: the result of scoring the split.
      labels: names of the classes.
      tables: names in TABLES.
      threshold: probability threshold of the headline figures.
    """
    found = {name: lookup("table", name, TABLES)(scored, threshold, list(labels)) for name in tables}
    return [line for printed, _ in found.values() for line in printed], {name: figures for name, (_, figures) in found.items()}


def check_tables(tables: Sequence[str], labels: Sequence[str]) -> None:
    """Raise a ConfigError for a table that cannot be computed for these classes; called before training."""
    for name in tables:
        lookup("name in config.eval.tables", name, TABLES)
        wanted = {"left_right": 2, "effisegnet": 1}.get(name, len(labels))
        if len(labels) != wanted:
            raise ConfigError(
                f"config.eval.tables: the table {name!r} is for {wanted} classes, but this data set has {len(labels)} "
                f"({', '.join(labels)}); remove it from the list"
            )


def _ich_table(scored: SliceScores, threshold: float, labels: list[str]) -> tuple[list[str], dict]:
    """The haemorrhage project's means over images, at every threshold."""
    lines, figures = [], {}
    for t in scored.thresholds or (None,):
        s = projects.ich_scores(scored.counts[0] if t is None else scored.at(t))
        figures["arg-max" if t is None else f"{t:g}"] = s
        lines.append(
            ("" if t is None else f"threshold {t:g}: ")
            + " | ".join(f"{name}: {s[name.lower()]:.4f}" for name in ("IoU", "Dice", "Precision", "Recall"))
            + f" | loss: {scored.loss:.6f} (the haemorrhage project's definition)"
        )
    return lines, figures


def _class_table(scored: SliceScores, threshold: float, labels: list[str]) -> tuple[list[str], dict]:
    """The BraTS 2-D project's table over all pixels, background included."""
    matrix = scored.confusion
    if matrix is None:
        tp, fp, fn, tn = (int(c.sum()) for c in scores.pool(scored.at(threshold)))
        matrix = np.array([[tn, fp], [fn, tp]])
    figures = projects.class_table(matrix, ("background", *labels))
    width = max(map(len, figures))
    return [
        f"{name:<{width}}  " + "  ".join(f"{key} {value:.4f}" for key, value in row.items()) for name, row in figures.items()
    ], figures


def _left_right_table(scored: SliceScores, threshold: float, labels: list[str]) -> tuple[list[str], dict]:
    """The lung project's Dice; classes have the names that config.data.naming gave them."""
    found = projects.left_right_scores(scored.at(threshold))
    figures = dict(zip((*labels, "mean"), (found["left"], found["right"], found["mean"])))
    return ["the lung project's Dice: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items())], figures


def _effisegnet_table(scored: SliceScores, threshold: float, labels: list[str]) -> tuple[list[str], dict]:
    """EffiSegNet's figures at the headline threshold."""
    figures = projects.effisegnet_scores(scored.at(threshold))
    return [
        f"EffiSegNet's figures at {threshold:g}: "
        + ", ".join(f"{name} {figures[name]:.4f}" for name in ("dice", "iou", "recall", "precision", "f1"))
    ], figures


TABLES = {"ich": _ich_table, "classes": _class_table, "left_right": _left_right_table, "effisegnet": _effisegnet_table}
