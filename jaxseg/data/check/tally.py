"""Counts over all examples of a data set, and the report's lines about them."""

import dataclasses
import math
import shutil
from collections import Counter, defaultdict

import numpy as np

from jaxseg.data.check.classes import Classes
from jaxseg.data.check.duplicates import Copies
from jaxseg.data.check.report import DataReport
from jaxseg.data.check.scale import Needs
from jaxseg.data.error_summary import FEW
from jaxseg.data.prepare import contrast
from jaxseg.data.prepare.labels import annotated
from jaxseg.data.prepare.mask_values import Meanings
from jaxseg.data.records import Recipe
from jaxseg.data.store.cases import PreparedExample
from jaxseg.utils import files

NAMED = 12  # classes that a warning names


@dataclasses.dataclass
class SetCounts:
    """Counts over the examples of a case or of all cases; `pixels` [1 + K] are those of each class in the kept slices or volumes
    after preparation.
    """

    pixels: np.ndarray
    classes: Classes
    piece: str  # what is counted: "slice" or "volume"
    point: str  # what it is made of: "pixel" or "voxel"
    pieces: int = 0
    kept: int = 0
    empty: int = 0
    left_out: int = 0  # pixels or voxels that are not annotated
    bytes: int = 0  # of the prepared examples, as they will lie on the disk
    levels: list[contrast.Levels] = dataclasses.field(default_factory=list)
    greyed: int = 0  # colour pictures that become grey
    turned: int = 0  # photographs that lie in their file otherwise than upright
    lost: list[str] = dataclasses.field(default_factory=list)  # slices whose foreground preparation loses
    lowest: float = np.inf
    highest: float = -np.inf
    sizes: Counter = dataclasses.field(default_factory=Counter)
    meanings: Meanings = dataclasses.field(default_factory=Meanings)  # of the masks' values
    spacings: set = dataclasses.field(default_factory=set)
    copies: Copies = dataclasses.field(default_factory=Copies)
    scale: Needs = dataclasses.field(default_factory=Needs)

    def add(self, shape: tuple[int, ...], spacing: tuple[float, ...] | None, low, high) -> None:
        """Add a slice or volume as it was read."""
        self.pieces += 1
        self.sizes[shape] += 1
        self.spacings |= {spacing} - {None}
        self.lowest, self.highest = min(self.lowest, float(low)), max(self.highest, float(high))

    def keep(self, example: PreparedExample) -> None:
        """Add a kept example."""
        self.kept += 1
        there = annotated(example.mask, len(self.pixels) - 1)
        counts = np.bincount(example.mask[there], minlength=len(self.pixels))
        self.left_out += example.mask.size - int(counts.sum())
        self.empty += not counts[1:].any()
        self.bytes += example.image.nbytes + example.mask.nbytes
        self.pixels += counts
        self.classes.add(counts[1:], math.prod(example.grid["spacing"]) / 1000 if self.piece == "volume" else 1.0)

    def merge(self, other: "SetCounts") -> None:
        """Add the counts of another case; meanings, copies and pictures are added by themselves."""
        for name in ("pixels", "pieces", "kept", "empty", "left_out", "bytes", "greyed", "turned"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.levels += other.levels
        self.lost += other.lost
        self.lowest, self.highest = min(self.lowest, other.lowest), max(self.highest, other.highest)
        self.sizes.update(other.sizes)
        self.spacings |= other.spacings
        self.classes.merge(other.classes)
        self.scale.merge(other.scale)


def describe(report: DataReport, tally: SetCounts, recipe: Recipe) -> None:
    """Fill the report's lines, and the warnings about the whole set."""
    dataset, strata, say = report.dataset, defaultdict(set), report.lines.append
    for case in dataset.cases:
        strata[dataset.stratum(case) or "-"].add(case.patient)
    patients = {p for who in strata.values() for p in who}
    say(f"data     {dataset.name} in {dataset.root}{' (SYNTHETIC)' if dataset.synthetic else ''}")
    say(f"cases    {len(dataset.cases)} of {len(patients)} patients, {len(report.errors)} errors")
    if strata.keys() != {"-"}:  # groups that every split has a share of
        say("strata   " + ", ".join(f"{word}: {len(who)} patients" for word, who in sorted(strata.items())))
    say(f"{tally.piece + 's':<8} {tally.kept} kept of {tally.pieces}, {tally.empty} of them without foreground")
    say(
        "labels   "
        + ", ".join(
            f"{name}: {n} {tally.point}s ({100 * n / max(1, tally.pixels.sum()):.3f} %)"
            for name, n in zip(("background", *dataset.labels), tally.pixels.tolist())
        )
    )
    if tally.left_out:
        share = tally.left_out / (tally.left_out + tally.pixels.sum())
        say(f"left out {tally.left_out} {tally.point}s ({share:.1%}) are not annotated: no loss and no score counts them")
    for line in tally.classes.lines():
        say(f"classes  {line}")
    for line in tally.meanings.lines(dataset.labels):
        say(f"masks    {line}")
    if tally.pieces:
        more = f", {len(tally.sizes) - 5} more" if len(tally.sizes) > 5 else ""
        say("sizes    " + ", ".join(f"{' x '.join(map(str, size))}: {n}" for size, n in tally.sizes.most_common(5)) + more)
        if tally.greyed:
            say(
                f"colour   {tally.greyed} of {tally.pieces} {tally.piece}s converted to grey: data.channels "
                "leaves one channel for the image; with data.channels larger by 2, colours are kept and grey is repeated"
            )
        if tally.turned:
            say(f"turned   {tally.turned} of {tally.pieces} photographs are rotated to their EXIF orientation, with their masks")
        say(f"values   {tally.lowest:g} to {tally.highest:g}")
    if tally.spacings:
        axes = ("rows", "columns") if tally.piece == "slice" else ("x", "y", "z")
        ranges = zip(axes, *(f(list(tally.spacings), 0) for f in (np.min, np.max)))
        say("spacing  " + ", ".join(f"{axis} {low:.3g} to {high:.3g} mm" for axis, low, high in ranges))
    report.lines += [f"scale    {line}" for line in tally.scale.lines(len(dataset.cases) - len(report.errors))]
    report.lines += [f"levels   {line}" for line in contrast.table(tally.levels, recipe.modalities)]
    report.warnings += [*contrast.warnings(tally.levels, recipe), *tally.copies.warnings()]
    report.copies, report.read = tally.copies, tally.scale.patch
    _disk(report, tally.bytes)
    _warn(report, tally, strata)


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _disk(report: DataReport, needed: int) -> None:
    """Compare the size of the prepared examples with the free space of the disk that they will lie on."""
    place = files.cache_root()
    there = next(folder for folder in (place, *place.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    report.lines.append(f"disk     {_size(needed)} of prepared examples in {place}, {_size(free)} free")
    if needed > free:
        report.warnings.append(
            f"prepared examples need {_size(needed)}, but {place} has {_size(free)} free; set JAXSEG_CACHE to "
            "a folder on a larger disk"
        )


def _warn(report: DataReport, tally: SetCounts, strata: dict[str, set[str]]) -> None:
    if len(tally.lost) > FEW:
        report.warnings.append(
            f"{len(tally.lost)} slices lose all their foreground in preparation; the first one: {tally.lost[0]}"
        )
    else:
        report.warnings += tally.lost
    absent = [name for name, n in zip(report.dataset.labels, tally.pixels[1:]) if not n]
    if absent and tally.kept:
        more = f" and {len(absent) - NAMED} more classes" if len(absent) > NAMED else ""
        report.warnings.append(f"no {tally.point} of {', '.join(absent[:NAMED])}{more} in any kept {tally.piece}")
    few = [f"{word} ({len(who)})" for word, who in sorted(strata.items()) if len(who) < 3]
    if few:
        report.warnings.append(f"strata with fewer patients than splits: {', '.join(few)}")
