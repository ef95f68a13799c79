"""Masks of one structure each, joined into one map of classes: structures that exclude each other, or any that overlap.

Structures that exclude each other are the classes 1, 2, ... If structures may overlap, every combination of them is a separate
class, numbered by its members: class 1 is the first structure alone, 2 the second alone, 3 both, 4 the third alone, ... The
structures are then regions of these classes.
"""

from collections.abc import Sequence

import numpy as np

from jaxseg.types import ConfigError, DataError

VERSION = 1  # of the rules below: raise it when they would read a file otherwise, so that stores are built anew

MOST = 8  # structures that may overlap: 255 combinations


def combinations(structures: Sequence[str]) -> tuple[str, ...]:
    """Names of the classes 1..2**n - 1 of n structures that may overlap.

    Raises:
      ConfigError: more than MOST structures.
    """
    n = len(structures)
    if n > MOST:
        raise ConfigError(
            f"{n} structures that may overlap have {2**n - 1} combinations; at most {2**MOST - 1} ({MOST} structures) are "
            "learnt together: leave data.regions at () if they exclude each other, or name fewer in data.structures"
        )
    members = lambda code: [name for k, name in enumerate(structures) if code >> k & 1]
    return tuple(" and ".join(found) if len(found) > 1 else f"{found[0]} alone" for found in map(members, range(1, 2**n)))


def regions(structures: Sequence[str]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return each structure as a region: the classes of all combinations that contain it."""
    return tuple(
        (name, tuple(code for code in range(1, 2 ** len(structures)) if code >> k & 1)) for k, name in enumerate(structures)
    )


def joined(masks: Sequence[np.ndarray | None], structures: Sequence[str], *, overlapping: bool) -> np.ndarray:
    """Join masks of single structures to one class map.

    Args:
      masks: for each structure [*S], not 0 inside it; None if the case does not have it.
      structures: names of the structures.
      overlapping: number the combinations of structures; else the structures.
    Returns:
      uint8 [*S], uint16 above 255 structures.
    Raises:
      DataError: DATA_LABEL where structures overlap that may not.
    """
    shape = next(mask.shape for mask in masks if mask is not None)
    classes = np.zeros(shape, np.uint8 if len(structures) < 256 else np.uint16)
    for k, mask in enumerate(masks):
        if mask is None:
            continue
        inside = mask != 0
        if overlapping:
            classes[inside] |= 1 << k
            continue
        both = inside & (classes > 0)
        if both.any():
            other = structures[int(classes[both][0]) - 1]
            raise DataError(
                f"{np.count_nonzero(both)} voxels are {other} and {structures[k]} at once; structures exclude each other unless "
                "config.data.regions=dataset trains on them as regions that may overlap: set that, or repair the masks",
                "DATA_LABEL",
            )
        classes[inside] = k + 1
    return classes
