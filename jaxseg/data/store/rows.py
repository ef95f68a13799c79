"""The records of a store's examples, stored by columns in memory-mapped .npy files, so that even a million rows open at once."""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.data.store.arrays import open_array
from jaxseg.utils import files

TOGETHER = 1000  # records that become columns at once


class Rows(Sequence):
    """N records, each a dict of plain values, stored as columns.

    Args:
      columns: name -> array [N] or [N, n].
    """

    def __init__(self, columns: Mapping[str, np.ndarray]):
        self.columns = {name: np.asarray(column) for name, column in sorted(columns.items())}
        lengths = {len(column) for column in self.columns.values()}
        if len(lengths) != 1:
            raise ValueError(f"got columns of {sorted(lengths)} rows; all columns must have the same number")
        self._length = lengths.pop()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int | slice) -> "dict[str, Any] | Rows":
        if isinstance(i, slice):
            return Rows({name: column[i] for name, column in self.columns.items()})
        return {name: column[i].tolist() for name, column in self.columns.items()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        lists = [column.tolist() for column in self.columns.values()]
        return (dict(zip(self.columns, values)) for values in zip(*lists))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rows) and self.digest == other.digest

    __hash__ = None

    @functools.cached_property
    def digest(self) -> str:
        """A digest of all names, types and values."""
        return files.digest(
            *[
                part
                for name, column in self.columns.items()
                for part in (name, str(column.dtype), str(column.shape), np.ascontiguousarray(column).reshape(-1).view(np.uint8))
            ]
        )

    def write(self, folder: Path) -> dict[str, list]:
        """Write each column to a file; returns name -> [dtype, shape] of each."""
        for name, column in self.columns.items():
            np.save(_path(folder, name), column, allow_pickle=False)
        return {name: [column.dtype.str, list(column.shape)] for name, column in self.columns.items()}


def column(rows: Sequence[Mapping[str, Any]], name: str) -> list:
    """Return one entry of all records. Of `Rows` this is many times faster than to make every record."""
    return rows.columns[name].tolist() if isinstance(rows, Rows) else [row[name] for row in rows]


class Collected:
    """Records with equal keys, kept as columns of a thousand: as dicts, those of 100,000 examples would take half a GiB."""

    def __init__(self):
        self._chunks: list[Rows] = []
        self._records: list[Mapping[str, Any]] = []
        self._joined = 0  # records in the chunks

    def __len__(self) -> int:
        return self._joined + len(self._records)

    def extend(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Add records."""
        self._records += records
        if len(self._records) >= TOGETHER:
            self._chunks.append(from_records(self._records))
            self._joined += len(self._records)
            self._records = []

    def rows(self) -> Rows:
        """Return all records, at least one."""
        chunks = [*self._chunks, *([from_records(self._records)] if self._records else [])]
        if any(chunk.columns.keys() != chunks[0].columns.keys() for chunk in chunks):
            raise ValueError(f"got records with other keys than {sorted(chunks[0].columns)}; all records must have the same keys")
        return Rows({name: np.concatenate([chunk.columns[name] for chunk in chunks]) for name in chunks[0].columns})


def from_records(records: Sequence[Mapping[str, Any]]) -> Rows:
    """Convert records with equal keys to rows; lists under the same key must have the same length."""
    names = records[0].keys()
    if any(record.keys() != names for record in records):
        raise ValueError(f"got records with other keys than {sorted(names)}; all records must have the same keys")
    return Rows({name: np.array([record[name] for record in records]) for name in names})


def read(folder: Path, columns: Mapping[str, Sequence]) -> Rows:
    """Open the files that `Rows.write` wrote as memory maps.

    Args:
      folder: the folder of the files.
      columns: the result of `Rows.write`.
    Raises:
      DataError: a column is missing, or has another dtype or shape than when it was written (DATA_CHANGED).
    """
    return Rows(
        {name: open_array(_path(folder, name), np.dtype(dtype), tuple(shape)) for name, (dtype, shape) in columns.items()}
    )


def _path(folder: Path, name: str) -> Path:
    return folder / f"rows.{name}.npy"
