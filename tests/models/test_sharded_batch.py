"""A network whose batch eight devices share: forward and backward, no activation leaves its device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxseg.bench import collectives
from jaxseg.losses import TERMS
from jaxseg.losses import compose as losses
from jaxseg.models import create_model, functional, registry
from jaxseg.models.base import Outputs
from jaxseg.models.functional import ForwardContext
from jaxseg.ops import devices
from tests.models.representatives import SIZES

pytestmark = pytest.mark.usefixtures("unoptimised")  # the law holds whatever XLA makes of the program

QUICK = ("unet3d_test", "float32")
# Of each kind of layers one in bfloat16, too, which takes other lowerings.
HALVES = ("unet3d_test", "effisegnet_test", "mednext_test", "segnext_test", "segformer_test", "swin_unetr_test", "unetr_test")
CASES = [*((name, "float32") for name in SIZES), *((name, "bfloat16") for name in HALVES)]


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((8,), (devices.AXIS,), axis_types=(AxisType.Auto,))


def exchanged(mesh, function, *arguments) -> list[collectives.Collective]:
    """What the devices exchange in `function(values, *arrays)`, of whose arrays each device has an eighth."""
    spread, copied = NamedSharding(mesh, P(devices.AXIS)), NamedSharding(mesh, P())
    places = (copied, *(spread,) * (len(arguments) - 1))
    step = jax.jit(devices.over(mesh, function), in_shardings=places, out_shardings=copied)
    return collectives.of(step.lower(*arguments).compile())


@pytest.mark.parametrize("name, dtype", [QUICK, *(pytest.param(*c, marks=pytest.mark.full) for c in CASES if c != QUICK)])
def test_no_activation_moves(mesh, name, dtype):
    model = create_model(name, num_classes=2)
    network, params, state = functional.split(model)

    def loss(params, image):
        outputs, new = network.apply(params, state, image, ForwardContext(train=True, key=jax.random.key(0)))
        return sum(jnp.square(logits).mean() for logits in (outputs.logits, *outputs.aux)), new

    image = jax.ShapeDtypeStruct((8, *SIZES[name], model.in_channels), dtype)
    found = exchanged(mesh, jax.value_and_grad(loss, has_aux=True), params, image)
    assert {c.kind for c in found} == {"all-reduce"} and not any(c.in_loop for c in found), found


def test_every_family_is_here():
    assert {registry.family_of(name).__name__.split(".")[2] for name in SIZES} == set(registry.FAMILIES)


@pytest.mark.parametrize("classes", [1, pytest.param(4, marks=pytest.mark.full)])
def test_no_logits_move_in_any_loss(mesh, classes):
    """All terms at once, of the logits and of an auxiliary output at half the size, with weights of examples."""
    terms = [(name, 1.0) for name in TERMS if (name, classes) != ("cross_entropy", 1)]
    loss = losses.build(terms, aux_weights=(0.5,))

    def value(scale, logits, coarse, mask, weight):
        total, count, parts = loss(Outputs(scale * logits, (scale * coarse,)), {"mask": mask, "weight": weight})
        return total / count, parts

    shape = lambda *size, dtype=np.float32: jax.ShapeDtypeStruct((8, *size), dtype)
    arrays = shape(12, 12, classes), shape(6, 6, classes), shape(12, 12, dtype=np.int32), shape()
    found = exchanged(mesh, jax.value_and_grad(value, has_aux=True), np.float32(1), *arrays)
    assert {c.kind for c in found} == {"all-reduce"} and not any(c.in_loop for c in found), found
    assert all(c.numbers <= 12 * 12 for c in found), found  # sums over the batch: of classes and terms
