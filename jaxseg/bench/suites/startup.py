"""Seconds from the command to the end of the first training step, in a new process each time, cold and warm.

Cold: no compilation cache. Warm: with the cache that the cold run has written. jaxseg's process builds a network and runs
`train.step` on one batch; the peer does the same in eager PyTorch. An uncounted run of each comes first, so that the operating
system's file cache is always warm.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from jaxseg.bench import pair
from jaxseg.bench.side import Options
from jaxseg.bench.table import Row

CASES = ("segnext_t_ich",)
RUNS = 3  # of each kind, in turn; medians


def rows(name: str, options: Options, *, limit: float, log) -> Iterator[Row]:
    """The rows: a cold and a warm start."""
    edge, until = 64 if options.quick else 256, time.monotonic() + limit
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
    held, metrics = step(held, batch)
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
