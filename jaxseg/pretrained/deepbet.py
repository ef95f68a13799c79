"""deepbet's brain mask: a first network finds the head's box on a small scan, a second one the brain inside of it.

Source: Fisch et al. 2024, wwu-mmll/deepbet 1.0.2, deepbet/bet.py and utils.py, whose steps are followed: nearest neighbours on
grids of 128^3 and 256^3, intensities between two percentiles of the small scan, the largest component, holes filled.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from scipy import ndimage

from jaxseg.models import create_model, functional
from jaxseg.types import DataError
from jaxseg.weights import from_torch

SMALL, LARGE = 128, 256  # edges of the two grids
MARGIN = 0.1  # of the box's size, on either side
SHARE = 0.02  # of a plane that must be brain for the box to reach it
PERCENTILES = (0.5, 99.5)
MEAN, STD = 0.449, 0.226  # of ImageNet's pictures in grey, to which scans are brought

Network = Callable[[np.ndarray], np.ndarray]


def networks(files: Mapping[str, Path]) -> dict[str, Network]:
    """Return the two networks: volume [X, Y, Z] -> probability of brain [X, Y, Z].

    Args:
      files: files of their weights, from `weights.pretrained.find`.
    """
    return {what: _network(path) for what, path in files.items()}


def _network(path: Path) -> Network:
    model = create_model("linknet3d")
    from_torch.load(model, path, key_mapping="deepbet")
    network, params, state = functional.split(model)
    run = jax.jit(lambda p, s, x: jax.nn.softmax(network.apply(p, s, x)[0].logits, -1)[0, ..., 1])
    return lambda volume: np.asarray(run(params, state, volume[None, ..., None]))


def brain(
    scan: np.ndarray, nets: Mapping[str, Network], *, small: int = SMALL, large: int = LARGE, threshold: float = 0.5
) -> np.ndarray:
    """Compute the mask of the brain.

    Args:
      scan: T1 values [X, Y, Z], from the patient's left to the right, back to front, feet to head; NaN counts as 0.
      nets: the result of `networks`.
      small, large: edge lengths of the two grids, voxels.
      threshold: probability threshold.
    Returns:
      bool [X, Y, Z].
    Raises:
      DataError: the first network finds no brain.
    """
    scan = np.nan_to_num(np.asarray(scan, np.float32))
    coarse = nearest(scan, (small,) * 3)
    low, high = np.quantile(coarse, np.divide(PERCENTILES, 100)).astype(np.float32)
    if not high > low:
        raise DataError(f"the scan holds {low:g} almost everywhere; a T1 scan of a head has contrast", "DATA_EMPTY")
    box = head_box(largest(nets["bbox_model"](normalised(coarse, low, high)) > 0.5), scan.shape)
    cut = scan[box]
    found = nearest(nets["model"](normalised(nearest(cut, (large,) * 3), low, high)), cut.shape) > threshold
    mask = np.zeros(scan.shape, bool)
    mask[box] = ndimage.binary_fill_holes(largest(found))
    return mask


def nearest(values: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Resample to another grid over the same extent by PyTorch's "nearest-exact": floor((i + 1/2) n / m)."""
    for axis, m in enumerate(shape):
        n = values.shape[axis]
        at = np.floor((np.arange(m, dtype=np.float32) + np.float32(0.5)) * np.float32(n / m)).astype(np.int64)
        values = values.take(np.minimum(at, n - 1), axis)
    return values


def normalised(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Clip values to low..high, and normalise them by the mean and standard deviation of ImageNet's grey pictures."""
    scaled = np.clip((values - low) / (high - low), 0, 1).astype(np.float32)
    wide = scaled.astype(np.float64)
    return ((wide - wide.mean()) / wide.std(ddof=1) * STD + MEAN).astype(np.float32)


def largest(mask: np.ndarray) -> np.ndarray:
    """Return the largest component; voxels that touch at a corner are neighbours.

    Raises:
      DataError: the mask is empty.
    """
    components, count = ndimage.label(mask, np.ones((3,) * mask.ndim))
    if not count:
        raise DataError("no brain was found; give a T1 scan of a head, with the skull", "DATA_EMPTY")
    return components == 1 + np.bincount(components.ravel())[1:].argmax()


def head_box(mask: np.ndarray, shape: Sequence[int]) -> tuple[slice, ...]:
    """Return the box around a mask, with a margin, on the grid of `shape`.

    Raises:
      DataError: the mask fills no plane to `SHARE`.
    """
    box = []
    for axis, n in enumerate(shape):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        planes = np.flatnonzero(mask.mean(others) > SHARE)
        if not planes.size:
            raise DataError("hardly any brain was found; give a T1 scan of a whole head", "DATA_EMPTY")
        first, last, factor = int(planes[0]), int(planes[-1]) + 1, np.float32(n / mask.shape[axis])
        centre = np.round(factor * np.float32((first + last) / 2))
        size = np.round(np.float32(1 + 2 * MARGIN) * (factor * np.float32(last - first)))
        box.append(slice(max(0, int(centre - size / 2)), min(n, int(centre + size / 2))))
    return tuple(box)
