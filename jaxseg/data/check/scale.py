"""Estimate the disk space, memory and reading that many more cases would need, from the sizes of the prepared examples."""

import dataclasses
import math

from jaxseg.data.prepare.labels import as_background, dtype_for
from jaxseg.data.records import Recipe
from jaxseg.data.store import foreground
from jaxseg.data.store.cases import PreparedExample
from jaxseg.data.store.preparing import INTERPRETER, PASSES

COUNTS = (1_000, 10_000, 100_000)
ROW = 700  # bytes of an example's record, with its digests and names


@dataclasses.dataclass
class Needs:
    """Sizes over all examples.

    Attributes:
      examples: how many there are.
      stored: bytes of their arrays in a store.
      largest: bytes of the largest example.
      patch: bytes that a training example reads: the whole slice, or a patch.
    """

    examples: int = 0
    stored: int = 0
    largest: int = 0
    patch: int = 0

    def add(self, example: PreparedExample, recipe: Recipe) -> None:
        """Add an example."""
        size = example.image.nbytes + example.mask.size * dtype_for(len(recipe.labels)).itemsize
        inside = int((as_background(example.mask, len(recipe.labels)) > 0).sum())
        kept = min(inside, max(foreground.KEPT * len(recipe.labels), int(inside * foreground.SHARE)))
        self.examples, self.stored = (
            self.examples + 1,
            self.stored + size + kept * foreground.dtype_for(example.mask.shape).itemsize,
        )
        self.largest = max(self.largest, size)
        share = min(1.0, math.prod(recipe.size) / example.mask.size) if recipe.fit == "patches" else 1.0
        self.patch = max(self.patch, math.ceil(size * share))

    def merge(self, other: "Needs") -> None:
        """Add the examples of another object."""
        self.examples, self.stored = self.examples + other.examples, self.stored + other.stored
        self.largest, self.patch = max(self.largest, other.largest), max(self.patch, other.patch)

    def lines(self, cases: int) -> list[str]:
        """Return one line, for a data set of this many cases; [] if there are no examples."""
        if not cases or not self.examples:
            return []
        each = lambda n: [n * count / cases for count in COUNTS]
        listed = lambda numbers: " / ".join(map(text, numbers))
        counts = " / ".join(f"{count:,}" for count in COUNTS)
        return [
            f"{counts} such cases: {listed(each(self.stored))} of store on disk (once more for slices while they are prepared), "
            f"{listed(each(self.examples * ROW))} of memory in every process for their records; whatever their number, "
            f"some {text(INTERPRETER + PASSES * self.largest)} for each preparing process, and {text(self.patch)} read "
            "for each training example, over the network if the store lies there"
        ]


def text(size: float) -> str:
    """Bytes with three digits: "5.4 GiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if size < 1000 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.3g} {unit}" if unit != "bytes" else f"{size:.0f} bytes"
