"""Benchmarks of jaxseg and other libraries on the same tasks, in one table.

    python -m jaxseg.bench --peers                                   # everything; without --peers only jaxseg
    python -m jaxseg.bench --suite=models --peers --only='unet3d_s|forward' --output=runs/bench
    python -m jaxseg.bench --gpu                                     # on a GPU: as much as fits into --minutes (`gpu/stages.py`)

Suites: models (forward pass, training step), infer (sliding window), ops (distance transform, connected components, convolutions;
on a GPU the hand-written kernels), data (augmented samples per second), startup (time from the command to the first step, cold
and warm), training (a whole training: seconds to a Dice of 0.80), scaling (cost against size), large (many cases, before the
first step), devices (a step on up to 256 fake devices: memory and exchanges), medicai (networks of that library, in a separate
environment: `suites/medicai.py`).
For each row two processes, jaxseg and the peer, are timed alternately; figures are medians. The last column is jaxseg / peer: for
times a value below 1 means that jaxseg is faster, for rates a value above 1. FAILED means that the two results differ. Rows are
appended to OUTPUT/bench.csv as they are measured; OUTPUT/bench.md has the newest row of each measurement on this machine;
OUTPUT/bench.log has the output of the processes.
"""

import argparse
import dataclasses
import importlib
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from jaxseg.bench import machine, pair, table
from jaxseg.bench.gpu import stages
from jaxseg.bench.peers import MODES
from jaxseg.bench.side import Options
from jaxseg.types import ConfigError, JaxsegError

TOGETHER = 8  # tasks of one case that share a pair of processes and its time limit
SUITES = ("models", "infer", "ops", "data", "startup", "training", "scaling", "large", "devices", "medicai")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m jaxseg.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--suite", default="", help=f"one or more of {', '.join(SUITES)}, separated by commas; default: all")
    parser.add_argument(
        "--peers", action="store_true", help="also measure PyTorch, transformers, MONAI and scipy on the same tasks"
    )
    parser.add_argument("--only", default="", help="regular expression that must occur in 'suite/name' or 'suite/name work'")
    parser.add_argument("--output", type=Path, default=Path("runs/bench"), help="folder of bench.csv, bench.md and bench.log")
    parser.add_argument("--results", default="", help="file to which each row is appended as a line of JSON")
    parser.add_argument("--quick", action="store_true", help="use the smallest sizes, to test that everything runs")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds of timing for each row")
    parser.add_argument("--limit", type=float, default=300.0, help=f"time limit in seconds for one case with {TOGETHER} rows")
    parser.add_argument("--modes", default="", help=f"PyTorch modes to try, of {', '.join(MODES)}; the fastest is timed")
    options = parser.parse_args(arguments)
    options.suite = tuple(filter(None, options.suite.split(","))) or SUITES
    options.modes = tuple(filter(None, options.modes.split(",")))
    for given, known, what in ((options.suite, SUITES, "suite"), (options.modes, MODES, "modes")):
        for name in given:
            if name not in known:
                raise ConfigError(f"got --{what}={name}; must be one of {', '.join(known)}")
    return options


def measured(options: argparse.Namespace, side: Options, log) -> Iterator[table.Row]:
    """The rows of all requested suites."""
    seconds = 0.05 if options.quick else options.seconds
    for suite in options.suite:
        module = importlib.import_module(f"jaxseg.bench.suites.{suite}")
        for name in module.CASES:
            whole = re.search(options.only, f"{suite}/{name}")
            if hasattr(module, "rows"):  # a suite that starts its own processes
                yield from module.rows(name, side, limit=options.limit, log=log) if whole else ()
                continue
            works = {
                work: about
                for work, about in module.works(name, side).items()
                if whole or re.search(options.only, f"{suite}/{name} {work}")
            }
            for i in range(0, len(works), TOGETHER):
                part = dict(list(works.items())[i : i + TOGETHER])
                yield from pair.rows(suite, name, part, side, seconds=seconds, limit=options.limit, log=log)


def main(arguments: list[str] | None = None) -> int:
    """Measure, write and print the table; returns 0, or 1 if a row failed or lacks one of its figures."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--gpu" in arguments:
        return stages.main([a for a in arguments if a != "--gpu"])
    options = parse(arguments)
    about = machine.describe()
    side = Options(folder="", gpu=bool(machine.accelerator()), quick=options.quick, peers=options.peers, modes=options.modes)
    results = table.ResultsFile(options.output / "bench.csv", about)
    begin, whole, count = time.monotonic(), True, 0
    with open(options.output / "bench.log", "a") as log:
        for row in measured(options, side, log):
            results.add(row)
            if options.results:
                with open(options.results, "a") as file:
                    file.write(json.dumps({"stage": "rows", **dataclasses.asdict(row)}) + "\n")
            count += 1
            whole &= row.ours is not None and row.ratio != "FAILED"
            print(
                f"{time.monotonic() - begin:6.0f} s  {row.suite}/{row.name} {row.work}: "
                f"{'-' if row.ours is None else table.number(row.ours)} {row.unit}"
                + (f", {row.peer} {table.number(row.peer_value)}" if row.peer_value else "")
                + (f", ratio {row.ratio if isinstance(row.ratio, str) else table.number(row.ratio)}" if row.ratio else "")
                + (f" ({row.note})" if row.note else ""),
                file=sys.stderr,
                flush=True,
            )
    text = table.markdown(results.latest(), about)
    (options.output / "bench.md").write_text(text)
    print(text)
    return 0 if whole and count else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except JaxsegError as error:
        print(f"jaxseg.bench: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
