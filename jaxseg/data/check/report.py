"""What a look at every case found, as text and as the examples that training would get."""

import dataclasses

from jaxseg.data.folding import folded
from jaxseg.data.records import DataSet
from jaxseg.data.store.base import Listing
from jaxseg.types import DataError

LOUD = "WARNING "  # how the log marks a warning


@dataclasses.dataclass
class DataReport:
    """What a look at every case found; `str()` is its text.

    Attributes:
      dataset: the data set, without the cases that have no mask.
      lines: what it holds, one fact a line.
      warnings: what may be wrong.
      errors: case id -> what is wrong with it.
      refusal: the error with which preparation for training ends; None where it does not.
      examples: all that can be learnt from; None where there is a refusal.
    """

    dataset: DataSet
    lines: list[str] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    errors: dict[str, DataError] = dataclasses.field(default_factory=dict)
    refusal: DataError | None = None
    examples: Listing | None = None

    def listing(self) -> Listing:
        """The examples.

        Raises:
          DataError: the refusal.
        """
        if self.refusal is not None:
            raise self.refusal
        return self.examples

    def say(self, text: str) -> None:
        """Take a line of training's log."""
        if text.startswith(LOUD):
            self.warnings.append(text.removeprefix(LOUD))
        else:
            self.lines.append(f"training {text}")

    def __str__(self) -> str:
        return "\n".join(
            [*self.lines, *(f"warning  {w}" for w in self.warnings), *(f"error    {line}" for line in folded(self.errors))]
        )
