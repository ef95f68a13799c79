"""The one-line error that every reader of files raises."""

from pathlib import Path

from jaxseg.types import DataError
from jaxseg.utils.guard import one_line


def refusal(code: str, path: str | Path, found: str, rule: str, remedy: str) -> DataError:
    """The error "path: found; rule; remedy", on one line whatever the file's name or content holds.

    Args:
      code: stable word such as DATA_TRUNCATED.
      path: the file as the user named it.
      found: the value that was met. Never a patient's name, identifier or birth date.
      rule: what would be accepted.
      remedy: what to do about it.
    """
    return DataError(one_line(f"{path}: {found}; {rule}; {remedy}"), code)
