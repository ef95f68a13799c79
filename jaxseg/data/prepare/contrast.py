"""Values of images before and after preparation, and warnings if little or no contrast is left."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxseg.data.prepare.statistics import percentiles
from jaxseg.data.records import Recipe

QUANTILES = (0, 1, 50, 99, 100)  # per cent: lowest, almost lowest, median, almost highest, highest
LEAST = 0.05  # share of its contrast, or of the network's range, under which an image is as good as empty
FAR = 1e8  # a magnitude that images do not reach, whatever their unit (HU, raw MRI, Bq/ml)
SAMPLES = 1 << 18  # values of a channel of a case that are looked at
OUTPUT = {"grey": 255.0, "ct": 2.0}  # width of the range that a window maps to


@dataclasses.dataclass(frozen=True)
class Levels:
    """Quantiles of the values of one case.

    Attributes:
      case: the case's id.
      before: [C, 5] QUANTILES of each channel as it was read.
      after: [C', 5] QUANTILES of each channel of the network's input.
      placed: whether the image has an affine, unlike photographs.
    """

    case: str
    before: np.ndarray
    after: np.ndarray
    placed: bool

    @property
    def constant(self) -> bool:
        """Whether preparation left only one value of an image that had several."""
        return bool((self.after[:, 0] == self.after[:, -1]).all())


def levels_of(case: str, before: Sequence[np.ndarray], after: Sequence[np.ndarray], *, placed: bool) -> Levels:
    """Compute the quantiles of a case.

    Args:
      case: the case's id.
      before: its slices or volumes, each [*S, C], with the same channels.
      after: the same images after preparation.
      placed: whether the image has an affine.
    """
    return Levels(case, _quantiles(before), _quantiles(after), placed)


def warnings(found: Sequence[Levels], recipe: Recipe) -> list[str]:
    """One line for each thing that is wrong with the intensities of many cases."""
    lines, window = [], recipe.window if recipe.intensity in OUTPUT else None
    constant = [f.case for f in found if f.constant]
    if constant:
        flat = [f.case for f in found if f.constant and (f.before[:, 0] == f.before[:, -1]).all()]
        why = "as they were in their files" if len(flat) == len(constant) else f"after preparation{_rule(recipe)}"
        lines.append(f"{some(constant, len(found))} {why} a constant image, from which nothing can be learnt; {_remedy(recipe)}")
    far = [f for f in found if np.abs(f.before[:, [0, -1]]).max() > FAR]
    if far:
        values = np.concatenate([f.before[:, [0, -1]].reshape(-1) for f in far])
        lines.append(
            f"{some([f.case for f in far], len(found))} with values from {values.min():g} to {values.max():g}, which no scanner "
            "writes: a mark of missing voxels, or a wrong scale factor; replace them in the files"
        )
    if window is None:
        return lines
    rest = [f for f in found if not f.constant]
    low, high = window[0] - window[1] / 2, window[0] + window[1] / 2
    foreign = [f for f in rest if f.placed and f.before[:, 0].min() >= 0 and (low < 0 or f.before[:, 3].max() > high)]
    if len(foreign) * 2 > len(found):
        highest = max(f.before[:, -1].max() for f in foreign)
        lines.append(
            f"{some([f.case for f in foreign], len(found))} without a value below 0 (up to {highest:g}): these are not HU, but "
            f"data.window={window} is in HU (air is -1000); for MRI set data.intensity=brain and data.window=(); export a CT "
            "without its intercept again"
        )
        return lines
    cut = [f.case for f in rest if _kept(f, low, high) < LEAST]
    if cut:
        lines.append(
            f"{some(cut, len(found))} with under {LEAST:.0%} of their contrast inside data.window={window}: most values lie "
            f"outside of {low:g} to {high:g}; {_remedy(recipe)}"
        )
    known = set(cut)
    faint = [f.case for f in rest if f.case not in known and _filled(f, recipe) < LEAST]
    if faint:
        lines.append(
            f"{some(faint, len(found))} whose values fill under {LEAST:.0%} of the range of data.window={window}: "
            f"the network's input has hardly any contrast; {_remedy(recipe)}"
        )
    return lines


def emptied(images: Sequence[np.ndarray], inputs: np.ndarray, recipe: Recipe) -> str:
    """Return what is wrong with an image of which the network sees a single value; "" for all others.

    Args:
      images: the case's images as they were read.
      inputs: [N, *S, C], the same after preparation.
      recipe: how they were prepared.
    """
    flat = inputs.reshape(-1, inputs.shape[-1])
    if (flat != flat[0]).any():
        return ""
    low, high = min(image.min() for image in images), max(image.max() for image in images)
    if low == high:
        return f"the image is {low:g} everywhere, so its labels mean nothing; check the file"
    return (
        f"of the image's values {low:g} to {high:g} preparation{_rule(recipe)} leaves a single one, so its labels mean nothing; "
        "give images in the units of those that trained the network"
    )


def table(found: Sequence[Levels], names: Sequence[str] = ()) -> list[str]:
    """Lowest, 1 %, median, 99 % and highest value before and after, a line for each channel, over all cases."""
    lines = []
    for word, which in (("before", [f.before for f in found]), ("after", [f.after for f in found])):
        count = {len(v) for v in which}
        for c in range(max(count, default=0)):
            values = np.stack([v[c] for v in which if len(v) > c])
            over = [values[:, 0].min(), *np.median(values[:, 1:4], axis=0), values[:, 4].max()]
            name = names[c] if c < len(names) else f"channel {c}" if max(count) > 1 else ""
            text = ", ".join(f"{what} {v:.4g}" for what, v in zip(("lowest", "1 %", "median", "99 %", "highest"), over))
            lines.append(f"{word} preparation{f', {name}' if name else ''}: {text}")
    return lines


def _quantiles(pieces: Sequence[np.ndarray]) -> np.ndarray:
    """[C, 5]: the extremes of all values, the others of an even draw."""
    pieces = [p if p.ndim > 2 else p[..., None] for p in pieces]
    flat = [p.reshape(-1, p.shape[-1]) for p in pieces]
    step = max(1, sum(len(f) for f in flat) // SAMPLES)
    drawn = np.concatenate([f[::step] for f in flat]).astype(np.float32)
    least, most = ([getattr(f, which)(0) for f in flat] for which in ("min", "max"))
    return np.stack([np.min(least, axis=0), *percentiles(drawn, QUANTILES[1:-1]), np.max(most, axis=0)]).T


def _kept(found: Levels, low: float, high: float) -> float:
    """Return the largest fraction of a channel's contrast (1 % to 99 %, else lowest to highest) that lies inside the window."""
    shares = []
    for values in found.before:
        a, b = (values[1], values[3]) if values[3] > values[1] else (values[0], values[-1])
        shares.append((np.clip(b, low, high) - np.clip(a, low, high)) / (b - a) if b > a else 1.0)
    return float(max(shares))


def _filled(found: Levels, recipe: Recipe) -> float:
    """Return the fraction of the network's input range that a case uses."""
    scale = OUTPUT[recipe.intensity] / (255.0 if recipe.intensity == "grey" and len(recipe.size) != 2 else 1.0)
    return float((found.after[:, -1] - found.after[:, 0]).max() / scale)


def _rule(recipe: Recipe) -> str:
    return f" by data.window={recipe.window}" if recipe.window else ""


def _remedy(recipe: Recipe) -> str:
    return "choose data.window by the values that --mode=check prints" if recipe.window else "check the files"


def some(cases: Sequence[str], of: int) -> str:
    """Return "2 of 9 cases (a, b)"; at most three are named."""
    return f"{len(cases)} of {of} cases ({', '.join(cases[:3])}{', ...' if len(cases) > 3 else ''})"
