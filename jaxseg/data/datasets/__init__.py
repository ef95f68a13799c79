"""Public data sets, one module per layout: `load(name, root, **options)` lists a folder's cases.

A module has `load(root, *, ...) -> DataSet`, whose keyword arguments are the options it takes, `label_count(...)`, and
`phantom(kind) -> folder` where it comes with data of its own.
"""

import dataclasses
import inspect
from pathlib import Path

from jaxseg.data.datasets import brats, brats_arrays, ct_ich, folder, kvasir, lungs, organs_ct, scoliosis, unread
from jaxseg.data.datasets.own import decathlon, layout, nnunet_raw, table
from jaxseg.data.formats import discover
from jaxseg.data.records import DataSet
from jaxseg.types import ConfigError, DataError
from jaxseg.utils.lookup import lookup

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
OWN = ("decathlon", "nnunet_raw", "folder", "table")  # layouts of one's own data, which say themselves what they hold
AUTO = "auto"  # whichever of OWN lies there


def recognise(root: str | Path) -> tuple[str, Path]:
    """(name of the layout of OWN, its folder) of what lies under a path.

    Raises:
      ConfigError: several. DataError: none.
    """
    return layout.recognise(Path(root), {name: MODULES[name] for name in OWN})


def load(name: str, root: str | Path, **options) -> DataSet:
    """The cases of a data set on disk; reads tables and headers, no voxels.

    Args:
      name: a key of MODULES.
      root: its folder.
      options: what the data set takes (`options_of(name)`); None counts as not given.
    Raises:
      ConfigError: unknown name, or an option that this data set does not take.
      DataError: a folder that does not hold the layout.
    """
    module, known = lookup("data set", name, MODULES), options_of(name)
    given = {key: value for key, value in options.items() if value is not None}
    for key in given:
        if key not in known:
            raise ConfigError(f"data set {name!r} takes no option {key!r}; it takes {', '.join(known)}; leave {key!r} out")
    with discover.links_inside(root):
        try:
            dataset = module.load(root, **given)
        except DataError as error:
            line = unread.below(Path(root)) if error.code == "DATA_MISSING" else ""
            if not line:
                raise
            raise DataError(f"{error}; {line}", error.code) from error
    return dataclasses.replace(dataset, notes=(*dataset.notes, *unread.notes(dataset)))


def options_of(name: str) -> tuple[str, ...]:
    """Names of the options that a data set takes."""
    parameters = inspect.signature(lookup("data set", name, MODULES).load).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


def label_count(name: str, structures: tuple[str, ...] | None = None, release: str | None = None) -> int:
    """How many foreground classes a data set has under its options, without its files."""
    module = lookup("data set", name, MODULES)
    given = {key: value for key, value in (("structures", structures), ("release", release)) if value is not None}
    for key in given:
        if key not in options_of(name):
            raise ConfigError(f"data set {name!r} takes no option {key!r}; it takes {', '.join(options_of(name))}")
    return module.label_count(**given)


def regions_of(name: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The regions that a data set scores, without its files; () where it has none."""
    return getattr(lookup("data set", name, MODULES), "REGIONS", ())


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


__all__ = ["AUTO", "MODULES", "OWN", "label_count", "load", "options_of", "phantom", "recognise", "regions_of"]


def contradictions(dataset: DataSet) -> list[str]:
    """Where a data set's own tables and masks do not agree, one line each; reads every mask. Empty where it has no tables."""
    module = MODULES.get(dataset.name)
    return module.disagreements(dataset) if hasattr(module, "disagreements") else []
