"""What intensity alone can do: the best threshold and the best band of grey values, found on the scored images themselves.

Deliberately generous: the threshold is chosen with the truth in hand. A network that does not beat it has learnt nothing
that a slider would not give.
"""

from typing import NamedTuple

import numpy as np

from jaxseg.utils.pictures import to_8bit


class Intensity(NamedTuple):
    """The best rule `low <= value < high` for one class and its pooled Dice."""

    dice: float
    low: int
    high: int


def histograms(images: np.ndarray, masks: np.ndarray, rows: np.ndarray, classes: int, *,
               span: tuple[float, float] | None = None) -> np.ndarray:
    """Grey values of the first channel inside each class and over all.

    Args:
      images: [N, H, W, C] (memory-mapped; read row by row), uint8, or floats with a span.
      masks: integer [N, H, W].
      rows: which of the N.
      classes: K' foreground classes.
      span: (lowest, highest) of the floats: they are sorted into 256 bins of equal width.
    Returns:
      int64 [K' + 1, 256]; the last row is of all pixels.
    """
    if (images.dtype == np.uint8) == (span is not None):
        raise ValueError(f"got {images.dtype} images and span={span}; uint8 takes none, floats need one")
    found = np.zeros((classes + 1, 256), np.int64)
    for row in rows:
        values, labels = images[row, ..., 0].reshape(-1), masks[row].reshape(-1)
        if span is not None:
            values = to_8bit(values, *span)
        found[-1] += np.bincount(values, minlength=256)
        for k in range(1, classes + 1):
            found[k - 1] += np.bincount(values[labels == k], minlength=256)
    return found


def best_threshold(inside: np.ndarray, everything: np.ndarray) -> Intensity:
    """The t with the highest pooled Dice of `value >= t`, from two histograms [256]."""
    hits, chosen = inside[::-1].cumsum()[::-1], everything[::-1].cumsum()[::-1]
    dice = 2 * hits / np.maximum(chosen + inside.sum(), 1)
    t = int(dice.argmax())
    return Intensity(float(dice[t]), t, 256)


def best_band(inside: np.ndarray, everything: np.ndarray) -> Intensity:
    """The band low <= value < high with the highest pooled Dice."""
    hits, chosen = np.r_[0, inside.cumsum()], np.r_[0, everything.cumsum()]
    dice = 2 * (hits[None] - hits[:, None]) / np.maximum(chosen[None] - chosen[:, None] + inside.sum(), 1)
    low, high = np.unravel_index(np.triu(dice).argmax(), dice.shape)
    return Intensity(float(dice[low, high]), int(low), int(high))
