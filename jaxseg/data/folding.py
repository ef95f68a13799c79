"""Errors of many cases, folded: those that are equal but for names and numbers are said once, with their count."""

import re
from collections import defaultdict
from collections.abc import Mapping

FEW = 3  # of one kind that are said one by one


def kind_of(case: str, error: Exception) -> tuple[str, str]:
    """What errors of one kind have in common: type or code, and the text without the case, paths, numbers and colours.

    Lists of values with their shares may have any length.
    """
    text = re.sub(r"\S*/\S+|#[0-9a-f]{6}\b|\d[\d.e+-]*", "", str(error).replace(case, ""))
    text = re.sub(r"(\s*\(\s*%\),?)+", " (%)", text)
    return getattr(error, "code", type(error).__name__), text


def folded(errors: Mapping[str, Exception]) -> list[str]:
    """A line for each error; one line with the count where more than FEW cases have one of a kind.

    Args:
      errors: case -> what is wrong with it; each has a code, as DataErrors have.
    """
    kinds = defaultdict(list)
    for case, error in errors.items():
        kinds[kind_of(case, error)].append(case)
    lines = []
    for (code, _), named in kinds.items():
        if len(named) > FEW:
            lines.append(f"{len(named)} cases ({', '.join(named[:FEW])}, ...): [{code}] the first: {errors[named[0]]}")
        else:
            lines += [f"{case}: [{code}] {errors[case]}" for case in named]
    return lines


class Folding:
    """The same for errors that come one after another: the first FEW of a kind are said as they come, the others at the end."""

    def __init__(self):
        self._cases: dict[tuple[str, str], list[str]] = defaultdict(list)

    def add(self, case: str, error: Exception) -> bool:
        """Whether this error is to be said now."""
        cases = self._cases[kind_of(case, error)]
        cases.append(case)
        return len(cases) <= FEW

    @property
    def count(self) -> int:
        """Errors in all."""
        return sum(map(len, self._cases.values()))

    def rest(self) -> list[str]:
        """A line for each kind of which more came than were said."""
        return [f"{len(cases) - FEW} more like {cases[0]}" for cases in self._cases.values() if len(cases) > FEW]
