"""Measure a network on this device, at batch size 1 and the config's image size: memory of training and inference, and latency.

Memory is XLA's estimate for the compiled pass: temporaries, arguments and outputs, minus aliased buffers. It includes weights
and gradients, as PyTorch's peak of allocated bytes does. The training pass is forward and backward of the sum of the logits.
Latency is that of inference, with new random input in every repetition. Memory by stage: `stages`.
"""

import functools
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.experiments import stages
from jaxseg.models import functional
from jaxseg.models.base import Segmenter
from jaxseg.models.functional import ForwardContext
from jaxseg.planning.budget import Cost, Device
from jaxseg.train import feed as feeds
from jaxseg.train import mesh as meshes
from jaxseg.train import setup
from jaxseg.train import state as states
from jaxseg.types import ConfigError

WARM_UP = {"cpu": 3}  # runs before those that are timed, by platform; 10 elsewhere
RUNS = {"cpu": 20}  # timed runs by platform; 100 elsewhere
CPU_MINUTES = 10.0  # of training that is planned for a CPU
STEPS = 4  # timed training steps, the first of which does not count
FEW = 100  # runs below which no 99th percentile is given


def of_network(model: Segmenter, shape: Sequence[int], dtype: str) -> dict[str, Any]:
    """Measure memory in bytes (pam_train, pam_inference) and latency in ms (mean, median, 95th and 99th percentile).

    Args:
      model: a network with values.
      shape: [B, *S, C] of the input.
      dtype: compute dtype.
    Returns:
      The measurements, and the device on which they were made; "stages": {"train" or "inference": {stage: bytes}}.
    """
    dtype = jnp.dtype(dtype)
    training, compiled, params, state = _compiled(model, shape, dtype)
    random = np.random.default_rng(42)
    draw = lambda: jnp.asarray(random.normal(size=shape), dtype)
    device = jax.devices()[0]
    runs = RUNS.get(device.platform, FEW)
    seconds = []
    warm_up = WARM_UP.get(device.platform, 10)
    for i in range(warm_up + runs):
        image = jax.block_until_ready(draw())
        begin = time.perf_counter()
        jax.block_until_ready(compiled(params, state, image))
        if i >= warm_up:
            seconds.append(time.perf_counter() - begin)
    ms = 1000 * np.array(seconds)
    return {
        "pam_train": _bytes(training),
        "pam_inference": _bytes(compiled),
        "inference_latency_ms": float(ms.mean()),
        "latency_median_ms": float(np.median(ms)),
        "latency_p95_ms": float(np.quantile(ms, 0.95)),
        "latency_p99_ms": float(np.quantile(ms, 0.99)) if runs >= FEW else "",
        "runs": runs,
        "stages": {"train": stages.memory(training), "inference": stages.memory(compiled)},
        "device_peak": (device.memory_stats() or {}).get("peak_bytes_in_use", "") if device.platform != "cpu" else "",
        "device": f"{device.platform} ({device.device_kind})",
        "dtype": str(dtype),
        "shape": list(shape),
    }


def memory(model: Segmenter, shape: Sequence[int], dtype: str) -> tuple[int, int]:
    """Memory in bytes of training and of inference for an input of this shape [B, *S, C]."""
    training, compiled, _, _ = _compiled(model, shape, jnp.dtype(dtype))
    return _bytes(training), _bytes(compiled)


def _compiled(model: Segmenter, shape: Sequence[int], dtype: jnp.dtype):
    """(training pass, inference pass, params, state), the passes compiled."""
    network, params, state = functional.split(model)
    named = stages.taps(model)

    def infer(params, state, image):
        return network.apply(params, state, image, ForwardContext(taps=named))[0].logits

    def train(params, state, image, key):
        def total(params):
            outputs, _ = network.apply(params, state, image, ForwardContext(train=True, key=key, taps=named))
            return outputs.logits.sum() + sum(aux.sum() for aux in outputs.aux)

        return jax.grad(total)(params)

    image = jax.ShapeDtypeStruct(tuple(shape), dtype)
    training = jax.jit(train).lower(params, state, image, jax.random.key(0)).compile()
    return training, jax.jit(infer).lower(params, state, image).compile(), params, state


def device(config) -> Device:
    """Return the machine that a plan is made for: this one, unless config.plan.memory_gb is that of another.

    Raises:
      ConfigError: minutes can be measured on this machine alone.
    """
    here, elsewhere = jax.devices()[0], config.plan.memory_gb is not None
    if config.plan.rules == "nnunet":
        if config.plan.minutes:
            raise ConfigError(
                f"config.plan.minutes={config.plan.minutes:g}: config.plan.rules='nnunet' plans nnU-Net's 1000 epochs; leave one "
                "of them out"
            )
        return Device("nnU-Net's own", False, 0.0, None, training_step)
    if elsewhere and config.plan.minutes:
        raise ConfigError(
            f"config.plan.minutes={config.plan.minutes:g}: is measured on this machine, but config.plan.memory_gb is for another "
            "one; leave one of them out"
        )
    cpu, minutes = here.platform == "cpu", config.plan.minutes
    if minutes is None:
        minutes = CPU_MINUTES if cpu and not elsewhere else 0.0
    memory = None if cpu or elsewhere else (here.memory_stats() or {}).get("bytes_limit")
    cost = functools.partial(training_step, limit=memory)
    return Device(f"{here.platform} ({here.device_kind})", cpu, minutes, memory, cost)


def training_step(config, labels: tuple[str, ...], regions: tuple = (), *, limit: int | None = None) -> Cost:
    """Compile the training step of a config, the program that training runs on one device, and time it on random images.

    Args:
      config: a resolved tree.
      labels, regions: of the data set.
      limit: bytes of memory above which the step is not run.
    Returns:
      The cost; its `step` is nan if it was not run.
    """
    outputs = feeds.outputs_of(config, labels, regions)
    recipe = setup.recipe_from(config, labels=labels, modalities=())
    mesh, begin = meshes.make(1, config.mesh.space), time.perf_counter()
    network, params, net_state = functional.split(setup.build_model(config, outputs.num_classes))
    balance = setup.balance_of(config)
    optimizer = setup.build_optimizer(config, params, balance)
    schedule, _ = setup.build_schedule(config, 1000)
    step, _ = setup.build_step(config, network, setup.build_loss(config), optimizer, schedule, outputs, mesh, recipe)
    state = states.create(params, net_state, optimizer, ema=config.optim.ema > 0, balance=balance)
    state = states.storage(network, optimizer, None).place(state, mesh)
    shape, random = (config.train.batch_size * config.optim.accumulate, *setup.input_shape(config)[1:]), np.random.default_rng(0)
    image = random.integers(0, 256, shape).astype(np.uint8) if recipe.intensity == "grey" else random.normal(size=shape)
    image = image if image.dtype == np.uint8 else image.astype(np.float32)
    mask = random.integers(0, len(labels) + 1, shape[:-1]).astype(np.uint8 if len(labels) < 256 else np.uint16)
    batch = meshes.put({"image": image, "mask": mask, "index": np.arange(shape[0])}, mesh)
    compiled = step.lower(state, batch).compile()
    compilation, memory, seconds = time.perf_counter() - begin, _bytes(compiled), []
    for _ in range(STEPS if limit is None or memory < limit else 0):
        begin = time.perf_counter()
        state, figures = compiled(state, batch)
        jax.block_until_ready(figures)
        seconds.append(time.perf_counter() - begin)
    return Cost(compilation, float(np.median(seconds[1:])) if seconds else float("nan"), memory)


def _bytes(compiled) -> int:
    plan = compiled.memory_analysis()
    return int(plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes)
