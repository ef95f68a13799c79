"""Seconds from the command to the end of the first training step, in a new process each time, cold and warm.

Cold: no compilation cache. Warm: with the cache that the cold run has written. jaxseg's process builds a network and runs
`train.step` on one batch; the peer does the same in eager PyTorch.

The case "commands" is what a user types: the main job until its first step, and a prediction of one slice by that run, each cold
and again with the programs that were kept; the phantom is prepared before that.
"""

import contextlib
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxseg.bench import pair
from jaxseg.bench.side import Options
from jaxseg.bench.table import Row
from jaxseg.train.processes.interrupt import PREEMPTED

COMMANDS = "commands"
CASES = ("segnext_t_ich", COMMANDS)
PLACES = ("JAX_COMPILATION_CACHE_DIR", "JAXSEG_CACHE", "JAXSEG_KEEP_PROGRAMS")  # variables that would warm a cold start
RUNS = 3  # of each kind, in turn; medians
LEAST = 1200.0  # seconds for the commands: two minutes a round on two cores


def rows(name: str, options: Options, *, limit: float, log) -> Iterator[Row]:
    """The rows: a cold and a warm start."""
    edge, until = 64 if options.quick else 256, time.monotonic() + limit
    if name == COMMANDS:
        yield from _of_commands(edge, options, max(until, time.monotonic() + LEAST), log)
        return
    found: dict[str, list[dict]] = {"cold": [], "warm": [], "peer": []}
    notes: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="jaxseg-bench-") as folder:
        for i in range(1 if options.quick else RUNS):
            for kind in ("cold", "warm", "peer") if options.peers else ("cold", "warm"):
                try:
                    cache = f"{folder}/{i}" if kind != "peer" else ""
                    found[kind].append(_run(name, "peer" if kind == "peer" else "ours", edge, cache, options, until, log))
                except (subprocess.SubprocessError, ValueError) as error:
                    notes[kind] = f"{kind}: {type(error).__name__}"
    for kind in ("cold", "warm"):
        peer_parameters = None
        row = Row("startup", name, f"first step, {kind}", size=f"2x{edge}x{edge}x1", unit="s")
        if found[kind]:
            middle = sorted(found[kind], key=lambda f: f["seconds"])[len(found[kind]) // 2]
            row.ours, row.runs, row.parameters, row.compile_s = (
                middle["seconds"],
                len(found[kind]),
                middle["parameters"],
                middle["compile_s"],
            )
            row.note = f"{middle['compilations']} programs compiled"
        if found["peer"]:
            middle = sorted(found["peer"], key=lambda f: f["seconds"])[len(found["peer"]) // 2]
            row.peer, row.peer_value = "PyTorch port, eager", middle["seconds"]
            peer_parameters = middle["parameters"]
        row.note = "; ".join(filter(None, (row.note, notes.get(kind), notes.get("peer"))))
        yield row.with_ratio(None, peer_parameters)


def _run(name: str, which: str, edge: int, cache: str, options: Options, until: float, log) -> dict:
    """Run one process; returns its report, with the seconds that the parent measured."""
    env = pair.environment(options.gpu)
    if cache:
        env |= {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    start = time.time()
    report = pair.report("startup", [name, which, edge, bool(options.gpu)], env, until, log)
    return {**report, "seconds": report["done"] - start}


def _of_commands(edge: int, options: Options, until: float, log) -> Iterator[Row]:
    """The rows of what a user types."""
    found: dict[str, list[float]] = {
        work: [] for work in ("first step, cold", "first step, kept", "one slice predicted, cold", "one slice predicted, kept")
    }
    note = ""
    with tempfile.TemporaryDirectory(prefix="jaxseg-bench-") as folder:
        try:
            for work, seconds in _commands(Path(folder), edge, options, until, log):
                found[work].append(seconds)
        except (subprocess.SubprocessError, ValueError) as error:
            note = " ".join(str(error).split())[-200:].replace(folder, "")
    for work, seconds in found.items():
        size = f"2x{edge}x{edge}x1" if work.startswith("first") else f"{edge}x{edge}"
        row = Row("startup", COMMANDS, work, size=size, unit="s", runs=len(seconds), note=note)
        row.ours = statistics.median(seconds) if seconds else None
        yield row


def _commands(folder: Path, edge: int, options: Options, until: float, log) -> Iterator[tuple[str, float]]:
    """Run the commands in turn; yields what was timed, and its seconds."""
    cache, run, scan = folder / "cache", folder / "run", folder / "slice.nii.gz"
    env = {k: v for k, v in pair.environment(options.gpu).items() if k not in PLACES} | {"JAXSEG_CACHE": str(cache)}
    main = [sys.executable, "-m", "jaxseg.main"]
    keys = (f"data.size=({edge},{edge})", "train.batch_size=2", "train.log_every=1")
    train = [f"--config=configs/ich_segnext.py{':quick' * options.quick}", *(f"--config.{key}" for key in keys), "--json"]
    predict = ["--mode=predict", f"--config=jaxseg/recorded.py:{run}", f"--workdir={run}", f"--input={scan}", "--json"]

    def until_event(event: str, arguments: list[str], ends: Callable[[subprocess.Popen], None], codes: tuple[int, ...]) -> float:
        """Run a command until it reports an event, then end it; returns the seconds until then."""
        begin = time.time()
        process = subprocess.Popen([*main, *arguments], env=env, stdout=subprocess.PIPE, stderr=log, text=True)
        with contextlib.closing(process.stdout):
            last = ""
            for last in process.stdout:
                if json.loads(last)["event"] == event:
                    break
            seconds = time.time() - begin
            ends(process)
            process.communicate(timeout=max(1.0, until - time.monotonic()))
        if process.returncode not in codes:
            raise ValueError(f"{' '.join(arguments)}: code {process.returncode}; {last}")
        return seconds

    _write_slice(scan, edge)
    # prepares the phantom:
    until_event(
        "start", [*train, f"--workdir={folder / 'none'}"], subprocess.Popen.kill, (-signal.SIGKILL,)
    )  # prepares the phantom
    for _ in range(1 if options.quick else RUNS):
        for kept in ("xla", "programs"):
            shutil.rmtree(cache / kept, ignore_errors=True)
        shutil.rmtree(run, ignore_errors=True)
        stop = (PREEMPTED, 0)  # the quick form may be done before it hears of it
        yield "first step, cold", until_event("step", [*train, f"--workdir={run}"], subprocess.Popen.terminate, stop)
        again = [*train, f"--workdir={folder / 'again'}"]
        yield "first step, kept", until_event("step", again, subprocess.Popen.kill, (-signal.SIGKILL,))
        for state in ("cold", "kept"):
            output = folder / "labels"
            arguments = [*predict, f"--output={output}"]
            yield f"one slice predicted, {state}", until_event("end", arguments, lambda process: None, (0,))
            shutil.rmtree(output)
        shutil.rmtree(folder / "again", ignore_errors=True)


def _write_slice(path: Path, edge: int) -> None:
    """A slice of a CT with a bright disc in soft tissue, in HU."""
    import nibabel
    import numpy as np

    place = np.stack(np.meshgrid(*[np.arange(edge) - edge / 2] * 2, [0], indexing="ij"))
    values = np.where(np.sqrt((place**2).sum(0)) < edge / 8, 70, 30).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([0.5, 0.5, 5.0, 1.0])), path)


def ours(name: str, edge: int, gpu: bool) -> dict:
    """Build the network and the step, run one step, and count the programs that XLA compiled."""
    import jax

    from jaxseg.bench.suites.models import arrays, training
    from jaxseg.models import create_model, functional

    seconds: list[float] = []
    hits: list[str] = []

    def count(event: str, duration: float, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seconds.append(duration)

    jax.monitoring.register_event_duration_secs_listener(count)
    jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if event.endswith("cache_hits") else None)
    network, params, state = functional.split(create_model(name))
    image, mask = arrays((2, edge, edge, 1), 1)
    step, held, batch = training(network, params, state, image, mask, 1, "bfloat16" if gpu else "float32")
    compiled = step.lower(held, batch, whole=False).compile()  # as a run does
    held, metrics = compiled(held, batch)
    float(metrics["loss"])
    return {
        "done": time.time(),
        "compile_s": sum(seconds),
        "compilations": len(seconds) - len(hits),
        "parameters": sum(p.size for p in params.values()),
    }


def peer(name: str, edge: int, gpu: bool) -> dict:
    """The same in PyTorch."""
    import torch

    from jaxseg.bench import peers
    from jaxseg.bench.ports.segnext import Ich
    from jaxseg.bench.suites.models import arrays

    peers.threads()
    device = "cuda" if gpu else "cpu"
    module = Ich((32, 64, 160, 256), (3, 3, 5, 2), ham=512, width=256, bases=64, dropout=0.0)
    module = module.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, fused=True)
    image, mask = arrays((2, edge, edge, 1), 1)
    x = torch.from_numpy(image).movedim(-1, 1).to(device, memory_format=torch.channels_last)
    with torch.autocast("cuda", torch.bfloat16, enabled=gpu):
        target = torch.from_numpy(mask)[:, None].float().to(device)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(module(x).float(), target)
    loss.backward()
    optimizer.step()
    float(loss.detach())
    return {"done": time.time(), "parameters": sum(p.numel() for p in module.parameters())}


if __name__ == "__main__":
    _, _name, _which, _edge, _gpu = sys.argv
    print(json.dumps({"ours": ours, "peer": peer}[_which](_name, int(_edge), bool(int(_gpu)))))
