"""Find the patient of a case by data.patient, a regular expression over the names of the cases."""

import re
from collections.abc import Callable

from jaxseg.types import ConfigError, DataError


def named_by(pattern: str | None) -> Callable[[str], str]:
    """Return a function that maps the name of a case to its patient.

    Args:
      pattern: a regular expression with one group, searched for in the case's name: "(anna|bert)" or "^([^_]+)_"; None: every
        case counts as a separate patient.
    Returns:
      The function; it raises a DataError (DATA_TABLE) for a case without a match.
    Raises:
      ConfigError: the pattern is not a regular expression with exactly one group.
    """
    if pattern is None:
        return lambda case: case
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError) as error:
        raise ConfigError(f"data.patient={pattern!r}: is not a regular expression ({error}); for instance '^([^_]+)_'") from error
    if compiled.groups != 1:
        raise ConfigError(
            f"got data.patient={pattern!r} with {compiled.groups} groups; must have one pair of round brackets, around "
            "the patient's name, for instance '^([^_]+)_'"
        )

    def patient(case: str) -> str:
        match = compiled.search(case)
        if match is None or not match.group(1):
            raise DataError(f"data.patient={pattern!r} finds no patient in the name of case {case!r}; change it", "DATA_TABLE")
        return match.group(1)

    return patient
