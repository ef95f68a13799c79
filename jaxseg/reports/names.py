"""What a page may say: case names, or hashes in their place; never a path."""

from collections.abc import Callable
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from jaxseg.utils.files import digest


def shown_as(how: str, salt: str) -> Callable[[str], str]:
    """How the names of cases and patients are shown.

    Args:
      how: config.report.names: "plain" as they are, "hash" as ten hexadecimal digits.
      salt: of the hash: the digest of the run's data, so that runs on the same data show the same ones.
    """
    return (lambda name: digest(salt, str(name))[:10]) if how == "hash" else str


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
