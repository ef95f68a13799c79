"""The most important measurements for a few minutes on a GPU: `python -m jaxseg.bench --gpu`.

Stages run in order of importance, several at a time (`lanes`), each in separate processes with a time limit, so that a stage that
crashes or hangs does not affect the others. Results are appended to OUTPUT/results.jsonl line by line, rows with peers also to
OUTPUT/bench.csv; OUTPUT/log has the printed output. A run with the same OUTPUT skips finished stages. With --quick everything
runs with tiny sizes, also on a CPU, where GPU kernels are skipped.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from jaxseg.bench import machine
from jaxseg.bench.gpu import lanes
from jaxseg.bench.table import ResultsFile, markdown
from jaxseg.types import ConfigError


class TimedCommand(NamedTuple):
    """A command with its time limit in seconds; `gpu`: it needs a GPU; `env`: environment variables of its process."""

    name: str
    command: tuple[str, ...]
    limit: float = 240.0
    gpu: bool = False
    env: dict[str, str] = {}


def _rows(suite: str, name: str, *more: str) -> TimedCommand:
    return TimedCommand(
        f"{suite}/{name}",
        ("-m", "jaxseg.bench", f"--suite={suite}", "--peers", f"--only=^{suite}/{name}$", "--seconds=2", "--limit=390", *more),
        400.0,
    )


def _step(name: str, change: str = "") -> TimedCommand:
    return TimedCommand(
        f"steps/{name}{f' {change}' if change else ''}",
        ("-m", "jaxseg.bench.gpu.steps", name, "--trace", *([f"--change={change}"] if change else [])),
        300.0,
    )


SHARES = 3
STAGES = (
    TimedCommand("machine", ("-m", "jaxseg.bench.gpu.properties"), 60.0),
    _step("segnext_t"),
    _step("unet3d_s"),
    _step("nnunet_plain"),
    _step("segnext_t", "untuned"),
    _step("unet3d_s", "nchw"),
    _step("nnunet_plain", "nchw"),
    TimedCommand("main", ("-m", "jaxseg.bench.gpu.commands"), 400.0),
    TimedCommand("slices", ("-m", "jaxseg.bench.gpu.commands", "--config=configs/ich_segnext.py:quick", "--deploy"), 300.0),
    TimedCommand("volumes", ("-m", "jaxseg.bench.gpu.commands", "--config=configs/brats_unet3d.py:quick"), 300.0),
    *(
        _rows("models", name)
        for name in ("segnext_t", "unet3d_s", "nnunet_plain", "effisegnet_b0", "segformer_b2", "swin_unetr", "unetr")
    ),
    *(_step(name) for name in ("effisegnet_b0", "segformer_b2", "swin_unetr", "unetr")),
    _rows("infer", "unet3d_xs"),
    TimedCommand(
        "tests",
        ("-m", "pytest", "-n3", "--tb=line", "-rf", "-p", "no:cacheprovider", "tests/gpu"),
        420.0,
        gpu=True,
        env={"JAX_PLATFORMS": ""},
    ),
    *(
        TimedCommand(f"kernels {i}", ("-m", "jaxseg.bench.gpu.kernels", f"--share={i}/{SHARES}"), 240.0, gpu=True)
        for i in range(SHARES)
    ),
    *(_step("segnext_t", change) for change in ("cublas", "xla", "nobarrier", "float32", "nographs")),
    _step("unet3d_s", "nobarrier"),
    *(_rows("models", name) for name in ("segformer_b0", "segnext_b", "unet_base", "dualbranch_04_unet_s", "effisegnet_b4")),
)


class Running(NamedTuple):
    """A running stage."""

    stage: TimedCommand
    process: subprocess.Popen
    until: float
    mark: Path


def main(arguments: list[str]) -> int:
    """Run the stages and print the table; returns 0 if all stages succeeded."""
    parser = argparse.ArgumentParser(prog="python -m jaxseg.bench --gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--minutes", type=float, default=8.0, help="time limit; stages that run longer are stopped")
    parser.add_argument("--lanes", type=int, default=4, help="number of stages that run at the same time")
    parser.add_argument("--only", default="", help="only stages whose names start with one of these, in this order")
    parser.add_argument("--quick", action="store_true", help="use tiny sizes, to test that everything runs")
    options = parser.parse_args(arguments)
    options.output = options.output.resolve()
    options.output.mkdir(parents=True, exist_ok=True)
    wanted = tuple(filter(None, options.only.split(","))) or ("",)
    gpu, about = bool(machine.accelerator()), machine.describe()
    table = ResultsFile(options.output / "bench.csv", about)
    results = options.output / "results.jsonl"
    if results.exists() and not results.read_bytes().endswith(b"\n"):  # a process was killed while it wrote
        results.open("a").write("\n")
    done = {line["ended"] for line in read(options.output) if "ended" in line and line["code"] == 0}
    chosen = {s.name: s for start in wanted for s in STAGES if s.name.startswith(start)}  # in the order of --only
    waiting = [s for s in chosen.values() if s.name not in done and (gpu or not s.gpu)]
    if not waiting and not done:
        raise ConfigError(f"got --only={options.only}; the stages are {', '.join(s.name for s in STAGES)}")
    failed = run(waiting, options)
    print(markdown(table.latest(), about))
    print(
        f"{len(waiting) - len(failed)} of {len(waiting)} stages succeeded" + (f"; failed: {', '.join(failed)}" if failed else "")
    )
    return 1 if failed else 0


def run(waiting: list[TimedCommand], options: argparse.Namespace) -> list[str]:
    """Run the stages in lanes; returns the names of those that failed or did not start."""
    begin, running, failed = time.monotonic(), [], []
    waiting = list(waiting)
    with tempfile.TemporaryDirectory() as folder, open(options.output / "log", "a") as log:
        try:
            while waiting or running:
                late = time.monotonic() - begin > 60 * options.minutes
                while waiting and not late and len(running) < options.lanes:
                    running.append(_start(waiting.pop(0), options, Path(folder), log))
                for one in list(running):
                    code = one.process.poll()
                    if code is None and (late or time.monotonic() > one.until):
                        _end(one)
                        code = 124
                    if code is not None:
                        running.remove(one)
                        one.mark.unlink()
                        seconds = round(time.monotonic() - one.until + one.stage.limit, 1)
                        append(options.output, {"ended": one.stage.name, "code": code, "seconds": seconds})
                        print(
                            f"{time.monotonic() - begin:6.0f} s  {one.stage.name}: "
                            f"{'done' if code == 0 else f'FAILED ({code})'} in {seconds} s",
                            flush=True,
                        )
                        failed += [one.stage.name] if code else []
                if late and waiting:
                    failed += [s.name for s in waiting]
                    waiting.clear()
                time.sleep(0.05)
        finally:
            for one in running:
                _end(one)
    return failed


def read(output: Path) -> list[dict]:
    """The lines of results.jsonl; incomplete lines of killed processes are skipped."""
    path, found = output / "results.jsonl", []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def append(output: Path, line: dict) -> None:
    """Append a line to results.jsonl by a single write, so that several processes can do so."""
    with open(output / "results.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")


def _start(stage: TimedCommand, options: argparse.Namespace, folder: Path, log) -> Running:
    results = str(options.output / "results.jsonl")
    command = [sys.executable, *stage.command]
    if "pytest" not in command:
        command += ["--results", results] + (["--quick"] if options.quick else [])
    if stage.command[1] == "jaxseg.bench":
        command += ["--output", str(options.output)]
    env = {
        "PYTHONUNBUFFERED": "1",
        "TF_CPP_MIN_LOG_LEVEL": "1",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_COMPILATION_CACHE_DIR": str(options.output / "cache"),
        **os.environ,
        lanes.FOLDER: str(folder),
        **stage.env,
    }
    print(f"== {stage.name}: {' '.join(command)}", file=log, flush=True)
    process = subprocess.Popen(command, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
    return Running(stage, process, time.monotonic() + stage.limit, lanes.join(folder, process.pid))


def _end(one: Running) -> None:
    """Kill a stage with all its processes, including stopped ones."""
    for number in (signal.SIGCONT, signal.SIGKILL):
        try:
            os.killpg(one.process.pid, number)
        except ProcessLookupError:
            break
    one.process.wait()
