"""Names in tables, pages and figures: case names, or hashes instead of them; never an absolute path."""

import re
from collections.abc import Callable
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from jaxseg.utils.files import digest

HASHED = re.compile("#[0-9a-f]{10}")
PATH = re.compile(r"(?<![\w./…])(?:~|[A-Za-z]:)?[/\\](?:[^/\\\s,;'\")]+[/\\])*([^/\\\s:,;'\")]+)")


def name_style(style: str, salt: str) -> Callable[[str], str]:
    """Return the function that converts names of cases and patients for display.

    Args:
      style: config.report.names: "plain" leaves them unchanged; "hash" converts them to # and ten hexadecimal digits, once.
      salt: added to the hash: the digest of the run's data, so that runs on the same data show the same hashes.
    """
    return (
        (lambda name: str(name) if HASHED.fullmatch(str(name)) else f"#{digest(salt, str(name))[:10]}")
        if style == "hash"
        else str
    )


def without_names(style: str, sentence: str) -> str:
    """Remove absolute paths from a sentence such as an error message, and file names too if names are hashed."""
    return PATH.sub(lambda found: "…" if style == "hash" else f"…/{found[1]}", sentence)


def without_paths(value: Any, *, hashed: bool = False) -> Any:
    """Return a config's value with absolute paths cut to their last part; to nothing if names are hashed."""
    if isinstance(value, dict):
        return {key: without_paths(v, hashed=hashed) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(v, hashed=hashed) for v in value]
    for kind in (PurePosixPath, PureWindowsPath):
        if isinstance(value, str) and (value[:1] in ("/", "~") if kind is PurePosixPath else kind(value).drive):
            return "…" if hashed else f"…/{kind(value).name}"
    return value
