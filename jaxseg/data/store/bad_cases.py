"""Cases that cannot be used: the run stops at the first one, or leaves out a small fraction of the cases and lists them.

A case is bad if it raises a DataError while it is prepared: a truncated or empty file, modalities or a mask on another grid,
unknown labels, NaN. Errors of the layout (a table, a missing modality) are found when the folder is listed, and stop every run.
So does a file that cannot be opened: to repair a permission or a disk does not change the file, so that the store, whose name
depends on the files, would still leave out its case.

    left_out.json  {"of": number of cases, "bad": [{case, patient, code, reason}, ...]}

is written to the store of prepared examples and to the run folder, unless every case could be used.
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
    """A bad case: its id, its patient, and the code and text of its error."""

    case: str
    patient: str
    code: str
    reason: str


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """The bad cases among `of` cases."""

    bad: tuple[Bad, ...] = ()
    of: int = 0

    @property
    def cases(self) -> list[str]:
        """The ids of the bad cases."""
        return [bad.case for bad in self.bad]

    def __str__(self) -> str:
        return f"{len(self.bad)} of {self.of} cases are bad and left out (data.bad_cases='skip')"


def sift(dataset: DataSet, prepare: Callable[[Case], Prepared], share: float, bad: list[Bad]) -> Iterator[tuple[Case, Prepared]]:
    """Yield (case, its prepared examples) for every usable case, in order.

    Args:
      dataset: the data set.
      prepare: returns all examples of a case.
      share: as for `check`.
      bad: a list to which the bad cases are appended.
    Raises:
      DataError: as `check`, as soon as too many cases are bad; or the case's own error if the cause is the disk.
    """
    for case in output.working_through(dataset.cases, "preparing cases"):
        try:
            prepared = prepare(case)
        except DataError as error:
            note(bad, case, error, len(dataset.cases), share)
            continue
        yield case, prepared


def note(bad: list[Bad], case: Case, error: DataError, of: int, share: float) -> None:
    """Add a case to the bad ones.

    Raises:
      DataError: as `check`; or the case's own error if the cause is the disk.
    """
    if error.code == DISK:
        raise error
    bad.append(Bad(case.id, case.patient, error.code, str(error)))
    check(LeftOut(tuple(bad), of), share)


def check(found: LeftOut, share: float) -> None:
    """Refuse more bad cases than are allowed.

    Args:
      found: the bad cases so far.
      share: fraction (0-1) of all cases that may be bad; 0: none.
    Raises:
      DataError: too many cases are bad: with share 0 the error of the first bad case, else with the code DATA_CHECK.
    """
    allowed = int(share * found.of + 1e-9)
    if len(found.bad) <= allowed:
        return
    first = found.bad[0]
    if not share:
        raise DataError(first.reason, first.code)
    raise DataError(
        f"{allowed + 1} or more of {found.of} cases are bad; data.bad_share={share:g} allows {allowed}; "
        "--mode=check lists all of them: repair or remove them, or raise data.bad_share; the first: "
        f"{first.case}: {first.reason}",
        "DATA_CHECK",
    )


def write(folder: Path, found: LeftOut) -> None:
    """Write left_out.json, where there is anything to say."""
    if found.bad:
        write_json(folder / NAME, dataclasses.asdict(found))


def read(folder: Path) -> LeftOut:
    """Read left_out.json from a folder; an empty `LeftOut` if there is none.

    Raises:
      OSError, ValueError: the file cannot be read.
    """
    if not (folder / NAME).is_file():
        return LeftOut()
    content = json.loads((folder / NAME).read_text())
    try:
        return LeftOut(tuple(Bad(**bad) for bad in content["bad"]), content["of"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{NAME} is not a list of bad cases ({error})") from error
