"""check_dataset and check_reader: the contracts of `data/`, on a data set and a file format of your own."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.data import datasets
from jaxseg.data.formats import own, volumes
from jaxseg.data.records import DataSet
from jaxseg.data.store import base
from jaxseg.testing.expectation import Tested, part_of
from jaxseg.types import DataError, JaxsegError

READ = 3  # cases whose files are read


def check_dataset(load: str | Callable[..., DataSet], root: str | Path, **options: Any) -> None:
    """Check the properties of a data set on which preparation, training and evaluation rely.

    There are at least two cases, sorted by distinct ids, each with a patient and existing files; a second call lists the same
    cases; class names are distinct; the images of some cases can be read and have equally many channels; masks are on their
    images' grids and are mapped to whole numbers from 0 to the number of classes; an empty folder raises a DataError.

    Args:
      load: your function (root, *, ...) -> DataSet, or its path "module:load".
      root: a folder with data in its layout.
      **options: its keyword arguments.
    Raises:
      AssertionError: the first rule that does not hold.
    """
    part = part_of(load, "data set", {name: module.load for name, module in datasets.MODULES.items()})
    dataset = part.attempt(f"listing {root}", part.object, Path(root), **options)
    part.expect(isinstance(dataset, DataSet), "a jaxseg.data.records.DataSet", type(dataset).__name__)
    ids = [case.id for case in dataset.cases]
    part.expect(len(ids) > 1, "at least two cases", f"{len(ids)} in {root}")
    part.expect(ids == sorted(ids) and len(set(ids)) == len(ids), "cases sorted by id, each id once", f"{ids[:6]}")
    part.expect(all(case.patient for case in dataset.cases), "a patient for every case", "'' for some")
    files = [path for case in dataset.cases for path in (*case.images, *([case.mask] if case.mask else []), *case.parts)]
    gone = [path for path in files if not Path(path).exists()]
    part.expect(not gone, "files that are there", f"{gone[:1]} and {max(len(gone) - 1, 0)} more that are not")
    labels = dataset.labels
    part.expect(bool(labels) and len(set(labels)) == len(labels), "names of classes that differ, one at least", f"{labels}")
    again = part.attempt("listing it again", part.object, Path(root), **options)
    part.expect([case.id for case in again.cases] == ids, "the same cases when asked again", "others", "the order of a listing")
    channels = set()
    masks = [case for case in dataset.cases if case.mask or dataset.read_mask]
    part.expect(bool(masks), "masks to learn from", "none")
    for case in masks[:READ]:
        images, mask = part.attempt(f"reading case {case.id}", base.read_files, dataset, case)
        channels.add(len(images))
        values = np.unique(mask.array)
        part.expect(
            mask.array.dtype.kind in "iub" and 0 <= values.min() and values.max() <= len(labels),
            f"a mask of {case.id} with whole numbers from 0 to {len(labels)}",
            f"{mask.array.dtype} with {values[:6].tolist()}",
            f"map_mask ({part.place()})",
        )
    part.expect(len(channels) == 1, "as many images for each case", f"{sorted(channels)}")
    named = not dataset.modalities or len(dataset.modalities) == max(channels) or max(channels) == 1
    part.expect(named, f"a name for each of {max(channels)} channels", f"{dataset.modalities}", "modalities")
    with tempfile.TemporaryDirectory() as folder:
        _expect_refusal(part, "an empty folder", lambda: part.object(Path(folder), **options))


def check_reader(reader: str | Callable, path: str | Path) -> None:
    """Check the properties of a file reader on which every layout relies.

    It returns a `Volume` of finite real numbers in native byte order with three axes, or four with channels (two or three for a
    picture), and an affine in millimetres; a second call returns the same; a truncated file, an empty one and one with other
    bytes raise a DataError.

    Args:
      reader: your function (path) -> Volume, or its path "module:function".
      path: a file that it can read.
    Raises:
      AssertionError: the first rule that does not hold.
    """
    part, path = part_of(reader, "reader"), Path(path)
    read = lambda path: own.read(part.object, path, max_voxels=2**30)
    first, second = (part.attempt(f"reading {path}", read, path) for _ in range(2))
    same = np.array_equal(first.array, second.array) and np.array_equal(first.affine, second.affine)
    part.expect(same, "the same when asked again", "another")
    part.expect(bool(np.ptp(first.array)), "an image that is not constant", f"{first.array.ravel()[:1]} everywhere", str(path))
    if not volumes.is_photo(first):
        smallest, largest = min(first.spacing), max(first.spacing)
        part.expect(
            1e-3 < smallest <= largest < 1e3, "voxels of a thousandth to a thousand mm", f"{first.spacing}", "the affine's unit"
        )
    content = path.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        for what, wrong in (
            ("half of the file", content[: len(content) // 2]),
            ("an empty file", b""),
            ("other bytes", b"x" * 200),
        ):
            place = Path(folder) / path.name
            place.write_bytes(wrong)
            _expect_refusal(part, what, lambda place=place: part.object(place))


def _expect_refusal(part: Tested, what: str, call: Callable) -> None:
    try:
        came = f"{type(call()).__name__}"
    except DataError:
        return
    except JaxsegError as error:
        came = f"{type(error).__name__}: {error}"
    except Exception as error:
        came = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}, at {part.place(error)}"
    part.expect(False, f"{what} to be refused with a jaxseg.types.DataError", came)
