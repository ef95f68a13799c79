"""Positions of the windows of a sliding window, the weight of each voxel of a window, and the memory of the sums; numpy only."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxseg.types import ConfigError
from jaxseg.utils.lookup import lookup

GRAIN = {2: 256, 3: 16}  # device sizes are multiples of this where they exceed the window, pixels or voxels
ACCUMULATORS = ("device", "host", "memmap", "auto")
SUMS = ("float32", "float16")


class Estimate(NamedTuple):
    """Memory in bytes that a sliding window needs besides the network and its activations."""

    device: int
    host: int
    disk: int

    def __str__(self) -> str:
        return ", ".join(f"{name} {value / 2**20:.1f} MiB" for name, value in zip(self._fields, self))


def estimate_bytes(
    shape: Sequence[int],
    *,
    window: Sequence[int],
    num_classes: int,
    accumulator: str = "device",
    batch: int = 4,
    itemsize: int = 4,
    sums: str = "float32",
) -> Estimate:
    """Estimate the memory for a volume, its accumulators and its logits.

    Args:
      shape: [B, *S, C] of the volume.
      window, num_classes, batch, sums: as in `sliding_window`.
      accumulator: "device", "host" or "memmap".
      itemsize: bytes per number of the volume.
    Returns:
      Estimate(device, host, disk), in bytes. The caller's own copy of the volume is not counted.
    """
    if accumulator not in ACCUMULATORS[:3]:
        raise ConfigError(f"got accumulator={accumulator!r}; must be one of {', '.join(ACCUMULATORS[:3])}")
    b, *size, c = shape
    padded = [max(n, w) for n, w in zip(size, window)]
    sizes = rounded(padded, window)
    voxels = math.prod(sizes if accumulator == "device" else (window[0], *sizes[1:]))
    batches = batch * math.prod(window) * (c * itemsize + 4 * num_classes)
    if sums == "float16":
        total = 2 * b * math.prod(sizes if accumulator == "device" else padded) * num_classes
        return Estimate(
            *{"device": (batches + 2 * total, 0, 0), "host": (batches, total, 0), "memmap": (batches, 0, total)}[accumulator]
        )
    result = 4 * b * math.prod(padded) * num_classes
    slab = voxels * (b * c * itemsize + 4 * b * num_classes + 4)
    if accumulator == "device":
        return Estimate(slab + batches + result, 0, 0)
    buffer = 4 * b * voxels * num_classes
    device = slab + batches + buffer
    return Estimate(device, result + buffer, 0) if accumulator == "host" else Estimate(device, buffer, result)


def rounded(size: Sequence[int], window: Sequence[int]) -> tuple[int, ...]:
    """Return the size on the device of an image that is at least as large as the window."""
    grain = GRAIN[len(size)]
    return tuple(w if n <= w else -(-n // grain) * grain for n, w in zip(size, window))


def starts(size: int, window: int, overlap: float, rule: str = "monai") -> list[int]:
    """Return the first voxels of the windows along one axis; size >= window, and the last window ends at the last voxel.

    Rules, with the step s = max(1, floor(window * (1 - overlap))):
      "monai": 0, s, 2s, ... until a window reaches the end; that last window is shifted back to end at the last voxel.
      "nnunet": n = ceil((size - window) / (window * (1 - overlap))) + 1 windows, evenly spread:
        round(i (size - window) / (n - 1)).
    Windows of one voxel cannot overlap: there is one at every voxel.

    Raises:
      ConfigError: there is no such rule.
    """
    place = lookup("rule of window positions", rule, _RULES)
    return list(range(size)) if window == 1 else place(size, window, overlap)


def _monai(size: int, window: int, overlap: float) -> list[int]:
    step = max(int(window * (1 - overlap)), 1)
    count = 1 if size == window else math.ceil((size - window) / step) + 1
    return [min(i * step, size - window) for i in range(count)]


def _nnunet(size: int, window: int, overlap: float) -> list[int]:
    step = round(1 - overlap, 12)  # 0.2 for 0.8, not 0.19999999999999996: nnU-Net's setting is the step
    count = int(np.ceil((size - window) / (window * step))) + 1
    return [int(np.round(i * ((size - window) / max(count - 1, 1)))) for i in range(count)]


def grid(size: Sequence[int], window: Sequence[int], overlap: Sequence[float], rule: str) -> np.ndarray:
    """Return the first voxels of all windows of a volume, int32 [N, rank], in C order."""
    axes = [starts(n, w, o, rule) for n, w, o in zip(size, window, overlap)]
    return np.array(list(itertools.product(*axes)), np.int32)


def weights(window: Sequence[int], blend: str = "constant") -> np.ndarray:
    """Return the weight of each voxel of a window, float32 [*window], positive, for averaging overlapping windows.

    The weight is the product over the axes of the following, with p the window's size along an axis and i the voxel's index:
      "constant": 1.
      "gaussian": exp(-x^2 / (2 (p/8)^2)), x the distance from the exact centre (p - 1) / 2; the product is at least
        max(its minimum, 1e-3). As in MONAI.
      "gaussian_nnunet": the same around voxel p // 2, with peak 10, rounded to float16; zeros are raised to the smallest
        non-zero weight. As in nnU-Net, whose radius of 4 sigma covers the window.
      "cosine": max((1 - cos(2 pi (i + 1/2) / p)) / 2, 1e-4), symmetric.
      "half_cosine": max((1 - cos(pi (i + 1/2) / p)) / 2, 1e-4), the product divided by its maximum; half a period, so that
        voxels late in the window count more. As in the BraTS 3-D project.

    Raises:
      ConfigError: there is no such blend.
    """
    return lookup("blend", blend, _BLENDS)(window).astype(np.float32)


def _product(window: Sequence[int], line) -> np.ndarray:
    out = np.ones(())
    for p in window:
        out = np.multiply.outer(out, line(np.arange(p, dtype=np.float64), p))
    return out


def _gaussian(window: Sequence[int]) -> np.ndarray:
    bell = _product(window, lambda i, p: np.exp(-((i - (p - 1) / 2) ** 2) / (2 * (p / 8) ** 2)))
    return np.maximum(bell, max(bell.min(), 1e-3))


def _gaussian_nnunet(window: Sequence[int]) -> np.ndarray:
    bell = (10 * _product(window, lambda i, p: np.exp(-((i - p // 2) ** 2) / (2 * (p / 8) ** 2)))).astype(np.float16)
    return np.maximum(bell, bell[bell > 0].min())


def _cosine(window: Sequence[int]) -> np.ndarray:
    return _product(window, lambda i, p: np.maximum(0.5 * (1 - np.cos(2 * np.pi * (i + 0.5) / p)), 1e-4))


def _half_cosine(window: Sequence[int]) -> np.ndarray:
    bell = _product(window, lambda i, p: np.maximum(0.5 * (1 - np.cos(np.pi * (i + 0.5) / p)), 1e-4))
    return bell / bell.max()


_RULES = {"monai": _monai, "nnunet": _nnunet}
_BLENDS = {
    "constant": lambda window: np.ones(tuple(window)),
    "gaussian": _gaussian,
    "gaussian_nnunet": _gaussian_nnunet,
    "cosine": _cosine,
    "half_cosine": _half_cosine,
}
