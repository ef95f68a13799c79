"""The faults that a run must survive or refuse: a row for each, and the tests that inject it, `@pytest.mark.fault("F3", "F4")`.

`pytest -m fault` runs all of them, `pytest --fault=F3,D16` those of some rows. `make faults` (--fault-table=docs/faults.md,
JAXSEG_FAULTS=long) also writes outcomes and seconds into the page; `python -m tests.fault_table` writes it from the code alone.
"""

import ast
import datetime
import os
import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "faults.md"
LONG = os.environ.get("JAXSEG_FAULTS") == "long"


def count(few: int, many: int) -> int:
    """How often a test injects its fault: `few` times in the suite, `many` times in `make faults`."""
    return many if LONG else few


class Row(NamedTuple):
    """What is injected, and what must follow."""

    injected: str
    expected: str


SURVIVED = {
    "F1": Row("SIGKILL at random moments, one process", "the next start ends with the bits of a run that nobody killed"),
    "F2": Row("SIGKILL at named points of a step, a save and a publication", "the same bits; half a step is never listed"),
    "F3": Row("SIGKILL of one of two or four processes", "the others end with 75; the next start ends with the same bits"),
    "F4": Row("SIGKILL of process 0, the coordinator", "as F3"),
    "F5": Row("several processes, resumed as one with as many devices", "the same bits"),
    "F6": Row("resumed on another number of devices", "goes on within rounding; one line names the change"),
    "F7": Row("`data.workers` changed between two starts", "the same bits"),
    "F8": Row("SIGTERM to a run of one process", "saves, ends with 42; the same command resumes to the same bits"),
    "F9": Row("SIGTERM to one of two or four processes", "all save the same step and end with 42"),
    "F10": Row("SIGTERM, twice, to all processes of a run with reading workers", "saves, ends with 42, no worker stays"),
    "F11": Row("SIGTERM before the first step, in a validation, in the final evaluation", "ends with 42 and resumes"),
    "F12": Row("every file of a checkpoint with flipped bits, cut or deleted", "found, set aside; the step before is read"),
    "F13": Row("all checkpoints damaged or removed", "66, never a silent new start"),
    "F14": Row("a full disk during a save", "older steps stay, no debris; the next save tries again, after three failures 74"),
    "F15": Row("the thread that saves fails", "as F14; the newest whole step is what counts"),
    "F16": Row("a `--workdir` that is read-only, full or taken away during a run", "74, at the start or after the next save"),
    "F17": Row("a process that hangs", "75 in all after `train.watchdog`; stacks of all threads in a file"),
    "F18": Row("a process that never starts", "75 after `mesh.join` seconds; one line names it"),
    "F19": Row("hosts that differ in config, code, versions or data", "78 in all; one line names what differs"),
    "F20": Row("SIGKILL of a reading worker", "replaced, the same stream; 75 after several in a row"),
    "F21": Row(
        "NaN in a gradient", "the update is skipped, its cases named; 76 after `train.stop_nonfinite` in a row, none saved"
    ),
    "F22": Row("two runs in one `--workdir`; locks that dead runs left", "the second is refused; a dead one's lock is taken"),
}
REFUSED = {
    "D1": Row("`.nii.gz` cut off", "DATA_TRUNCATED"),
    "D2": Row("`.nii.gz` with a wrong checksum or length", "DATA_CRC"),
    "D3": Row("`.nii.gz` with one flipped bit", "refused; no voxel changes silently"),
    "D4": Row("bytes behind the end of a `.nii.gz`", "refused"),
    "D5": Row("a header that states more voxels than the file holds", "refused before memory is allocated"),
    "D6": Row("a gzip bomb", "refused at the stated size or `max_voxels`"),
    "D7": Row("dimensions of 0, below 0 or too many", "DATA_HEADER"),
    "D8": Row("an offset of the voxels inside the header, or NaN", "DATA_HEADER"),
    "D9": Row("an unknown, complex or RGB type of voxels", "DATA_HEADER"),
    "D10": Row("a scaling that is not finite", "DATA_HEADER or DATA_NONFINITE"),
    "D11": Row("voxel sizes that are NaN, 0 or contradict the matrix", "refused, or a warning within rounding"),
    "D12": Row("a matrix that is singular or not finite", "DATA_GEOMETRY"),
    "D13": Row("neither sform nor qform", "DATA_GEOMETRY unless it is allowed"),
    "D14": Row("a mask of another shape than its image", "DATA_MISMATCH"),
    "D15": Row("a mask in another place than its image", "DATA_MISMATCH beyond 2 % of a voxel"),
    "D16": Row("mask values that are no label or no whole number", "DATA_LABEL with counts"),
    "D17": Row("JPEG or palette masks that can be read in two ways", "refused with the table to give"),
    "D18": Row("masks without foreground", "counted; refused where a whole split has none"),
    "D19": Row("a file of a case that is not there", "DATA_MISSING"),
    "D20": Row("NaN voxels; constant images, values that no scanner writes", "DATA_NONFINITE; a warning by name"),
    "D21": Row("pictures: cut off, bombs, several frames, turned, 16-bit colour", "DATA_IMAGE, or read upright"),
    "D22": Row("DICOM: none, cut off, missing or double slices, lying sizes", "DATA_DICOM"),
    "D23": Row("pipes, devices, and links that lead out of the data", "refused without being opened"),
    "D24": Row("one image or patient in two splits", "DATA_LEAK"),
    "D25": Row("prepared or raw data that change during a run", "DATA_CHANGED"),
    "D26": Row("`data.bad_cases=skip`", "whole cases left out, listed, at most `data.bad_share`"),
}
USED = {
    "P1": Row("no memory for a window (RESOURCE_EXHAUSTED, simulated)", "fewer at once, then the host, then a file; same result"),
    "P2": Row("all 48 orders of axes", "one result in space, geometry of the input"),
    "P3": Row("big-endian, four dimensions, every type of numbers", "read right or refused"),
    "P4": Row("a kill or a full disk while results are written", "no partial file; a rerun skips what is finished"),
    "P5": Row("a network that gives NaN", "an error that names the case; nothing is written"),
    "P6": Row("one bad case among several", "the others are written, 65"),
    "P7": Row("weight files that run code or lie about their size", "refused by name, nothing runs"),
    "P8": Row("`.npy`, `.npz`, JSON and YAML made to harm", "one line within bounds of time and memory"),
    "P9": Row("a checkpoint of another network or configuration", "78 with the leaves or keys that differ"),
    "P10": Row("code that a record names; values that are not finite", "nothing is imported unasked; 64"),
    "P11": Row("names of patients in files and logs", "in no message and no result; hashed where `report.names=hash`"),
    "P12": Row("the coordinator's address; permissions of files", "listens on that address alone; `JAXSEG_UMASK` is followed"),
}
ROWS = SURVIVED | REFUSED | USED
# What of a row no test holds, and why.
NOT_HELD = {
    "F11": "a limit of the time until it is honoured does not exist",
    "F22": "no return to an earlier checkpoint after a spike of the loss: not built",
    "P1": "a real accelerator was never filled",
}


def holders(tests: Path = TESTS) -> dict[str, list[str]]:
    """Row -> the tests that hold it ("room/file.py::name"), from the source; pytest need not collect."""
    found = defaultdict(list)
    for path in sorted(tests.rglob("test_*.py")):
        if "mark.fault(" not in (text := path.read_text()):
            continue
        for test in ast.parse(text).body:
            for decorator in getattr(test, "decorator_list", ()):
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.fault":
                    for row in map(ast.literal_eval, decorator.args):
                        found[row].append(f"{path.relative_to(tests).as_posix()}::{test.name}")
    return dict(found)


class Outcomes:
    """A plugin of pytest that keeps what became of the marked tests, and writes the page at the end where one is asked for."""

    def __init__(self, config):
        self.page, self.wanted = config.option.fault_table, set(filter(None, (config.option.fault or "").split(",")))
        self.rows, self.figures = defaultdict(dict), {}

    def pytest_collection_modifyitems(self, config, items):
        kept, left = [], []
        for item in items:
            rows = [row for marker in item.iter_markers("fault") for row in marker.args]
            item.user_properties += [("fault", row) for row in rows]
            (kept if not self.wanted or self.wanted & set(rows) else left).append(item)
        config.hook.pytest_deselected(items=left)
        items[:] = kept

    def pytest_runtest_logreport(self, report):
        for name, value in report.user_properties:
            if name != "fault":
                self.figures[name] = value
                continue
            outcome, seconds = self.rows[value].get(report.nodeid, ("passed", 0.0))
            worse = report.outcome if report.outcome != "passed" else outcome
            self.rows[value][report.nodeid] = (worse, seconds + report.duration)

    def pytest_sessionfinish(self, session):
        if self.page and not hasattr(session.config, "workerinput"):
            page = Path(self.page)
            held = holders()
            new = {row: summed(tests, len(held.get(row, ()))) for row, tests in self.rows.items()}
            page.write_text(written(page.read_text(), new, self.figures))


def summed(tests: dict[str, tuple[str, float]], held: int) -> str:
    """The cell of a row that so many tests hold: how they ended with their parameters, in how many seconds, when."""
    ends, ran = [outcome for outcome, _ in tests.values()], len({name.partition("[")[0] for name in tests})
    part = f"{ran} of {held} tests: " if ran < held else ""
    counts = ", ".join(f"{ends.count(kind)} {kind}" for kind in ("failed", "passed", "skipped") if kind in ends)
    return f"{part}{counts}, {sum(seconds for _, seconds in tests.values()):.1f} s, {datetime.date.today()}"


def written(page: str, new: dict[str, str], figures: dict[str, str]) -> str:
    """The page with its tables anew: rows that did not run keep the outcome that stands there."""
    last = {row: cell for row, cell in re.findall(r"^\| ([FDP]\d+) \|.*\| ([^|]*) \|$", page, re.MULTILINE)} | new
    held = holders()
    for title, rows in (("survived", SURVIVED), ("refused", REFUSED), ("used", USED)):
        lines = ["| row | injected | must follow | tests | last run |", "|---|---|---|---|---|"]
        for row, (injected, expected) in rows.items():
            tests = "<br>".join(f"`{name}`" for name in held.get(row, ())) or "none"
            lines.append(f"| {row} | {injected} | {expected} | {tests} | {last.get(row, 'not run')} |")
        page = _between(page, title, lines)
    lines = ["| row | what of it is not held |", "|---|---|", *(f"| {row} | {why} |" for row, why in NOT_HELD.items())]
    page = _between(page, "open", lines)
    kept = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", _part(page, "figures"), re.MULTILINE))
    kept = {name: value for name, value in kept.items() if name not in ("figure", "---")} | figures
    lines = ["| figure | last run |", "|---|---|", *(f"| {name} | {value} |" for name, value in kept.items())]
    return _between(page, "figures", lines)


def _part(page: str, title: str) -> str:
    return re.search(f"<!-- {title} -->\n(.*?)<!-- end -->", page, re.DOTALL)[1]


def _between(page: str, title: str, lines: list[str]) -> str:
    body = "\n".join(["", *lines, ""])
    return re.sub(f"(<!-- {title} -->\n).*?(<!-- end -->)", lambda found: f"{found[1]}{body}\n{found[2]}", page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(), {}, {}))
