"""The digest of everything on which a store's bytes depend: files, cases, recipe, the data set's functions and code versions.

Functions are identified by their module's VERSION, which must be raised when their results change, and by their arguments. A
function from a module without VERSION, such as a user's own, is identified by its source text.
"""

import dataclasses
import functools
import inspect
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.data.formats import volumes
from jaxseg.data.prepare import canvas, intensity, labels, masks, resample
from jaxseg.data.records import DataSet, Recipe
from jaxseg.data.store import foreground
from jaxseg.utils import files

RULES = {
    "formats": volumes.VERSION,
    "intensity": intensity.VERSION,
    "resample": resample.VERSION,
    "labels": labels.VERSION,
    "masks": masks.VERSION,
    "canvas": canvas.VERSION,
    "foreground": foreground.VERSION,
}


def fingerprint(dataset: DataSet, recipe: Recipe, *more: str) -> str:
    """Return the digest, 16 hexadecimal digits.

    Args:
      dataset: the data set.
      recipe: how images are prepared.
      more: further texts on which the bytes depend, such as the format, or the digest of a network that generates a channel.
    """
    cases = [
        [
            c.id,
            c.patient,
            dict(c.meta),
            dataset.stratum(c),
            [_files(p) for p in (*c.images, *([c.mask] if c.mask else []), *c.parts)],
            *([c.slab] if c.slab else []),
        ]
        for c in dataset.cases
    ]
    rules = [
        dataset.name,
        dataset.labels,
        dataset.map_mask,
        dataset.keep_slice,
        dataset.synthetic,
        dataset.read_image,
        dataset.read_mask,
        dataset.modalities,
        dataset.regions,
        dataset.normalised,
    ]
    return files.digest(json.dumps(words([RULES, more, dataclasses.asdict(recipe), rules, cases])))[:16]


def _files(path: Path) -> list:
    """Return [name, size, time] of a file, or of every file in a folder."""
    found = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    try:
        return [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in found]
    except OSError:
        return [[path.name, "missing"]]  # reading the case says so properly


def words(value) -> Any:
    """Convert a value or function to JSON that is the same in every process and Python version (no addresses, no set order)."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (set, frozenset)):
        return sorted((words(v) for v in value), key=json.dumps)
    if isinstance(value, (list, tuple)):
        return [words(v) for v in value]
    if isinstance(value, functools.partial):
        return ["partial", words(value.func), words(value.args), words(value.keywords)]
    if isinstance(value, types.MethodType):
        return ["method", words(value.__self__), words(value.__func__)]
    if isinstance(value, types.FunctionType):
        return [
            "function",
            value.__module__,
            value.__qualname__,
            _version(value),
            words(value.__defaults__),
            words(value.__kwdefaults__),
            [words(c.cell_contents) for c in value.__closure__ or ()],
        ]
    if isinstance(value, bytes):
        return files.digest(value)
    if isinstance(value, (np.ndarray, np.generic)):
        return [str(value.dtype), list(value.shape), files.digest(value.tobytes())]
    if isinstance(value, Path):
        return value.name
    if hasattr(value, "items"):
        return sorted(([words(k), words(v)] for k, v in value.items()), key=json.dumps)
    if isinstance(value, type) or callable(value) and not hasattr(value, "__dict__"):
        return [value.__module__, value.__qualname__]
    return [type(value).__module__, type(value).__qualname__, words(getattr(value, "__dict__", {}))]


def _version(function: types.FunctionType) -> int | str:
    """Return the VERSION of the function's module; its source text if there is none, or if the function has no name."""
    version = getattr(sys.modules.get(function.__module__), "VERSION", None)
    if version is not None and "<lambda>" not in function.__qualname__:
        return version
    try:
        return files.digest(inspect.getsource(function))
    except (OSError, TypeError):  # typed at a prompt: nothing but its code is left
        return files.digest(function.__code__.co_code, *map(str, function.__code__.co_names), str(function.__code__.co_consts))
