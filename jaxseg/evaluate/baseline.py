"""A baseline from intensity alone: the best threshold and the best band of grey values, chosen on the evaluated images.

It is an optimistic baseline, because the reference masks are used to choose the threshold. A network that is not better has
learnt nothing that a simple threshold would not give.
"""

import shlex
from typing import NamedTuple

import numpy as np

from jaxseg.data.prepare.labels import annotated
from jaxseg.evaluate.scoring import share, summed
from jaxseg.utils.pictures import to_8bit


class Intensity(NamedTuple):
    """The best rule `low <= value < high` for one class and its pooled Dice."""

    dice: float
    low: int
    high: int


def histograms(
    images: np.ndarray, masks: np.ndarray, rows: np.ndarray, classes: int, *, span: tuple[float, float] | None = None
) -> np.ndarray:
    """Count the grey values of the first channel inside each class and over all annotated pixels.

    Args:
      images: [N, H, W, C] (memory-mapped; read row by row), uint8, or floats with a span.
      masks: integer [N, H, W].
      rows: indices of the images to count.
      classes: K' foreground classes.
      span: (lowest, highest) value of float images, which are divided into 256 bins of equal width; None for uint8.
    Returns:
      int64 [K' + 1, 256]; the last row counts all pixels.
    """
    if (images.dtype == np.uint8) == (span is not None):
        raise ValueError(
            f"got {images.dtype} images and span={span}; must be uint8 images without span, or floats with span=(lowest, highest)"
        )
    found = np.zeros((classes + 1, 256), np.int64)
    for row in rows:
        there = annotated(masks[row], classes)
        values, labels = images[row, ..., 0][there], masks[row][there]
        if span is not None:
            values = to_8bit(values, *span)
        found[-1] += np.bincount(values, minlength=256)
        for k in range(1, classes + 1):
            found[k - 1] += np.bincount(values[labels == k], minlength=256)
    return found


def best_threshold(inside: np.ndarray, everything: np.ndarray) -> Intensity:
    """Find the threshold t with the highest pooled Dice of `value >= t`, from two histograms [256]."""
    hits, chosen = inside[::-1].cumsum()[::-1], everything[::-1].cumsum()[::-1]
    dice = 2 * hits / np.maximum(chosen + inside.sum(), 1)
    t = int(dice.argmax())
    return Intensity(float(dice[t]), t, 256)


def best_band(inside: np.ndarray, everything: np.ndarray) -> Intensity:
    """Find the band low <= value < high with the highest pooled Dice, from two histograms [256]."""
    hits, chosen = np.r_[0, inside.cumsum()], np.r_[0, everything.cumsum()]
    dice = 2 * (hits[None] - hits[:, None]) / np.maximum(chosen[None] - chosen[:, None] + inside.sum(), 1)
    low, high = np.unravel_index(np.triu(dice).argmax(), dice.shape)
    return Intensity(float(dice[low, high]), int(low), int(high))


def of_slices(cache, rows: np.ndarray) -> dict:
    """Find the best pooled Dice of an intensity rule per class, on the evaluated slices: {"lines", "figures": {rule: mean}}.

    Several processes each read a share of the slices.
    """
    labels, part = list(cache.labels), share()
    figures = {"threshold": [], "band": []}
    lines = ["background everywhere: pooled Dice 0.0000"]
    count = lambda: histograms(cache.images, cache.masks, part.of(rows), len(labels), span=cache.span)
    found = summed(part.together(count))
    for k, label in enumerate(labels):
        for name, rule in (("threshold", best_threshold), ("band", best_band)):
            best = rule(found[k], found[-1])
            figures[name].append(best.dice)
            lines.append(
                f"best intensity {name} for {label}, chosen on these same images: pooled Dice "
                f"{best.dice:.4f} at {cache.value(best.low)} to {cache.value(best.high)}"
            )
    return {"lines": lines, "figures": {rule: float(np.mean(v)) for rule, v in figures.items()}}


def of_volumes(store, rows: np.ndarray, bins: int = 256, *, noun: str = "volumes") -> dict:
    """Find the best pooled Dice of an intensity rule on one channel for each region (or class), on the evaluated examples.

    Several processes each read a share of the examples.
    """
    groups = store.regions or tuple((name, (k + 1,)) for k, name in enumerate(store.labels))
    channels = store.recipe.modalities or tuple(f"channel {c}" for c in range(store.recipe.channels))
    lines, figures = [], {"threshold": [], "band": []}
    spans = store.rows.columns["span"][rows]  # [N, C, 2]
    edges = list(zip(spans[..., 0].min(0).tolist(), spans[..., 1].max(0).tolist()))[: len(channels)]
    part = share()
    tables = summed(part.together(lambda: _tables(store, part.of(rows), [members for _, members in groups], edges, bins)))
    for g, (name, _) in enumerate(groups):
        for rule, find in (("threshold", best_threshold), ("band", best_band)):
            tried = [(find(table[g], table[-1]), c) for c, table in enumerate(tables)]
            best, c = max(tried, key=lambda t: t[0].dice)
            low, high = edges[c]
            value = lambda grey: low + grey / (bins - 1) * (high - low)  # noqa: B023
            figures[rule].append(best.dice)
            lines.append(
                f"best intensity {rule} for {name}, chosen on these same {noun}: pooled Dice {best.dice:.4f} at "
                f"{value(best.low):.2f} to {value(best.high):.2f} of {channels[c]}"
            )
    lines.append("mean over these: " + ", ".join(f"{rule} {np.mean(v):.4f}" for rule, v in figures.items()))
    return {"lines": lines, "figures": {rule: float(np.mean(v)) for rule, v in figures.items()}}


def _tables(store, rows: np.ndarray, groups: list[tuple[int, ...]], edges: list[tuple[float, float]], bins: int) -> np.ndarray:
    """Return voxel counts of each channel, int64 [C, groups + 1, bins], the last row over all voxels; reads an example once."""
    tables = np.zeros((len(edges), len(groups) + 1, bins), np.int64)
    for i in rows:
        image, mask = store.image(i), np.asarray(store.mask(i))
        inside, known = [np.isin(mask, classes) for classes in groups], annotated(mask, len(store.labels))
        for c, (table, (low, high)) in enumerate(zip(tables, edges)):
            levels = np.uint8((np.asarray(image[..., c]) - low) * ((bins - 1) / max(high - low, 1e-6)))
            for g, there in enumerate(inside):
                table[g] += np.bincount(levels[there], minlength=bins)
            table[-1] += np.bincount(levels[known], minlength=bins)
    return tables


def verdict(dice: float, figures: dict[str, float], *, steps: int, root: str) -> list[str]:
    """Return a line that says what to change where a network is no better than intensity alone; else none.

    Args:
      dice: mean pooled Dice of the network.
      figures: those of `of_slices` or `of_volumes`.
      steps: training steps behind the network.
      root: folder of the user's own data, for which a plan can be made; "" for others.
    """
    rule = max(figures, key=figures.__getitem__)
    if dice > figures[rule]:
        return []
    plan = f"jaxseg plan folder --config.data.root={shlex.quote(root)} --config.plan.minutes=60 --output=longer.py"
    return [
        f"WARNING mean Dice {dice:.4f} after {steps} steps is not above that of the best intensity {rule}, {figures[rule]:.4f}: "
        "train longer, with --extend and a larger --config.train.epochs"
        + (f", or with network, patch and schedule that fit the data and an hour: {plan}" if root else "")
    ]
