"""What each of many devices holds and exchanges in a training step: compiled for fake devices, not run.

One example a device (AdamW, cross-entropy, no augmentation), each number of devices in a new process, whose CPU poses as so many.
Memory is XLA's figure for its CPU kernels: arguments, results and scratch of one device. What is exchanged is read from the
compiled program: the bytes that a device has after each all-reduce and all-gather. Of N devices in a ring a device sends
2 (N - 1) / N of the bytes of an all-reduce, and (N - 1) / N of those of an all-gather.
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

from jaxseg.bench import collectives, pair
from jaxseg.bench.side import Options
from jaxseg.bench.table import Row

CASES = ("unet3d_test", "segformer_b0")
SIZES = {"unet3d_test": (16, 16, 16, 4), "segformer_b0": (128, 128, 3)}  # of an example
COUNTS = (1, 8, 64, 256)
FLAG = "--xla_force_host_platform_device_count"
UNOPTIMISED = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"  # of machine code, which never runs


def rows(name: str, options: Options, *, limit: float, log) -> Iterator[Row]:
    """The rows: for each number of devices the memory of one and what it exchanges, with copied and with shared state."""
    size, until = "x".join(map(str, SIZES[name])), time.monotonic() + limit
    for count in (1, 2) if options.quick else COUNTS:
        for shared in (False, True) if count > 1 else (False,):
            work = f"{count} device{'s' * (count > 1)}{', shared state' * shared}"
            held, moved = (
                Row("devices", name, f"{work}: {what}", size=size, unit="MiB") for what in ("memory of each", "exchanged by each")
            )
            try:
                found = _run(name, count, shared, until, log)
            except (subprocess.SubprocessError, ValueError) as error:
                held.note = moved.note = type(error).__name__
            else:
                held.ours, held.note = found["memory"] / 2**20, f"scratch {found['scratch'] / 2**20:.2f} MiB"
                held.parameters, held.compile_s = found["parameters"], found["compile_s"]
                moved.ours = sum(total for _, total in found["exchanges"].values()) / 2**20
                kinds = sorted(found["exchanges"].items())
                moved.note = ", ".join(f"{n} {kind}: {total / 2**20:.3g} MiB" for kind, (n, total) in kinds) or "nothing"
            yield held
            yield moved


def _run(name: str, count: int, shared: bool, until: float, log) -> dict:
    env = pair.environment(False) | {"JAX_PLATFORMS": "cpu"}
    env["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {UNOPTIMISED} {FLAG}={count}".strip()
    return pair.report("devices", [name, count, shared], env, until, log)


def compiled(name: str, count: int, shared: bool) -> dict:
    """Compile the step of a network for so many devices, from shapes alone; returns its figures, in bytes."""
    import jax
    import jax.numpy as jnp

    from jaxseg.augment import compose as augmentations
    from jaxseg.losses import compose as losses
    from jaxseg.models import create_model, functional
    from jaxseg.optim import build as optimizers
    from jaxseg.train import mesh as meshes
    from jaxseg.train import state as states
    from jaxseg.train import step as steps

    shape = SIZES[name]
    model = create_model(name, in_channels=shape[-1], num_classes=4, rank=len(shape) - 1)
    network, params, state = functional.split(model)
    mesh = meshes.make(count)
    rule = optimizers.build(params, name="adamw", weight_decay=1e-2, multiple=count if shared else 1)
    step = steps.build(
        network,
        losses.build((("cross_entropy", 1.0),)),
        rule,
        lambda n: 1.0,
        augmentations.build((), rank=len(shape) - 1),
        mesh,
        lr=1e-3,
        shard_state=shared,
    )
    storage = states.storage(network, rule, mesh if shared else None)
    batch = {
        key: jax.ShapeDtypeStruct((count, *sizes), dtype, sharding=meshes.batched(mesh))
        for key, sizes, dtype in (("image", shape, jnp.float32), ("mask", shape[:-1], jnp.int32), ("index", (), jnp.int32))
    }
    begin = time.perf_counter()
    held = storage.shapes(states.create(params, state, rule, ema=False), mesh)
    program = step.lower(held, batch).compile().program
    plan, found = program.memory_analysis(), Counter()
    for exchange in collectives.of(program):
        found[exchange.kind] += exchange.bytes
    kinds = Counter(exchange.kind for exchange in collectives.of(program))
    return {
        "memory": plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes,
        "scratch": plan.temp_size_in_bytes,
        "exchanges": {kind: [kinds[kind], size] for kind, size in found.items()},
        "parameters": sum(p.size for p in params.values()),
        "compile_s": time.perf_counter() - begin,
    }


if __name__ == "__main__":
    print(json.dumps(compiled(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1")))
