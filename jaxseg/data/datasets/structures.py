"""Names of the classes that a user gives in data.structures."""

from collections.abc import Sequence

from jaxseg.types import ConfigError

VERSION = 1  # of the rules below: raise it when they would read a file otherwise, so that stores are built anew

MOST = 65535  # classes beside the background


def count_structures(structures: Sequence[str], example: Sequence[str]) -> int:
    """Return the number of foreground classes.

    Args:
      structures: names of the classes 1, 2, ...
      example: valid names, for the message.
    Raises:
      ConfigError: structures is not a sequence of distinct names, or has more names than 16 bits can number.
    """
    if isinstance(structures, str) or not structures or len(set(structures)) < len(structures):
        raise ConfigError(f"got structures={structures!r}; must be a non-empty tuple of distinct names, such as {example}")
    if len(structures) > MOST:
        raise ConfigError(f"got {len(structures)} structures; masks have 16 bits, so at most {MOST}; leave some out")
    return len(structures)
