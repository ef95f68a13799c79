"""Cases that cannot be used: the run stops at the first one, or leaves a small share of them out and says which.

A bad case is one that raises a DataError while it is prepared: a file truncated or empty, modalities or a mask on another
grid, labels that are none, NaN. What does not fit a layout (a table, a modality that a case lacks) is seen when the folder
is listed, and stops every run; so does a file that cannot be opened: repairing a permission or a disk does not change the file,
and the store, whose name depends on the files, would still leave its case out.

    left_out.json  {"of": cases that were tried, "bad": [{case, patient, code, reason}, ...]}

lies in the store of prepared examples and in the run's folder; nowhere where every case was good.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from jaxseg.data.records import Case, DataSet
from jaxseg.types import DataError
from jaxseg.utils import output
from jaxseg.utils.files import write_json

NAME = "left_out.json"
DISK = "DATA_PATH"  # code of a file that cannot be opened
Prepared = TypeVar("Prepared")


@dataclasses.dataclass(frozen=True)
class Bad:
    """A bad case: its id, whose it is, and the code and line of the error."""

    case: str
    patient: str
    code: str
    reason: str


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """The bad cases among `of`."""

    bad: tuple[Bad, ...] = ()
    of: int = 0

    @property
    def cases(self) -> list[str]:
        """Their ids."""
        return [bad.case for bad in self.bad]

    def __str__(self) -> str:
        return f"{len(self.bad)} of {self.of} cases are bad and left out (data.bad_cases='skip')"


def sift(dataset: DataSet, prepare: Callable[[Case], Prepared], share: float, bad: list[Bad]) -> Iterator[tuple[Case, Prepared]]:
    """(case, what `prepare` makes of it) of every good case, in order.

    Args:
      dataset: whose cases are tried.
      prepare: case -> its examples, all of them before any is used.
      share: as `check`.
      bad: takes the others.
    Raises:
      DataError: as `check`, as soon as it is certain; a case's own where the disk is to blame.
    """
    for case in output.working_through(dataset.cases, "preparing cases"):
        try:
            prepared = prepare(case)
        except DataError as error:
            note(bad, case, error, len(dataset.cases), share)
            continue
        yield case, prepared


def note(bad: list[Bad], case: Case, error: DataError, of: int, share: float) -> None:
    """Put a case among the bad ones of `of`.

    Raises:
      DataError: as `check`; the case's own where the disk is to blame.
    """
    if error.code == DISK:
        raise error
    bad.append(Bad(case.id, case.patient, error.code, str(error)))
    check(LeftOut(tuple(bad), of), share)


def check(found: LeftOut, share: float) -> None:
    """Refuse more bad cases than are allowed.

    Args:
      share: of all cases that may be bad; 0: none.
    Raises:
      DataError: with share 0 that of the first bad case; else DATA_CHECK.
    """
    allowed = int(share * found.of + 1e-9)
    if len(found.bad) <= allowed:
        return
    first = found.bad[0]
    if not share:
        raise DataError(first.reason, first.code)
    raise DataError(
        f"{allowed + 1} or more of {found.of} cases are bad; data.bad_share={share:g} allows {allowed}; "
        "--mode=check lists all of them: mend or remove them, or raise data.bad_share; the first: "
        f"{first.case}: {first.reason}",
        "DATA_CHECK",
    )


def write(folder: Path, found: LeftOut) -> None:
    """Write left_out.json, where there is anything to say."""
    if found.bad:
        write_json(folder / NAME, dataclasses.asdict(found))


def read(folder: Path) -> LeftOut:
    """What `write` wrote into a folder.

    Raises:
      OSError, ValueError: it cannot be read.
    """
    if not (folder / NAME).is_file():
        return LeftOut()
    content = json.loads((folder / NAME).read_text())
    try:
        return LeftOut(tuple(Bad(**bad) for bad in content["bad"]), content["of"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{NAME} is no list of bad cases ({error})") from error
