"""Prepared cases on disk until their store is complete, so that an interrupted preparation continues where it stopped.

    <cache root>/<kind>/.<data set>.parts/<token>.pack               many small cases: an index as a line of JSON, then for each
                                                                     its arrays and a line of JSON with its rows and counts
                                         /3f/<token>.0.image.npy     the arrays of a large case whose store keeps files for it
                                             <key>.json              written last: rows, sizes and digests of the arrays, counts

The key is the digest of all on which the case's bytes depend (`fingerprint.Sources.key`), but not on other cases: after a file
was repaired or a case was added, the other parts are used again. All cases of a store are read from here, so that its bytes do
not depend on whether this process, one of its workers or another host prepared them. If two processes prepare the same case, both
write a complete part under a token of their own, and one of them is used.
"""

import contextlib
import dataclasses
import json
import math
import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from jaxseg.data.formats import remarks
from jaxseg.data.prepare.contrast import Levels
from jaxseg.data.prepare.mask_values import RecordedMeanings
from jaxseg.data.records import Case, DataSet, Recipe
from jaxseg.data.store import base, cases, engines
from jaxseg.data.store.arrays import ALIGNED, check_space, content_digest
from jaxseg.data.store.fingerprint import Sources

LITTLE = 1 << 20  # bytes of a case up to which it shares files with others
OLD = 14 * 86400.0  # seconds after which the parts of a preparation that never went on are removed
TOGETHER = 16 << 20  # bytes of small cases after which a pack is written
Arrays = dict[str, np.ndarray]
Finish = Callable[[Recipe, cases.CaseExamples], tuple[Arrays, list[dict]]]  # a layout's: examples -> (arrays, rows)


class PreparedCase(NamedTuple):
    """A prepared case.

    Attributes:
      marker: the file whose presence says that the part is complete: a pack, or a JSON file beside the arrays' own files.
      rows: one record for each kept example.
      arrays: name -> [bytes on disk, digest] of its file, in packs [dtype, shape, offset after the
        case's first, digest of its bytes].
      counts: the case's `Tally` and remarks as JSON.
      token: start of the names of the arrays' files.
      ending: of these names; "" in packs.
      content: the arrays, of a case without files of its own.
    """

    marker: Path
    rows: list[dict[str, Any]]
    arrays: dict[str, list]
    counts: dict[str, Any]
    token: str = ""
    ending: str = ""
    content: Arrays | None = None

    def text(self) -> bytes:
        """Return what describes the part as a line of JSON."""
        about = {"rows": self.rows, "arrays": self.arrays, "counts": self.counts}
        return json.dumps(about | ({"token": self.token, "ending": self.ending} if self.ending else {}), default=_plain).encode()

    def path(self, name: str) -> Path:
        """Return the file or folder of an array that is not in a pack."""
        return Path(f"{os.path.dirname(self.marker)}/{self.token}.{name}{self.ending}")

    @property
    def bytes(self) -> int:
        """The bytes of the arrays on disk."""
        if self.ending:
            return sum(size for size, _ in self.arrays.values())
        return sum(math.prod(shape) * np.dtype(dtype).itemsize for dtype, shape, *_ in self.arrays.values())

    def done(self) -> "PreparedCase":
        """Return the part without what is only needed once."""
        return self._replace(rows=[], counts={}, content=None)

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

    def of(self, some: Sequence[Case], texts: Sequence[str] = ()) -> "Parts":
        """Return the same for these cases alone, without the data set's splits; `texts` are theirs in `Sources.cases`."""
        dataset = dataclasses.replace(self.dataset, cases=tuple(some), fixed_split=None, held_out=frozenset())
        return dataclasses.replace(self, dataset=dataset, sources=self.sources.of(dataset, texts))

    def own(self, i: int) -> PreparedCase | None:
        """Return the part of case i if it is complete and has files of its own."""
        marker = self._marker(i)
        try:
            part = PreparedCase(marker, **json.loads(marker.read_bytes()))
            engine = engines.ENGINES[self.engine]
            return part if all(engine.size(part.path(name)) == size for name, (size, _) in part.arrays.items()) else None
        except (OSError, ValueError, TypeError):  # absent, or cut by a power failure
            return None

    def prepare(self, i: int, left: int = 1) -> PreparedCase:
        """Prepare case i, and write it unless it is for a pack (`bind`).

        Args:
          i: the case.
          left: number of parts of this size for which the disk must have space.
        Raises:
          DataError: a file cannot be used, or has changed while it was read.
          StorageError: the disk has not enough space.
        """
        case, meanings = self.dataset.cases[i], RecordedMeanings()
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
        size = sum(array.nbytes for array in arrays.values())
        if left > 1 or size > LITTLE:
            self.folder.mkdir(parents=True, exist_ok=True)
            what = f"case {case.id} needs" if left == 1 else f"the {left} cases need about"
            check_space(self.folder, left * size, what)
        if not self.engine or size <= LITTLE and engines.ENGINES[self.engine].joins:
            digest = content_digest if self.engine else lambda array: ""  # stacked stores have their own
            arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
            about = {name: [array.dtype.str, list(array.shape), 0, digest(array)] for name, array in arrays.items()}
            return PreparedCase(Path(), rows, about, counts, content=arrays)
        marker = self._marker(i)
        marker.parent.mkdir(parents=True, exist_ok=True)
        engine = engines.ENGINES[self.engine]
        part = PreparedCase(marker, rows, {}, counts, uuid.uuid4().hex[:16], engine.ending)
        for name, array in arrays.items():
            part.arrays[name] = list(engine.write(part.path(name), array, sync=False))
        text = part.text()
        _replace(marker, [text])
        return PreparedCase(marker, **json.loads(text))  # as whoever finds it reads it

    def bind(self, loose: Mapping[int, PreparedCase]) -> Path:
        """Write cases whose arrays are in no file yet into a pack, and return it."""
        pieces, places, at = [], {}, 0
        for i, part in loose.items():
            arrays, end = {}, 0
            for name, array in part.content.items():
                arrays[name] = [*part.arrays[name][:2], end, part.arrays[name][3]]
                padding = -array.nbytes % ALIGNED
                pieces += [memoryview(array.reshape(-1).view(np.uint8)), bytes(padding)]
                end += array.nbytes + padding
            pieces.append(part._replace(arrays=arrays).text())
            places[self.sources.key(i)] = [at, end, len(pieces[-1])]
            at += end + len(pieces[-1])
        line = json.dumps({"bytes": at, "cases": places}).encode() + b"\n"
        path = Path(f"{self.folder}/{uuid.uuid4().hex[:16]}.pack")
        self.folder.mkdir(parents=True, exist_ok=True)
        _replace(path, [line, *pieces])
        return path

    def clear(self, used: Iterable[Path]) -> None:
        """Remove these packs and markers, what has not been used for a long time, and folders that are then empty."""
        for path in used:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            for path in (*self.folder.glob("*.pack"), *self.folder.glob("??/*")):
                if time.time() - path.stat().st_mtime > OLD:
                    engines.remove(path)
        for folder in (*self.folder.glob("??"), self.folder):
            with contextlib.suppress(OSError):  # it is not empty, or gone
                folder.rmdir()

    def _marker(self, i: int) -> Path:
        key = self.sources.key(i)
        return Path(f"{self.folder}/{key[:2]}/{key}.json")


class Loose:
    """Prepared cases that are in no file yet, for one pack.

    Args:
      parts: the folder of the parts.
    """

    def __init__(self, parts: Parts):
        self.packs: set[Path] = set()  # that were written
        self._parts, self._cases, self._bytes = parts, {}, 0

    @property
    def full(self) -> bool:
        """Whether they are enough for a pack."""
        return self._bytes > TOGETHER

    def add(self, i: int, part: PreparedCase) -> bool:
        """Add case i unless it has files of its own; returns whether it was added."""
        if part.ending:
            return False
        self._cases[i], self._bytes = part, self._bytes + part.bytes
        return True

    def drop(self) -> list[int]:
        """Forget the cases; returns their numbers."""
        dropped, self._cases, self._bytes = list(self._cases), {}, 0
        return dropped

    def bind(self) -> list[tuple[int, Path]]:
        """Write the cases to a pack; returns their numbers, each with the pack."""
        if not self._cases:
            return []
        path = self._parts.bind(self._cases)
        self.packs.add(path)
        return [(i, path) for i in self.drop()]


class PartIndex:
    """Which cases have a part: those that were there when this object was made, and those that `add` names since.

    Args:
      parts: the folder of the parts.
    """

    def __init__(self, parts: Parts):
        self._parts = parts
        self._packed: dict[str, tuple[Path, int, int, int]] = {}  # key -> pack, first byte, bytes of arrays, bytes of JSON
        self._known: set[str] = set()
        self._last: tuple[Path | None, BinaryIO | None] = None, None  # the pack that was read last
        for path in parts.folder.glob("*.pack"):
            self._open(path)
        self._own = {path.stem for path in parts.folder.glob("??/*.json")} if parts.engine else set()

    def __contains__(self, i: int) -> bool:
        if not self._own and not self._packed:
            return False
        key = self._parts.sources.key(i)
        return key in self._own or key in self._packed

    def get(self, i: int) -> PreparedCase | None:
        """Return the part of case i if it is there and complete."""
        key = self._parts.sources.key(i)
        if key in self._own:
            return self._parts.own(i)
        try:
            return self._read(*self._packed.pop(key))
        except (KeyError, OSError, ValueError, TypeError):  # absent, gone, or cut by a power failure
            return None

    def add(self, i: int, name: str) -> None:
        """Note that a worker prepared case i: in the pack of this name, or with files of its own for ""."""
        if not name:
            self._own.add(self._parts.sources.key(i))
        elif name not in self._known:
            self._open(self._parts.folder / name)

    def close(self) -> None:
        """Close the pack that was read last."""
        if self._last[1] is not None:
            self._last[1].close()
        self._last = None, None

    def _open(self, path: Path) -> None:
        self._known.add(path.name)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError), open(path, "rb") as file:
            line = file.readline()
            about = json.loads(line)
            if os.fstat(file.fileno()).st_size >= len(line) + about["bytes"]:
                self._packed |= {key: (path, len(line) + at, *sizes) for key, (at, *sizes) in about["cases"].items()}

    def _read(self, path: Path, start: int, size: int, length: int) -> PreparedCase:
        if self._last[0] != path:
            self.close()
            self._last = path, open(path, "rb")
        self._last[1].seek(start)
        content = self._last[1].read(size + length)
        part = PreparedCase(path, **json.loads(content[size:]))
        arrays = {
            name: np.frombuffer(content, dtype, math.prod(shape), at).reshape(shape)
            for name, (dtype, shape, at, _) in part.arrays.items()
        }
        return part._replace(content=arrays)


def _replace(path: Path, pieces: Iterable) -> None:
    """Write a file under another name and rename it."""
    temporary = f"{os.path.dirname(path)}/.{os.urandom(4).hex()}.{path.name}"
    try:
        with open(temporary, "wb") as file:
            for piece in pieces:
                file.write(piece)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _plain(value: Any) -> Any:
    """Convert numpy's numbers for JSON."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} in a row")
