"""Prepared cases that wait for their store to be complete, so that a preparation that was ended goes on where it was.

    <cache root>/<kind>/.<data set>.parts/3f/<key>.image.npy, ...     the case's arrays
                                             <key>.json               written last: rows, sizes and digests of the arrays, counts

The key is the digest of all on which the case's bytes depend (`fingerprint.Sources.key`), whatever the other cases are: a file
that was mended, or a case more, leaves the other cases as they are. Every case of a store comes from here, whoever prepared it:
this process, one of its workers, or another host. So the store's bytes cannot depend on who did.
"""

import contextlib
import dataclasses
import json
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxseg.data.formats import remarks
from jaxseg.data.prepare.contrast import Levels
from jaxseg.data.records import DataSet, Recipe
from jaxseg.data.store import base, cases
from jaxseg.data.store.arrays import check_space, damaged, write_array
from jaxseg.data.store.fingerprint import Sources

OLD = 14 * 86400.0  # seconds after which the parts of a preparation that never went on are removed
Arrays = dict[str, np.ndarray]
Finish = Callable[[Recipe, cases.CaseExamples], tuple[Arrays, list[dict]]]  # a layout's: examples -> (arrays, rows)


class Part(NamedTuple):
    """A prepared case.

    Attributes:
      stem: path of its files, without their endings.
      rows: one record for each kept example.
      arrays: name -> [bytes of the file, digest of the file].
      counts: the case's `Tally` and remarks as JSON.
    """

    stem: Path
    rows: list[dict[str, Any]]
    arrays: dict[str, list]
    counts: dict[str, Any]

    def path(self, name: str) -> Path:
        """Return the file of an array."""
        return self.stem.with_name(f"{self.stem.name}.{name}.npy")

    def load(self, name: str) -> np.ndarray:
        """Read an array.

        Raises:
          DataError: the file has changed since it was written (DATA_CHANGED).
        """
        try:
            return np.load(self.path(name), allow_pickle=False)
        except (OSError, ValueError) as error:
            raise damaged(self.stem.parent, f"{self.path(name).name}: {error}") from error

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
        self.stem.with_suffix(".json").unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove all its files."""
        self.unmark()
        for name in self.arrays:
            self.path(name).unlink(missing_ok=True)


class _Heard:
    """Takes the place of `Meanings` for one case: keeps what it is given."""

    def __init__(self):
        self.found: list = []

    def add(self, case: str, path: Path | str, found) -> None:
        self.found.append([str(path), [list(meaning) for meaning in found]])


@dataclasses.dataclass(frozen=True)
class Parts:
    """The folder of the parts of a data set, and how a case becomes one.

    Attributes:
      folder: the folder.
      dataset, recipe: what is prepared, and how.
      finish: the layout's function that makes arrays and rows of a case's examples.
      sources: what the cases' bytes depend on.
    """

    folder: Path
    dataset: DataSet
    recipe: Recipe
    finish: Finish
    sources: Sources

    def find(self, i: int) -> Part | None:
        """Return the part of case i if it is complete."""
        stem = self._stem(i)
        try:
            part = Part(stem, **json.loads(stem.with_suffix(".json").read_bytes()))
            whole = all(part.path(name).stat().st_size == size for name, (size, _) in part.arrays.items())
        except (OSError, ValueError, TypeError):  # absent, or cut by a power failure
            return None
        return part if whole else None

    def prepare(self, i: int, left: int = 1) -> Part:
        """Prepare case i and write its part.

        Args:
          i: the case.
          left: how many parts of this size the disk must have space for.
        Raises:
          DataError: a file cannot be used, or has changed while it was read.
          StorageError: the disk has not enough space.
        """
        case, heard = self.dataset.cases[i], _Heard()
        with remarks.recorded() as said:
            found = cases.examples_of(self.dataset, self.recipe, case, meanings=heard)
            arrays, rows = self.finish(self.recipe, found)
        if self.sources.case(case) != self.sources.cases[i]:
            raise base.changed(self.dataset)
        tally = found.tally
        counts = {
            "seen": tally.seen,
            "foreground": int(tally.foreground),
            "cut": int(tally.cut),
            "levels": [[v.case, v.before.tolist(), v.after.tolist(), v.placed] for v in tally.levels],
            "meanings": heard.found,
            "remarks": said,
        }
        stem = self._stem(i)
        stem.parent.mkdir(parents=True, exist_ok=True)
        what = f"case {case.id} needs" if left == 1 else f"the {left} cases need about"
        check_space(self.folder, left * sum(array.nbytes for array in arrays.values()), what)
        part = Part(stem, rows, {}, counts)
        for name, array in arrays.items():
            part.arrays[name] = list(self._write(part.path(name), array))
        text = json.dumps({"rows": rows, "arrays": part.arrays, "counts": counts}, default=_plain)
        self._replace(stem.with_suffix(".json"), lambda path: path.write_text(text))
        return Part(stem, **json.loads(text))  # as whoever finds it reads it

    def clear(self, done: list[Part]) -> None:
        """Remove these parts, those that nobody has asked for in a long time, and folders that are empty then."""
        for part in done:
            part.remove()
        if not self.folder.is_dir():
            return
        with contextlib.suppress(OSError):
            for inner in self.folder.iterdir():
                for path in inner.iterdir():
                    if time.time() - path.stat().st_mtime > OLD:
                        path.unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    inner.rmdir()
            self.folder.rmdir()

    def _stem(self, i: int) -> Path:
        key = self.sources.key(i)
        return self.folder / key[:2] / key

    def _write(self, path: Path, array: np.ndarray) -> tuple[int, str]:
        written: list = []
        self._replace(path, lambda temporary: written.extend(write_array(temporary, array, sync=False)))
        return written[0], written[1]

    def _replace(self, path: Path, write: Callable[[Path], Any]) -> None:
        """Write a file under another name and rename it: two processes may write the same part, each a whole one."""
        temporary = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
        try:
            write(temporary)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def _plain(value: Any) -> Any:
    """Convert numpy's numbers for JSON."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} in a row")
