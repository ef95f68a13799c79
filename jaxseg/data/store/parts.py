"""Prepared cases on disk until their store is complete, so that an interrupted preparation continues where it stopped.

    <cache root>/<kind>/.<data set>.parts/3f/<key>.json              written last: rows, sizes and digests of the arrays, counts
                                             <token>.0.image.npy     the arrays, where the store keeps a file for each
                                             <key>.pack              or all of it: the JSON as a line, then the arrays' bytes

The key is the digest of all on which the case's bytes depend (`fingerprint.Sources.key`), but not on other cases: after a file
was repaired or a case was added, the other parts are used again. All cases of a store are read from here, so that its bytes do
not depend on whether this process, one of its workers or another host prepared them. If two processes prepare the same case, both
write a complete part under a token of their own, and the later one is used.
"""

import contextlib
import dataclasses
import json
import math
import os
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxseg.data.formats import remarks
from jaxseg.data.prepare.contrast import Levels
from jaxseg.data.records import DataSet, Recipe
from jaxseg.data.store import base, cases, engines
from jaxseg.data.store.arrays import check_space
from jaxseg.data.store.fingerprint import Sources

OLD = 14 * 86400.0  # seconds after which the parts of a preparation that never went on are removed
Arrays = dict[str, np.ndarray]
Finish = Callable[[Recipe, cases.CaseExamples], tuple[Arrays, list[dict]]]  # a layout's: examples -> (arrays, rows)


class PreparedCase(NamedTuple):
    """A prepared case.

    Attributes:
      marker: the file whose presence says that the part is complete.
      rows: one record for each kept example.
      arrays: name -> [bytes on disk, digest], in a pack [dtype, shape, offset in the file].
      counts: the case's `Tally` and remarks as JSON.
      token: start of the names of the arrays' files.
      ending: of these names; "" in a pack.
    """

    marker: Path
    rows: list[dict[str, Any]]
    arrays: dict[str, list]
    counts: dict[str, Any]
    token: str = ""
    ending: str = ""

    def text(self) -> bytes:
        """Return all but the marker as a line of JSON."""
        return json.dumps({key: value for key, value in self._asdict().items() if key != "marker"}, default=_plain).encode()

    def path(self, name: str) -> Path:
        """Return the file or folder of an array that is not in a pack."""
        return self.marker.with_name(f"{self.token}.{name}{self.ending}")

    def load(self) -> Arrays:
        """Read the arrays of a pack."""
        content = self.marker.read_bytes()
        return {
            name: np.frombuffer(content, dtype, math.prod(shape), offset).reshape(shape)
            for name, (dtype, shape, offset) in self.arrays.items()
        }

    @property
    def bytes(self) -> int:
        """The bytes on disk."""
        if self.ending:
            return sum(size for size, _ in self.arrays.values())
        return max(
            (offset + math.prod(shape) * np.dtype(dtype).itemsize for dtype, shape, offset in self.arrays.values()), default=0
        )

    def report(self, tally: cases.Tally, case: str) -> None:
        """Add the counts to those of all cases, and report the remarks about the case's files.

        Raises:
          DataError: the masks of the cases contradict each other, see `Meanings.add`.
        """
        for path, found in self.counts["meanings"]:
            tally.meanings.add(case, path, found)
        for text, path, amount, detail in self.counts["remarks"]:
            remarks.remark(text, path, amount, detail)
        levels = [
            Levels(name, np.array(before), np.array(after), placed) for name, before, after, placed in self.counts["levels"]
        ]
        tally.add(cases.Tally(self.counts["seen"], self.counts["foreground"], self.counts["cut"], levels=levels))

    def unmark(self) -> None:
        """Make the part incomplete, before its arrays are moved or removed."""
        self.marker.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove all its files."""
        self.unmark()
        for name in self.arrays if self.ending else ():
            engines.remove(self.path(name))


class _RecordedMeanings:
    """Replaces `Meanings` while one case is prepared: records the calls, for `PreparedCase.report`."""

    def __init__(self):
        self.found: list = []

    def add(self, case: str, path: Path | str, found) -> None:
        self.found.append([str(path), [list(meaning) for meaning in found]])


@dataclasses.dataclass(frozen=True)
class Parts:
    """The folder of the parts of a data set, and everything needed to prepare its cases.

    Attributes:
      folder: the folder.
      dataset, recipe: the data set, and how its images are prepared.
      finish: the layout's function that returns the arrays and rows of a case's examples.
      sources: the digests of all on which the cases' bytes depend.
      engine: name of the engine that writes the arrays (`engines.ENGINES`); "": each part is a pack.
    """

    folder: Path
    dataset: DataSet
    recipe: Recipe
    finish: Finish
    sources: Sources
    engine: str = ""

    def find(self, i: int) -> PreparedCase | None:
        """Return the part of case i if it is complete."""
        marker = self._marker(i)
        try:
            if not self.engine:
                with open(marker, "rb") as file:
                    about, found = json.loads(file.readline()), os.fstat(file.fileno()).st_size
                part = PreparedCase(marker, **about)
                return part if found >= part.bytes else None
            part = PreparedCase(marker, **json.loads(marker.read_bytes()))
            engine = engines.ENGINES[self.engine]
            return part if all(engine.size(part.path(name)) == size for name, (size, _) in part.arrays.items()) else None
        except (OSError, ValueError, TypeError):  # absent, or cut by a power failure
            return None

    def prepare(self, i: int, left: int = 1) -> PreparedCase:
        """Prepare case i and write its part.

        Args:
          i: the case.
          left: number of parts of this size for which the disk must have space.
        Raises:
          DataError: a file cannot be used, or has changed while it was read.
          StorageError: the disk has not enough space.
        """
        case, meanings = self.dataset.cases[i], _RecordedMeanings()
        with remarks.recorded() as said:
            found = cases.examples_of(self.dataset, self.recipe, case, meanings=meanings)
            arrays, rows = self.finish(self.recipe, found)
        if self.sources.case(case) != self.sources.cases[i]:
            raise base.changed(self.dataset)
        tally = found.tally
        counts = {
            "seen": tally.seen,
            "foreground": int(tally.foreground),
            "cut": int(tally.cut),
            "levels": [[v.case, v.before.tolist(), v.after.tolist(), v.placed] for v in tally.levels],
            "meanings": meanings.found,
            "remarks": said,
        }
        marker = self._marker(i)
        marker.parent.mkdir(parents=True, exist_ok=True)
        what = f"case {case.id} needs" if left == 1 else f"the {left} cases need about"
        check_space(self.folder, left * sum(array.nbytes for array in arrays.values()), what)
        part = PreparedCase(marker, rows, {}, counts, uuid.uuid4().hex[:16] if self.engine else "")
        if self.engine:
            engine = engines.ENGINES[self.engine]
            part = part._replace(ending=engine.ending)
            for name, array in arrays.items():
                part.arrays[name] = list(engine.write(part.path(name), array, sync=False))
            text = part.text()
            _replace(marker, [text])
        else:
            text = _packed(part, arrays)
            _replace(marker, [text, *(np.ascontiguousarray(array).data for array in arrays.values())])
        about = json.loads(text.partition(b"\n")[0])
        return PreparedCase(marker, **about)  # as whoever finds it reads it

    def clear(self, done: list[PreparedCase]) -> None:
        """Remove these parts, those that have not been used for a long time, and folders that are then empty."""
        for part in done:
            part.remove()
        if not self.folder.is_dir():
            return
        with contextlib.suppress(OSError):
            for inner in self.folder.iterdir():
                for path in inner.iterdir():
                    if time.time() - path.stat().st_mtime > OLD:
                        engines.remove(path)
                with contextlib.suppress(OSError):
                    inner.rmdir()
            self.folder.rmdir()

    def _marker(self, i: int) -> Path:
        key = self.sources.key(i)
        return self.folder / key[:2] / f"{key}.{'json' if self.engine else 'pack'}"


def _packed(part: PreparedCase, arrays: Arrays) -> bytes:
    """Return the first line of a pack, of a length that does not depend on the offsets in it."""
    start, offset = 0, 0
    for _ in range(2):  # with offsets from 0 first, to learn the length of the line
        offset = start
        for name, array in arrays.items():
            part.arrays[name] = [array.dtype.str, list(array.shape), offset]
            offset += array.nbytes
        text = part.text()
        start = start or (len(text) + 64 * (1 + len(arrays))) // 64 * 64
    return text.ljust(start - 1) + b"\n"


def _replace(path: Path, pieces: Iterable) -> None:
    """Write a file under another name and rename it."""
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    try:
        with open(temporary, "wb") as file:
            for piece in pieces:
                file.write(piece)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _plain(value: Any) -> Any:
    """Convert numpy's numbers for JSON."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} in a row")
