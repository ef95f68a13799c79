"""The training step of every family lowers for a TPU on a machine that has none, without the CPU's loops."""

import jax
import numpy as np
import pytest

from jaxseg.bench.suites.models import training
from tests.models.test_zoo import ONE, build

pytestmark = pytest.mark.full  # some 4 s for each family


@pytest.mark.parametrize("name, rank", list(ONE))
def test_the_training_step_of_every_family_lowers_for_a_tpu(name, rank):
    network, params, state, image, shape = build(name, rank)
    mask = np.zeros(shape[:-1], np.int32)
    step, held, batch = training(network, params, state, image, mask, shape[-1], "bfloat16")
    own = (*step._own, *jax.eval_shape(step._derive, held, batch))
    exported = jax.export.export(step.program, platforms=["tpu"])(held, batch, *own)
    assert exported.platforms == ("tpu",)
    text = exported.mlir_module()
    assert "cpu" not in {word for line in text.splitlines() if "custom_call" in line for word in line.lower().split("_")}
