"""Post-processing of label maps, and its choice on the validation cases; numpy and scipy on the host.

A step is a function of one label map [*S] (integers, 0 background) with its options; `apply` runs a list of steps, written as
JSON beside a checkpoint:

  [{"step": "keep_largest", "options": {"classes": [1, 2, 3]}, "dice": [0.871, 0.874]}, ...]

"dice" is the mean validation Dice before and after that step, for information only. `choose` finds such a list as nnU-Net does
(postprocessing/remove_connected_components.py: keep the largest component of all foreground if that raises the mean Dice and
makes no class worse, then of each class); then it tries the relabelling of BraTS entries (Isensee et al. 2020, arXiv 2011.00848:
few voxels of enhancing tumour become necrosis), smallest component sizes, and filling holes. Differs from nnU-Net in that no
step of any kind may make a class worse.
"""

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from jaxseg.data.prepare.labels import annotated, as_background
from jaxseg.metrics import counts
from jaxseg.ops.components import api as components
from jaxseg.types import ConfigError, Spacing
from jaxseg.utils import files, guard
from jaxseg.utils.lookup import lookup

Step = dict  # {"step": name, "options": {...}, "dice": [before, after]}
FILE = "postprocess.json"  # in a run folder: what `choose` found
TINY = 1e-9  # a rise of the Dice below this is rounding
TIES = ("first", "all")


def keep_largest(
    labels: np.ndarray, classes: Sequence[int] | None = None, connectivity: int | None = None, ties: str = "first"
) -> np.ndarray:
    """Keep only the largest connected component of some classes; their other voxels become background.

    Args:
      labels: integer [*S].
      classes: taken together as one mask; None: all but 0.
      connectivity: neighbours differ along at most this many axes; None: all axes (touching corners connect), as in nnU-Net.
      ties: which of equally large components are kept: the "first" in C order, or "all", as in nnU-Net.
    Returns:
      [*S] in the dtype of `labels`.
    Raises:
      ConfigError: connectivity is not between 1 and the number of axes, or `ties` is another word.
    """
    if ties not in TIES:
        raise ConfigError(f"got ties={ties!r}; must be one of {', '.join(TIES)}")

    def keep(sizes: np.ndarray) -> np.ndarray:
        return sizes == sizes.max() if ties == "all" else np.arange(len(sizes)) == sizes.argmax()

    return _filtered(labels, classes, connectivity, keep)


def remove_small(
    labels: np.ndarray,
    min_voxels: int | None = None,
    *,
    min_mm3: float | None = None,
    spacing: Spacing | None = None,
    classes: Sequence[int] | None = None,
    connectivity: int | None = None,
) -> np.ndarray:
    """Remove the connected components of some classes that are smaller than a given size; they become background.

    Args:
      labels, classes, connectivity: as for `keep_largest`.
      min_voxels: the smallest size to keep, in voxels; or
      min_mm3: the smallest size to keep in mm^3 (mm^2 for 2-D images); needs spacing.
      spacing: voxel size of each axis, mm.
    Raises:
      ConfigError: none or both of the sizes are given, or min_mm3 without a spacing for every axis.
    """
    least: float
    if min_voxels is not None and min_mm3 is None:
        least = min_voxels
    elif min_mm3 is not None and min_voxels is None:
        if spacing is None or len(spacing) != labels.ndim:
            raise ConfigError(
                f"got min_mm3={min_mm3} with spacing={spacing} for labels of shape {labels.shape}; give one "
                "voxel size in mm for each axis"
            )
        least = min_mm3 / math.prod(spacing)
    else:
        raise ConfigError(f"got min_voxels={min_voxels}, min_mm3={min_mm3}; give exactly one of them")
    return _filtered(labels, classes, connectivity, lambda sizes: sizes >= least * (1 - 1e-9))


def fill_holes(labels: np.ndarray, classes: Sequence[int] | None = None) -> np.ndarray:
    """Fill holes that some classes enclose.

    A hole is a face-connected component of background voxels that every path (by faces) to the border leaves through `classes`
    (None: any class but 0). It gets the class with the most voxel faces on its surface; of equal ones the smallest. Voxels of
    other classes do not change.
    """
    labels = np.asarray(labels)
    mask = _mask(labels, classes)
    box = _box(mask)
    if box is None:
        return labels.copy()
    out = labels.copy()
    inner = out[box]  # a view: what is enclosed lies within the mask's own box
    holes = components.label(ndimage.binary_fill_holes(mask[box]) & (inner == 0))
    if not holes.any():
        return out
    votes = np.zeros((int(holes.max()) + 1, int(labels.max()) + 1), np.int64)
    for axis in range(labels.ndim):
        for here, there in ((slice(None, -1), slice(1, None)), (slice(1, None), slice(None, -1))):
            at = (slice(None),) * axis
            hole, neighbour = holes[*at, here], inner[*at, there]
            np.add.at(votes, (hole[hole > 0], neighbour[hole > 0]), 1)
    votes[:, 0] = 0
    found = votes.argmax(1).astype(labels.dtype)
    found[0] = 0
    inner[...] = np.where(holes > 0, found[holes], inner)
    return out


def relabel_small(labels: np.ndarray, from_class: int, to: int, below: int) -> np.ndarray:
    """Change all voxels of one class to another class if the whole label map has fewer than `below` of them."""
    few = np.count_nonzero(labels == from_class) < below
    return np.where(labels == from_class, np.asarray(to, labels.dtype), labels) if few else labels.copy()


STEPS = {"keep_largest": keep_largest, "remove_small": remove_small, "fill_holes": fill_holes, "relabel_small": relabel_small}


def apply(labels: np.ndarray, steps: Iterable[Mapping], spacing: Spacing | None = None) -> np.ndarray:
    """Apply post-processing steps, as returned by `choose`, one after the other.

    Args:
      labels: integer [*S].
      steps: {"step": name, "options": {...}}; other keys are ignored.
      spacing: voxel size of each axis in mm, for steps with sizes in mm^3.
    Raises:
      ConfigError: a step does not exist or does not take its options.
    """
    for step in steps:
        run = lookup("post-processing step", step["step"], STEPS)
        options = dict(step["options"])
        if "min_mm3" in options:
            options["spacing"] = spacing
        try:
            inspect.signature(run).bind(labels, **options)
        except TypeError as error:
            raise ConfigError(f"post-processing step {step['step']!r} with options {step['options']}: {error}") from error
        labels = run(labels, **options)
    return labels


def read_steps(run: Path) -> list[Step]:
    """Read the post-processing steps that evaluation chose for a run from its postprocess.json.

    Args:
      run: run folder, or a checkpoint folder inside one.
    Raises:
      ConfigError: no steps were chosen for this run.
    """
    path = _file_of(run)
    if path is None:
        raise ConfigError(
            f"config.infer.postprocess=True: {run} has no {FILE}; evaluate the run with --config.eval.postprocess=True first"
        )
    return guard.read_json(path)


def _file_of(run: Path) -> Path | None:
    return next((p / FILE for p in (run, *run.absolute().parents[:2]) if (p / FILE).is_file()), None)


def keep_steps(source: Path, workdir: Path, say: Callable[[str], None]) -> None:
    """Copy the steps of the run `source`, if it has any, to a run that goes on from it and has none of its own.

    Args:
      source: run folder, or a checkpoint folder inside one.
      workdir: the folder of the new run.
      say: called with one line if they are copied.
    """
    path = _file_of(source)
    if path is None or (workdir / FILE).exists():
        return
    steps = guard.read_json(path)
    files.write_json(workdir / FILE, steps)
    say(
        f"post-processing is that of {source}, {len(steps)} steps; `jaxseg evaluate RUN --config.eval.postprocess=True` chooses "
        "others, --config.infer.postprocess=False applies none"
    )


def choose(
    predictions: Iterable[np.ndarray],
    truths: Iterable[np.ndarray],
    *,
    num_classes: int,
    regions: Mapping[str, Sequence[int]] | None = None,
    min_voxels: Sequence[int] = (),
    min_mm3: Sequence[float] = (),
    spacings: Sequence[Spacing] | None = None,
    holes: bool = True,
    relabel: Sequence[tuple[int, int, int]] = (),
    connectivity: int | None = None,
    empty: str = "one",
    everyone: Callable[[list], list] = list,
) -> list[Step]:
    """Choose post-processing steps on validation cases, one after the other, each only if it raises the mean Dice.

    Tried in this order: keep the largest component of all foreground, then of each region; the best relabelling (before small
    components of its class could be removed); the best smallest size for all foreground, then for each region; fill holes.

    Args:
      predictions, truths: label maps [*S], one per case; truths are LEFT_OUT where they are not annotated.
      num_classes: K, background included.
      regions: name -> classes that are scored together; None: each class by itself.
      min_voxels, min_mm3: smallest component sizes to try.
      spacings: voxel size (mm) of each case, for `min_mm3`.
      holes: whether to try `fill_holes`.
      relabel: (from_class, to, below) to try.
      connectivity: of components, as in `keep_largest`.
      empty: Dice of a region that is empty in truth and prediction, see `metrics.counts`.
      everyone: JSON-able rows of these cases -> those of all processes' cases, where others hold further ones.
    Returns:
      Steps for `apply`, as a JSON-serialisable list; empty if no step helps. On these cases no region's mean Dice is lower with
      the steps than without.
    Raises:
      ConfigError: the numbers of cases differ, or there is no case.
    """
    current, truths = [np.asarray(p) for p in predictions], [np.asarray(t) for t in truths]
    given: list[Spacing | None] = [None] * len(current) if spacings is None else [*spacings]
    if not everyone([0] * len(current)) or not len(current) == len(truths) == len(given):
        raise ConfigError(
            f"got {len(current)} predictions, {len(truths)} truths, {len(given)} spacings; the numbers must be equal, at least 1"
        )
    seen = [annotated(t, num_classes - 1) for t in truths]
    truths = [as_background(t, num_classes - 1) for t in truths]
    groups = [(k,) for k in range(1, num_classes)] if regions is None else [tuple(map(int, r)) for r in regions.values()]
    score = functools.partial(_scores, truths=truths, seen=seen, groups=groups, empty=empty, everyone=everyone)
    best, steps = score(current), []
    everything = list(range(1, num_classes))
    masks = [everything, *(list(g) for g in groups if sorted(g) != everything)]
    touch = {} if connectivity is None else {"connectivity": connectivity}
    ladder = [{"min_voxels": int(v)} for v in min_voxels] + [{"min_mm3": float(v)} for v in min_mm3]
    rounds = [("keep_largest", [{"classes": m, **touch}]) for m in masks]
    rounds += [("relabel_small", [{"from_class": a, "to": b, "below": n} for a, b, n in relabel])]
    rounds += [("remove_small", [{**size, "classes": m, **touch} for size in ladder]) for m in masks]
    rounds += [("fill_holes", [{}])] if holes else []
    for name, candidates in rounds:
        taken = None
        for options in candidates:
            trial = {"step": name, "options": options}
            changed = [apply(c, [trial], s) for c, s in zip(current, given)]
            value = score(changed)
            if np.nanmean(value) > np.nanmean(taken[2] if taken else best) + TINY and not (value < best - TINY).any():
                taken = trial, changed, value
        if taken:
            step, current, value = taken
            steps.append({**step, "dice": [round(float(np.nanmean(v)), 6) for v in (best, value)]})
            best = value
    return steps


def _scores(
    predictions: Sequence[np.ndarray],
    *,
    truths: Sequence[np.ndarray],
    seen: Sequence[np.ndarray],
    groups: Sequence[tuple[int, ...]],
    empty: str,
    everyone: Callable[[list], list],
) -> np.ndarray:
    """Return the mean Dice of each group of classes, [groups], over the cases and the voxels that are `seen`.

    Groups without a score in any case are left out.
    """
    rows = [
        [float(counts.dice(counts.count((np.isin(p, g) & s)[None], np.isin(t, g)[None], 1), empty)[0, 0]) for g in groups]
        for p, t, s in zip(predictions, truths, seen)
    ]
    table = np.array(everyone(rows))
    return np.array([np.nanmean(column) for column in table.T if not np.isnan(column).all()])


def _filtered(labels: np.ndarray, classes: Sequence[int] | None, connectivity: int | None, keep) -> np.ndarray:
    """Return `labels` with those components of a mask set to 0 for which `keep(sizes [n])` is False."""
    labels = np.asarray(labels)
    connectivity = labels.ndim if connectivity is None else connectivity
    if not 1 <= connectivity <= labels.ndim:
        raise ConfigError(f"got connectivity={connectivity} for labels of shape {labels.shape}; must be 1 to {labels.ndim}")
    out = labels.copy()
    mask = _mask(labels, classes)
    box = _box(mask)
    if box is None:
        return out
    numbers = components.label(mask[box], connectivity)
    dropped = np.concatenate([[False], ~keep(np.bincount(numbers.ravel())[1:])])
    out[box][dropped[numbers]] = 0
    return out


def _mask(labels: np.ndarray, classes: Sequence[int] | None) -> np.ndarray:
    return labels != 0 if classes is None else np.isin(labels, [c for c in classes if c != 0])


def _box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """The smallest box around a mask; None if it is empty."""
    box = ndimage.find_objects(mask.astype(np.uint8))
    return box[0] if box else None
