"""What each of many devices holds and exchanges: compiled for fake devices, not run.

A training step on up to 256 devices that share a batch: one example a device (AdamW, cross-entropy, no augmentation), each
number of devices in a new process, whose CPU poses as so many. Memory is XLA's figure for its CPU kernels: arguments, results
and scratch of one device. What is exchanged is read from the compiled program: the bytes that a device has after each
all-reduce and all-gather. Of N devices in a ring a device sends 2 (N - 1) / N of the bytes of an all-reduce, and (N - 1) / N
of those of an all-gather.

A gradient and a prediction of one image whose rows 8 devices share (config.mesh.space), beside one device with XLA's own
operations: the scratch memory of a device, beside parameters, image and results.
"""

import functools
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

SIZES = {"unet3d_test": (16, 16, 16, 4), "segformer_b0": (128, 128, 3)}  # of an example
COUNTS = (1, 8, 64, 256)
# Networks on one image that devices share: its size without channels, options of the network
SHARED = {
    "rows of unet3d_xs": ((64, 64, 64), {}),
    "rows of nnunet_plain": ((64, 64, 64), {"widths": (16, 32, 64, 128)}),
    "rows of unetr_test": ((128, 64, 64), {"image_size": (128, 64, 64)}),
    "rows of segnext_test": ((512, 256), {}),
    "rows of segformer_test": ((512, 256), {}),
}
CASES = (*SIZES, *SHARED)
SPACE = 8  # devices that share an image
FLAG = "--xla_force_host_platform_device_count"
UNOPTIMISED = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"  # of machine code, which never runs


def rows(name: str, options: Options, *, limit: float, log) -> Iterator[Row]:
    """The rows: for each number of devices the memory of one and what it exchanges, with copied and with shared state."""
    if name in SHARED:
        yield from _shared_rows(name, options, limit, log)
        return
    size, until = "x".join(map(str, SIZES[name])), time.monotonic() + limit
    for count in (1, 2) if options.quick else COUNTS:
        for shared in (False, True) if count > 1 else (False,):
            work = f"{count} device{'s' * (count > 1)}{', shared state' * shared}"
            held, moved = (
                Row("devices", name, f"{work}: {what}", size=size, unit="MiB") for what in ("memory of each", "exchanged by each")
            )
            try:
                found = _run(count, [name, count, shared], until, log)
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


def _shared_rows(name: str, options: Options, limit: float, log) -> Iterator[Row]:
    size, until = "x".join(map(str, SHARED[name][0])), time.monotonic() + limit
    for work in ("prediction",) if options.quick else ("gradient", "prediction"):
        for space in (1, SPACE):
            row = Row("devices", name, f"{work}, {space} device{'s' * (space > 1)}: scratch of each", size=size, unit="MiB")
            try:
                found = _run(space, [name, work, space], until, log)
            except (subprocess.SubprocessError, ValueError) as error:
                row.note = type(error).__name__
            else:
                row.ours, row.parameters, row.compile_s = found["scratch"] / 2**20, found["parameters"], found["compile_s"]
                row.note = ", ".join(f"{n} {kind}, largest {most / 2**20:.3g} MiB" for kind, n, most in found["exchanges"])
            yield row


def _run(count: int, arguments: list, until: float, log) -> dict:
    env = pair.environment(False) | {"JAX_PLATFORMS": "cpu"}
    env["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {UNOPTIMISED} {FLAG}={count}".strip()
    return pair.report("devices", arguments, env, until, log)


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


def compiled_for_rows(name: str, work: str, space: int) -> dict:
    """Compile a network's gradient or prediction of one image whose rows `space` devices share; returns figures, in bytes."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    from jaxseg import ops
    from jaxseg.models import create_model, functional
    from jaxseg.models.functional import ForwardContext
    from jaxseg.ops import devices
    from jaxseg.ops import space as by_rows
    from jaxseg.train import mesh as meshes

    size, options = SHARED[name]
    model = create_model(name.removeprefix("rows of "), num_classes=2, **options)
    network, params, state = functional.split(model)

    def loss(params, image, truth):
        outputs, new = network.apply(params, state, image, ForwardContext(train=True, key=jax.random.key(0)))
        return jnp.square(outputs.logits - truth).mean(), new

    def plainly(function, *arguments):
        with ops.plain_lowerings():
            return function(*arguments)

    predict = lambda params, image, truth: network.apply(params, state, image)[0].logits
    function = predict if work == "prediction" else jax.value_and_grad(loss, has_aux=True)
    arrays = [jax.ShapeDtypeStruct((1, *size, channels), jnp.float32) for channels in (model.in_channels, 2)]
    begin = time.perf_counter()
    if space == 1:
        step = jax.jit(functools.partial(plainly, function))
    else:
        mesh = meshes.make(1, space)
        copied, rows = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(devices.AXIS, by_rows.AXIS))
        results = rows if work == "prediction" else copied
        step = jax.jit(devices.over(mesh, function), in_shardings=(copied, rows, rows), out_shardings=results)
    program = step.lower(params, *arrays).compile()
    sizes: dict[str, list[int]] = {}
    for exchange in collectives.of(program):
        sizes.setdefault(exchange.kind, []).append(exchange.bytes)
    return {
        "scratch": program.memory_analysis().temp_size_in_bytes,
        "exchanges": [[kind, len(each), max(each)] for kind, each in sorted(sizes.items())],
        "parameters": sum(p.size for p in params.values()),
        "compile_s": time.perf_counter() - begin,
    }


if __name__ == "__main__":
    name, *given = sys.argv[1:]
    if name in SHARED:
        print(json.dumps(compiled_for_rows(name, given[0], int(given[1]))))
    else:
        print(json.dumps(compiled(name, int(given[0]), given[1] == "1")))
