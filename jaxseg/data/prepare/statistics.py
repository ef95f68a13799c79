"""What a data set's foreground looks like: the numbers that nnU-Net's CT normalisation takes (`Recipe.statistics`).

Source: MIC-DKFZ/nnUNet, nnunetv2/experiment_planning/dataset_fingerprint/fingerprint_extractor.py.
"""

from typing import NamedTuple

import numpy as np

from jaxseg.types import DataError

SAMPLES = 10**8  # voxels of a channel in all cases together
PERCENTILES = (0.5, 99.5)


class ChannelValues(NamedTuple):
    """Values of one channel in the foreground: the 0.5th and 99.5th percentile, mean, standard deviation, minimum, maximum.

    The first four are `Recipe.statistics`.
    """

    low: float
    high: float
    mean: float
    std: float
    least: float
    most: float


class Foreground:
    """Voxels drawn from the foreground of every case, one case after another.

    The same number is drawn with replacement from each case, so that small and large structures count alike; a case without
    foreground gives none.
    """

    def __init__(self, cases: int, samples: int | None = None):
        """
        Args:
          cases: how many will come.
          samples: voxels of a channel in all of them together; None: SAMPLES, as nnU-Net.
        """
        self._cases, self._each = cases, (SAMPLES if samples is None else samples) // cases
        self._drawn: list[list[np.ndarray]] = []

    def add(self, image: np.ndarray, mask: np.ndarray) -> None:
        """Draw from one case.

        Args:
          image: [*S, C], before any normalisation, cut to the box of its voxels that are not 0 (`canvas.nonzero_box`).
          mask: integer [*S].
        """
        inside = mask > 0
        if inside.any():
            random = np.random.RandomState(1234)
            self._drawn.append(
                [random.choice(channel[inside], self._each, replace=True) for channel in np.moveaxis(image, -1, 0)]
            )

    def summary(self) -> tuple[ChannelValues, ...]:
        """One for each channel.

        Raises:
          DataError: DATA_EMPTY where no case has foreground.
        """
        if not self._drawn:
            raise DataError(f"none of {self._cases} cases has foreground; check the masks and their labels", "DATA_EMPTY")
        return tuple(_summary(np.concatenate(channel)) for channel in zip(*self._drawn))


def _summary(values: np.ndarray) -> ChannelValues:
    low, high = np.percentile(values, PERCENTILES)
    return ChannelValues(*map(float, (low, high, np.mean(values), np.std(values), np.min(values), np.max(values))))
