"""The digest of everything on which a store's bytes depend: files, cases, recipe, the data set's functions and code versions.

Functions are identified by their module's VERSION, which must be raised when their results change, and by their arguments. A
function from a module without VERSION, such as a user's own, is identified by its source text.
"""

import copy
import functools
import inspect
import json
import os
import stat
import sys
import types
from collections.abc import Sequence
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.data.formats import volumes
from jaxseg.data.prepare import canvas, intensity, labels, masks, resample
from jaxseg.data.records import Case, DataSet, Recipe
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


class Sources:
    """What a store is made of: one text for what all cases share, and one for each case with the size and time of its files.

    Args:
      dataset: the data set.
      recipe: how images are prepared.
      more: further texts on which the bytes depend, such as the layout, or the digest of a network that generates a channel.
    """

    def __init__(self, dataset: DataSet, recipe: Recipe, *more: str):
        self._dataset = dataset
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
        self.shared = json.dumps(words([RULES, more, recipe.as_dict(), rules]))
        self.cases: Sequence[str] = [self.case(case) for case in dataset.cases]

    def of(self, dataset: DataSet, texts: Sequence[str]) -> "Sources":
        """Return the same for some of the cases: a data set that holds these alone, and their texts."""
        found = copy.copy(self)
        found._dataset, found.cases = dataset, texts
        return found

    @property
    def fingerprint(self) -> str:
        """The digest of all texts, 16 hexadecimal digits."""
        return files.digest(self.shared, "\n".join(self.cases))[:16]

    def key(self, i: int) -> str:
        """The digest of all on which the bytes of case i depend, whatever the other cases are."""
        return files.digest(self.shared, self.cases[i])

    def case(self, case: Case) -> str:
        """The text of a case, whose files are looked at now."""
        found = ", ".join([_files(path) for path in (*case.images, case.mask, *case.parts, case.stage) if path])
        meta = json.dumps(words(case.meta)) if case.meta else "[]"
        slab = f", {json.dumps(case.slab)}" if case.slab else ""
        return f"[{_quoted(case.id)}, {_quoted(case.patient)}, {meta}, {_quoted(self._dataset.stratum(case))}, [{found}]{slab}]"


def fingerprint(dataset: DataSet, recipe: Recipe, *more: str) -> str:
    """Return the digest of a store, 16 hexadecimal digits; arguments as for `Sources`."""
    return Sources(dataset, recipe, *more).fingerprint


def _files(path: Path) -> str:
    """Return [name, size, time] of a file as JSON, or a list of them for a folder. A file is looked at once."""
    try:
        text = os.fspath(path)  # several times faster than the path itself
        about = os.stat(text)
        if not stat.S_ISDIR(about.st_mode):
            return f"[{_quoted(text.rpartition(os.sep)[2])}, {about.st_size}, {about.st_mtime_ns}]"
        found = ((p, p.stat()) for p in sorted(path.rglob("*")))
        return json.dumps([[p.name, about.st_size, about.st_mtime_ns] for p, about in found if stat.S_ISREG(about.st_mode)])
    except OSError:
        return json.dumps([path.name, "missing"])  # reading the case says so properly


def _quoted(value: Any) -> str:
    """Return `json.dumps(value)`, of a text in a tenth of the time."""
    return encode_basestring_ascii(value) if type(value) is str else json.dumps(value)


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
