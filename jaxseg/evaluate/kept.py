"""Details of single examples that an evaluation keeps for a report page: causes of mistakes, and pictures of some examples.

EVALUATION/mistakes.csv            a row for every example: its Dice, and its wrong voxels by cause (`metrics.mistakes`)
EVALUATION/pictures/pictures.json  the examples whose pictures are kept, the worst first, then those around the median
EVALUATION/pictures/NNN.npz        image (8 bits), truth and prediction of one example: volumes [X, Y, Z] from the patient's right
                                   to left, front to back, feet to head; slices and photographs [H, W] as they are displayed
"""

import dataclasses
import math
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxseg.data.formats.volumes import is_photo
from jaxseg.data.geometry import to_slices, to_volume
from jaxseg.data.prepare import examples as preprocess
from jaxseg.data.records import Recipe
from jaxseg.evaluate.scoring import Example, Rules, gathered
from jaxseg.metrics.mistakes import mistakes
from jaxseg.metrics.summarize import Row, write_csv
from jaxseg.utils import files
from jaxseg.utils.pictures import to_8bit

FOLDER, INDEX, TABLE = "pictures", "pictures.json", "mistakes.csv"
LARGEST = {2: 1024**2, 3: 12_000_000}  # voxels of a kept picture, by its number of axes; larger ones are subsampled
LETTERS = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI", "": "RLAP"}  # left, right, top, bottom of a slice


class Keeper:
    """Collects every example of an evaluation in compressed form until the worst and the median examples are known.

    Args:
      rules: the rules of the evaluation.
      number: how many of the worst examples, and how many around the median, keep their pictures; 0: none.
    """

    def __init__(self, rules: Rules, number: int):
        self._rules, self._number = rules, number
        self._facts: list[dict[str, Any]] = []
        self._packed: list[tuple[bytes, bytes, tuple[int, ...], str]] = []

    def add(self, example: Example, rows: Sequence[Row]) -> None:
        """Add an example and its scores."""
        dice = [row["dice"] for row in rows if row["class"] in self._rules.headline and not math.isnan(row["dice"])]
        about = {key: example.about[key] for key in ("case", "patient", "slice") if key in example.about}
        found = mistakes(example.labels, example.truth)
        facts = {"dice": float(np.mean(dice)) if dice else math.nan, **found.record()}
        self._facts.append({**about, **facts, "reasons": ", ".join(found.named), "process": jax.process_index()})
        if self._number:
            pack = lambda labels: zlib.compress(np.ascontiguousarray(labels, example.truth.dtype).tobytes(), 1)
            self._packed.append((pack(example.labels), pack(example.truth), example.truth.shape, example.truth.dtype.str))

    def write(self, folder: Path, pictures: "Pictures", show: Callable[[str], str] = str) -> None:
        """Write the table (process 0) and the pictures (each process those of its own cases).

        Args:
          folder: the folder of the evaluation.
          pictures: reads the images of the cases.
          show: converts names of cases and patients for display.
        """
        named = lambda facts: facts | {key: show(facts[key]) for key in ("case", "patient") if key in facts}
        mine = [facts | {"position": i} for i, facts in enumerate(self._facts)]
        everything = gathered(mine)
        first = jax.process_index() == 0
        if first:
            shown = [{k: v for k, v in named(facts).items() if k not in ("process", "position")} for facts in everything]
            write_csv(folder / TABLE, sorted(shown, key=lambda facts: (facts["case"], facts.get("slice", 0))))
            if (folder / FOLDER).exists():
                shutil.rmtree(folder / FOLDER)
        chosen = choose(everything, self._number)
        for name, facts in chosen.items() if self._number else ():
            if facts["process"] == jax.process_index():
                files.make_folder(folder / FOLDER, "--workdir")
                facts |= self._save(folder / FOLDER / name, facts, pictures)
        saved = gathered([facts | {"name": name} for name, facts in chosen.items() if "size" in facts])
        if first and chosen:
            cases = [named(facts) for facts in sorted(saved, key=lambda facts: facts["name"])]
            files.write_json(folder / FOLDER / INDEX, {"format": 1, "classes": list(self._rules.classes), "cases": cases})

    def _save(self, path: Path, facts: Mapping[str, Any], pictures: "Pictures") -> dict[str, Any]:
        labels, truth, shape, dtype = self._packed[facts["position"]]
        unpack = lambda packed: np.frombuffer(zlib.decompress(packed), dtype).reshape(shape)
        picture = pictures.of(facts["case"], facts.get("slice"), unpack(truth), unpack(labels))
        np.savez_compressed(path, **picture.arrays)
        return picture.facts


@dataclasses.dataclass(frozen=True)
class Picture:
    """The arrays of an example as they are displayed, with their spacing, the letters at the edges, and the subsampling."""

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]


class Pictures:
    """Reads the images of the cases of an evaluation, 8 bits, in the common order.

    Args:
      read: case -> (its volumes, orientation of the example that was scored).
      recipe: the run's recipe; its window and plane are used.
      slices: whether examples are slices.
    """

    def __init__(self, read, recipe: Recipe, *, slices: bool):
        self._read, self._recipe, self._slices = read, recipe, slices

    def of(self, case: str, index: int | None, truth: np.ndarray, labels: np.ndarray) -> Picture:
        """Make the picture of an example.

        Args:
          case: the case's id.
          index: the slice's index in the file; None for volumes.
          truth, labels: integer classes in the axis order in which they were scored.
        """
        images, orientation = self._read(case)
        last, photo = images[-1], is_photo(images[-1])
        if self._slices:
            scan, _ = to_slices(preprocess.normalise_volume(last, self._recipe), self._recipe.plane)
            shown = scan[orientation.file_index(index)]
            shown = shown[..., -1] if shown.ndim == 3 and (self._recipe.modalities or shown.shape[-1] != 3) else shown
            arrays = {"image": self._grey(shown), "truth": truth, "prediction": labels}
            spacing = [1.0, 1.0] if photo else [float(s) for s in orientation.spacing[1:]]
            return _thinned(arrays, spacing, "" if photo else LETTERS[self._recipe.plane])
        order = "file" if photo else "lps"
        scan, about = to_volume(last, order)
        arrays = {"image": self._grey(scan[..., 0] if scan.ndim == 4 else scan)}
        for key, array in (("truth", truth), ("prediction", labels)):
            arrays[key], _ = to_volume(dataclasses.replace(last, array=orientation.restore(array)), order)
        if photo:
            return _thinned({key: array[:, :, 0].T for key, array in arrays.items()}, [1.0, 1.0], "")
        return _thinned(arrays, [float(s) for s in about.spacing], "RLAPIS")

    def _grey(self, image: np.ndarray) -> np.ndarray:
        """Convert to 8 bits: through the recipe's window, or from the 0.5th to the 99.5th percentile of the non-zero voxels."""
        if image.dtype == np.uint8:
            return image
        if self._recipe.window:
            return preprocess.window_8bit(image, self._recipe)
        there = image[image != 0]
        low, high = np.percentile(there, (0.5, 99.5)) if there.size else (0.0, 1.0)
        grey = 1 + np.minimum(to_8bit(image, float(low), float(high)), 254)
        return np.where(image != 0, grey, 0 if low >= 0 else grey).astype(np.uint8)


def choose(facts: Sequence[Mapping[str, Any]], number: int) -> dict[str, dict[str, Any]]:
    """Choose the examples that keep their pictures: {file: facts and why}, the worst by Dice first, then those around the median.

    Of equal Dice, examples with more wrong voxels count as worse. Examples without a Dice (no foreground) come last.
    """
    value = lambda f: 2.0 if math.isnan(_dice(f)) else _dice(f)
    ordered = sorted(facts, key=lambda f: (value(f), -f["wrong"], f["case"], f.get("slice", 0)))
    worst = ordered[:number]
    rest = ordered[number:]
    scored = sum(value(f) <= 1 for f in ordered)
    start = min(max(scored // 2 - number // 2 - len(worst), 0), max(len(rest) - number, 0))
    median = rest[start : start + number]
    named = [("worst", f) for f in worst] + [("median", f) for f in median]
    return {f"{i:03d}.npz": {**f, "chosen": why} for i, (why, f) in enumerate(named)}


def _dice(facts: Mapping[str, Any]) -> float:
    return math.nan if facts["dice"] is None else facts["dice"]


def _thinned(arrays: dict[str, np.ndarray], spacing: list[float], letters: str) -> Picture:
    """Subsample the finest axis until the picture is small enough."""
    axes, step = arrays["truth"].ndim, [1] * arrays["truth"].ndim
    size = lambda: [-(-n // s) for n, s in zip(arrays["truth"].shape, step)]
    while math.prod(size()) > LARGEST[axes]:
        longest = max(range(axes), key=lambda a: (size()[a] > 1, -spacing[a] * step[a]))
        step[longest] += 1
    kept = {key: np.ascontiguousarray(a[tuple(slice(None, None, s) for s in step)]) for key, a in arrays.items()}
    spacing = [s * n for s, n in zip(spacing, step)]
    facts = {"size": size(), "spacing": spacing, "letters": letters, "step": step, "colour": kept["image"].ndim > axes}
    return Picture(kept, facts)
