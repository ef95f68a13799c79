"""The training step of every family lowers for a TPU on a machine that has none, without the CPU's loops."""

import jax
import numpy as np
import pytest

from jaxseg.bench.suites.models import training
from jaxseg.layers import ForwardContext
from tests.models.test_zoo import ONE, build

QUICK = ("unet2d_test", 2)


@pytest.mark.parametrize("name, rank", [QUICK, *(pytest.param(*c, marks=pytest.mark.full) for c in ONE if c != QUICK)])
def test_the_training_step_of_every_family_lowers_for_a_tpu(name, rank):
    network, params, state, image, classes = build(name, rank)
    mask = np.zeros(image.shape[:-1], np.int32)
    trained = lambda: network.apply(params, state, image, ForwardContext(train=True, key=jax.random.key(0)))[0]
    aux = (1.0,) * len(jax.eval_shape(trained).aux)
    step, held, batch = training(network, params, state, image, mask, classes, "bfloat16", aux)
    own = (*step._own, *jax.eval_shape(step._derive, held, batch))
    exported = jax.export.export(step.program, platforms=["tpu"])(held, batch, *own)
    assert exported.platforms == ("tpu",)
    text = exported.mlir_module()
    assert "cpu" not in {word for line in text.splitlines() if "custom_call" in line for word in line.lower().split("_")}
