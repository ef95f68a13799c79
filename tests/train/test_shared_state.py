"""Parameters and optimiser state that eight devices share: the same steps and checkpoints, an eighth of the memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxseg import checkpoint
from jaxseg.augment import compose as augmentations
from jaxseg.bench import collectives
from jaxseg.layers import Conv
from jaxseg.layers.norm import BatchNorm
from jaxseg.losses import compose as losses
from jaxseg.models import functional
from jaxseg.models.base import Outputs, Segmenter
from jaxseg.optim import build as optimizers
from jaxseg.train import mesh as meshes
from jaxseg.train import state as states
from jaxseg.train import step as steps

pytestmark = pytest.mark.usefixtures("unoptimised")  # the laws hold whatever XLA makes of the program


class Wide(Segmenter):
    """One kernel of more than joined.SMALL numbers, which lies apart from the joined arrays."""

    in_channels, num_classes, rank, size_multiple = 1, 1, 2, 1

    def __init__(self, *, rngs):
        self.first, self.norm = Conv(1, 16, 3, rank=2, rngs=rngs), BatchNorm(16, rngs=rngs)
        self.second, self.head = Conv(16, 128, 3, rank=2, rngs=rngs), Conv(128, 1, 1, rank=2, rngs=rngs)

    def forward(self, image, context):
        return Outputs(self.head(nnx.relu(self.second(nnx.relu(self.norm(self.first(image), context))))))


def batch_of(seed: int) -> dict:
    image = np.random.default_rng(seed).integers(0, 256, (16, 16, 16, 1), dtype=np.uint8)
    return {"image": image, "mask": (image[..., 0] > 128).astype(np.uint8), "index": np.arange(16)}


def make(devices: int, *, shared: bool, accumulate: int = 1, space: int = 1):
    """(step, fresh state as numpy arrays, mesh, storage)."""
    network, params, net_state = functional.split(Wide(rngs=nnx.Rngs(0)))
    mesh = meshes.make(devices // space, space)
    # eps: the gradient of a bias before BatchNorm is rounding alone
    options = {"name": "adamw", "options": {"eps": 1e-3}, "weight_decay": 0.1, "clip_norm": 1.0}
    rule = optimizers.build(params, **options, multiple=mesh.devices.size if shared else 1)
    step = steps.build(
        network,
        losses.build((("bce", 1.0),)),
        rule,
        lambda s: jnp.float32(1),
        augmentations.build(()),
        mesh,
        lr=1e-3,
        accumulate=accumulate,
        ema=0.9,
        shard_state=shared,
    )
    storage = states.storage(network, rule, mesh if shared else None)
    return step, states.create(params, net_state, rule, ema=True), mesh, storage


def run(made, state, seeds):
    step, _, mesh, storage = made
    placed = storage.place(state, mesh)
    for seed in seeds:
        placed, metrics = step(placed, meshes.put(batch_of(seed), mesh))
    return placed, storage.part(placed), metrics


def assert_close(a, b):
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(jax.device_get(a)), jax.tree.leaves(jax.device_get(b)), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6, err_msg=str(path))  # sums over devices in another order


@pytest.fixture(scope="module")
def copied():
    return run(made := make(8, shared=False), made[1], (0, 1))


@pytest.fixture(scope="module")
def eight():
    made = make(8, shared=True)
    return made, run(made, made[1], (0, 1))


def test_steps_of_a_shared_state_are_those_of_a_copied_one(copied, eight):
    _, (placed, found, metrics) = eight
    assert_close(found, copied[1])
    np.testing.assert_allclose(metrics["grad_norm"], copied[2]["grad_norm"], rtol=1e-5)


def test_each_device_holds_an_eighth_also_between_steps(copied, eight):
    own = lambda state: sum(
        leaf.addressable_shards[0].data.nbytes for key in states.SHARED for leaf in jax.tree.leaves(state[key])
    )
    assert own(eight[1][0]) < 0.13 * own(copied[0])
    made, _ = eight
    assert made[3].describe(made[1]).startswith("state shared by 8 devices: ") and "opt/count" in made[3].describe(made[1])


def test_parameters_alone_are_gathered(eight):
    step, state, mesh, storage = eight[0]
    lowered = step.lower(storage.place(state, mesh), meshes.put(batch_of(0), mesh))
    params = sum(leaf.size for leaf in jax.tree.leaves(state["params"]))
    gathered = [c for c in collectives.of(lowered.compile().program) if c.kind != "all-reduce"]
    assert {c.kind for c in gathered} == {"all-gather"} and not any(c.in_loop for c in gathered), gathered
    assert sum(c.numbers for c in gathered) < 1.01 * params


@pytest.mark.full
def test_accumulated_gradients_are_shared_too():
    found = [run(made := make(8, shared=shared, accumulate=2), made[1], (0,))[1] for shared in (False, True)]
    assert_close(*found)


@pytest.mark.parametrize("devices, shared, space", [(2, True, 1), (1, False, 1), (8, True, 4)])
@pytest.mark.fault("F6")
def test_a_checkpoint_goes_on_with_other_devices(eight, copied, tmp_path, devices, shared, space):
    made = eight[0]
    _, after_one, _ = run(made, made[1], (0,))
    with checkpoint.Checkpoints(tmp_path, keep=1, best_mode="max") as checkpoints:
        checkpoints.save(1, after_one, {})
    other = make(devices, shared=shared, space=space)
    with checkpoint.Checkpoints(tmp_path, keep=1, best_mode="max") as checkpoints:
        state, _, _ = checkpoints.restore(other[1])
    assert_close(run(other, state, (1,))[1], copied[1])
