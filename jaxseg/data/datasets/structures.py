"""Names of the classes that a user gives in data.structures."""

from collections.abc import Sequence

from jaxseg.types import ConfigError

VERSION = 1  # of the rules below: raise it when they would read a file otherwise, so that stores are built anew


def count_structures(structures: Sequence[str], example: Sequence[str]) -> int:
    """Number of foreground classes.

    Args:
      structures: names of the classes 1, 2, ...
      example: names that would do, for the message.
    Raises:
      ConfigError: structures that are no list of different names.
    """
    if isinstance(structures, str) or not structures or len(set(structures)) < len(structures):
        raise ConfigError(f"got structures={structures!r}; a tuple of different names, at least one, such as {example}")
    return len(structures)
