"""Summarise the errors of many cases: errors that are equal except for names and numbers are reported once, with a count."""

import re
from collections import defaultdict
from collections.abc import Mapping

FEW = 3  # similar errors that are reported one by one


def kind_of(case: str, error: Exception) -> tuple[str, str]:
    """Return a key that similar errors share: type or code, and the text without the case, paths, numbers and colours.

    Lists of values with their percentages may have any length.
    """
    text = re.sub(r"\S*/\S+|#[0-9a-f]{6}\b|\d[\d.e+-]*", "", str(error).replace(case, ""))
    text = re.sub(r"(\s*\(\s*%\),?)+", " (%)", text)
    return getattr(error, "code", type(error).__name__), text


def summarised(errors: Mapping[str, Exception]) -> list[str]:
    """Return one line per error, or one line with a count if more than FEW cases have similar errors.

    Args:
      errors: case -> its error, which has a `code` like a DataError.
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


class ErrorSummary:
    """Summarises errors that occur one after another: the first FEW similar ones are reported at once, the others at the end."""

    def __init__(self):
        self._cases: dict[tuple[str, str], list[str]] = defaultdict(list)

    def add(self, case: str, error: Exception) -> bool:
        """Add an error; returns whether to report it now."""
        cases = self._cases[kind_of(case, error)]
        cases.append(case)
        return len(cases) <= FEW

    @property
    def count(self) -> int:
        """The number of all errors."""
        return sum(map(len, self._cases.values()))

    def rest(self) -> list[str]:
        """Return one line for each kind of error that occurred more often than it was reported."""
        return [f"{len(cases) - FEW} more like {cases[0]}" for cases in self._cases.values() if len(cases) > FEW]
