"""Programs of every family, exported for batches of any size, give the network's own logits."""

import jax
import numpy as np
import pytest

pytest.importorskip("flatbuffers", reason="jax.export writes with it: the extra [export]")

from jaxseg.exporting import program  # noqa: E402
from jaxseg.models import create_model, functional  # noqa: E402

FAMILIES = {
    "unet_test": (2, (32, 48)),
    "segformer_test": (2, (64, 96)),
    "segnext_test": (2, (64, 96)),
    "pspnet_test": (2, (64, 96)),
    "effisegnet_test": (2, (64, 96)),
    "unet3d_test": (3, (16, 16, 32)),
    "nnunet_resenc_test": (3, (16, 16, 16)),
    "unetr_test": (3, (32, 32, 32)),
    "dynunet_test": (3, (32, 32, 32)),
    "swin_unetr_test": (3, (64, 64, 64)),
}
SLOW = [pytest.param(name, marks=pytest.mark.full) for name in FAMILIES if name != "unet_test"]


@pytest.mark.parametrize("name", ["unet_test", *SLOW])
def test_a_programs_logits_are_the_networks_for_any_batch(name):
    rank, size = FAMILIES[name]
    network, params, state = functional.split(create_model(name, in_channels=2, num_classes=3, rank=rank))
    inputs = program.Inputs(size, 2, "float32", (0.5, 0.1), (2.0, 1.0))
    binary, batch = program.serialised(network, inputs, 1)
    assert batch is None and b"/jaxseg/" not in binary and b".py" not in binary
    weights = program.arrays_of(network, (params, state))
    assert len(binary) < 0.5 * sum(a.nbytes for a in weights) + 400_000  # none of them is in it
    found = jax.export.deserialize(bytearray(binary))
    for count in (1, 3):
        images = np.random.default_rng(count).normal(size=(count, *size, 2)).astype(np.float32)
        wanted = np.asarray(jax.jit(program.forward(network, inputs))(weights, images))
        np.testing.assert_allclose(found.call(weights, images), wanted, atol=1e-5 * max(1, np.abs(wanted).max()))
