"""Convert mask files to class numbers: values and colours of masks are interpreted here, for every layout, and nowhere else.

    read_mask=functools.partial(masks.read_mask, classes, table)      # of a DataSet whose masks are one file per case
    map_mask=functools.partial(masks.map_mask, classes)               # beside it
    masks.read(path, 1).array > 0                                     # one structure that has a file of its own

    numbers       class numbers 0..K; for one class also 0 and 255, in 16 bits 0 and 65535
    palette       one class: black is background and white foreground, whatever their indices. Else the index is the class, where
                  index 0 is black and all indices in use have different colours
    JPEG          one class: near 0 or near 255, with a threshold of 127; other values only at borders (prepare/jpeg_masks.py)
    fractions     whole numbers that a scale factor changed slightly are rounded (`rounded`)

Everything else, for instance 255 for "ignore", is refused; the message lists the values found and the table to give: the option
`mask_values` of a data set, ((value or palette index or "#rrggbb", class), ...). `store.base.read_files` rounds the masks of
every layout and counts how values were interpreted; `mask_values.Meanings` makes the lines that are logged once per data set.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from jaxseg.data.formats import volumes
from jaxseg.data.formats.refusal import refusal
from jaxseg.data.prepare import jpeg_masks
from jaxseg.data.prepare.labels import dtype_for
from jaxseg.data.prepare.mask_values import BLACK, IGNORED, KEY, SHOWN, WHITE, MaskContent, Table, counted, example, listed, union
from jaxseg.data.records import Case, Meaning, Volume
from jaxseg.types import DataError

VERSION = 1  # raise it when a mask would be read otherwise

IGNORE = "; pixels to ignore can only be mapped to background"
SLACK, SHARE, MOST = 0.02, 0.01, 0.25  # a label may be 0.02 or 1 % of itself from a whole number, but 0.25 at most


def read_mask(classes: int, table: Table | None, case: Case, image: Volume) -> Volume:
    """`read` of a case's mask, in the form of `DataSet.read_mask`."""
    return read(case.mask, classes, table)


def map_mask(classes: int, raw: np.ndarray) -> np.ndarray:
    """Check class numbers 0..classes and return them in the smallest dtype that holds them.

    Raises:
      DataError: values outside of 0..classes (DATA_LABEL).
    """
    volumes.check_labels(raw, range(classes + 1), "mask")
    return raw.astype(dtype_for(classes))


def read(
    path: Path,
    classes: int,
    table: Table | None = None,
    *,
    open_file: Callable[[Path], Volume] | None = None,
    stray: float = jpeg_masks.STRAY,
) -> Volume:
    """Read a mask file as class numbers 0..classes, in the smallest dtype that holds them.

    Args:
      path: any file that `volumes.read_volume` reads.
      classes: number of foreground classes.
      table: from `mask_values.table_of`; () if the user gave none, None for layouts without this option.
      open_file: reads files of other formats.
      stray: as in `jpeg_masks.restored`.
    Returns:
      The mask; its `meaning` lists how values were interpreted, if this had to be inferred.
    Raises:
      DataError: as `volumes.read_volume`; or the meaning of values or colours is not certain (DATA_LABEL, with counts).
    """
    volume = rounded(volumes.read_volume(path, palette_indices=True) if open_file is None else open_file(path))
    array, palette = volume.array, getattr(volume.header, "palette", ())
    kind = "palette" if palette else "values"
    if getattr(volume.header, "lossy", False):
        kind, found = "JPEG", jpeg_masks.restored(array, path, classes, table, stray)
    elif array.ndim == 3 and volumes.is_photo(volume) and (array != array[..., :1]).any():
        found = counted(array, colours=True)
    else:
        found = counted(array[..., 0] if array.ndim == 3 and volumes.is_photo(volume) else array, palette)
    if table:
        kind, taken = KEY, _by_table(found, classes, table, path)
    elif found.colours:
        raise _refused(found, classes, table, path, f"{len(found.values)} colours", "a mask must be grey or a palette picture")
    elif palette:
        taken = _by_palette(found, classes, table, path)
    else:
        taken = _by_number(found, classes, table, path)
    meaning = volume.meaning
    if kind != "values" or any(value != k for value, k in taken.items()):
        meaning += tuple(Meaning(kind, found.name(v), taken[v], n) for v, n in zip(found.values, found.counts))
    return Volume(found.replaced(taken, dtype_for(classes)), volume.affine, volume.header, volume.path, meaning)


def read_numbers(path: Path) -> Volume:
    """Read the stored values of a mask file whose layout defines their meaning.

    Raises:
      DataError: as `volumes.read_volume`; or the file is a JPEG, which does not keep exact values (DATA_LABEL).
    """
    mask = volumes.read_volume(path)
    if getattr(mask.header, "lossy", False):
        raise refusal("DATA_LABEL", path, "a JPEG mask", "JPEG does not keep class numbers", "export the masks as .png")
    return mask


def rounded(mask: Volume) -> Volume:
    """Round a mask to integers if all values are within 0.02 or 1 % of whole numbers (at most 0.25); else return it unchanged.

    For example, files saved with a scale factor of 0.99608 hold 0.996, 1.992 and 5.976 for 1, 2 and 6. If values were rounded,
    the result's `meaning` says so.
    """
    array = mask.array
    if array.dtype.kind != "f" or not array.size or not np.isfinite(array).all():
        return mask
    whole = np.rint(array)
    distance = np.abs(array - whole)
    if (distance > np.clip(SHARE * np.abs(whole), SLACK, MOST)).any() or np.abs(whole).max() > 2**31 - 1:
        return mask
    integers = whole.astype(np.int32)
    if not distance.any():
        return Volume(integers, mask.affine, mask.header, mask.path, mask.meaning)
    found = counted(integers)
    spans = (_span(array[integers == value]) for value in found.values)
    meaning = tuple(Meaning("rounded", span, value, n) for span, value, n in zip(spans, found.values, found.counts))
    return Volume(integers, mask.affine, mask.header, mask.path, meaning)


def _span(values: np.ndarray) -> str:
    low, high = values.min(), values.max()
    return f"{low:.6g}" if low == high else f"{low:.6g} to {high:.6g}"


def _by_number(found: MaskContent, classes: int, table: Table | None, path: Path) -> dict:
    """Interpret values as class numbers, or for one class also as 0 and the largest value of the dtype."""
    largest = 65535 if found.array.dtype == np.uint16 else 255
    if classes == 1 and set(found.values) <= {0, largest} and largest in found.values:
        return {0: 0, largest: 1}
    if classes == 1 and set(found.values) <= {0, 255} and 255 in found.values:
        return {0: 0, 255: 1}
    if set(found.values) <= set(range(classes + 1)):
        return {value: int(value) for value in found.values}
    unexpected = [v for v in found.values if v not in range(classes + 1)]
    what = f"{len(unexpected)} unexpected label values: {listed(found, unexpected)}"
    rule = "labels must be 0 and 1, or 0 and 255" if classes == 1 else f"labels must be 0 to {classes}"
    if set(unexpected) <= IGNORED:
        rule += IGNORE
    elif found.array.dtype.kind in "iu" and 0 <= found.values[0] and found.values[-1] < 2 * len(found.values):
        most = int(found.values[-1])  # class numbers, but of more classes
        remedy = f"for {most} classes list all of them in data.structures{_named(most)}, or check that this is the mask"
        raise refusal("DATA_LABEL", path, what, rule, remedy)
    raise _refused(found, classes, table, path, what, rule, counts=False)


def _by_palette(found: MaskContent, classes: int, table: Table | None, path: Path) -> dict:
    """Interpret a palette: for one class black and white; else the index, if index 0 is black and all used indices differ."""
    shows = [found.colour(value) for value in found.values]
    different = len(set(shows)) == len(shows)
    clear = [v for v in found.values if v >= len(found.palette) or found.palette[v][3] < 255]
    if classes == 1 and different and not clear and set(shows) <= {BLACK, WHITE}:
        return {value: int(shown == WHITE) for value, shown in zip(found.values, shows)}
    if found.colour(0) == BLACK and different and set(clear) <= {0} and found.values[-1] <= classes:
        if BLACK not in [shown for value, shown in zip(found.values, shows) if value]:
            return {value: int(value) for value in found.values}
    rule = "a palette must be black (background) and white, or black as index 0 and an opaque colour as index 1"
    if classes > 1:
        rule = f"a palette must have black as index 0 and a different opaque colour for each of the classes 1 to {classes}"
    if (others := set(found.values) - set(range(classes + 1))) and others <= IGNORED:
        rule += IGNORE
    raise _refused(found, classes, table, path, "a palette", rule)


def _by_table(found: MaskContent, classes: int, table: Table, path: Path) -> dict:
    """Interpret values or colours by the user's table."""
    known = dict(table)
    of_colours = isinstance(table[0][0], str)
    key = (lambda v: f"#{found.colour(v):06x}") if of_colours else lambda v: v
    if found.colours and not of_colours:
        raise _refused(found, classes, table, path, f"{len(found.values)} colours", f"{KEY} names values")
    absent = [value for value in found.values if key(value) not in known]
    if absent:
        what = f"{len(absent)} values outside the table: {listed(found, absent)}"
        raise _refused(found, classes, table, path, what, f"{KEY} must list every value of the masks", counts=False)
    return {value: known[key(value)] for value in found.values}


def _refused(found: MaskContent, classes: int, table: Table | None, path: Path, what: str, rule: str, *, counts: bool = True):
    """The error for values whose meaning is not certain: what was found, and the table to give."""
    remedy = "map them to classes, or check that this is the mask"
    there = len([v for v in found.values if found.colours or v not in IGNORED]) - 1
    if any(v != int(v) for v in found.values if np.isfinite(v)):
        remedy = "check the file's scale factor, or save it with whole numbers (soft borders cut at one half)"
    elif table is not None and len(found.values) <= 2 * SHOWN:
        remedy = (
            f"set the class of each value, for instance {example(found, max(classes, there))}, or check that this is the mask"
        )
        if there > classes:
            remedy = f"name {there} classes{_named(there)} and {remedy}"
    elif table is not None:
        remedy = f"threshold soft borders at one half, or set the class of each value in config.{KEY}"
    error = refusal("DATA_LABEL", path, f"{what}: {listed(found)}" if counts else what, rule, remedy)
    error.mask = found.without_array() if table is not None else None
    return error


def joint_remedy(errors: Iterable[DataError]) -> str:
    """Return one line with a table for all masks that were refused for their values; "" where each message has it already."""
    found = [mask for error in errors if (mask := getattr(error, "mask", None)) is not None]
    if len({mask.values for mask in found}) < 2 or len({(mask.colours, mask.palette) for mask in found}) > 1:
        return ""
    together = union(found)
    there = len([v for v in together.values if together.colours or v not in IGNORED]) - 1
    if len(together.values) > 2 * SHOWN or there < 1:
        return ""
    return (
        f"these {len(found)} masks together hold {len(together.values)} values, {listed(together)}: name {there} "
        f"classes{_named(there)} and set the class of each, for instance {example(together, there)}"
    )


def _named(count: int) -> str:
    """Return the option that names so many classes, to be edited; "" for more than can be shown."""
    return f" (--config.data.structures={','.join('abcdefgh'[:count])})" if 1 < count <= SHOWN else ""
