"""Find images that two patients share, exactly or nearly: in two splits they would be both trained on and evaluated."""

from collections.abc import Iterable, Mapping, Set
from typing import NamedTuple

import numpy as np

from jaxseg.data.error_summary import FEW

SIDES = {2: 16, 3: 8}  # of a thumbnail, by the number of axes
ALIKE = 0.999  # correlation of two thumbnails
LIMIT = 8192  # thumbnails that are compared
DETAIL = 1 / 8  # share of a thumbnail's cells that differ from its median; an almost empty one resembles every other
TOGETHER = 1024  # rows of the matrix of correlations in memory


class _Thumbnail(NamedTuple):
    case: str
    patient: str
    digest: str
    values: np.ndarray  # float32 [n], mean 0, norm 1


class Copies:
    """Finds equal or similar images of different patients; constant images (such as air) are ignored.

    Attributes:
      near: the pairs of cases with similar images, once `warnings` has looked for them.
      patients: the patient of each case.
    """

    def __init__(self):
        self.near: list[tuple[str, str]] = []
        self.patients: dict[str, str] = {}
        self._first: dict[str, tuple[str, str]] = {}  # digest of an image -> its first case, and whose that is
        self._same: dict[tuple[str, str], None] = {}  # pairs of cases
        self._thumbnails: list[_Thumbnail] = []
        self._seen, self._step = 0, 1  # every step-th image has a thumbnail

    def add(self, image: np.ndarray, digest: str, case: str, patient: str) -> None:
        """Add an image [*S, C] that is not constant."""
        self.add_thumbnail(thumbnail(image), digest, case, patient)

    def add_thumbnail(self, values: np.ndarray | None, digest: str, case: str, patient: str) -> None:
        """Add an image by the result of `thumbnail`."""
        self.patients[case] = patient
        first, whose = self._first.setdefault(digest, (case, patient))
        if whose != patient:
            self._same[tuple(sorted((first, case)))] = None
        if self._seen % self._step == 0 and values is not None:
            self._thumbnails.append(_Thumbnail(case, patient, digest, values))
            if len(self._thumbnails) == LIMIT:
                self._thumbnails, self._step = self._thumbnails[::2], self._step * 2
        self._seen += 1

    def warnings(self) -> list[str]:
        """Return a line about exact copies and a line about near copies, if there are any."""
        lines = []
        if self._same:
            lines.append(
                f"{len(self._same)} pairs of cases of different patients hold the same image ({_some(self._same, '=')}): give "
                "them one patient name, or keep only one copy; training refuses copies in two splits"
            )
        near = {pair: None for pair in self._near() if pair not in self._same}
        self.near = list(near)
        if near:
            every = f" (of every {self._step}th image)" if self._step > 1 else ""
            cases = {case for pair in near for case in pair}
            lines.append(
                f"{len(cases)} cases hold nearly the same image as a case of another patient{every} ({_some(near, '~')}): "
                "if both show the same person or scene, give them one patient name (data.patient): they are then in one split"
            )
        return lines

    def _near(self) -> Iterable[tuple[str, str]]:
        """Yield pairs of cases of different patients with similar images; only the first match of each image."""
        found = self._thumbnails
        if len({t.values.size for t in found}) != 1:
            return
        values = np.stack([t.values for t in found])
        numbers: dict[str, int] = {}
        whose = np.array([numbers.setdefault(t.patient, len(numbers)) for t in found])
        for start in range(0, len(found), TOGETHER):
            rows = slice(start, start + TOGETHER)
            alike = (values[rows] @ values.T > ALIKE) & (whose[rows, None] != whose)
            for i in np.flatnonzero(alike.any(1)):
                one, other = found[start + i], found[int(alike[i].argmax())]
                if one.digest != other.digest:
                    yield tuple(sorted((one.case, other.case)))


def across(near: Iterable[tuple[str, str]], patients: Mapping[str, str], splits: Mapping[str, Set[str]]) -> list[str]:
    """Return a line about similar images that lie in different splits, if there are any.

    Args:
      near, patients: those of `Copies`.
      splits: the patients of each split.
    """
    where = {patient: split for split, members in splits.items() for patient in members}
    part = lambda case: where.get(patients[case], "")
    apart = [pair for pair in near if "" != part(pair[0]) != part(pair[1]) != ""]
    if not apart:
        return []
    shown = ", ".join(f"{one} ({part(one)}) ~ {other} ({part(other)})" for one, other in apart[:FEW])
    return [
        f"{len(apart)} pairs of nearly the same image lie in different splits ({shown}{', ...' if len(apart) > FEW else ''}): "
        "scores on such images are too high if both show the same person or scene"
    ]


def thumbnail(image: np.ndarray) -> np.ndarray | None:
    """Return the means of an image [*S, C] over the cells of a coarse grid and all channels, normalised to zero mean and unit
    scale, float32 [n]; None for an image with almost no contrast.
    """
    cells, side = image.astype(np.float32).mean(-1), SIDES[image.ndim - 1]
    for axis, length in enumerate(cells.shape):
        edges = np.unique(np.arange(side) * length // side)
        widths = np.diff(edges, append=length)
        cells = np.add.reduceat(cells, edges, axis) / widths.reshape([-1 if a == axis else 1 for a in range(cells.ndim)])
    low, high = cells.min(), cells.max()
    if not high > low or np.mean(np.abs(cells - np.median(cells)) > 0.05 * (high - low)) < DETAIL:
        return None
    flat = (cells - cells.mean()).ravel()
    return flat / np.linalg.norm(flat)


def _some(pairs: Iterable[tuple[str, str]], sign: str) -> str:
    pairs = list(pairs)
    return ", ".join(f"{one} {sign} {other}" for one, other in pairs[:FEW]) + (", ..." if len(pairs) > FEW else "")
