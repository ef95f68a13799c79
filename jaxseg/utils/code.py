"""Check that user code which a run names by "module:Name" is still the code that the run was trained with.

A run's record holds a digest of the files of each module that its training imported by path. Evaluation and prediction import
these files if they are unchanged; changed files, and modules that are not in the record, are refused unless --allow_code is
given. The digest detects accidental changes. It is not a signature: whoever can change the record can change the digest.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from jaxseg.types import MismatchError

OURS = ("jaxseg", "optax")  # packages that the library itself imports
FLAG = "--allow_code"
_imported: dict[str, str] = {}  # {module: digest of its files when it was imported by path}
_open: list[set[str]] = []  # the verified modules of each block of `recorded_alone` that is open; none open: all may be imported
_lock = threading.Lock()  # of that list
_here: ContextVar[set[str] | None] = ContextVar("verified modules of this thread's innermost block", default=None)
_allowed = False  # import modules even if digests differ


def allow() -> None:
    """Import modules in this process even if they differ from the record (--allow_code)."""
    global _allowed
    _allowed = True


def importable() -> None:
    """Append the current folder to Python's path, which for a command has only the folder of its script."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)


def files_of(module: str) -> list[Path]:
    """The files that importing a module would run (those of its packages first), found without running them; [] if none."""
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
    """SHA-256 of the files of a module that this process has imported, or would import; "" if there are none."""
    if module in _imported:
        return _imported[module]
    digest, files = hashlib.sha256(), files_of(module)
    for path in files:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest() if files else ""


def about_to_import(module: str) -> None:
    """Check a module before it is imported by its path.

    Raises:
      MismatchError: this process may import only modules in a run's record (`recorded_alone`), and this one is not.
    """
    if module.partition(".")[0] in OURS:
        return
    blocks = _open.copy()
    if blocks and not any(module in verified for verified in blocks) and not _allowed:
        raise MismatchError(
            f"the run names the module {module!r} but has no digest of it, because its training did not import it; if you "
            f"trust the file ({_place(module)}), add {FLAG}"
        )
    _imported[module] = digest_of(module)


def named(tree: Any) -> dict[str, str]:
    """{module: digest} of the modules that this process has imported by a path, and whose path occurs in a JSON-able tree."""
    text = json.dumps(tree)
    return {module: digest for module, digest in sorted(_imported.items()) if f'"{module}:' in text}


def changed(recorded: Mapping[str, str]) -> list[str]:
    """The modules whose files differ from the recorded digests."""
    return [module for module, digest in recorded.items() if digest_of(module) not in ("", digest)]


def check(recorded: Mapping[str, str], where: Path) -> None:
    """Check the modules of a record against its digests, and allow their import.

    Args:
      recorded: {module: digest}.
      where: the run folder, for the message.
    Raises:
      MismatchError: the files of a module have changed.
    """
    others = changed(recorded)
    if others and not _allowed:
        raise MismatchError(
            f"{where} was trained with a module {others[0]!r} that differs from {_place(others[0])}; run the command in the "
            f"folder of the original file, or add {FLAG} to use this one"
        )
    _verified(recorded)


def trust(path: str) -> None:
    """Allow the import of the module of a path "module:Name" that the user gave for this command, without a digest."""
    _verified([path.partition(":")[0]])


@contextlib.contextmanager
def recorded_alone() -> Iterator[None]:
    """Within the block allow imports by path only of modules that `check` has found in a run's record.

    Blocks may lie inside each other and may be open in several threads at once; while any is open, modules that none of them has
    verified are refused in every thread, for threads that read data import on behalf of the thread that opened the block.
    """
    verified: set[str] = set()
    with _lock:
        _open.append(verified)
    before = _here.set(verified)
    try:
        yield
    finally:
        _here.reset(before)
        with _lock:
            _open.pop(next(i for i, other in enumerate(_open) if other is verified))


def _verified(modules: Iterable[str]) -> None:
    here = _here.get()
    if here is not None:
        here.update(modules)


def _place(module: str) -> str:
    files = files_of(module)
    return str(files[-1]) if files else "no file of that name here"
