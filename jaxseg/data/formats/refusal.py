"""The one-line error message that all readers of files raise."""

from pathlib import Path

from jaxseg.types import DataError
from jaxseg.utils.guard import one_line


def refusal(code: str, path: str | Path, found: str, rule: str, remedy: str) -> DataError:
    """Return the error "path: found; rule; remedy", always on one line.

    Args:
      code: a stable code such as DATA_TRUNCATED.
      path: the file as the user named it.
      found: the value that was found; never a patient's name, identifier or birth date.
      rule: the accepted values.
      remedy: how to solve the problem.
    """
    return DataError(one_line(f"{path}: {found}; {rule}; {remedy}"), code)
