"""The user's own readers of file formats: for each suffix of a file, the function that reads it.

A config names them (data.readers) and a run's record keeps them; once registered, every layout uses them in this process.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxseg.data.formats import nifti, photos, raw_voxels
from jaxseg.data.formats.nifti_header import is_singular
from jaxseg.data.formats.refusal import refusal
from jaxseg.data.records import Photo, Volume
from jaxseg.types import ConfigError, JaxsegError
from jaxseg.utils.lookup import import_object

OURS = (*nifti.SUFFIXES, *photos.SUFFIXES, *raw_voxels.SUFFIXES, ".dcm")
_readers: dict[str, Callable[[Path], Volume]] = {}


def register(readers: Sequence[tuple[str, str]]) -> None:
    """Register functions that read files with these suffixes, for the rest of this process.

    Args:
      readers: ((".suffix", "module:function"), ...); a function takes the path of a file and returns a `Volume`.
    Raises:
      ConfigError: jaxseg has a reader for the suffix, or there is no such function.
    """
    for suffix, path in readers:
        if suffix.endswith(OURS):
            raise ConfigError(f"config.data.readers: jaxseg already reads files ending in {suffix}; use another suffix")
        function = import_object(path, "reader")
        if not callable(function):
            raise ConfigError(
                f"config.data.readers: {path!r} is a {type(function).__name__}; must be a function (path) -> Volume: name one"
            )
        _readers[suffix] = function


def registered() -> dict[str, Callable[[Path], Volume]]:
    """Return the registered readers, suffix -> function, for `restore` in another process."""
    return dict(_readers)


def restore(readers: dict[str, Callable[[Path], Volume]]) -> None:
    """Register the readers that another process has registered."""
    _readers.update(readers)


def readable() -> tuple[str, ...]:
    """Return the suffixes of readable files, the user's own last."""
    return (*nifti.SUFFIXES, *photos.SUFFIXES, *raw_voxels.SUFFIXES, *_readers)


def reader_of(path: str | Path) -> Callable[[Path], Volume] | None:
    """Return the user's function that reads a file, or None."""
    name = Path(path).name.lower()
    return next((read for suffix, read in _readers.items() if name.endswith(suffix)), None)


def read(function: Callable[[Path], Volume], path: str | Path, *, max_voxels: int) -> Volume:
    """Read a file with the user's reader, and check the result as strictly as that of jaxseg's own readers.

    Raises:
      DataError: the reader fails, or does not return a valid volume.
    """
    path = Path(path)
    bad = lambda found, rule: refusal(
        "DATA_READER", path, found, rule, "see the file, or try the reader with testing.check_reader"
    )
    try:
        volume = function(path)
    except JaxsegError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise bad(
            f"its reader {function.__qualname__} failed: {type(error).__name__}: {text}", "must be a file of its format"
        ) from error
    if not isinstance(volume, Volume):
        raise bad(f"its reader returned a {type(volume).__name__}", "readers must return a jaxseg.data.records.Volume")
    array, picture = volume.array, isinstance(volume.header, Photo)
    ranks = (2, 3) if picture else (3, 4)
    if not isinstance(array, np.ndarray) or array.ndim not in ranks or not 0 < array.size <= max_voxels:
        raise bad(
            f"its reader returned an array of shape {np.shape(array)}",
            f"must have {ranks[0]} axes, or {ranks[1]} with channels, none empty",
        )
    if array.dtype.kind not in "biuf" or not array.dtype.isnative:
        raise bad(f"its reader returned the dtype {array.dtype.str}", "must be real numbers in native byte order")
    affine = np.asarray(volume.affine, np.float64)
    if not picture and (affine.shape != (4, 4) or not np.isfinite(affine).all() or is_singular(affine)):
        raise bad("its reader returned an invalid affine", "must be 4 x 4, finite, from voxel indices to mm in RAS+")
    nifti.check_finite(array, path)
    header = volume.header if picture else nifti.header_for(affine, array.shape)
    return dataclasses.replace(volume, affine=affine, header=header, path=path)
