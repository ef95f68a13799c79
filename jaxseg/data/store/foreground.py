"""Voxel positions of each class of a mask, for patches centred on foreground: all voxels of small classes, samples of large ones.

At most 10,000 voxels of a class are kept, but at least 1 % of it, as in nnU-Net (nnunetv2/preprocessing/preprocessors/
default_preprocessor.py). Where voxels are left out (`DataSet.left_out`), annotated voxels of any
class follow as class K + 1. The sample differs from nnU-Net's, which uses numpy's RandomState: here it is drawn by Philox words,
which are the same in all versions of numpy.
"""

import numpy as np

from jaxseg.data.prepare.labels import annotated, as_background

VERSION = 1  # raise it when other voxels would be kept

KEPT = 10_000
SHARE = 0.01


def index(mask: np.ndarray, classes: int, left_out: bool = False) -> tuple[np.ndarray, list[int], list[int]]:
    """Return voxel indices of the classes 1..K.

    Args:
      mask: unsigned integer [*S], classes 0..K, and LEFT_OUT.
      classes: K.
      left_out: list the annotated voxels of all classes, background included, as class K + 1 (`DataSet.left_out`).
    Returns:
      (flat indices in C order of class 1, then of class 2, ..., each ascending; how many of each are kept; how many it has).
    """
    flat = as_background(mask, classes).reshape(-1)
    inside = np.flatnonzero(flat)
    of_class = inside[np.argsort(flat[inside], kind="stable")]
    counts = np.bincount(flat[inside], minlength=classes + 1)[1:]
    pieces = np.split(of_class, np.cumsum(counts)[:-1])
    pieces += [np.flatnonzero(annotated(mask, classes))] if left_out else []
    drawn = [_drawn(piece, k) for k, piece in enumerate(pieces, 1)]
    return np.concatenate(drawn).astype(dtype_for(mask.shape)), [len(d) for d in drawn], counts.tolist()


def dtype_for(shape: tuple[int, ...]) -> np.dtype:
    """What holds a flat index into an array of this shape."""
    return np.dtype(np.uint32 if np.prod(shape, dtype=np.int64) <= 1 << 32 else np.uint64)


def _drawn(voxels: np.ndarray, k: int) -> np.ndarray:
    n = len(voxels)
    kept = min(n, max(KEPT, -(-n // round(1 / SHARE))))
    if kept == n:
        return voxels
    words = np.random.Philox(key=np.array([k, n], np.uint64)).random_raw(n)
    return voxels[np.sort(np.argpartition(words, kept)[:kept])]
