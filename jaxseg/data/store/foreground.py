"""Voxel positions of each class of a mask, for patches centred on foreground: all voxels of small classes, samples of large ones.

At most 10,000 voxels of a class are kept, but at least 1 % of it, as in nnU-Net (nnunetv2/preprocessing/preprocessors/
default_preprocessor.py). The sample differs from nnU-Net's, which uses numpy's RandomState: here it is drawn by Philox words,
which are the same in all versions of numpy.
"""

import numpy as np

VERSION = 1  # raise it when other voxels would be kept

KEPT = 10_000
SHARE = 0.01


def index(mask: np.ndarray, classes: int) -> tuple[np.ndarray, list[int], list[int]]:
    """Return voxel indices of the classes 1..K.

    Args:
      mask: unsigned integer [*S], classes 0..K.
      classes: K.
    Returns:
      (flat indices in C order of class 1, then of class 2, ..., each ascending; how many of each are kept; how many it has).
    """
    flat = mask.reshape(-1)
    inside = np.flatnonzero(flat)
    of_class = inside[np.argsort(flat[inside], kind="stable")]
    counts = np.bincount(flat[inside], minlength=classes + 1)[1:]
    pieces = np.split(of_class, np.cumsum(counts)[:-1])
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
