"""Pictures of kept examples inside a page: mosaics for the viewer, and one picture of the worst slice for the gallery."""

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxseg.evaluate import kept
from jaxseg.reports.page import embedded, text
from jaxseg.utils import guard
from jaxseg.utils.pictures import COLOURS, captioned, panel

MEGABYTE = 10**6
STILL = 320  # pixels of the longer side of a still
SIDE = 4096  # pixels that a phone draws at most along a side of a picture


class Shown:
    """An example that a page shows.

    Attributes:
      facts: its entry in the index: case, patient, slice, dice, reasons, size, spacing, letters, colour, chosen.
      title, words: its name on the page, and a sentence about it.
      image, truth: the arrays that the evaluation kept.
      predictions: name of a run or model -> its prediction.
      of_each: a sentence about each of several predictions.
    """

    def __init__(
        self, facts: Mapping[str, Any], title: str, words: str, arrays: Mapping[str, np.ndarray], name: str = "prediction"
    ):
        self.facts, self.title, self.words = facts, title, words
        self.image, self.truth = arrays["image"], arrays["truth"]
        self.predictions = {name: arrays["prediction"]}
        self.of_each: dict[str, str] = {}

    @property
    def size(self) -> tuple[int, int, int]:
        """The size (X, Y, Z); a picture has one slice."""
        shape = self.truth.shape
        return (shape[1], shape[0], 1) if len(shape) == 2 else shape

    @property
    def spacing(self) -> list[float]:
        """The spacing (mm) along X, Y, Z; 1 without a unit of length."""
        spacing = self.facts["spacing"]
        return [spacing[1], spacing[0], 1.0] if len(spacing) == 2 else spacing

    @property
    def columns(self) -> int:
        """The number of slices in a row of the mosaic, chosen so that it is about square."""
        x, y, z = self.size
        return max(1, min(z, math.ceil(math.sqrt(z * y / x)), SIDE // x))


def read(folder: Path) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Read the index of kept examples in an evaluation's folder, and the classes; ([], ()) if none were kept."""
    path = folder / kept.FOLDER / kept.INDEX
    if not path.is_file():
        return [], ()
    index = guard.read_json(path)
    there = [facts for facts in index["cases"] if (folder / kept.FOLDER / facts["name"]).is_file()]
    return there, tuple(index["classes"])


def arrays_of(folder: Path, facts: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Read image, truth and prediction of a kept example."""
    with np.load(folder / kept.FOLDER / Path(facts["name"]).name, allow_pickle=False) as file:
        return {key: file[key] for key in ("image", "truth", "prediction")}


def viewer(cases: Sequence[Shown], classes: Sequence[str], *, megabytes: float) -> tuple[str, int]:
    """Return the HTML of the viewer with as many pictures as fit, and their number.

    Grey values are stored as PNG (without loss) if all examples then fit, else as JPEG.
    """
    budget = megabytes * MEGABYTE
    exact = [_pixels(case, lossy=False) for case in cases]
    pixels = exact if sum(map(_length, exact)) <= budget else [_pixels(case, lossy=True) for case in cases]
    number, total = 0, 0
    for one in pixels:
        total += _length(one)
        if total > budget and number:
            break
        number += 1
    about = [
        {
            "title": case.title,
            "words": case.words,
            "size": case.size,
            "spacing": case.spacing,
            "letters": case.facts["letters"],
            "columns": case.columns,
            "colour": case.image.ndim > case.truth.ndim,
        }
        for case in cases[:number]
    ]
    data = [embedded("cases", {"classes": list(classes), "colours": class_colours(len(classes)), "cases": about})]
    data += [embedded(f"pixels-{i}", one) for i, one in enumerate(pixels[:number])]
    several = len({name for case in cases[:number] for name in case.predictions}) > 1
    return _frame(cases[:number], several) + "".join(data), number


def scripts(html: str) -> tuple[str, ...]:
    """Return the scripts that a page with this HTML needs: the viewer's, and that of its surfaces of volumes."""
    return ("viewer.js",) * ('id="viewer"' in html) + ("surface.js",) * ('id="surfaces"' in html)


def class_colours(number: int) -> list[str]:
    """Return a colour for each class; after eight they repeat."""
    return ["#{:02x}{:02x}{:02x}".format(*COLOURS[k % len(COLOURS)]) for k in range(number)]


def still(case: Shown, name: str = "") -> str:
    """Draw the slice with most wrong voxels as a data URI: prediction filled, truth as a line."""
    labels = case.predictions[name or next(iter(case.predictions))]
    image, truth, labels = _slice(case, labels, labels != case.truth)
    rgb, palette = _grown(image, case, True), _palette()
    truth, labels = _grown(truth, case), _grown(labels, case)
    rgb = np.where(labels[..., None] > 0, 0.55 * rgb + 0.45 * palette[labels], rgb)
    edge = np.zeros(truth.shape, bool)
    for axis in (0, 1):
        for step in (1, -1):
            edge |= np.roll(truth, step, axis) != truth
    return data_uri(Image.fromarray(np.where((edge & (truth > 0))[..., None], palette[truth], rgb).astype(np.uint8)), lossy=True)


def painted(case: Shown, layer: str) -> np.ndarray:
    """Draw the slice with most true foreground, uint8 [H, W, 3]; `layer`: "truth" or "prediction" half transparent, or ""."""
    image, truth, labels = _slice(case, next(iter(case.predictions.values())), case.truth > 0)
    rgb = _grown(image, case, True)
    if not layer:
        return rgb.astype(np.uint8)
    shown = _grown(truth if layer == "truth" else labels, case)
    return np.where(shown[..., None] > 0, 0.5 * rgb + 0.5 * _palette()[shown], rgb).astype(np.uint8)


def row(case: Shown, classes: Sequence[str]) -> np.ndarray:
    """Draw the slice with most true foreground as validation draws its examples: input, truth, prediction and errors."""
    image, truth, labels = _slice(case, next(iter(case.predictions.values())), case.truth > 0)
    rgb = np.clip(_grown(image, case, True), 0, 255).astype(np.uint8)
    return captioned(panel(rgb, _grown(truth, case), _grown(labels, case)), classes)


def file_name(name: str) -> str:
    """Replace the characters of a name that file names may not have."""
    return re.sub(r"[^A-Za-z0-9_.+=-]", "_", name)


def cards(cases: Sequence[Shown], number: int) -> str:
    """Return the gallery: a card for each example; the first `number` cards open the viewer."""
    items = []
    for i, case in enumerate(cases):
        alt = f"{case.title}: the slice with most errors, truth as a line, prediction filled. {case.words}"
        picture = f'<img src="{still(case)}" alt="{text(alt)}">'
        if i < number:
            label = text(f"Open {case.title} in the viewer")
            picture = f'<button type="button" data-case="{i}" aria-label="{label}">{picture}</button>'
        items.append(f'<li class="card">{picture}<div><b>{text(case.title)}</b><br>{text(case.words)}</div></li>')
    return f'<ul class="gallery">{"".join(items)}</ul>'


def _slice(case: Shown, labels: np.ndarray, much: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return image, truth and labels [H, W] of the slice with most of `much`, or if that is empty, most true foreground."""
    if case.truth.ndim == 2:
        return case.image, case.truth, labels
    found = much.sum((0, 1))
    z = int(np.argmax(found if found.any() else (case.truth > 0).sum((0, 1))))
    return case.image[:, :, z].T, case.truth[:, :, z].T, labels[:, :, z].T


def _grown(array: np.ndarray, case: Shown, picture: bool = False) -> np.ndarray:
    """Resize a slice to the size of a still with square pixels: a picture becomes float RGB, labels stay labels."""
    high, wide = (n * s for n, s in zip(array.shape, case.spacing[1::-1]))
    size = (max(1, round(STILL * wide / max(high, wide))), max(1, round(STILL * high / max(high, wide))))
    if not picture:
        array = np.minimum(array, 255).astype(np.uint8)
    how = Image.Resampling.BICUBIC if picture else Image.Resampling.NEAREST
    grown = np.asarray(Image.fromarray(np.ascontiguousarray(array)).resize(size, how))
    if not picture:
        return grown
    return (grown if grown.ndim == 3 else np.repeat(grown[..., None], 3, -1)).astype(np.float32)


def _palette() -> np.ndarray:
    """RGB of classes 0..255."""
    return np.array([[0, 0, 0], *([int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in class_colours(255))], np.float32)


def _pixels(case: Shown, *, lossy: bool) -> dict[str, Any]:
    labels = lambda array: data_uri(Image.fromarray(_mosaic(np.minimum(array, 255).astype(np.uint8), case.columns)), lossy=False)
    return {
        "image": data_uri(Image.fromarray(_mosaic(case.image, case.columns, truth=case.truth)), lossy=lossy),
        "truth": labels(case.truth),
        "predictions": {name: labels(array) for name, array in case.predictions.items()},
    }


def _length(pixels: Mapping[str, Any]) -> int:
    return len(pixels["image"]) + len(pixels["truth"]) + sum(map(len, pixels["predictions"].values()))


def _mosaic(array: np.ndarray, columns: int, *, truth: np.ndarray | None = None) -> np.ndarray:
    """Arrange the slices [Y, X] of [X, Y, Z] side by side, row after row; a picture [H, W(, 3)] is not changed."""
    if (array if truth is None else truth).ndim == 2:
        return array
    x, y, z = array.shape
    rows = -(-z // columns)
    tiles = np.zeros((rows * columns, y, x), np.uint8)
    tiles[:z] = array.transpose(2, 1, 0)
    return tiles.reshape(rows, columns, y, x).swapaxes(1, 2).reshape(rows * y, columns * x)


def data_uri(image: Image.Image, *, lossy: bool) -> str:
    """Return a picture as the source of an <img>: JPEG of quality 85 if `lossy`, else PNG."""
    stream = io.BytesIO()
    if lossy:
        image.save(stream, "JPEG", quality=85, subsampling=0)
    else:
        image.save(stream, "PNG", compress_level=6)
    return f"data:image/{'jpeg' if lossy else 'png'};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _frame(cases: Sequence[Shown], several: bool) -> str:
    options = "".join(f'<option value="{i}">{text(case.title)}</option>' for i, case in enumerate(cases))
    choice = '<label>Prediction <select id="model"></select></label>' if several else ""
    volumes = any(case.size[2] > 1 for case in cases)
    pages = "slices" if volumes else "cases"
    keys = (
        "Click a picture first. <kbd>←</kbd><kbd>→</kbd><kbd>↑</kbd><kbd>↓</kbd> move (with <kbd>Shift</kbd> by ten), "
        f"<kbd>PgUp</kbd><kbd>PgDn</kbd> {pages}, <kbd>[</kbd><kbd>]</kbd> cases, <kbd>T</kbd> truth, <kbd>P</kbd> prediction, "
        "<kbd>E</kbd> errors only" + (", <kbd>M</kbd> the next prediction." if several else ".")
    )
    surfaces = (
        '<details id="surfaces" open><summary>Surfaces</summary>'
        '<label>Structure <select id="structure"></select></label><div class="pair" id="surface-pair"></div>'
        '<p class="soft keys">Drag a surface, or click it: <kbd>←</kbd><kbd>→</kbd><kbd>↑</kbd><kbd>↓</kbd> turn both, '
        "<kbd>+</kbd><kbd>-</kbd> zoom, <kbd>Home</kbd> resets. With errors only, colour is what the other lacks.</p></details>"
    )
    surfaces = surfaces if volumes else ""
    slider = lambda name, words, low, high, value, step: (
        f'<label>{words} <input type="range" id="{name}" min="{low}" max="{high}" value="{value}" step="{step}"></label>'
    )
    return (
        '<div class="viewer" id="viewer" role="group" aria-label="Viewer of cases"><div class="bar">'
        f'<label>Case <select id="case">{options}</select></label>'
        '<span><button type="button" id="before" aria-label="previous case">‹</button> '
        f'<button type="button" id="after" aria-label="next case">›</button></span>{choice}'
        '<label><input type="checkbox" id="truth" checked> truth</label>'
        '<label><input type="checkbox" id="prediction" checked> prediction</label>'
        '<label><input type="checkbox" id="errors"> errors only</label>'
        f"{slider('opacity', 'Opacity', 0, 1, 0.45, 0.05)}{slider('level', 'Level', 0, 255, 127.5, 0.5)}"
        f"{slider('width', 'Window', 1, 255, 255, 1)}</div>"
        '<div class="planes" id="planes"><noscript>The viewer needs JavaScript; the gallery below does not.</noscript></div>'
        '<ul class="legend" id="legend"></ul><p class="said" id="words"></p>'
        f'<p class="said"><output id="where"></output></p><p class="soft keys">{keys}</p>{surfaces}</div>'
    )
