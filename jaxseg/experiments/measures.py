"""Measure a network on this device, at batch size 1 and the config's image size: memory of training and inference, and latency.

Memory is XLA's estimate for the compiled pass: temporaries, arguments and outputs, minus aliased buffers. It includes weights
and gradients, as PyTorch's peak of allocated bytes does. The training pass is forward and backward of the sum of the logits.
Latency is that of inference, with new random input in every repetition.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.models import functional
from jaxseg.models.functional import ForwardContext
from jaxseg.ops.precision import compute_dtype
from jaxseg.train import setup

WARM_UP = 3
RUNS = {"cpu": 20}  # timed runs by platform; 100 elsewhere
FEW = 100  # runs below which no 99th percentile is given


def measure(config, num_classes: int) -> dict[str, Any]:
    """Measure memory in bytes (pam_train, pam_inference) and latency in ms (mean, median, 95th and 99th percentile).

    Args:
      config: a resolved tree; its network, size and dtype are used.
      num_classes: number of logits.
    Returns:
      The measurements, and the device on which they were made.
    """
    network, params, state = functional.split(setup.build_model(config, num_classes))
    dtype = jnp.dtype(compute_dtype(config.train.dtype))
    shape = setup.input_shape(config)

    def infer(params, state, image):
        return network.apply(params, state, image, ForwardContext())[0].logits

    def train(params, state, image, key):
        def total(params):
            outputs, _ = network.apply(params, state, image, ForwardContext(train=True, key=key))
            return outputs.logits.sum() + sum(aux.sum() for aux in outputs.aux)

        return jax.grad(total)(params)

    random = np.random.default_rng(42)
    draw = lambda: jnp.asarray(random.normal(size=shape), dtype)
    image = draw()
    compiled = jax.jit(infer).lower(params, state, image).compile()
    training = jax.jit(train).lower(params, state, image, jax.random.key(0)).compile()
    device = jax.devices()[0]
    runs = RUNS.get(device.platform, FEW)
    seconds = []
    for i in range(WARM_UP + runs):
        image = jax.block_until_ready(draw())
        begin = time.perf_counter()
        jax.block_until_ready(compiled(params, state, image))
        if i >= WARM_UP:
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
        "device": f"{device.platform} ({device.device_kind})",
        "dtype": str(dtype),
        "shape": list(shape),
    }


def _bytes(compiled) -> int:
    plan = compiled.memory_analysis()
    return int(plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes)
