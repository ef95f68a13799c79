"""Extra input channels of the BraTS 2-D project, computed from the image alone: k-means, predicted edges, a composite image.

The project (`Masterjun12/brain_tumor_segmentation`, README; no code of these steps is public) draws the edges of the true
tumour mask on its training images, and trains a second network on them. Here the edge map and the autoencoder's image are
predicted by the network of another run in every split, training included: training and prediction then have the same kind of
input, and no true mask can leak into a score. (The first network is more certain on its own training slices than on new ones:
train it on other patients, or the second network will rely too much on the channel.)

The first network is trained to predict `edge_map` (Recipe.target "edges") or `composite` ("composite"). The second one names the
channel in Recipe.extra and gets the first one's outputs through the function that is passed to `extend`.
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from jaxseg.types import ConfigError, DataError
from jaxseg.utils.lookup import lookup

# name -> (channels it adds to the input, whether a network of another run makes it)
EXTRA = {"kmeans": (1, False), "edge": (1, True), "painted_edge": (0, True), "autoencoder": (1, True)}
TARGETS = ("labels", "edges", "composite")

Generate = Callable[[np.ndarray], np.ndarray]  # float32 [n, h, w, C] -> float32 [n, h, w, E], one map for each trained name


def added(extra: tuple[str, ...]) -> int:
    """Return how many channels the names of `Recipe.extra` append to those of the image.

    Raises:
      ConfigError: a name is unknown or given twice.
    """
    for name in extra:
        lookup("extra channel", name, EXTRA)
    if len(set(extra)) < len(extra):
        raise ConfigError(f"got data.extra={tuple(extra)}; each name must occur once only")
    return sum(EXTRA[name][0] for name in extra)


def trained(extra: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names in `Recipe.extra` whose channels another run's network generates, in their order."""
    return tuple(name for name in extra if EXTRA[name][1])


def extend(images: np.ndarray, extra: tuple[str, ...], generate: Generate | None) -> np.ndarray:
    """Return the network's input: the image's channels (with edges drawn on them if asked), then the channels of `extra`.

    Args:
      images: [n, h, w, C], uint8 or float32, as returned by `examples.prepare`.
      extra: names of EXTRA.
      generate: float32 images (uint8 divided by 255) -> maps in 0..1, float32 [n, h, w, len(trained(extra))].
    Returns:
      [n, h, w, C + added(extra)] of the images' dtype; in uint8 the maps are multiplied by 255.
    Raises:
      ConfigError: a channel needs a network, but `generate` is None.
      DataError: the maps have the wrong shape, or hold NaN or Inf.
    """
    if not extra:
        return images
    floats = images.astype(np.float32) / 255 if images.dtype == np.uint8 else images
    names, appended = trained(extra), []
    if names and generate is None:
        raise ConfigError(
            f"data.extra={tuple(extra)}: {', '.join(names)} come from the network of another run; set data.extra_run"
        )
    maps = dict(zip(names, np.moveaxis(_checked(generate(floats), floats, names), -1, 0))) if names else {}
    for name in extra:
        if name == "painted_edge":
            floats = paint_edges(floats, maps[name])
        else:
            appended.append(np.stack([kmeans(image) for image in floats]) if name == "kmeans" else maps[name])
    joined = np.concatenate([floats, *(a[..., None] for a in appended)], -1)
    return np.rint(np.clip(joined, 0, 1) * 255).astype(np.uint8) if images.dtype == np.uint8 else joined.astype(np.float32)


def kmeans(image: np.ndarray, k: int = 5, *, steps: int = 100) -> np.ndarray:
    """Return the project's pseudo tumour mask: the middle one of k clusters of the brain's intensities, ordered by their centres.

    Lloyd's algorithm on the C intensities of each pixel of the brain (any channel not 0), with a deterministic start: the pixels
    are sorted by mean intensity and divided into k parts of equal size, whose means are the first centres.

    Args:
      image: float [H, W, C], background 0.
      k: number of clusters.
      steps: maximum number of iterations; they end earlier when no pixel changes its cluster.
    Returns:
      float32 [H, W], 1 in the cluster whose centre has the median mean intensity, else 0.
    """
    brain = image.any(-1)
    points = image[brain].astype(np.float32)  # [n, C]
    mask = np.zeros(brain.shape, np.float32)
    if len(points) < k:
        return mask
    order = np.argsort(points.mean(-1), kind="stable")
    centres = np.stack([points[part].mean(0) for part in np.array_split(order, k)])
    nearest = None
    for _ in range(steps):
        # |x - c|^2 without |x|^2, which is the same for all centres
        closest = ((centres**2).sum(-1) - 2 * points @ centres.T).argmin(-1)
        if nearest is not None and (closest == nearest).all():
            break
        nearest = closest
        sizes = np.bincount(nearest, minlength=k)
        sums = np.stack([np.bincount(nearest, points[:, c], minlength=k) for c in range(points.shape[1])], -1)
        centres = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centres).astype(np.float32)
    middle = np.argsort(centres.mean(-1), kind="stable")[k // 2]
    mask[brain] = nearest == middle
    return mask


def edge_map(labels: np.ndarray) -> np.ndarray:
    """Return the inner boundaries of a label map: foreground pixels with one of their 4 neighbours in another class.

    The border of the image is not a boundary. Where two foreground classes meet, both sides are marked.

    Args:
      labels: integer [H, W], 0 background.
    Returns:
      bool [H, W].
    """
    cross = ndimage.generate_binary_structure(2, 1)
    highest, lowest = (f(labels, footprint=cross, mode="nearest") for f in (ndimage.maximum_filter, ndimage.minimum_filter))
    return (labels > 0) & (highest != lowest)


def paint_edges(image: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Draw edges on every channel: image + edges (top - image), with top the channel's highest value in this image.

    Args:
      image: float [..., H, W, C].
      edges: bool or probability [..., H, W].
    Returns:
      float32, image's shape.
    """
    image = np.asarray(image, np.float32)
    return image + np.asarray(edges, np.float32)[..., None] * (image.max((-3, -2), keepdims=True) - image)


def composite(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the autoencoder's training target: (grey + tumour) / 2, a darkened grey image with a bright tumour.

    grey is the mean of the channels, mapped from its range in this image to 0..1 (a constant image: 0), and tumour is 1 in all
    foreground classes. Values above 1/2 are thus tumour, with its texture, and one sigmoid output with a threshold of 1/2 is a
    segmentation. The project's README shows such pictures; its formula is not public.

    Args:
      image: float [H, W, C].
      labels: integer [H, W].
    Returns:
      float32 [H, W, 1], 0..1.
    """
    grey = np.asarray(image, np.float32).mean(-1)
    low, high = grey.min(), grey.max()
    grey = (grey - low) / (high - low) if high > low else np.zeros_like(grey)
    return ((grey + (labels > 0)) / 2)[..., None].astype(np.float32)


def _checked(maps: np.ndarray, images: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    maps, expected = np.asarray(maps, np.float32), (*images.shape[:3], len(names))
    if maps.shape != expected:
        raise DataError(
            f"the run that generates {', '.join(names)} returned maps {maps.shape} for images {images.shape}; "
            f"must be {expected}: give a run with one output for each name",
            "DATA_CHANNELS",
        )
    if not np.isfinite(maps).all():
        raise DataError(
            f"the run that generates {', '.join(names)} returned {int((~np.isfinite(maps)).sum())} values that are "
            "NaN or Inf; use another run or checkpoint",
            "DATA_NONFINITE",
        )
    return maps
