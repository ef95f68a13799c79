"""Steps of eight devices with the options of training: what moves is counted in the compiled program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxseg.augment import compose as augmentations
from jaxseg.bench import collectives
from jaxseg.layers import Conv
from jaxseg.layers.norm import BatchNorm
from jaxseg.losses import compose as losses
from jaxseg.models import create_model, functional, remat
from jaxseg.models.base import Outputs, Segmenter
from jaxseg.models.functional import ForwardContext
from jaxseg.optim import build as optimizers
from jaxseg.train import mesh as meshes
from jaxseg.train import state as states
from jaxseg.train import step as steps

pytestmark = pytest.mark.usefixtures("unoptimised")  # the law holds whatever XLA makes of the program


class Supervised(Segmenter):
    """Two levels with a head on each, BatchNorm and dropout."""

    in_channels, num_classes, rank, size_multiple = 1, 3, 2, 2

    def __init__(self, *, rngs):
        self.first, self.norm = Conv(1, 8, 3, rank=2, rngs=rngs), BatchNorm(8, rngs=rngs)
        self.second = Conv(8, 8, 3, stride=2, rank=2, rngs=rngs)
        self.coarse, self.head = Conv(8, 3, 1, rank=2, rngs=rngs), Conv(8, 3, 1, rank=2, rngs=rngs)

    def forward(self, image, context):
        x = self.norm(self.first(image), context, act="relu")
        if context.train:
            x = x * jax.random.bernoulli(context.stream(3), 0.9, x.shape).astype(x.dtype)
        return Outputs(self.head(x), (self.coarse(nnx.relu(self.second(x))),) if context.train else ())


AUGMENT = (("hflip", 0.5, {}), ("rotate", 0.5, {"degrees": (-20.0, 20.0)}), ("noise", 0.5, {}))
# (network, image size, options of steps.build)
CASES = {
    "everything": (None, (16, 16), {"dtype": "bfloat16", "accumulate": 2, "ema": 0.9}),
    "effisegnet_test": ("effisegnet_test", (64, 64), {"dtype": "bfloat16", "accumulate": 2, "ema": 0.9}),
    "nnunet_plain_test": ("nnunet_plain_test", (32, 32, 32), {"accumulate": 2, "recomputed": True}),
    "unet3p_test": ("unet3p_test", (32, 32), {"ema": 0.9}),
}


@pytest.mark.parametrize("name", ["everything", *(pytest.param(n, marks=pytest.mark.full) for n in CASES if n != "everything")])
def test_sums_alone_are_exchanged_and_with_accumulation_the_input_too(name):
    """Mixed precision, accumulation, moving average, deep supervision, learned weights of losses, augmentation, recomputation."""
    model, size, options = CASES[name]
    model = create_model(model, num_classes=3) if model else Supervised(rngs=nnx.Rngs(0))
    network, params, net_state = functional.split(model)
    channels, accumulate = model.in_channels, options.get("accumulate", 1)
    if options.get("recomputed"):
        options = {**options, "recomputed": remat.chosen(network, ("blocks",))}
    mesh, count = meshes.make(8), 8 * accumulate
    image = np.zeros((count, *size, channels), np.float32)
    context = ForwardContext(train=True, key=jax.random.key(0))
    aux = len(jax.eval_shape(lambda p: network.apply(p, net_state, image, context)[0].aux, params))
    terms = (("dice", 1.0), ("cross_entropy", 1.0))
    names = [*(n for n, _ in terms), *(f"aux{i}.{n}" for i in range(aux) for n, _ in terms)]
    balance = dict.fromkeys(names, 1.0)
    rule = optimizers.build(states.joined(params, balance), name="adamw", weight_decay=0.1, clip_norm=1.0)
    step = steps.build(
        network,
        losses.build(terms, aux_weights=(0.5,) * aux),
        rule,
        lambda s: jnp.float32(1),
        augmentations.build(AUGMENT if len(size) == 2 and channels == 1 else (), rank=len(size)),
        mesh,
        lr=1e-3,
        auxiliary=aux > 0,
        **options,
    )
    fresh = states.create(params, net_state, rule, ema=options.get("ema", 0) > 0, balance=balance)
    storage = states.storage(network, rule)
    batch = meshes.put({"image": image, "mask": np.zeros((count, *size), np.uint8), "index": np.arange(count)}, mesh)
    found = collectives.of(step.lower(states.place(storage.join(fresh), meshes.replicated(mesh)), batch).compile().program)
    moved = [c for c in found if c.kind != "all-reduce"]
    assert len(found) > len(moved)
    if accumulate == 1:
        assert not moved, moved
    else:  # images and masks before the loop, each of them twice: an all-to-all, then a permutation of the devices
        assert {c.kind for c in moved} <= {"all-to-all", "collective-permute"} and not any(c.in_loop for c in moved), moved
        assert sum(c.numbers for c in moved) <= 2 * accumulate * np.prod(size) * (channels + 1), moved
