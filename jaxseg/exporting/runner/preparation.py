"""Convert a case's images to the network's input, and its logits back to the case's own grid.

It follows jaxseg's own preparation, whose docstrings give the source of each rule; `recipe` is its Recipe as a dict.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from jaxseg.data.prepare.splines import anchored, by_nnunet, by_shares, splines
from jaxseg.exporting.runner.images import CaseImage, Refused
from jaxseg.exporting.runner.intensity import WHOLE_SCAN, of_scan, of_values

_PLANES = {  # of slices: from slice to slice, row to row, column to column, as directions in RAS
    "axial": np.array([[0, 0, 1], [0, -1, 0], [-1, 0, 0]], np.float64),
    "coronal": np.array([[0, -1, 0], [0, 0, -1], [-1, 0, 0]], np.float64),
    "sagittal": np.array([[-1, 0, 0], [0, 0, -1], [0, -1, 0]], np.float64),
}
_LUMA = (0.299, 0.587, 0.114)
_MONAI = ("monai", "monai_last")  # filters after MONAI's Spacing, before or after the intensities
KNOWN = {  # what a recipe may say for this program to follow it; export refuses others
    "intensity": ("grey", "ct", "ct_zscore", "rgb_to_01", "none", *WHOLE_SCAN),
    "filter": ("linear", "lanczos", "nnunet", *_MONAI),
    "fit": ("stretch", "centre", "patches"),
    "orientation": ("lps", "ras", "file"),
    "plane": ("", *_PLANES),
    "target": ("labels",),
    "extra": ((), []),
}
FREE = (  # entries that may have any value
    *("size", "window", "spacing", "channels", "labels", "modalities", "mean", "std"),
    *("crop", "blur", "axes", "nonzero", "above", "statistics", "stage"),
)


class FileAxes(NamedTuple):
    """The mapping from a file's axes to those of the examples."""

    axes: tuple[int, ...]
    flips: tuple[bool, ...]
    shape: tuple[int, ...]
    spacing: tuple[float, ...]

    def restore(self, array: np.ndarray) -> np.ndarray:
        """Return three axes in the common order (and K) in the file's own order."""
        if not self.axes:
            return array[0]
        flipped = array[tuple(slice(None, None, -1 if f else 1) for f in self.flips)]
        restored = flipped.transpose(*np.argsort(self.axes), *range(3, array.ndim))
        return restored if len(self.shape) == 3 else restored[:, :, 0]


class GridPlace(NamedTuple):
    """The position of an example on the network's grid; see `canvas.Placement` of jaxseg."""

    axes: tuple[int, ...]
    box: tuple[slice, ...]
    scaled: tuple[int, ...]
    canvas: tuple[int, ...]
    corner: tuple[int, ...]
    apart: int | None = None
    apart_back: int | None = None
    steps: tuple[float, ...] | None = None

    @property
    def keeps_grid(self) -> bool:
        """Whether the network's grid is the example's own."""
        plain = self.steps is None and self.axes == tuple(range(len(self.axes))) and all(b.start == 0 for b in self.box)
        return plain and self.boxed == self.scaled == self.canvas

    @property
    def boxed(self) -> tuple[int, ...]:
        return tuple(b.stop - b.start for b in self.box)

    def cut(self, array: np.ndarray) -> np.ndarray:
        return array.transpose(self.axes)[self.box]

    def overlap(self) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """(part of the canvas, part of the resampled box) that both have."""
        there = tuple(slice(max(c, 0), min(c + s, n)) for c, s, n in zip(self.corner, self.scaled, self.canvas))
        return there, tuple(slice(t.start - c, t.stop - c) for t, c in zip(there, self.corner))


class NetworkInputs(NamedTuple):
    """Prepared inputs [N, *S, C], the case's own grid, the mapping back to its file, and the position of an example."""

    inputs: np.ndarray
    shape: tuple[int, ...]
    orientation: FileAxes
    place: GridPlace


def to_slices(image: CaseImage, plane: str = "axial") -> tuple[np.ndarray, FileAxes]:
    """[Z, Y, X(, C)] in the common order; a picture is a stack of one."""
    if image.affine is None:
        return image.array[None], FileAxes((), (), image.array.shape[:2], (1.0, 1.0, 1.0))
    columns = image.affine[:3, :3]
    lengths = np.linalg.norm(columns, axis=0)
    cosines = _PLANES[plane or "axial"] @ (columns / lengths)
    fit = lambda order: round(sum(cosines[t, a] ** 2 for t, a in enumerate(order)), 9)
    axes = max(itertools.permutations(range(3)), key=fit)
    flips = tuple(bool(cosines[t, a] < 0) for t, a in enumerate(axes))
    moved = image.array.transpose(*axes, *range(3, image.array.ndim))
    slices = moved[tuple(slice(None, None, -1 if f else 1) for f in flips)]
    return slices, FileAxes(axes, flips, image.array.shape[:3], tuple(float(lengths[a]) for a in axes))


def _check_plane(shape, spacing, name: str) -> None:
    """Refuse a volume that is too thin for axial slices, if the recipe names no plane."""
    for axis, plane in ((1, "coronal"), (2, "sagittal")):
        others = [a for a in range(3) if a != axis]
        fewer = min(shape[a] for a in others) / shape[axis]
        if fewer >= 8 or fewer > 1 and spacing[axis] / max(spacing[a] for a in others) >= 2:
            raise Refused(f"{name}: it was acquired in {plane} slices; this model takes axial ones")


def to_volume(image: CaseImage, orientation: str) -> tuple[np.ndarray, FileAxes]:
    """[X, Y, Z(, C)] in the recipe's orientation: "lps", "ras" or "file"."""
    slices, turned = to_slices(image)
    if not turned.axes:
        if orientation != "file":
            raise Refused(f"{image.name}: a picture; this model takes volumes")
        return np.swapaxes(slices[0], 0, 1)[:, :, None], FileAxes((1, 0, 2), (False,) * 3, turned.shape, (1.0, 1.0, 999.0))
    axes, flips, spacing = turned.axes[::-1], turned.flips[::-1], turned.spacing[::-1]
    if orientation == "file":
        own = tuple(spacing[axes.index(a)] for a in range(3))
        return image.array, FileAxes((0, 1, 2), (False,) * 3, turned.shape, own)
    moved = slices.transpose(2, 1, 0, *range(3, slices.ndim))
    if orientation == "ras":
        moved, flips = moved[::-1, ::-1], (not flips[0], not flips[1], flips[2])
    return moved, FileAxes(axes, flips, turned.shape, spacing)


def prepare(images: list[CaseImage], recipe: dict, rank: int) -> NetworkInputs:
    """Prepare the examples of a case from its images, one for each modality."""
    first = images[0]
    for other in images[1:]:
        same = first.array.shape[:rank] == other.array.shape[:rank] and (first.affine is None) == (other.affine is None)
        if not same or first.affine is not None and not _same_place(first, other):
            raise Refused(f"{other.name}: it does not lie on the grid of {first.name}; resample it")
    if rank == 3:
        found, (orientation, *_) = zip(*(to_volume(image, recipe["orientation"]) for image in images))
        planes = [a[..., c] if a.ndim == 4 else a for a in found for c in range(a.shape[3] if a.ndim == 4 else 1)]
        example, place = _example(planes, recipe, orientation.spacing, scanned=False)
        return NetworkInputs(example[None], planes[0].shape, orientation, place)
    scans = [_scaled(image, recipe) for image in images]
    found, (orientation, *_) = zip(*(to_slices(image, recipe["plane"]) for image in scans))
    stack = np.concatenate([a if a.ndim == 4 else a[..., None] for a in found], -1)
    if orientation.axes and not recipe["plane"]:
        _check_plane(stack.shape[:3], orientation.spacing, first.name)
    spacing = orientation.spacing[1:] if orientation.axes else None
    made = [_example([one[..., c] for c in range(one.shape[-1])], recipe, spacing, scanned=True) for one in stack]
    return NetworkInputs(np.stack([example for example, _ in made]), stack.shape[:3], orientation, made[0][1])


def _same_place(a: CaseImage, b: CaseImage) -> bool:
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in a.array.shape[:3]], indexing="ij")).reshape(3, -1)
    apart = (a.affine - b.affine)[:3] @ np.vstack([corners, np.ones(corners.shape[1])])
    smallest = min(np.linalg.norm(image.affine[:3, :3], axis=0).min() for image in (a, b))
    return np.linalg.norm(apart, axis=0).max() <= 0.02 * smallest


def _scaled(image: CaseImage, recipe: dict) -> CaseImage:
    """Apply the part of the intensity rule that needs a whole scan, before it is cut into slices."""
    array = image.array if image.affine is not None else image.array[:, :, None]
    scaled = of_scan(array, recipe, None, 0)
    return image if scaled is array else image._replace(array=scaled if image.affine is not None else scaled[:, :, 0])


def _example(planes: list[np.ndarray], recipe: dict, spacing, *, scanned: bool) -> tuple[np.ndarray, GridPlace]:
    """Prepare one example [*s, C], and return it with its position."""
    rank, inside, box = planes[0].ndim, None, None
    if recipe["nonzero"] or "zscore_nonzero" in recipe["intensity"] and rank == 3:
        inside = ndimage.binary_fill_holes(np.any([p != 0 for p in planes], 0))
    axes = tuple(recipe["axes"]) or tuple(range(rank))
    if recipe["nonzero"]:
        if not inside.any():
            raise Refused("every voxel of the case is 0; check the file")
        box = ndimage.find_objects(inside.transpose(axes).astype(np.uint8))[0]
    where, *above = recipe.get("above") or ("",)
    if where == "scan":
        box = _box_above([p.transpose(axes) for p in planes], *above)
    place = _placement(planes[0].shape, recipe, spacing, axes, box)
    if where == "grid":
        found = _box_above([resample(place.cut(p), place.scaled, "monai", steps=place.steps) for p in planes], *above)
        place = place._replace(canvas=tuple(b.stop - b.start for b in found), corner=tuple(-b.start for b in found))
    there, here = place.overlap()
    cut = result = place
    if box is not None:  # intensities are those of the box
        planes, inside = [place.cut(p) for p in planes], None if inside is None else place.cut(inside)
        cut = place = place._replace(axes=tuple(range(rank)), box=tuple(slice(0, n) for n in place.boxed))
    if recipe["filter"] == "monai":  # intensities are those of the resampled volume
        planes = [resample(cut.cut(p), place.scaled, "monai", steps=place.steps)[here] for p in planes]
        inside = None if inside is None else ndimage.binary_fill_holes(np.any([p != 0 for p in planes], 0))
        whole = tuple(slice(0, n) for n in place.canvas)
        place = place._replace(axes=tuple(range(rank)), box=whole, scaled=place.canvas, corner=(0,) * rank, steps=None)
        there, here = place.overlap()
        cut = place
    grey8 = recipe["intensity"] == "grey" and rank == 2
    prepared = np.zeros((*place.canvas, _channels(len(planes), recipe)), np.uint8 if grey8 else np.float32)
    if place.scaled != place.canvas and recipe["intensity"] == "ct":
        prepared[:] = -1.0
    scan = lambda plane, c: plane if scanned else of_scan(plane, recipe, inside, c)
    ready = [of_values(cut.cut(scan(plane, c)), recipe, c) for c, plane in enumerate(planes)]
    if len(planes) == 3 and prepared.shape[-1] == 1:
        ready = [np.stack(ready, -1) @ np.asarray(_LUMA, np.float32)]
    for c, values in enumerate(ready):
        values = ndimage.gaussian_filter(values, recipe["blur"]) if recipe["blur"] else values
        values = resample(values, place.scaled, recipe["filter"], place.apart, cut.steps)[here]
        if grey8:
            values = np.rint(np.clip(values, 0.0, 255.0))
        elif recipe["intensity"] == "grey":
            values = values / np.float32(255)
        prepared[(*there, slice(None) if len(planes) == 1 else c)] = values[..., None] if len(planes) == 1 else values
    return prepared, result


def _channels(found: int, recipe: dict) -> int:
    wanted = recipe["channels"]
    several = recipe["intensity"].split("+")[0].split(">")[0] in WHOLE_SCAN or len(recipe["modalities"]) > 1
    grey = found == 3 and wanted == 1 and recipe["intensity"] == "grey"
    if found != wanted and (several or not (found == 1 or grey)):
        raise Refused(f"got {found} channels; this model takes {wanted} {tuple(recipe['modalities']) or ''}")
    return wanted


def _placement(shape, recipe: dict, spacing, axes: tuple[int, ...], box) -> GridPlace:
    rank, wanted = len(shape), recipe["spacing"]
    shape = tuple(shape[a] for a in axes)
    spacing = None if spacing is None else tuple(spacing[a] for a in axes)
    if box is None:
        crop = tuple(recipe["crop"]) or shape
        if any(c > n for c, n in zip(crop, shape)):
            raise Refused(f"an image of {shape}; {crop} is cut out of its middle")
        box = tuple(slice((n - c) // 2, (n - c) // 2 + c) for n, c in zip(shape, crop))
    boxed = tuple(b.stop - b.start for b in box)
    scaled, apart, back = boxed, None, None
    if wanted is not None:
        if spacing is None:
            raise Refused("a picture without a spacing; this model was trained on images of a known one")
        samples = (lambda n, s, r: s / r * n) if recipe["filter"] == "nnunet" else (lambda n, s, r: n * s / r)
        if recipe["filter"] in _MONAI:  # the centres of the first and the last voxel stay
            samples = lambda n, s, r: (n - 1) * s / r + 1 if abs(r - s) > 1e-3 else n
        scaled = tuple(max(1, round(samples(n, s, r))) if r else n for n, s, r in zip(boxed, spacing, wanted))
        if max(scaled) > {2: 1 << 15, 3: 1 << 12}[rank]:
            raise Refused(f"a spacing of {spacing} and shape {shape}: {scaled} samples at {tuple(wanted)} mm; check the header")
    if recipe["fit"] == "patches":
        if rank == 3 and recipe["filter"] == "nnunet" and wanted:
            network = [r or s for r, s in zip(wanted, spacing)]
            apart, back = _coarse_axis(spacing, network), _coarse_axis(network, spacing)
        steps = None
        if recipe["filter"] in _MONAI and wanted and any(r and abs(r - s) > 1e-3 for r, s in zip(wanted, spacing)):
            steps = tuple((r or s) / s for r, s in zip(wanted, spacing))
        return GridPlace(axes, box, scaled, scaled, (0,) * rank, apart, back, steps)
    canvas = tuple(int(n) for n in recipe["size"])
    if recipe["fit"] == "stretch":
        return GridPlace(axes, box, canvas, canvas, (0,) * rank)
    return GridPlace(axes, box, scaled, canvas, tuple((n - s) // 2 for n, s in zip(canvas, scaled)))


def _box_above(channels: list[np.ndarray], value: float, margin: int) -> tuple[slice, ...]:
    """The box around the voxels that are above `value` in some channel, wider by `margin` voxels."""
    inside = np.any([channel > value for channel in channels], 0)
    if not inside.any():
        raise Refused(f"no voxel of the case is above {value:g}; check the file")
    found = ndimage.find_objects(inside.astype(np.uint8))[0]
    return tuple(slice(max(b.start - margin, 0), min(b.stop + margin, n)) for b, n in zip(found, inside.shape))


def _coarse_axis(spacing, wanted) -> int | None:
    for each in (spacing, wanted):
        if max(each) / min(each) > 3:
            coarsest = [axis for axis, s in enumerate(each) if s == max(each)]
            return coarsest[0] if len(coarsest) == 1 else None
    return None


def restore(logits: np.ndarray, shape, recipe: dict, place: GridPlace, fill) -> np.ndarray:
    """Resample logits [*s, K] to float32 [*shape, K] on the image's own grid; voxels that the network did not see get `fill`.

    Logits of 16 bits are rounded to 16 bits again, as by nnU-Net.
    """
    there, here = place.overlap()
    restored = np.empty((*shape, logits.shape[-1]), np.float32)
    for k in range(logits.shape[-1]):
        scaled = logits[..., k]
        if place.scaled != place.canvas:
            scaled = np.full(place.scaled, fill[k], np.float32)
            scaled[here] = logits[there][..., k]
        filter = _for_scores(recipe["filter"])
        back = None if place.steps is None else [1 / step for step in place.steps]
        inside = resample(scaled, place.boxed, filter, place.apart_back, back)
        inside = inside.astype(logits.dtype)
        whole = np.full(shape, fill[k], np.float32)
        whole.transpose(place.axes)[place.box] = inside
        restored[..., k] = whole
    return restored


def prepare_classes(found: np.ndarray, filter: str, place: GridPlace) -> np.ndarray:
    """Return a previous stage's classes [X, Y, Z] in the recipe's orientation on the network's grid; outside of it they are 0."""
    cut = np.ascontiguousarray(place.cut(found))
    if filter == "nnunet":
        scaled = by_nnunet(cut, place.scaled, place.apart)
    else:
        share = lambda one: resample(one, place.scaled, _for_scores(filter), place.apart, place.steps)
        scaled = by_shares(cut, place.scaled, share)
    there, here = place.overlap()
    prepared = np.zeros(place.canvas, found.dtype)
    prepared[there] = scaled[here]
    return prepared


def _for_scores(filter: str) -> str:
    return {"nnunet": "nnunet_scores", **dict(zip(_MONAI, _MONAI))}.get(filter, "linear")


def resample(values: np.ndarray, shape, filter: str, apart: int | None = None, steps=None) -> np.ndarray:
    """One channel [H, W] or [X, Y, Z] on another grid: "linear", "lanczos" (as Pillow), "nnunet", "nnunet_scores" (splines).

    MONAI's filters take the samples at multiples of `steps`.
    """
    values, shape = np.asarray(values, np.float32), tuple(int(n) for n in shape)
    if steps is not None:
        return anchored(values, shape, steps)
    if values.shape == shape:
        return values
    if filter.startswith("nnunet"):
        return splines(values, shape, 3 if filter == "nnunet" else 1, apart)
    for axis in (1, 0) if values.ndim == 2 else (2, 1, 0):  # the last axis first, as Pillow resamples planes
        values = _along(values, shape[axis], axis, filter)
    return values


def _along(values: np.ndarray, count: int, axis: int, filter: str) -> np.ndarray:
    """One axis by Pillow's rule: the filter widened where it shrinks, sums in float64."""
    size = values.shape[axis]
    if size == count:
        return values
    scale = size / count
    widened = max(scale, 1.0)
    support = (3.0 if filter == "lanczos" else 1.0) * widened
    moved, rows = np.moveaxis(values, axis, 0), np.empty((count, *np.delete(values.shape, axis)), np.float32)
    for i in range(count):
        centre = (i + 0.5) * scale
        low, high = max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), size)
        weights = [_weight((j - centre + 0.5) * (1.0 / widened), filter) for j in range(low, high)]
        total, summed = 0.0, np.zeros(rows.shape[1:])
        for weight in weights:  # one after the other: Python's sum rounds otherwise
            total += weight
        for j, weight in zip(range(low, high), weights):
            summed += moved[j] * np.float64(weight / total)
        rows[i] = summed
    return np.moveaxis(rows, 0, axis)


def _weight(x: float, filter: str) -> float:
    if filter == "linear":
        return max(1.0 - abs(x), 0.0)
    sinc = lambda t: 1.0 if t == 0 else math.sin(t * math.pi) / (t * math.pi)
    return sinc(x) * sinc(x / 3) if -3 <= x < 3 else 0.0
