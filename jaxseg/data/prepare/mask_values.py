"""Values and colours of masks: count and name them, parse the user's table of them, and report how they were interpreted."""

import collections
import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxseg.data.records import Meaning
from jaxseg.types import ConfigError, DataError

KEY = "data.mask_values"
BLACK, WHITE = 0x000000, 0xFFFFFF
IGNORED = {-1, 255, 65535}  # values that often mark pixels to ignore
SHOWN = 8  # values that a message lists
CHUNK = 1 << 22  # elements that are counted at once
_COLOUR = re.compile(r"#[0-9a-f]{6}")
Table = tuple[tuple[int | str, int], ...]


@dataclasses.dataclass(frozen=True)
class MaskContent:
    """The values in one mask.

    Attributes:
      array: [*S], numbers, or colours as 0xRRGGBB.
      values: the values that occur, in ascending order.
      counts: the number of voxels with each value.
      palette: (red, green, blue, alpha) of each index if the numbers are indices of a palette; else ().
      colours: whether the numbers are colours.
    """

    array: np.ndarray
    values: tuple
    counts: tuple[int, ...]
    palette: tuple[tuple[int, int, int, int], ...] = ()
    colours: bool = False

    def without_array(self) -> "MaskContent":
        """Return the values and counts alone."""
        return dataclasses.replace(self, array=np.empty(0, self.array.dtype))

    def colour(self, value) -> int:
        """Return 0xRRGGBB of a value: its own colour, its palette entry, or its grey for 8 bits; -1 if it has none."""
        if self.colours:
            return int(value)
        if self.palette:
            red, green, blue, _ = self.palette[value] if value < len(self.palette) else (0, 0, 0, 0)
            return red << 16 | green << 8 | blue
        return int(value) * 0x010101 if value in range(256) else -1

    def name(self, value) -> str:
        """Return a value as text."""
        if self.palette:
            return f"index {value} ({colour_name(self.colour(value))})"
        return colour_name(value) if self.colours else f"{value:g}"

    def replaced(self, taken: dict, dtype: np.dtype) -> np.ndarray:
        """Return [*S] with every value replaced by `taken[value]`."""
        if all(value == k for value, k in taken.items()):
            return self.array.astype(dtype)
        result = np.empty_like(self.array, dtype)
        values, classes = np.array(self.values), np.array([taken[v] for v in self.values], dtype)
        for there, here in zip(_chunks(self.array), _chunks(result)):
            here[...] = classes[np.searchsorted(values, there)]
        return result


def counted(array: np.ndarray, palette=(), *, colours: bool = False, packed: bool = False) -> MaskContent:
    """Count the values of an array.

    Args:
      array: numbers [*S]; with `colours` [*S, 3], with `packed` 0xRRGGBB [*S].
      palette: as in `MaskContent`.
    """
    if colours:
        red, green, blue = (array[..., c].astype(np.uint32) for c in range(3))
        array = red << 16 | green << 8 | blue
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    if array.dtype.kind in "iu" and (span := int(high) - int(low)) < CHUNK:
        counts = sum(np.bincount(chunk.astype(np.int64) - int(low), minlength=span + 1) for chunk in _chunks(array))
        values = np.flatnonzero(counts)
        counts, values = counts[values], values + int(low)
    else:
        values, counts = np.unique(array, return_counts=True)
    return MaskContent(array, tuple(values.tolist()), tuple(counts.tolist()), tuple(palette), colours or packed)


def _chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the elements of an array in memory order, for a contiguous array as flat views of limited size."""
    flat = array.ravel(order="K")
    for start in range(0, max(1, flat.size), CHUNK):
        yield flat[start : start + CHUNK]


def channels_of(colour: int) -> tuple[int, int, int]:
    """Return (red, green, blue) of 0xRRGGBB."""
    return colour >> 16, colour >> 8 & 255, colour & 255


def colour_name(colour: int) -> str:
    """ "black", "white" or "#rrggbb"."""
    return {BLACK: "black", WHITE: "white"}.get(colour, f"#{colour:06x}")


def listed(found: MaskContent, chosen: Sequence | None = None) -> str:
    """Return values with their percentages, the most frequent first: "0 (93.5 %), 255 (6.5 %)"."""
    chosen = found.values if chosen is None else chosen
    counts = dict(zip(found.values, found.counts))
    order = sorted(chosen, key=lambda v: (-counts[v], v))
    total = max(1, sum(found.counts))
    return ", ".join(f"{found.name(v)} ({share(counts[v], total)})" for v in order[:SHOWN]) + (
        f" and {len(order) - SHOWN} more" if len(order) > SHOWN else ""
    )


def share(count: int, total: int) -> str:
    """A share in per cent, three digits, never 0 % or 100 % for what is neither."""
    percent = 100 * count / max(1, total)
    return f"{percent:.3g} %" if count in (0, total) or 0.01 <= percent < 99.95 else "< 0.01 %" if percent < 1 else "> 99.9 %"


def union(contents: Sequence[MaskContent]) -> MaskContent:
    """Return the values and counts of several masks of one kind together, without their arrays."""
    total = collections.Counter()
    for content in contents:
        total.update(dict(zip(content.values, content.counts)))
    values = tuple(sorted(total))
    return dataclasses.replace(contents[0].without_array(), values=values, counts=tuple(total[v] for v in values))


def example(found: MaskContent, classes: int) -> str:
    """Return an example table that lists every value found, as typed on the command line, for the user to correct."""
    shows = {c for c in map(found.colour, found.values)}
    colours = found.colours or bool(found.palette) and len(shows) == len(found.values)
    key = (lambda v: f"'#{found.colour(v):06x}'") if colours else lambda v: f"{v:g}"
    frequent = found.values[max(range(len(found.values)), key=found.counts.__getitem__)]
    dark = next((v for v in found.values if found.colour(v) == BLACK), frequent if colours else found.values[0])
    others = [v for v in found.values if v != dark]
    if not others:
        others = [1 if dark != 1 else 0]
        key = lambda v: f"{v:g}"
    numbers = [v for v in others if v in range(1, classes + 1)] if not found.colours else []
    if numbers and (len(others) > classes or {*others} - {*numbers} <= IGNORED):  # class numbers and something else
        taken = {v: v if v in numbers else 0 for v in others}
    else:
        taken = {v: min(i, classes) for i, v in enumerate(others, 1)}
    pairs = [f"({key(dark)}, 0)", *(f"({key(v)}, {taken[v]})" for v in others)]
    return f'--config.{KEY}="({", ".join(pairs)})"'


def table_of(mask_values: Sequence, classes: int) -> Table:
    """Check the user's table and return it with colours in lower case; () for none.

    Args:
      mask_values: ((value or "#rrggbb", class), ...); for palette pictures, values are indices.
      classes: K.
    Raises:
      ConfigError: the table has another form, mixes values and colours, lists a value twice, or has a class outside 0..K.
    """
    bad = lambda rule: ConfigError(f"config.{KEY}={mask_values!r}: {rule}; for instance ((0, 0), (255, 1))")
    pairs = [tuple(pair) if isinstance(pair, (tuple, list)) else () for pair in mask_values]
    if any(len(pair) != 2 or type(pair[0]) not in (int, str) or type(pair[1]) is not int for pair in pairs):
        raise bad("must be ((value or '#rrggbb', class), ...)")
    table = tuple((key.lower() if isinstance(key, str) else key, k) for key, k in pairs)
    for key in (key for key, _ in table if isinstance(key, str)):
        if not _COLOUR.fullmatch(key):
            raise bad(f"{key!r} is not a colour; colours are written '#rrggbb'")
    keys, taken = [key for key, _ in table], {k for _, k in table}
    if len({type(key) for key in keys}) > 1:
        raise bad("must hold only values or only colours")
    if len(set(keys)) < len(keys):
        raise bad("must not list a value twice")
    if not taken <= set(range(classes + 1)):
        raise bad(f"classes are 0 (background) to {classes}; list more classes in data.structures")
    return table


def values_of(table: Table, classes: int) -> tuple[int, ...]:
    """The value of each class 1..K (`DataSet.values`), where a table gives every class one and background 0; () otherwise."""
    found = collections.defaultdict(list)
    for key, k in table:
        found[k].append(key)
    if 0 not in found[0] or any(len(found[k]) != 1 for k in range(1, classes + 1)):
        return ()
    values = tuple(found[k][0] for k in range(1, classes + 1))
    return values if all(isinstance(v, int) and 0 < v < 65536 for v in values) else ()


class Meanings:
    """Collects how the values of a data set's masks are interpreted, case by case, and checks that the files agree."""

    def __init__(self):
        self._files = collections.Counter()  # kind -> files
        self._voxels = collections.defaultdict(collections.Counter)  # kind -> (label, found, name) -> voxels
        self._colours: dict[int, tuple[str, str]] = {}  # palette index -> (its colour in words, the case that had it first)

    def add(self, case: str, path: Path | str, found: Iterable[Meaning]) -> None:
        """Add one mask: its case, its file, and how its values were interpreted (`Volume.meaning`).

        Raises:
          DataError: a palette index has another colour than in an earlier case (DATA_LABEL).
        """
        found = [Meaning(*meaning) for meaning in found]
        for meaning in found:
            if meaning.kind == "palette" and meaning.label:
                colour, first = self._colours.setdefault(meaning.label, (meaning.found, case))
                if colour != meaning.found:
                    raise DataError(
                        f"case {case}, {path}: {meaning.found}, but {colour} in case {first}; an index has one colour in "
                        f"all files: list the colours (or the indices, if they are the classes) in config.{KEY}: "
                        "((0, 0), (1, 1), ...)",
                        "DATA_LABEL",
                    )
        self._files.update({meaning.kind for meaning in found})
        for meaning in found:
            self._voxels[meaning.kind][meaning.label, meaning.found, meaning.name] += meaning.voxels

    def lines(self, labels: Sequence[str]) -> list[str]:
        """Return one text line for each kind of mask.

        Args:
          labels: names of the classes 1, 2, ...
        """
        names, lines = ("background", *labels), []
        for kind, files in sorted(self._files.items()):
            voxels = self._voxels[kind]
            total, inside = sum(voxels.values()), sum(n for (label, *_), n in voxels.items() if label)
            entries = sorted(voxels.items())
            text = ", ".join(
                f"{found} ({share(n, total)}) -> {name or names[label]}" for (label, found, name), n in entries[: 2 * SHOWN]
            )
            more = f", {len(entries) - 2 * SHOWN} more" if len(entries) > 2 * SHOWN else ""
            doubt = 2 * inside > total and kind not in (KEY, "rounded")
            doubt = f"; more than half is foreground: if that is wrong, set config.{KEY}" if doubt else ""
            lines.append(f"{kind} in {files} file{'s' if files > 1 else ''}: {text}{more}{doubt}")
        return lines


class RecordedMeanings:
    """Replaces `Meanings` while one case is prepared: records the calls, as [file, meanings], so that they can be made later.

    Attributes:
      found: the records, JSON-able.
    """

    def __init__(self):
        self.found: list = []

    def add(self, case: str, path: Path | str, found: Iterable[Meaning]) -> None:
        """As `Meanings.add`; checks nothing."""
        self.found.append([str(path), [list(meaning) for meaning in found]])
