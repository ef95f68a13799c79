"""Positions of the windows of a sliding window, weights of their voxels, and the mean of their logits.

It follows `infer.tiles` and `infer.window` of jaxseg; the sums are numpy's, on the host, in the dtype of the rule: "float16"
rounds them after each window, as nnU-Net does.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np


def window_starts(size: int, window: int, overlap: float, rule: str) -> list[int]:
    """Return the first voxels of the windows along one axis."""
    if window == 1:
        return list(range(size))
    if rule == "nnunet":
        count = int(np.ceil((size - window) / (window * round(1 - overlap, 12)))) + 1
        return [int(np.round(i * ((size - window) / max(count - 1, 1)))) for i in range(count)]
    step = max(int(window * (1 - overlap)), 1)
    count = 1 if size == window else math.ceil((size - window) / step) + 1
    return [min(i * step, size - window) for i in range(count)]


def window_weights(window: Sequence[int], blend: str) -> np.ndarray:
    """Return the weight of each voxel of a window, float32 [*window], positive."""

    def product(line) -> np.ndarray:
        out = np.ones(())
        for p in window:
            out = np.multiply.outer(out, line(np.arange(p, dtype=np.float64), p))
        return out

    if blend == "gaussian":
        bell = product(lambda i, p: np.exp(-((i - (p - 1) / 2) ** 2) / (2 * (p / 8) ** 2)))
        found = np.maximum(bell, max(bell.min(), 1e-3))
    elif blend == "gaussian_nnunet":
        bell = (10 * product(lambda i, p: np.exp(-((i - p // 2) ** 2) / (2 * (p / 8) ** 2)))).astype(np.float16)
        found = np.maximum(bell, bell[bell > 0].min())
    elif blend == "cosine":
        found = product(lambda i, p: np.maximum(0.5 * (1 - np.cos(2 * np.pi * (i + 0.5) / p)), 1e-4))
    elif blend == "half_cosine":
        bell = product(lambda i, p: np.maximum(0.5 * (1 - np.cos(np.pi * (i + 0.5) / p)), 1e-4))
        found = bell / bell.max()
    else:
        found = np.ones(tuple(window))
    return found.astype(np.float32)


def slide(forward: Callable[[np.ndarray], np.ndarray], example: np.ndarray, rule: dict, batch: int, classes: int) -> np.ndarray:
    """Compute the logits [*S, K] of one example [*S, C], float32 or float16.

    Args:
      forward: windows [batch, *window, C] -> logits [batch, *window, K].
      rule: "window", "overlap", "positions", "blend", "sums" (dtype).
    """
    window, own = tuple(rule["window"]), example.shape[:-1]
    overlap = rule["overlap"] if isinstance(rule["overlap"], list | tuple) else (rule["overlap"],) * len(window)
    low = [(max(n, w) - n) // 2 for n, w in zip(own, window)]
    fill = [(a, max(n, w) - n - a) for a, n, w in zip(low, own, window)]
    padded = np.pad(example, (*fill, (0, 0)))
    weights = window_weights(window, rule["blend"])[..., None]
    total, weight = np.zeros((*padded.shape[:-1], classes), rule["sums"]), np.zeros((*padded.shape[:-1], 1), rule["sums"])
    axes = [window_starts(n, w, o, rule["positions"]) for n, w, o in zip(padded.shape, window, overlap)]
    places = [tuple(slice(a, a + w) for a, w in zip(start, window)) for start in itertools.product(*axes)]
    for first in range(0, len(places), batch):
        some = places[first : first + batch]
        cut = np.stack([padded[place] for place in (*some, *some[-1:] * (batch - len(some)))])
        for place, logits in zip(some, forward(cut)):
            total[place] += weights * logits
            weight[place] += weights
    inside = tuple(slice(a, a + n) for a, n in zip(low, own))
    return total[inside] / weight[inside]
