"""Code of one's own that is named by "module:Name": which files that is, and whether it is still what a run was trained with.

A run's record holds a digest of the files of each module that its training imported by path. Evaluation and prediction
import the same files without a question; others, and modules that the record does not hold, are refused until they are
allowed. The digest finds changed files. It is no signature: whoever can write the record can write another digest.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from jaxseg.types import MismatchError

OURS = ("jaxseg", "optax")  # packages that the library imports itself
FLAG = "--allow_code"
_imported: dict[str, str] = {}  # module -> digest of its files as they were when it was imported by path
_known: set[str] | None = None  # the modules that may be imported; None: any
_allowed = False  # whatever the digests say


def allow() -> None:
    """From now on, in this process, modules are imported whatever the records say: --allow_code."""
    global _allowed
    _allowed = True


def importable() -> None:
    """Let modules in the current folder be found, after all others: a command has the folder of its script there instead."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)


def files_of(module: str) -> list[Path]:
    """The files that importing a module would run (its packages' first), found without running any; () where there are none."""
    importable()
    found, path = [], None
    parts = module.split(".")
    for i in range(len(parts)):
        name = ".".join(parts[: i + 1])
        if name in sys.modules:
            here, path = getattr(sys.modules[name], "__file__", None), getattr(sys.modules[name], "__path__", None)
        else:
            spec = importlib.util.find_spec(name) if i == 0 else PathFinder.find_spec(name, path)
            if spec is None:
                return []
            here, path = spec.origin if spec.has_location else None, spec.submodule_search_locations
        found += [Path(here)] if here else []
    return found


def digest_of(module: str) -> str:
    """SHA-256 of the files of a module as this process imported them, or would import them; "" where there are none."""
    if module in _imported:
        return _imported[module]
    digest, files = hashlib.sha256(), files_of(module)
    for path in files:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest() if files else ""


def about_to_import(module: str) -> None:
    """Called before a module is imported by its path.

    Raises:
      MismatchError: this process may import what records hold alone, and none holds this.
    """
    if module.partition(".")[0] in OURS:
        return
    if _known is not None and module not in _known and not _allowed:
        raise MismatchError(
            f"the run names the module {module!r} and holds no digest of it, so it was not imported in its training; if you "
            f"know the file ({_place(module)}), add {FLAG}"
        )
    _imported[module] = digest_of(module)


def named(tree: Any) -> dict[str, str]:
    """{module: digest} of the modules that this process has imported by a path which stands in a JSON-able tree."""
    text = json.dumps(tree)
    return {module: digest for module, digest in sorted(_imported.items()) if f'"{module}:' in text}


def changed(recorded: Mapping[str, str]) -> list[str]:
    """The modules whose files are not those of the digests."""
    return [module for module, digest in recorded.items() if digest_of(module) not in ("", digest)]


def check(recorded: Mapping[str, str], where: Path) -> None:
    """Allow the import of the modules of a record.

    Args:
      recorded: module -> digest.
      where: the run folder, for the message.
    Raises:
      MismatchError: a module's files are others now.
    """
    others = changed(recorded)
    if others and not _allowed:
        raise MismatchError(
            f"{where} was trained with the module {others[0]!r} of other content than {_place(others[0])} has; run from the "
            f"folder of the file that it was trained with, or add {FLAG} to import this one"
        )
    if _known is not None:
        _known.update(recorded)


def trust(path: str) -> None:
    """Let the module of a path "module:Name" be imported that was typed for this command, whatever the record holds."""
    if _known is not None:
        _known.add(path.partition(":")[0])


@contextlib.contextmanager
def recorded_alone() -> Iterator[None]:
    """Within the block modules are imported by path only where `check` has seen them in a run's record."""
    global _known
    before, _known = _known, set()
    try:
        yield
    finally:
        _known = before


def _place(module: str) -> str:
    files = files_of(module)
    return str(files[-1]) if files else "no file of that name here"
