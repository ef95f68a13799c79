"""Channels stored in one file, [X, Y, Z, C], chosen by name."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxseg.data.formats import volumes
from jaxseg.data.formats.refusal import refusal
from jaxseg.data.records import Volume

VERSION = 1  # of the rules below: raise it when they would read a file otherwise, so that stores are built anew


def read_chosen(names: tuple[str, ...], wanted: Sequence[str], path: Path) -> Volume:
    """Read some channels of a volume.

    Args:
      names: names of the file's channels, in their order.
      wanted: names of the channels to read.
      path: the file: [X, Y, Z, C], or [X, Y, Z] for one name.
    Returns:
      Volume [X, Y, Z, len(wanted)].
    Raises:
      DataError: as `volumes.read_volume`; DATA_IMAGE for another number of channels, DATA_MISSING for an unknown name.
    """
    volume = volumes.read_volume(path)
    array = volume.array[..., None] if len(names) == 1 and volume.array.ndim == 3 else volume.array
    if array.ndim != 4 or array.shape[3] != len(names):
        raise refusal(
            "DATA_IMAGE",
            path,
            f"shape {volume.array.shape}",
            f"[X, Y, Z, {len(names)}] with {', '.join(names)}, as dataset.json lists them",
            "unpack the data set again, or correct dataset.json",
        )
    absent = [name for name in wanted if name not in names]
    if absent:
        raise refusal(
            "DATA_MISSING", path, f"no channel {absent[0]}", f"dataset.json lists {', '.join(names)}", "leave the modality out"
        )
    chosen = np.stack([array[..., names.index(name)] for name in wanted], -1)
    return Volume(chosen, volume.affine, volume.header, volume.path)
