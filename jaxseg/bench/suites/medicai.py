"""Comparison with medicai (Keras 3 with the JAX backend), another library that trains these networks with JAX: forward pass and
training step as its users run them (`predict_on_batch`, `train_on_batch`), with each library's own initial values and dropout.

medicai pins versions of its packages, so that it needs a separate environment:

    python -m venv /tmp/medicai && /tmp/medicai/bin/pip install medicai==0.0.4 keras jax==0.10.2
    JAXSEG_MEDICAI=/tmp/medicai/bin/python python -m jaxseg.bench --suite=medicai --peers

Numbers of parameters differ slightly (the note has both), so that results are not compared. The compilation columns have the
seconds until the end of the first step.
"""

import os
import time
from collections.abc import Callable
from typing import NamedTuple

from jaxseg.bench import machine
from jaxseg.bench.side import Options, TimedCall
from jaxseg.types import ConfigError

INTERPRETER = "JAXSEG_MEDICAI"  # environment variable: the Python of an environment with medicai


class MedicaiCase(NamedTuple):
    """Input shape [B, *S, C], number of classes, and medicai's class with its encoder."""

    shape: tuple[int, ...]
    quick: tuple[int, ...]
    classes: int
    network: str
    encoder: str


CASES = {
    "segformer_b0": MedicaiCase((2, 256, 256, 3), (1, 64, 64, 3), 1, "SegFormer", "mit_b0"),
    "swin_unetr": MedicaiCase((1, 64, 64, 64, 4), (1, 64, 64, 64, 4), 4, "SwinUNETR", "swin_tiny"),
}


def interpreter() -> str:
    """The Python interpreter for medicai.

    Raises:
      ConfigError: the environment variable is not set.
    """
    if not os.environ.get(INTERPRETER):
        raise ConfigError(
            f"got no {INTERPRETER}; set it to the Python of an environment with medicai (jaxseg/bench/suites/medicai.py)"
        )
    return os.environ[INTERPRETER]


def works(name: str, options: Options) -> dict[str, dict]:
    """Forward pass and training step."""
    return {work: {"size": "x".join(map(str, _shape(name, options)))} for work in ("forward", "train step")}


def _shape(name: str, options: Options) -> tuple[int, ...]:
    return CASES[name].quick if options.quick else CASES[name].shape


def ours(name: str, options: Options) -> dict[str, Callable[[], TimedCall]]:
    """jaxseg's `Network.apply` under jit and `train.step`, in float32."""
    import math

    import jax
    import jax.numpy as jnp

    from jaxseg.bench.suites import models
    from jaxseg.models import create_model, functional

    classes, shape = CASES[name].classes, _shape(name, options)
    network, params, state = functional.split(create_model(name, in_channels=shape[-1], num_classes=classes))
    image, mask = map(jnp.asarray, models.arrays(shape, classes))
    count = sum(math.prod(p.shape) for p in params.values())
    facts, peak = {"note": f"{count:,} parameters"}, machine.Peak(options.gpu, compiles=True)
    logits = lambda params, state, image: network.apply(params, state, image)[0].logits
    return {
        "forward": lambda: models.compiled(jax.jit(logits), (params, state, image), peak, facts),
        "train step": lambda: models.step_call(network, params, state, image, mask, classes, "float32", peak, facts),
    }


def peer(name: str, options: Options) -> dict[str, Callable[[], TimedCall]]:
    """medicai's network and training step, in this process's environment."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras
    import medicai.models
    import numpy as np

    from jaxseg.bench.suites.models import arrays

    case, shape = CASES[name], _shape(name, options)
    image, mask = arrays(shape, case.classes)
    target = mask[..., None] if case.classes == 1 else np.eye(case.classes)[mask]
    model = getattr(medicai.models, case.network)(
        encoder_name=case.encoder,
        input_shape=shape[1:],
        num_classes=case.classes,
        classifier_activation="sigmoid" if case.classes == 1 else "softmax",
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(1e-4), loss="binary_crossentropy" if case.classes == 1 else "categorical_crossentropy"
    )
    target = target.astype(np.float32)
    facts = {"mode": "medicai, Keras 3 on JAX", "note": f"{model.count_params():,} parameters"}

    def ready(run: Callable) -> TimedCall:
        begin = time.perf_counter()
        run()  # both return numpy arrays, so that there is nothing to wait for
        return TimedCall(run, lambda result: None, {**facts, "compile_s": time.perf_counter() - begin})

    return {
        "forward": lambda: ready(lambda: model.predict_on_batch(image)),
        "train step": lambda: ready(lambda: model.train_on_batch(image, target)),
    }
