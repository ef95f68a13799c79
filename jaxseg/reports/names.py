"""What tables, pages and figures may say: case names, or hashes in their place; never an absolute path."""

import re
from collections.abc import Callable
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from jaxseg.utils.files import digest

HASHED = re.compile("#[0-9a-f]{10}")
PATH = re.compile(r"(?<![\w./…])(?:~|[A-Za-z]:)?[/\\](?:[^/\\\s,;'\")]+[/\\])*([^/\\\s:,;'\")]+)")


def shown_as(how: str, salt: str) -> Callable[[str], str]:
    """How the names of cases and patients are shown.

    Args:
      how: config.report.names: "plain" as they are, "hash" as # and ten hexadecimal digits; such a name stays as it is.
      salt: of the hash: the digest of the run's data, so that runs on the same data show the same ones.
    """
    return (
        (lambda name: str(name) if HASHED.fullmatch(str(name)) else f"#{digest(salt, str(name))[:10]}") if how == "hash" else str
    )


def said_as(how: str, sentence: str) -> str:
    """A sentence such as an error's, without absolute paths; where names are hashed without the names of files in them, too."""
    return PATH.sub(lambda found: "…" if how == "hash" else f"…/{found[1]}", sentence)


def without_paths(value: Any) -> Any:
    """A config's value with absolute paths cut to their last part."""
    if isinstance(value, dict):
        return {key: without_paths(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(v) for v in value]
    if isinstance(value, str) and value[:1] in ("/", "~"):
        return f"…/{PurePosixPath(value).name}"
    if isinstance(value, str) and PureWindowsPath(value).drive:
        return f"…/{PureWindowsPath(value).name}"
    return value
