"""Data sets, one module per layout: `load(name, root, **options)` lists the cases in a folder.

A module has `load(root, *, ...) -> DataSet`, whose keyword arguments are its options, `label_count(...)`, and, if it can generate
synthetic data, `phantom(kind) -> folder`. Instead of a name, the path "module:load" of the user's own function can be given; as
for the layouts of the user's own data, its classes are then only known after its files are read.
"""

import contextlib
import dataclasses
import gc
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxseg.data.datasets import brats, brats_arrays, ct_ich, folder, kvasir, lungs, organs_ct, scoliosis, unread
from jaxseg.data.datasets.own import decathlon, layout, nnunet_raw, table
from jaxseg.data.formats import discover
from jaxseg.data.records import DataSet
from jaxseg.types import ConfigError, DataError, JaxsegError
from jaxseg.utils.lookup import import_object, is_path, lookup

MODULES = {
    "brats": brats,
    "brats_arrays": brats_arrays,
    "ct_ich": ct_ich,
    "decathlon": decathlon,
    "folder": folder,
    "kvasir": kvasir,
    "lungs": lungs,
    "nnunet_raw": nnunet_raw,
    "organs_ct": organs_ct,
    "scoliosis": scoliosis,
    "table": table,
}
OWN = ("decathlon", "nnunet_raw", "table", "folder")  # layouts of one's own data, which say themselves what they hold
AUTO = "auto"  # whichever of OWN lies there


def recognise(root: str | Path) -> tuple[str, Path]:
    """Return (name of the layout, one of OWN, its folder) of the data under a path.

    Raises:
      ConfigError: several folders have a known layout. DataError: no folder has one.
    """
    return layout.recognise(Path(root), {name: MODULES[name] for name in OWN})


def load(name: str, root: str | Path, **options) -> DataSet:
    """List the cases of a data set on disk; reads tables and headers, but no voxels."""
    function, known = _load_of(name), options_of(name)
    given = {key: value for key, value in options.items() if value is not None}
    for key in given:
        if key not in known:
            raise ConfigError(f"data set {name!r} takes no option {key!r}; it takes {', '.join(known)}; leave {key!r} out")
    with discover.links_inside(root), _collector_paused():
        try:
            dataset = _own(function, name, root, given) if is_path(name) else function(root, **given)
        except DataError as error:
            line = unread.below(Path(root)) if error.code == "DATA_MISSING" else ""
            if not line:
                raise
            raise DataError(f"{error}; {line}", error.code) from error
    return dataclasses.replace(dataset, notes=(*dataset.notes, *unread.notes(dataset)))


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep Python's garbage collector from looking again and again at hundreds of thousands of paths that are all in use."""
    ran = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if ran:
            gc.enable()


def options_of(name: str) -> tuple[str, ...]:
    """Return the names of the options that a data set takes."""
    parameters = inspect.signature(_load_of(name)).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


def is_own(name: str) -> bool:
    """Return whether a data set's classes are only known from its files: the user's own data, or the user's own function."""
    return name in OWN or is_path(name)


def _load_of(name: str) -> Callable[..., DataSet]:
    if not is_path(name):
        return lookup("data set", name, MODULES).load
    function = import_object(name, "data set")
    if not callable(function):
        raise ConfigError(f"data set {name!r} is a {type(function).__name__}; name a function load(root, *, ...) -> DataSet")
    return function


def _own(function: Callable, name: str, root: str | Path, options: dict) -> DataSet:
    """Load a data set by the user's own function; its name is the function's path."""
    try:
        dataset = function(Path(root), **options)
    except JaxsegError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise DataError(
            f"data set {name!r} fails on {root}: {type(error).__name__}: {text}; jaxseg.testing.check_dataset tries it out",
            "DATA_READER",
        ) from error
    if not isinstance(dataset, DataSet):
        raise ConfigError(f"data set {name!r} returns a {type(dataset).__name__}; it must return a jaxseg.data.records.DataSet")
    return dataclasses.replace(dataset, name=name)


def label_count(name: str, structures: tuple[str, ...] | None = None, release: str | None = None) -> int:
    """Return the number of foreground classes of a data set with these options, without reading its files."""
    module = lookup("data set", name, MODULES)
    given = {key: value for key, value in (("structures", structures), ("release", release)) if value is not None}
    for key in given:
        if key not in options_of(name):
            raise ConfigError(f"data set {name!r} takes no option {key!r}; it takes {', '.join(options_of(name))}")
    return module.label_count(**given)


def regions_of(name: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return the regions that a data set defines, without reading its files; () if it defines none."""
    return () if is_path(name) else getattr(lookup("data set", name, MODULES), "REGIONS", ())


def phantom(name: str, kind: str = "default") -> Path:
    """The folder of a data set's embedded phantom, generated on the first call.

    Raises:
      ConfigError: the data set has none, or none of this kind.
    """
    module = lookup("data set", name, MODULES)
    if not hasattr(module, "phantom"):
        having = [n for n, m in MODULES.items() if hasattr(m, "phantom")]
        raise ConfigError(f"data set {name!r} has no embedded phantom (those of {', '.join(having)} do); give data.root")
    return module.phantom(kind)


__all__ = ["AUTO", "MODULES", "OWN", "is_own", "label_count", "load", "options_of", "phantom", "recognise", "regions_of"]


def contradictions(dataset: DataSet) -> list[str]:
    """Return one line for each contradiction between a data set's tables and its masks; reads every mask. [] without tables."""
    module = MODULES.get(dataset.name)
    return module.disagreements(dataset) if hasattr(module, "disagreements") else []
