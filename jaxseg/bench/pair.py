"""A pair of processes, jaxseg's and a peer's, that are timed alternately and whose results are compared: one row per task."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.bench import clock, machine
from jaxseg.bench.gpu import lanes
from jaxseg.bench.side import Options
from jaxseg.bench.suites import medicai
from jaxseg.bench.table import Row
from jaxseg.types import ConfigError
from jaxseg.utils.process import convolve_channels_last


class SideFailed(RuntimeError):
    """One side ended, hung or reported an error; the message becomes the row's note."""


class Process:
    """One side in its own process. The process and its children are stopped while they are not asked, because work in the
    background (such as workers that read ahead) would disturb the timing of the other side."""

    def __init__(self, suite: str, name: str, which: str, options: Options, until: float, log):
        self.which, self._until = which, until
        try:
            python = medicai.interpreter() if (suite, which) == ("medicai", "peer") else sys.executable
        except ConfigError as error:
            raise SideFailed(f"{which}: {error}") from error
        command = [python, "-m", "jaxseg.bench.side", suite, name, which, json.dumps(options._asdict())]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            bufsize=1,
            env=environment(options.gpu),
            process_group=0,
        )

    def ask(self, **request) -> dict:
        self._signal(signal.SIGCONT)
        try:
            return self._answer(request)
        finally:
            self._signal(signal.SIGSTOP)

    def _signal(self, number: int) -> None:
        """Send a signal to the process and its children. (If this process dies, the system ends a stopped process group.)"""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _answer(self, request: dict) -> dict:
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
        except OSError as error:
            raise SideFailed(f"{self.which}: process ended with code {self._process.wait()}") from error
        ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, self._until - time.monotonic()))
        if not ready:
            raise SideFailed(f"{self.which}: out of time")
        line = self._process.stdout.readline()
        if not line:
            raise SideFailed(f"{self.which}: process ended with code {self._process.wait()}")
        answer = json.loads(line)
        if "failure" in answer:
            raise SideFailed(f"{self.which}: {answer['failure']}")
        return answer

    def close(self) -> None:
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


def report(suite: str, arguments: Sequence[Any], env: Mapping[str, str], until: float, log) -> dict:
    """Run a suite's module as a program; returns the JSON of the last line that it prints.

    Args:
      suite: name of the module in `bench/suites`.
      arguments: of the program; bool as 0 or 1.
      env: its environment.
      until: `time.monotonic()` at which it is ended.
      log: file for its standard error.
    Raises:
      subprocess.SubprocessError: it failed, or was not done in time.
      ValueError: the line is no JSON.
    """
    words = [str(int(word)) if isinstance(word, bool) else str(word) for word in arguments]
    done = subprocess.run(
        [sys.executable, "-m", f"jaxseg.bench.suites.{suite}", *words],
        env=env,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        timeout=max(1.0, until - time.monotonic()),
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def environment(gpu: bool) -> dict[str, str]:
    """The environment of both sides: as many threads as cores, huge pages on a CPU, no preallocation of memory on a GPU."""
    threads = str(machine.cores())
    wanted = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    wanted |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if gpu else {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    env = {**wanted, **os.environ}
    convolve_channels_last(env)
    return env


def rows(suite: str, name: str, works: dict[str, dict], options: Options, *, seconds: float, limit: float, log) -> Iterator[Row]:
    """One row for each work of a pair.

    Args:
      suite, name: a suite's module and one of its cases.
      works: {task: {"tolerance": for the results, "unit": of the row, "size": of the task, "bytes": that a call must move}}.
      seconds: seconds of timing for each task.
      limit: time limit in seconds for the whole pair.
      log: file for the output of the processes.
    Yields:
      A Row for each task; errors are in its note, and the other side's figure is kept.
    """
    until = time.monotonic() + limit
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="jaxseg-bench-"))
        options = options._replace(folder=folder)
        start = lambda which: stack.enter_context(contextlib.closing(Process(suite, name, which, options, until, log)))
        sides: dict[str, Process] = {}
        for work, about in works.items():
            facts, notes = {}, []
            for which in ("peer", "ours") if options.peers else ("ours",):  # the peer first, because it saves its weights
                try:
                    sides[which] = sides.get(which) or start(which)
                    facts[which] = sides[which].ask(do="prepare", call=work)
                except SideFailed as error:
                    notes.append(str(error))
                    if "process ended" in str(error) or "out of time" in str(error):
                        sides.pop(which).close()
                    if which == "peer":
                        options = options._replace(peers=False)
            yield _measured(
                sides,
                facts,
                Row(suite, name, work, size=about.get("size", ""), unit=about.get("unit", "ms")),
                notes,
                about,
                seconds,
                Path(folder),
            )
            options = options._replace(peers="peer" in sides)


def _measured(
    sides: dict[str, Process], facts: dict, row: Row, notes: list[str], about: dict, seconds: float, folder: Path
) -> Row:
    timed: dict[str, tuple[float, int]] = {}
    try:
        waiting = {w: _timer(sides[w], row.work) for w, f in facts.items() if "value" not in f}
        with lanes.alone():
            timed = clock.interleaved(waiting, seconds=seconds) if waiting else {}
    except SideFailed as error:
        notes.append(str(error))
    ours, peer = facts.get("ours", {}), facts.get("peer", {})
    timed |= {w: (f["value"], f.get("runs", 1)) for w, f in facts.items() if "value" in f}
    convert = _rate(about["items"]) if "items" in about else lambda ms: ms
    if "ours" in timed:
        row.ours, row.runs = convert(timed["ours"][0]), timed["ours"][1]
        row.parameters, row.xla_mb, row.peak_mb = (ours.get(k) for k in ("parameters", "xla_mb", "peak_mb"))
        row.compile_s = ours.get("compile_s")
        if ours.get("flop") and ours.get("flop_per_s"):
            row.mfu = ours["flop"] / (1e-3 * timed["ours"][0]) / ours["flop_per_s"]
        if "bytes" in about and ours.get("bytes_per_s"):
            notes.append(f"{about['bytes'] / (1e-3 * timed['ours'][0]) / ours['bytes_per_s']:.0%} of a copy's bandwidth")
    if "peer" in timed:
        row.peer_value, row.peer = convert(timed["peer"][0]), peer.get("mode", "")
        row.peer_peak_mb, row.peer_compile_s = peer.get("peak_mb"), peer.get("compile_s")
    if ours and peer:
        row.error = difference(folder, row.work)
    row.note = "; ".join([*notes, *(f"{w}: {f['note']}" for w, f in facts.items() if "note" in f)])
    return row.with_ratio(about.get("tolerance"), peer.get("parameters"))


def _timer(side: Process, work: str) -> Callable[[int], float]:
    return lambda runs: side.ask(do="time", call=work, runs=runs)["ms"]


def _rate(items: float) -> Callable[[float], float]:
    return lambda ms: 1e3 * items / ms


def difference(folder: Path, work: str) -> float | None:
    """Largest difference of the results that both sides left, over the peer's standard deviation (a few numbers: relative)."""
    paths = [folder / f"{work}.{which}.npy" for which in ("ours", "peer")]
    if not all(p.exists() for p in paths):
        return None
    a, b = (np.load(p) for p in paths)
    if a.shape != b.shape:
        return float("inf")
    scale = b.std() if b.size > 16 else np.abs(b).max()
    return float(np.abs(a - b).max() / max(scale, 1e-30))
