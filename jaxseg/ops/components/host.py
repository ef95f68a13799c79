"""Connected components by scipy, for masks in the host's memory: 4 to 10 times faster than `device` on one core.

scipy numbers components by their first voxel in C order, as `api.label` promises: its scan gives every run the smallest number
among its neighbours or the next free one, and merges numbers towards the smaller one. tests/ops/test_components.py checks this.
"""

import numpy as np
from scipy import ndimage


def label(mask: np.ndarray, connectivity: int) -> np.ndarray:
    """`api.label` of a boolean mask."""
    numbers = np.empty(mask.shape, np.int32)  # in C order like the mask, because scipy scans in memory order
    ndimage.label(np.ascontiguousarray(mask), ndimage.generate_binary_structure(mask.ndim, connectivity), output=numbers)
    return numbers


def largest(mask: np.ndarray, connectivity: int) -> np.ndarray:
    """`api.largest` of a boolean mask."""
    numbers, counts = _counted(mask, connectivity)
    return (numbers == counts.argmax()) & mask


def remove_small(mask: np.ndarray, voxels: int, connectivity: int) -> np.ndarray:
    """`api.remove_small` of a boolean mask."""
    numbers, counts = _counted(mask, connectivity)
    return (counts >= voxels)[numbers] & mask


def _counted(mask: np.ndarray, connectivity: int) -> tuple[np.ndarray, np.ndarray]:
    """(numbers [*S], number of voxels of each component, with 0 for the background)."""
    numbers = label(mask, connectivity)
    counts = np.bincount(numbers.ravel(), minlength=1)
    counts[0] = 0
    return numbers, counts
