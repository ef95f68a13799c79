"""Rows of the benchmark: appended to a CSV file as they are measured, shown as a Markdown table at the end."""

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from jaxseg.types import ConfigError


@dataclasses.dataclass
class Row:
    """One measurement of jaxseg and a peer. Numbers that were not measured are None and printed as "-".

    Attributes:
      suite, name, work: what was measured: suite, case and task.
      size: size of the input.
      unit: unit of `ours` and `peer_value`: ms (smaller is better) or a rate such as samples/s (larger is better).
      ours, peer_value: medians of jaxseg and the peer.
      peer: the peer and its mode.
      runs: number of calls in jaxseg's median.
      parameters: number of parameters of the network, the same on both sides.
      error: largest difference of the two results in standard deviations.
      compile_s, peer_compile_s: seconds until the end of the first call.
      xla_mb: memory that XLA plans for one call (arguments, outputs and scratch), MiB.
      peak_mb, peer_peak_mb: peak memory of the device; on a CPU the growth of the peer's process during calls, MiB.
      mfu: FLOP/s of the call, as a fraction of that of a matrix product in the same process.
      note: conditions, or the reason why a figure is missing.
      ratio: ours / peer_value; None if the results differ (`FAILED` in the table) or one side is missing.
    """

    suite: str
    name: str
    work: str
    size: str = ""
    unit: str = "ms"
    ours: float | None = None
    peer: str = ""
    peer_value: float | None = None
    runs: int | None = None
    parameters: int | None = None
    error: float | None = None
    compile_s: float | None = None
    peer_compile_s: float | None = None
    xla_mb: float | None = None
    peak_mb: float | None = None
    peer_peak_mb: float | None = None
    mfu: float | None = None
    note: str = ""
    ratio: float | str | None = None

    def with_ratio(self, tolerance: float | None = None, peer_parameters: int | None = None) -> "Row":
        """The row with its ratio, or FAILED if results differ by more than `tolerance` or networks differ in size."""
        notes = [self.note] if self.note else []
        if None not in (self.parameters, peer_parameters) and self.parameters != peer_parameters:
            notes.append(f"{self.parameters} parameters here, {peer_parameters} there")
            return dataclasses.replace(self, ratio="FAILED", note="; ".join(notes))
        if tolerance is not None and self.error is not None and not self.error <= tolerance:
            notes.append(f"results differ by more than {tolerance:g}")
            return dataclasses.replace(self, ratio="FAILED", note="; ".join(notes))
        if self.ours is None or not self.peer_value or self.unit == "%":
            return self  # the ratio of two differences is meaningless
        return dataclasses.replace(self, ratio=self.ours / self.peer_value)


FIELDS = [f.name for f in dataclasses.fields(Row)]
TEXTS = [f.name for f in dataclasses.fields(Row) if f.type is str]


class ResultsFile:
    """A CSV file of rows, each with a description of the machine, to which several runs may append.

    Args:
      path: the file, which is created if absent.
      machine: the result of `machine.describe`.
    Raises:
      ConfigError: the file has other columns.
    """

    def __init__(self, path: Path, machine: dict[str, str]):
        self.path, self.machine = path, machine
        header = [*machine, *FIELDS]
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            self._append(header)
        with open(path, newline="") as file:
            if next(csv.reader(file), []) != header:
                raise ConfigError(
                    f"{path} has other columns than this version writes; choose another --output or remove the file"
                )

    def add(self, row: Row) -> None:
        """Append a row to the file."""
        values = ["" if v is None else f"{v:.6g}" if isinstance(v, float) else v for v in dataclasses.asdict(row).values()]
        self._append([*self.machine.values(), *values])

    def latest(self) -> list[Row]:
        """The newest row of each measurement on this machine, in the order of the file."""
        with open(self.path, newline="") as file:
            lines = [line for line in csv.DictReader(file) if all(line[k] == self.machine[k] for k in ("machine", "cores"))]
        rows = (Row(**{f: _value(f, line[f]) for f in FIELDS}) for line in lines)
        return list({(r.suite, r.name, r.work): r for r in rows}.values())

    def _append(self, values: list) -> None:
        with open(self.path, "a", newline="") as file:
            csv.writer(file).writerow(values)


def _value(field: str, text: str):
    if field in TEXTS or text == "FAILED":
        return text
    return None if text == "" else int(text) if field in ("runs", "parameters") else float(text)


COLUMNS = (
    ("work", "{name} {work}"),
    ("size", "{size}"),
    ("unit", "{unit}"),
    ("ours", "{ours}"),
    ("peer", "{peer_value}"),
    ("which", "{peer}"),
    ("difference", "{error}"),
    ("compile s", "{compile_s} / {peer_compile_s}"),
    ("XLA MiB", "{xla_mb}"),
    ("peak MiB", "{peak_mb} / {peer_peak_mb}"),
    ("MFU", "{mfu}"),
    ("note", "{note}"),
    ("ratio", "{ratio}"),
)


def markdown(rows: Sequence[Row], machine: dict[str, str]) -> str:
    """The tables of all suites below a description of the machine; columns without values are left out."""
    lines = [", ".join(f"{k} {v}" for k, v in machine.items() if v), ""]
    for suite in dict.fromkeys(r.suite for r in rows):
        cells = [[form.format(**shown(r)) for _, form in COLUMNS] for r in rows if r.suite == suite]
        keep = [i for i in range(len(COLUMNS)) if any(c[i].strip(" -/") for c in cells)]
        lines += [f"### {suite}", "", "| " + " | ".join(COLUMNS[i][0] for i in keep) + " |", "|" + "---|" * len(keep)]
        lines += ["| " + " | ".join(c[i] for i in keep) + " |" for c in cells] + [""]
    return "\n".join(lines)


def shown(row: Row) -> dict[str, str]:
    """The fields as text, with three significant figures."""
    return {k: v if isinstance(v, str) else "-" if v is None else number(v) for k, v in dataclasses.asdict(row).items()}


def number(value: float) -> str:
    """A number with three significant figures, and no exponent in a usual range."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:.1e}"
