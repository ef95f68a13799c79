"""What an image without a mask means: nobody has looked at it, or somebody has and found nothing."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from jaxseg.data.formats import volumes
from jaxseg.data.prepare import masks
from jaxseg.data.records import Case, DataSet, Volume

REMEDY = (
    "add the masks, or say what an image without one is: --config.data.missing_masks=skip (not annotated, left out) or "
    "empty (annotated, and nothing is there)"
)
EMPTY = "empty"  # key of Case.meta


def apply(dataset: DataSet, how: str | None) -> DataSet:
    """Give the cases without a mask an empty one, if they are said to be annotated.

    Args:
      dataset: its cases without a mask have mask None.
      how: data.missing_masks: None or "skip" leaves them as they are (training and scores leave them out), "empty" makes them
        examples without any structure.
    Returns:
      The data set; `Case.mask` of an empty case is its first image.
    """
    without = [case for case in dataset.cases if case.mask is None]
    if how != "empty" or not without:
        return dataset
    fill = lambda case: dataclasses.replace(case, mask=case.images[0], meta={**case.meta, EMPTY: True})
    return dataclasses.replace(
        dataset,
        cases=tuple(fill(case) if case.mask is None else case for case in dataset.cases),
        read_mask=functools.partial(_read, dataset.read_mask),
        notes=(*dataset.notes, f"{len(without)} images have no mask and count as images without any structure"),
    )


def _read(other: Callable[[Case, Volume], Volume] | None, case: Case, image: Volume) -> Volume:
    if case.meta.get(EMPTY):
        grid = image.array.shape[: 2 if volumes.is_photo(image) else 3]
        return dataclasses.replace(image, array=np.zeros(grid, np.uint8))
    return masks.read_numbers(case.mask) if other is None else other(case, image)
