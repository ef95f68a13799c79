"""The report of a check: its text, and the examples that training would get."""

import dataclasses

from jaxseg.data.check.duplicates import Copies
from jaxseg.data.error_summary import summarised
from jaxseg.data.prepare.masks import joint_remedy
from jaxseg.data.records import DataSet
from jaxseg.data.store.base import Listing
from jaxseg.types import DataError

LOUD = "WARNING "  # how the log marks a warning


@dataclasses.dataclass
class DataReport:
    """The result of checking every case; `str()` returns its text.

    Attributes:
      dataset: the data set, without the cases that have no mask.
      lines: what the data set holds, one fact per line.
      warnings: possible problems, one per line.
      errors: case id -> its error.
      refusal: the error with which preparation for training would end; None if it would succeed.
      examples: all usable examples; None if there is a refusal.
      copies: finds similar images.
      read: bytes that a training example reads.
    """

    dataset: DataSet
    lines: list[str] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    errors: dict[str, DataError] = dataclasses.field(default_factory=dict)
    refusal: DataError | None = None
    examples: Listing | None = None
    copies: Copies = dataclasses.field(default_factory=Copies)
    read: int = 0

    def listing(self) -> Listing:
        """Return the examples.

        Raises:
          DataError: the refusal, if there is one.
        """
        if self.refusal is not None:
            raise self.refusal
        return self.examples

    def say(self, text: str) -> None:
        """Add a line of training's log to the report."""
        if text.startswith(LOUD):
            self.warnings.append(text.removeprefix(LOUD))
        else:
            self.lines.append(f"training {text}")

    def __str__(self) -> str:
        lines = [
            *self.lines,
            *(f"warning  {w}" for w in self.warnings),
            *(f"error    {line}" for line in summarised(self.errors)),
        ]
        remedy = joint_remedy(self.errors.values())
        return "\n".join([*lines, *([f"remedy   {remedy}"] if remedy else [])])
