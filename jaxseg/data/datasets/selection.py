"""Selection of slices to train on, statistics of their classes, and class weights (BraTS 2-D project).

The project keeps a slice when one of the tumour's classes covers more than 500 (or 3000) pixels, draws a share of those
(0.4 or 0.1, seed 42), and prints how many pixels each class has and how many images lack it.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxseg.data.records import Case
from jaxseg.types import ConfigError, DataError
from jaxseg.utils import files
from jaxseg.utils.lookup import lookup

VERSION = 1  # of the rules below: raise it when they would read a file otherwise, so that stores are built anew

BINS = (1, 100, 200, 300, 400, 500, 1000, 2000, 3000, 5000)  # pixels of a class in an image: lower ends of the histogram
RULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # share f of each class -> weight, up to a factor
    "inverse": lambda f: 1 / f,
    "root": lambda f: f**-0.5,
    "median": lambda f: np.median(f) / f,  # median frequency balancing (Eigen and Fergus 2015), over all images
    "log": lambda f: 1 / np.log(1.02 + f),  # ENet (Paszke et al. 2016)
}


def rule(
    min_area: int | None = None, sample: float = 1.0, sample_seed: int = 42
) -> Callable[[Case, int, np.ndarray | None], bool]:
    """Return the project's protocol as a function for `DataSet.keep_slice`.

    Args:
      min_area: keep a slice with more than this many pixels of a foreground class; None: every slice.
      sample: the fraction of those that is drawn.
      sample_seed: random seed of the draw.
    Raises:
      ConfigError: an area below 0, or a fraction outside (0, 1].
    """
    if min_area is not None and min_area < 0:
        raise ConfigError(f"got data.min_area={min_area}; must be at least 0 pixels (any tumour), or None for every slice")
    if not 0 < sample <= 1:
        raise ConfigError(f"got data.sample={sample}; must be a fraction of the slices, above 0 and at most 1")
    return functools.partial(keep_slice, min_area, float(sample), int(sample_seed))


def keep_slice(min_area: int | None, sample: float, seed: int, case: Case, index: int, mask: np.ndarray | None) -> bool:
    """Return whether a slice is an example. The draw is a digest of (seed, case, slice), below `sample`.

    Differs from the source, which draws exactly that fraction of one list: here a further case does not change the draw of other
    slices.
    """
    if min_area is not None and not (mask is not None and np.bincount(mask.ravel(), minlength=2)[1:].max() > min_area):
        return False
    return sample >= 1 or int(files.digest(str(seed), case.id, str(index))[:12], 16) < sample * 16**12


def area_histogram(cache, rows: Sequence[int] | None = None) -> dict:
    """Count pixels and areas of each class in the masks of a store, from its rows alone.

    Args:
      cache: the store of prepared slices.
      rows: the examples to count; None for all.
    Returns:
      {"images": N, "labels": names with the background first, "pixels": [K + 1] of each class, "absent": [K + 1] images
      without a pixel of it, "bins": BINS, "areas": [K][len(BINS)] images by the area of class k, from each bin's lower end
      to the next; the last is open}.
    """
    areas = _areas(cache, rows)  # [N, 1 + K]
    edges = [*BINS, np.inf]
    return {
        "images": len(areas),
        "labels": ["background", *cache.labels],
        "pixels": areas.sum(0).tolist(),
        "absent": (areas == 0).sum(0).tolist(),
        "bins": list(BINS),
        "areas": [np.histogram(areas[:, k], edges)[0].tolist() for k in range(1, areas.shape[1])],
    }


def table(histogram: Mapping) -> str:
    """Return the figures of `area_histogram` as the project prints them, followed by the histogram."""
    names, bins = histogram["labels"], histogram["bins"]
    lines = [f"Label {k} pixels: {n}" for k, n in enumerate(histogram["pixels"])]
    lines += [f"Number of images with no label {k} pixels: {n}" for k, n in enumerate(histogram["absent"])]
    wide = max(len("pixels in an image"), *(len(f"{name} ({k})") for k, name in enumerate(names)))
    lines.append("pixels in an image".ljust(wide) + "".join(f"{f'>={low}':>8}" for low in bins))
    return "\n".join(
        lines
        + [
            f"{name} ({k})".ljust(wide) + "".join(f"{n:>8}" for n in row)
            for k, (name, row) in enumerate(zip(names[1:], histogram["areas"]), 1)
        ]
    )


def class_weights(cache, rows: Sequence[int], rule: str = "inverse") -> tuple[float, ...]:
    """Weights of background and classes from the training rows' pixel counts; see `weights`."""
    return weights(_areas(cache, rows).sum(0), rule, labels=("background", *cache.labels))


def weights(pixels: Sequence[int], rule: str = "inverse", *, labels: Sequence[str] = ()) -> tuple[float, ...]:
    """Return one weight per class, with mean 1.

    Args:
      pixels: [K + 1] of each class, background first.
      rule: a name in RULES.
      labels: their names, for the error.
    Raises:
      ConfigError: an unknown rule.
      DataError: a class without a pixel.
    """
    weigh = lookup("rule of class weights", rule, RULES)
    counts = np.asarray(pixels, np.float64)
    if not (counts > 0).all():
        k = int(np.flatnonzero(counts <= 0)[0])
        raise DataError(
            f"class {k}{f' ({labels[k]})' if labels else ''} has no pixel, so no weight by {rule!r}; keep slices "
            "with it or write the weights down",
            "DATA_EMPTY",
        )
    raw = weigh(counts / math.fsum(counts))
    return tuple((raw / raw.mean()).tolist())


def _areas(cache, rows: Sequence[int] | None) -> np.ndarray:
    """int64 [N, K + 1] pixels of each class, background first, in each example."""
    found = cache.foreground_counts()
    found = found if rows is None else found[np.asarray(rows, np.int64)]
    sizes = cache.sizes() if rows is None else cache.sizes()[np.asarray(rows, np.int64)]
    background = sizes[:, None] - found.sum(1, keepdims=True)
    return np.concatenate([background, found], 1)
