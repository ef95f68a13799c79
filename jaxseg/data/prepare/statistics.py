"""What a data set's foreground looks like: the numbers that nnU-Net's CT normalisation takes (`Recipe.statistics`).

Source: MIC-DKFZ/nnUNet, nnunetv2/experiment_planning/dataset_fingerprint/fingerprint_extractor.py.
"""

from collections.abc import Iterable

import numpy as np

from jaxseg.data.prepare import canvas
from jaxseg.types import DataError

SAMPLES = 10**8  # voxels of a channel in all cases together
PERCENTILES = (0.5, 99.5)


def of_foreground(cases: Iterable[tuple[np.ndarray, np.ndarray]], count: int) -> tuple[tuple[float, float, float, float], ...]:
    """(0.5th percentile, 99.5th percentile, mean, standard deviation) of each channel's foreground.

    The same number of voxels is drawn with replacement from the foreground of every case, so that small and large structures
    count alike; a case without foreground gives none.

    Args:
      cases: (image [*S, C], mask integer [*S]) of each case, before any normalisation. Voxels outside the box of those that are
        not 0 (`canvas.nonzero_box`) do not count.
      count: how many cases there are.
    Returns:
      one tuple for each channel.
    Raises:
      DataError: DATA_EMPTY where no case has foreground.
    """
    each = SAMPLES // count
    drawn = [_draw(image, mask, each) for image, mask in cases]
    drawn = [d for d in drawn if d is not None]
    if not drawn:
        raise DataError(f"none of {count} cases has foreground; check the masks and their labels", "DATA_EMPTY")
    return tuple(_summary(np.concatenate(channel)) for channel in zip(*drawn))


def _draw(image: np.ndarray, mask: np.ndarray, each: int) -> list[np.ndarray] | None:
    channels = np.moveaxis(image, -1, 0)
    box = canvas.nonzero_box(canvas.nonzero(channels))
    foreground = mask[box] > 0
    if not foreground.any():
        return None
    random = np.random.RandomState(1234)
    return [random.choice(channel[box][foreground], each, replace=True) for channel in channels]


def _summary(values: np.ndarray) -> tuple[float, float, float, float]:
    low, high = np.percentile(values, PERCENTILES)
    return float(low), float(high), float(np.mean(values)), float(np.std(values))
