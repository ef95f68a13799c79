"""A network whose batch eight devices share: forward and backward, no activation leaves its device."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxseg.models import create_model, functional, registry
from jaxseg.models.functional import ForwardContext
from jaxseg.ops import devices
from tests import collectives

pytestmark = pytest.mark.usefixtures("unoptimised")  # the law holds whatever XLA makes of the program

# One of each family; unet and segnext have their whole step looked at in train/test_step.py.
SIZES = {
    "unet3d_test": (16, 16, 16),
    "dualbranch_03_unet_test": (32, 32),
    "effisegnet_test": (64, 64),
    "mobile_unetr_test": (64, 64),
    "mobile_unetr_3d_test": (32, 32, 32),
    "nnunet_plain_test": (32, 32, 32),
    "pspnet_test": (64, 64),
    "resunetpp_test": (32, 32),
    "segformer_test": (64, 64),
    "segnext_test": (64, 64),
    "swin_unetr_test": (64, 64, 64),
    "unet2d_test": (32, 32),
    "unet3p_test": (32, 32),
    "unet_test": (32, 32),
    "unetr_test": (32, 32, 32),
}
QUICK = "unet3d_test"


@pytest.mark.parametrize("name", [QUICK, *(pytest.param(n, marks=pytest.mark.full) for n in SIZES if n != QUICK)])
def test_no_activation_moves(name):
    model = create_model(name, num_classes=2)
    network, params, state = functional.split(model)
    mesh = jax.make_mesh((8,), (devices.AXIS,), axis_types=(AxisType.Auto,))
    spread, copied = NamedSharding(mesh, P(devices.AXIS)), NamedSharding(mesh, P())

    def loss(params, image):
        outputs, new = network.apply(params, state, image, ForwardContext(train=True, key=jax.random.key(0)))
        return jnp.square(outputs.logits).mean(), new

    step = jax.jit(
        devices.over(mesh, jax.value_and_grad(loss, has_aux=True)), in_shardings=(copied, spread), out_shardings=copied
    )
    image = jax.ShapeDtypeStruct((8, *SIZES[name], registry.variants()[name].in_channels), jnp.float32)
    exchanged = collectives.of(step.lower(params, image).compile())
    assert {c.kind for c in exchanged} == {"all-reduce"} and not any(c.in_loop for c in exchanged), exchanged


def test_every_family_is_here():
    assert {registry.family_of(name).__name__.split(".")[2] for name in SIZES} <= set(registry.FAMILIES)
