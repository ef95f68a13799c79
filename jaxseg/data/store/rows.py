"""The records of a store's examples, in columns: one .npy file a column, memory-mapped, so that a million rows open at once."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.data.store.arrays import open_array
from jaxseg.utils import files


class Rows(Sequence):
    """N records, each a dict of plain values, kept as columns.

    Args:
      columns: name -> array [N] or [N, n].
    """

    def __init__(self, columns: Mapping[str, np.ndarray]):
        self.columns = {name: np.asarray(column) for name, column in sorted(columns.items())}
        lengths = {len(column) for column in self.columns.values()}
        if len(lengths) != 1:
            raise ValueError(f"got columns of {sorted(lengths)} rows; all of a store have as many")
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
        """Of all names, types and values."""
        return files.digest(
            *[
                part
                for name, column in self.columns.items()
                for part in (name, str(column.dtype), str(column.shape), column.tobytes())
            ]
        )

    def write(self, folder: Path) -> dict[str, list]:
        """Write each column to a file; name -> [dtype, shape] of each."""
        for name, column in self.columns.items():
            np.save(_path(folder, name), column, allow_pickle=False)
        return {name: [column.dtype.str, list(column.shape)] for name, column in self.columns.items()}


def from_records(records: Sequence[Mapping[str, Any]]) -> Rows:
    """Rows of records that all have the same keys; lists under one key are all of one length."""
    names = records[0].keys()
    if any(record.keys() != names for record in records):
        raise ValueError(f"got records of other keys than {sorted(names)}; all of a store have the same")
    return Rows({name: np.array([record[name] for record in records]) for name in names})


def read(folder: Path, columns: Mapping[str, Sequence]) -> Rows:
    """What `Rows.write` wrote, memory-mapped.

    Args:
      columns: what it returned.
    Raises:
      DataError: DATA_CHANGED for a column that is gone or another one than written.
    """
    return Rows(
        {name: open_array(_path(folder, name), np.dtype(dtype), tuple(shape)) for name, (dtype, shape) in columns.items()}
    )


def _path(folder: Path, name: str) -> Path:
    return folder / f"rows.{name}.npy"
